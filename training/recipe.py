"""A training recipe: which network, on which data, with which masks, loss, optimiser and schedule."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ..gadgets.estimate_coil_maps import FEWEST_LINES
from ..models.networks.registry import NETWORKS, Network
from ..models.scaling import Scaling
from ..simulate.sampling import SamplingError, undersamples_two
from ..simulate.textures import LARGEST
from ..wire.entries import read_entries, validated
from ..wire.errors import IsocenterError, OptionError, nearest
from .masks import Masks
from .optimizer import Optimizer
from .scale import check_scaling, with_scaling
from .section import Count, Counts, Section, Truth, listed, pair

_SHIPPED = Path(__file__).parent.parent / "recipes"
Precision = Literal["float32", "tf32", "bf16"]
_SMALLEST_MATRIX = 16
_SEEDS_OF_TRAINING = 2**32
"""Simulated scans for training have smaller seeds, those for validation larger ones."""
_SCANS_OF_A_SEED = 10**6


class RecipeError(IsocenterError):
    """A recipe is not valid."""

    kind = "recipe"


class MadeUpData(Section):
    """What is made up anew from a seed and an index."""

    task: ClassVar[str] = "2d"
    """What networks are for that train on it; files have both."""
    samples: Count = 1000
    validation_samples: Count = 24
    matrix: Counts = (128, 192)
    coils: Counts = (4, 12)
    noise: Annotated[tuple[float, float], BeforeValidator(pair)] = (0.002, 0.03)
    """Standard deviation of the noise in a coil image, as a fraction of the largest magnitude; drawn logarithmically."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.matrix[0] < _SMALLEST_MATRIX:
            raise ValueError(f"matrix {list(self.matrix)} is too small: {_SMALLEST_MATRIX} is the smallest")
        if not 0 < self.noise[0] <= self.noise[1] < 1:
            raise ValueError(f"noise {list(self.noise)} is no range between 0 and 1, the smallest value first")
        return self


class SimulatedData(MadeUpData):
    """Brain slices from the MNI152 template."""

    kind: Literal["simulated-brain"]


class SimulatedSeries(MadeUpData):
    """Short-axis series of beating hearts."""

    task: ClassVar[str] = "2d+t"
    kind: Literal["simulated-cine"]
    frames: Counts = (8, 16)


class TextureData(MadeUpData):
    """Slices with the texture of photographs and of a real head."""

    kind: Literal["textures"]
    file: Path = Path("textures/textures.h5")
    """What ``isocenter textures`` wrote."""

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.matrix[1] > LARGEST:
            raise ValueError(f"matrix {list(self.matrix)} is too large for textures: {LARGEST} is the largest")
        return self


class TextureSeries(TextureData):
    """Series with such texture, in which a heart beats."""

    task: ClassVar[str] = "2d+t"
    kind: Literal["textured-cine"]  # pyright: ignore[reportIncompatibleVariableOverride]
    frames: Counts = (8, 16)


class FileData(Section):
    """Fully sampled scans from files: fastMRI's and CMRxRecon's layouts, MRD, and layouts of one's own.

    For networks of series, the phases or else the repetitions of a slice are frames; for others, each is a scan of its own.
    """

    kind: Literal["files", "fastmri", "mrd", "cmrxrecon"]
    """What the files are expected to be; their layouts are recognised, and one that is another is read, and named."""
    folder: Path
    """Folder with the files of the training; sub-folders are searched as well."""
    validation_folder: Path
    """The same for validation; no file may be in both."""
    slices: Count | None = None
    """Slices from the middle of each volume; all without it."""
    refused: Literal["stop", "leave-out"] = "stop"
    """What to do about files that cannot be used: name them all and stop, or name them and go on without."""
    layouts: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    """Python modules with further layouts, see ``training/files/layouts.py``."""
    cache: Path | None = None
    """Where scans are prepared once, for all epochs and runs: as large as the scans; ``cache`` in ISOCENTER_HOME without it."""


Loss = Literal["ssim", "l1", "mse", "nmse", "nrmse", "log-mse", "maps"]


class Sampler(Section):
    """How a sampler (network ``mnet``) is trained: with which network that reconstructs, and by which scheme."""

    base: Count
    """Middle lines, which are always measured and which the sampler sees."""
    budget: Count
    """Lines that it chooses."""
    network: str
    configuration: dict[str, Any] = Field(default_factory=dict)
    scaling: Scaling | None = None
    start_from: Path | None = None
    """Weights of the network that reconstructs: ``runs/NAME/weights.pt``, from the current folder, or ``shipped:NAME``."""
    scheme: Literal["fixed", "alternating"] = "alternating"
    reconstructor_steps: Count = 20
    sampler_steps: Count = 40
    """Steps in turn, counted through all epochs."""
    optimizer: Optimizer = Optimizer()
    """Of the network that reconstructs."""
    icd: bool = False
    """Whether to make reference masks by coordinate descent, which takes thousands of reconstructions for every slice."""
    error_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the reconstruction's error beside the cross-entropy with the reference masks."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        return with_scaling(values)


