"""A training recipe: which network, on which data, with which masks, loss, optimiser and schedule."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from ..models.networks.registry import NETWORKS
from ..models.scaling import Scaling
from ..wire.errors import IsocenterError
from .masks import Masks
from .scale import check_scaling, with_scaling
from .section import Range, Section


class RecipeError(IsocenterError):
    """A recipe is not valid."""

    kind = "recipe"


class _Simulated(Section):
    """What is made up anew from a seed and an index."""

    samples: Annotated[int, Field(gt=0)] = 1000
    validation_samples: Annotated[int, Field(gt=0)] = 24
    matrix: Range = (128, 192)
    coils: Range = (4, 12)
    noise: tuple[float, float] = (0.002, 0.03)
    """Standard deviation of the noise in a coil image, as a fraction of the largest magnitude; drawn logarithmically."""


class SimulatedData(_Simulated):
    """Brain slices from the MNI152 template."""

    kind: Literal["simulated-brain"]


class SimulatedSeries(_Simulated):
    """Short-axis series of beating hearts."""

    kind: Literal["simulated-cine"]
    frames: Range = (8, 16)


class FileData(Section):
    """Fully sampled scans: fastMRI's HDF5 layout or MRD files, whose phases and repetitions are the frames of a series."""

    kind: Literal["fastmri", "mrd"]
    folder: Path
    validation_folder: Path
    slices: Annotated[int, Field(gt=0)] | None = None
    """Slices from the middle of each volume; all without it."""


class Optimizer(Section):
    """Optimiser and schedule of the learning rate."""

    name: Literal["adam", "adamw", "rmsprop"] = "adam"
    learning_rate: float = 3e-4
    scalar_rate: float = 1.0
    """Factor of the learning rate for parameters of one number, such as step sizes, which move far and slowly otherwise."""
    options: dict[str, Any] = Field(default_factory=dict)
    schedule: Literal["constant", "step", "cosine", "exponential"] = "constant"
    step: int = 40
    """Epochs between two steps of ``step``."""
    gamma: float = 0.1
    """Factor of ``step`` and ``exponential``."""
    clip_norm: float | None = None
    clip_value: float | None = None


_OF_ONE_TASK = {"simulated-brain": "2d", "simulated-cine": "2d+t", "fastmri": "2d"}
"""What networks are for that train on such data; MRD files have both."""

Loss = Literal["ssim", "l1", "mse", "nmse", "nrmse", "maps"]


class Sampler(Section):
    """How a sampler (network ``mnet``) is trained: with which network that reconstructs, and by which scheme."""

    base: Annotated[int, Field(gt=0)]
    """Middle lines, which are always measured and which the sampler sees."""
    budget: Annotated[int, Field(gt=0)]
    """Lines that it chooses."""
    network: str
    configuration: dict[str, Any] = Field(default_factory=dict)
    scaling: Scaling | None = None
    start_from: Path | None = None
    """Weights of the network that reconstructs: ``runs/NAME/weights.pt``, from the current folder, or ``shipped:NAME``."""
    scheme: Literal["fixed", "alternating"] = "alternating"
    reconstructor_steps: int = 20
    sampler_steps: int = 40
    optimizer: Optimizer = Optimizer()
    """Of the network that reconstructs."""
    icd: bool = False
    """Whether to make reference masks by coordinate descent, which takes thousands of reconstructions for every slice."""
    error_weight: float = 1.0
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
    data: Annotated[SimulatedData | SimulatedSeries | FileData, Field(discriminator="kind")]
    masks: Masks = Masks()
    loss: dict[Loss, float] = Field(default_factory=dict)
    """Weighted sum; on complex images where the network returns them, but ``ssim``, which is on magnitudes, and ``maps``, on
    the coil maps that E2E-VarNet estimates."""
    optimizer: Optimizer = Optimizer()
    epochs: Annotated[int, Field(gt=0)]
    batch: Annotated[int, Field(gt=0)] = 1
    seed: int = 1
    start_from: tuple[Path, ...] = ()
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
            raise ValueError(f"network {self.network!r} is not known; there are {', '.join(sorted(NETWORKS))}")
        if (self.sampler is not None) != (self.network == "mnet"):
            raise ValueError("the network 'mnet' needs the section 'sampler', and no other network takes it")
        self._put_phase_first(self.network, self.configuration)
        if self.sampler is not None:
            check_scaling(self.network, self.scaling)
            return self._check_sampler(self.sampler)
        task = "2d" if self.network == "loupe" else NETWORKS[self.network].task
        if task not in ("2d", "2d+t"):
            raise ValueError(
                f"network {self.network!r} cannot be trained by a recipe: it reconstructs no slices or series"
            )
        if self.data.kind in _OF_ONE_TASK and _OF_ONE_TASK[self.data.kind] != task:
            raise ValueError(f"network {self.network!r} is for {task} scans, not for data.kind {self.data.kind!r}")
        if NETWORKS[self.network].output not in ("magnitude", "complex"):
            raise ValueError(
                f"network {self.network!r} cannot be trained by a recipe: it returns no complex or magnitude image"
            )
        if not self.loss:
            raise ValueError("the loss is empty")
        if "maps" in self.loss and self.network not in ("e2e-varnet", "varnet-complex"):
            raise ValueError("the loss 'maps' is for networks that estimate coil maps: e2e-varnet and varnet-complex")
        check_scaling(self.network, self.scaling)
        return self

    @staticmethod
    def _put_phase_first(network: str, configuration: dict[str, Any]) -> None:
        """Complete a configuration for data whose phase direction is the first, so that the checkpoint says so."""
        for name, value in NETWORKS[network].phase_first.items():
            configuration.setdefault(name, value)

    def _check_sampler(self, sampler: Sampler) -> "Recipe":
        entry = NETWORKS.get(sampler.network)
        if entry is None or entry.task != "2d" or entry.output not in ("magnitude", "complex"):
            raise ValueError(f"sampler.network {sampler.network!r} does not reconstruct slices")
        check_scaling(sampler.network, sampler.scaling)
        self._put_phase_first(sampler.network, sampler.configuration)
        if self.loss or self.optimizer.schedule != "constant" or sampler.optimizer.schedule != "constant":
            raise ValueError("a sampler has its own loss (NRMSE and cross-entropy) and a constant learning rate")
        if isinstance(self.data, SimulatedData):
            size = self.data.matrix[0]
            if self.data.matrix[1] != size:
                raise ValueError("a sampler works for one size only: data.matrix must be [n, n]")
            # four poolings by three and one by two, and four doublings of the channels
            features = 16 * self.configuration.get("chans", 128) * (size // 81 // 2) ** 2
            wanted = {"lines": size - sampler.base, "features": features}
            given = {name: self.configuration.get(name) for name in wanted}
            if given != wanted:
                raise ValueError(f"for {size} lines the configuration of 'mnet' must have {wanted}, not {given}")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises
    ------
    RecipeError
        It is not valid; the message names every wrong entry.
    """
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise RecipeError(f"{path} is not a valid recipe: {error}") from error