class Recipe(Section):
    """What stands in a recipe's YAML file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    network: str
    configuration: dict[str, Any] = Field(default_factory=dict)
    scaling: Scaling | None = None
    """What k-space is divided by in front of the network; without it, as the network's paper does, or else by the largest
    magnitude of the zero-filled image."""
    data: Annotated[
        SimulatedData | SimulatedSeries | TextureData | TextureSeries | FileData, Field(discriminator="kind")
    ]
    masks: Masks = Masks()
    truth: Truth | None = None
    """How the coils of the true image are combined: ``combined`` by the coil maps, or ``rss``, the root of the sum of squares;
    without it, as the network combines them. A complex image is compared with ``rss`` by its magnitude."""
    loss: dict[Loss, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Weighted sum; on complex images where the network returns them, but ``ssim``, which is on magnitudes, and ``maps``, on
    the coil maps that E2E-VarNet estimates. ``log-mse`` is the logarithm of the error, see ``training/losses.py``."""
    optimizer: Optimizer = Optimizer()
    epochs: Count
    batch: Count = 1
    accumulate: Count = 1
    """Batches whose gradients are added up for a step; the loss is the mean over all of their samples."""
    precision: Precision = "float32"
    """``bf16``: convolutions and matrix products in bfloat16, all else in float32. ``tf32``: those in TF32, on NVIDIA GPUs."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the weights' moving average, which then is what is validated, kept and exported."""
    checkpoint_gradients: bool = False
    """Whether to compute cascades anew for their gradients instead of keeping what they computed: less memory, more time."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 1
    start_from: Annotated[tuple[Path, ...], BeforeValidator(listed)] = ()
    """Checkpoints whose weights training starts from, later ones last: all that have a place of their shape in the network.
    ``runs/NAME/weights.pt``, from the current folder, or ``shipped:NAME`` for weights that come with Isocenter."""
    sampler: Sampler | None = None
    """For the network ``mnet``, and for it alone."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        return with_scaling(values)

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.network not in NETWORKS:
            near = nearest(self.network, NETWORKS)
            raise ValueError(f"network {self.network!r} is not known{near}; accepted: {', '.join(sorted(NETWORKS))}")
        if (self.sampler is not None) != (self.network == "mnet"):
            raise ValueError("the network 'mnet' needs the section 'sampler', and no other network takes it")
        _check_configuration(self.network, self.configuration)
        self._put_phase_first(self.network, self.configuration)
        if isinstance(self.data, MadeUpData):
            self._check_simulated(self.data)
        if self.sampler is not None:
            check_scaling(self.network, self.scaling)
            return self._check_sampler(self.sampler)
        task = "2d" if self.network == "loupe" else NETWORKS[self.network].task
        if task not in ("2d", "2d+t"):
            raise ValueError(
                f"network {self.network!r} cannot be trained by a recipe: it reconstructs no slices or series"
            )
        if isinstance(self.data, MadeUpData) and self.data.task != task:
            raise ValueError(f"network {self.network!r} is for {task} scans, not for data.kind {self.data.kind!r}")
        if NETWORKS[self.network].output not in ("magnitude", "complex"):
            raise ValueError(
                f"network {self.network!r} cannot be trained by a recipe: it returns no complex or magnitude image"
            )
        self._check_masks(NETWORKS[self.network])
        if not self.loss:
            raise ValueError("the loss is empty")
        if "maps" in self.loss and self.network not in ("e2e-varnet", "varnet-complex"):
            raise ValueError("the loss 'maps' is for networks that estimate coil maps: e2e-varnet and varnet-complex")
        check_scaling(self.network, self.scaling)
        return self

    def _check_simulated(self, data: MadeUpData) -> None:
        """Refuse what cannot fit simulated scans, whose sizes are known beforehand."""
        if self.seed * _SCANS_OF_A_SEED + data.samples > _SEEDS_OF_TRAINING or data.samples > _SCANS_OF_A_SEED:
            raise ValueError(f"seed {self.seed} with {data.samples} samples: simulated scans have seeds up to 4293")
        if self.network == "loupe":
            shape = list(self.configuration.get("shape", (256, 256)))
            if any(list(data.matrix) != [size, size] for size in shape):
                raise ValueError(
                    f"'loupe' works for one size only: data.matrix must be [n, n], its shape {shape} the same"
                )

    @staticmethod
    def _put_phase_first(network: str, configuration: dict[str, Any]) -> None:
        """Complete a configuration for data whose phase direction is the first, so that the checkpoint says so."""
        for name, value in NETWORKS[network].phase_first.items():
            configuration.setdefault(name, value)

    @property
    def true_image(self) -> Truth:
        """How the coils of the true image are combined: what ``truth`` says, or else as the network does it."""
        entry = NETWORKS[self.network if self.sampler is None else self.sampler.network]
        return self.truth or ("combined" if {"maps", "image"} & set(entry.inputs) else "rss")

    @property
    def _lines(self) -> int | None:
        """Fewest lines of a scan, where they are known beforehand."""
        return self.data.matrix[0] if isinstance(self.data, MadeUpData) else None

    def _makes_maps(self, entry: Network) -> bool:
        """Whether coil maps are made of the calibration lines."""
        single = isinstance(self.data, MadeUpData) and self.data.coils[1] == 1
        return not single and (bool({"maps", "image"} & set(entry.inputs)) or self.true_image == "combined")

    def _check_masks(self, entry: Network) -> None:
        try:
            points = [kind for kind in self.masks.kinds if undersamples_two(kind, entry.task == "2d+t")]
            if points and entry.undersampled != ("ky", "kx"):
                raise SamplingError(
                    f"{', '.join(points)} undersamples two directions, and network {self.network!r} takes scans that are "
                    "undersampled along ky alone",
                    accepted="patterns of lines",
                )
            if isinstance(self.data, MadeUpData) and self.network != "loupe":
                self.masks.check(self.data.matrix[0], self.data.matrix[0])
            if self._makes_maps(entry) and not self.masks.fills_middle(entry.task == "2d+t"):
                self.masks.check_acs(self._lines, FEWEST_LINES)
        except SamplingError as error:
            raise ValueError(str(error) if error.where else f"masks: {error}") from error

    def _check_sampler(self, sampler: Sampler) -> "Recipe":
        entry = NETWORKS.get(sampler.network)
        if entry is None or entry.task != "2d" or entry.output not in ("magnitude", "complex"):
            raise ValueError(f"sampler.network {sampler.network!r} does not reconstruct slices")
        _check_configuration(sampler.network, sampler.configuration, "sampler.")
        check_scaling(sampler.network, sampler.scaling)
        if self._makes_maps(entry) and sampler.base < FEWEST_LINES:
            raise ValueError(
                f"sampler.base is {sampler.base}, and coil maps need at least {FEWEST_LINES} calibration lines"
            )
        self._put_phase_first(sampler.network, sampler.configuration)
        if self.loss or self.optimizer.schedule != "constant" or sampler.optimizer.schedule != "constant":
            raise ValueError("a sampler has its own loss (NRMSE and cross-entropy) and a constant learning rate")
        if isinstance(self.data, MadeUpData):
            size = self.data.matrix[0]
            if self.data.task != "2d":
                raise ValueError(f"a sampler is for 2d scans, not for data.kind {self.data.kind!r}")
            if self.data.matrix[1] != size:
                raise ValueError("a sampler works for one size only: data.matrix must be [n, n]")
            if sampler.base + sampler.budget >= size:
                raise ValueError(f"sampler: base and budget leave out no line of {size}")
            # four poolings by three and one by two, and four doublings of the channels
            features = 16 * self.configuration.get("chans", 128) * (size // 81 // 2) ** 2
            wanted = {"lines": size - sampler.base, "features": features}
            given = {name: self.configuration.get(name) for name in wanted}
            if given != wanted:
                raise ValueError(f"for {size} lines the configuration of 'mnet' must have {wanted}, not {given}")
        return self


def _check_configuration(network: str, configuration: dict[str, Any], section: str = "") -> None:
    try:
        NETWORKS[network].check(**configuration)
    except OptionError as error:
        raise ValueError(f"{section}{error}") from error


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with Isocenter, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def _find(path: Path) -> Path:
    """Return the file of a recipe that is named by its path, or by the name of one that comes with Isocenter."""
    shipped = shipped_recipes()
    if path.exists() or path.name != str(path) or path.suffix:
        return path
    if path.name in shipped:
        return shipped[path.name]
    raise RecipeError(
        f"there is no file and no recipe {path.name!r}{nearest(path.name, shipped)}",
        accepted=f"a file, or {' or '.join(shipped)}",
    )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path
        Its file, or the name of one that comes with Isocenter, such as ``ridge``; a file of that name goes first.

    Raises
    ------
    RecipeError
        There is none, or it is not valid; the message names every wrong entry.
    """
    path = _find(path)
    entries = read_entries(path, "recipe", RecipeError)
    if not entries:
        raise RecipeError(f"recipe {path} is empty", accepted="a recipe, such as those in isocenter's folder recipes")
    return validated(Recipe, entries, f"recipe {path}", RecipeError)
