"""The manifest of a bundle, ``model.yaml``: what the model is, takes, returns, was made for and from."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..wire.accepted import ENDS
from ..wire.entries import parse_entries, validated
from ..wire.errors import IsocenterError

FORMAT_VERSION = 1
MANIFEST = "model.yaml"
SIGNATURE = "model.yaml.minisig"
MEASURED = "measured.json"
"""What the engine notes beside a bundle: how fast its runtimes are. It may be missing, and nothing but speed depends on it."""
PROBE = "probe.npz"
Precision = Literal["float32", "tf32", "fp16", "bf16"]
Scaling = Literal["none", "kspace", "calibration", "zero-filled", "coil-images"]
Tolerance = Annotated[float, Field(gt=0, le=1e-2)]
RuntimeChoice = Literal["auto", "torchscript", "torchscript-nhwc", "torchscript-graph", "onnx", "tensorrt", "aoti"]
CARD_DATA, CARD_TEXT, CARD_PICTURE = "card.json", "card.md", "card.png"
CARD = (CARD_DATA, CARD_TEXT, CARD_PICTURE)
"""The report card of the gate: what it found, for programs and for readers, and images. It may be missing."""
RUNTIME_FILES = {"torchscript": "model.ts", "onnx": "model.onnx", "aoti": "model.pt2"}
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What bundles are called."""


NO_SUCH_BUNDLE = "no such bundle"
"""Kind of the error about a name that no bundle has: a mistake of whoever wrote the name, for which no other bundle stands in."""


class BundleError(IsocenterError):
    """A bundle is missing, damaged, or does not compute what it did when it was made."""

    kind = "bundle"


_OF_SCANS = ("kspace", "mask", "maps", "image")
"""Inputs and outputs that have the plane of a scan."""
_LEAST_AXES = 3


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the least comes first")
    return ends


_Count = Annotated[int, Field(ge=1)]
_Line = Annotated[int, Field(ge=0)]
_Factor = Annotated[float, Field(ge=1)]
_Half = Annotated[float, Field(ge=0.5, le=1)]
_Tesla = Annotated[float, Field(gt=0)]
Counts = Annotated[tuple[_Count, _Count], AfterValidator(_in_order), ENDS]
"""The least and the most of what there is one of at least."""
_Factors = Annotated[tuple[_Factor, _Factor], AfterValidator(_in_order), ENDS]


class _Strict(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TensorSpec(_Strict):
    """A named input or output: its axes, and the sizes that were promised for them.

    Axes are ``batch``, ``coils``, ``frames``, ``kz``, ``ky``, ``kx`` and, last, ``complex`` (real, imaginary); ``1`` is one where
    a mask broadcasts. A length is fixed where its limits are equal. In the plane it may be written as a number in place of the
    name: the axes are ``ky`` and ``kx`` then, in this order, where not one of them is named.

    Attributes
    ----------
    name
        Of an input, what it is: ``kspace``, ``mask``, ``maps``, ``trajectory``, or ``regularization``, what the bundle's own
        strength is multiplied by; of an output, ``image``, or ``error``: the standard deviation of the error of the image's
        magnitude.
    dtype
        Always float32: complex numbers are pairs along the axis ``complex``.
    axes
        Names of the axes, in the order of the tensor's.
    limits
        Smallest and largest length of axes that were promised, by name.
    """

    name: str
    dtype: Literal["float32"] = "float32"
    axes: Annotated[tuple[str, ...], Field(min_length=1)]
    limits: dict[str, Counts] = {}

    @model_validator(mode="before")
    @classmethod
    def _name_numbers(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        given = cast("dict[str, Any]", content)
        if given.get("name") not in _OF_SCANS or not isinstance(given.get("axes"), list | tuple):
            return given
        axes = [str(axis) for axis in cast("list[Any]", given["axes"])]
        if len(axes) < _LEAST_AXES:
            return given
        if not isinstance(limits := given.get("limits", {}), dict):
            return given
        names, fixed = _named_plane(axes)
        return {**given, "axes": names, "limits": {**cast("dict[str, Any]", limits), **fixed}}


def _named_plane(axes: list[str]) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """Give the axes of the plane whose length is a number their names; return these as well with the number as limits."""
    end = len(axes) - (axes[-1:] in (["complex"], ["1"]))
    plane = {end - 2: "ky", end - 1: "kx"}
    if axes[end - 2] == "kx" or axes[end - 1] == "ky":
        plane = {end - 2: "kx", end - 1: "ky"}
    named = {place: name for place, name in plane.items() if axes[place].isdecimal() and axes[place] != "1"}
    fixed = {axis: (int(axes[place]), int(axes[place])) for place, axis in named.items()}
    return [named.get(place, axis) for place, axis in enumerate(axes)], fixed


class Conventions(_Strict):
    """What the numbers mean.

    Attributes
    ----------
    fourier
        k-space and image are one another's transform with ``1 / sqrt(n)`` on each axis, zero frequency and origin at ``n // 2``.
    input_scaling
        What the graph itself divides k-space by, and multiplies its image with; callers pass k-space as it is.
    mask
        Its values are 1 where a line was measured, else 0.
    coil_maps
        ``unit norm``: the graph takes maps S with ``sum_c |S_c|^2 = 1`` in the object; ``none``: it takes none.
    sense_step
        Weight w of the last step, ``argmin_x ||M F S x - y||^2 + w ||x - network(y)||^2``; None where there is no such step.
    """

    fourier: Literal["centred, orthonormal"] = "centred, orthonormal"
    input_scaling: Scaling = "none"
    mask: Literal["one where a line was measured"] = "one where a line was measured"
    coil_maps: Literal["none", "unit norm"] = "none"
    sense_step: Annotated[float, Field(gt=0)] | None = None


class Domain(_Strict):
    """What the reconstruction was made for; empty means no restriction is known. Pairs are the least and the most.

    Attributes
    ----------
    dimensions
        ``2d``: slices by themselves; ``3d``: volumes; ``2d+t``: series of a slice.
    acceleration
        Lines per measured line outside the calibration lines, along ky times kz.
    net_acceleration
        Lines per measured line, calibration lines included, of the frame with the fewest.
    acs
        Adjacent lines around the middle of k-space that were all measured.
    sampling
        How the other lines lie.
    partial_fourier
        Extent in k-space as a fraction of the full one, 0.5 to 1.
    coils
        Number of channels.
    matrix
        Lengths of ky and kx, in samples.
    frames
        Number of frames that are reconstructed together, of series.
    field_strength_t
        In tesla.
    contrast, anatomy
        In the words of whoever made it; ``anatomy`` as the header's ``bodyPartExamined``, in small letters.
    """

    dimensions: tuple[Literal["2d", "3d", "2d+t"], ...] = ()
    acceleration: _Factors | None = None
    net_acceleration: _Factors | None = None
    acs: Annotated[tuple[_Line, _Line], AfterValidator(_in_order), ENDS] | None = None
    sampling: tuple[Literal["uniform", "random"], ...] = ()
    partial_fourier: Annotated[tuple[_Half, _Half], AfterValidator(_in_order), ENDS] | None = None
    coils: Counts | None = None
    matrix: Counts | None = None
    frames: Counts | None = None
    field_strength_t: Annotated[tuple[_Tesla, _Tesla], AfterValidator(_in_order), ENDS] | None = None
    contrast: tuple[str, ...] = ()
    anatomy: tuple[str, ...] = ()


class Parity(_Strict):
    """How far a runtime was from the module in float64 when the bundle was made, relative to the output's maximum.

    All figures are of the one comparison that came closest to what was accepted.
    """

    error: float
    """Deviation of the runtime."""
    accepted: float = 0.0
    """The largest deviation with which the bundle would have been written; 0 in bundles that do not say."""
    eager: float = 0.0
    """Deviation of the module in float32 on the same machine, which decides nothing."""
    cases: int
    """Number of comparisons."""


class Provenance(_Strict):
    """Where the reconstruction comes from.

    Attributes
    ----------
    source, licence
        Of the weights, or of the method.
    fingerprint
        Hash of what it was exported from, by which one that is out of date is found.
    training_data
        What the weights were fitted to.
    recipe
        Of this project's training, with data, masks and seed; empty for weights from elsewhere.
    training_tools
        Versions of the packages that trained the weights, by name, where they are known.
    tools
        Versions of the packages that made it, by name.
    date
        When it was made, in ISO 8601.
    """

    source: str
    licence: str
    fingerprint: str
    training_data: str = "none"
    recipe: dict[str, Any] = {}
    training_tools: dict[str, str] = {}
    tools: dict[str, str] = {}
    date: str = ""


class Gate(_Strict):
    """What the gate found, whose report card lies in the bundle: ``isocenter evaluate --gate``."""

    passed: bool
    battery: str
    """What it was tried on: ``full``, or ``short``, which nothing passes."""
    scans: Annotated[int, Field(ge=0)]
    """Scans from files among it."""
    date: str
    """In ISO 8601."""


Share = Annotated[float, Field(ge=0, le=1)]


class Uncertainty(_Strict):
    """How the output ``error`` was calibrated, on fully sampled scans.

    Attributes
    ----------
    weights
        SHA-256 of the weights that it was calibrated for.
    noise, missing, floor
        By how much the variances that it is the sum of are counted (``models/error_map.py``).
    domain
        Of the scans, and of how they were undersampled: for others it is a guess.
    scans
        How many scans there were.
    coverage
        Fraction of pixels in the object whose error was within one, two and three standard deviations, of each scan by what the
        others gave. If errors were distributed normally it would be 0.683, 0.954 and 0.997.
    """

    weights: str
    noise: Annotated[float, Field(ge=0)]
    missing: Annotated[float, Field(ge=0)]
    floor: Annotated[float, Field(ge=0)]
    domain: Domain
    scans: Annotated[int, Field(ge=1)]
    coverage: tuple[Share, Share, Share]


class Manifest(_Strict):
    """What stands in ``model.yaml``."""

    format_version: Literal[1] = FORMAT_VERSION
    name: Annotated[str, Field(pattern=NAME)]
    version: str
    network: str
    configuration: dict[str, Any] = {}
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    conventions: Conventions = Conventions()
    domain: Domain = Domain()
    tolerance: Tolerance = 1e-4
    """Largest deviation from float64 that is ever accepted, of the output's maximum: at the export, and of every probe."""
    precision: Precision = "float32"
    """What convolutions compute in; the probe, which is float32's, must hold within the tolerance all the same."""
    compiled_for: Literal["cpu", "cuda"] = "cpu"
    """Kind of device that ``model.pt2`` was compiled for."""
    files: dict[str, str] = {}
    parity: dict[str, Parity] = {}
    gate: Gate | None = None
    uncertainty: Uncertainty | None = None
    """Of the output ``error``, if there is one."""
    provenance: Provenance
    intended_use: str
    digest: Annotated[str, Field(exclude=True)] = ""
    """SHA-256 of the file that it was read from, which holds those of the bundle's other files; no part of the file."""

    @model_validator(mode="after")
    def _error_is_calibrated(self) -> Self:
        if (self.uncertainty is not None) != ("error" in {spec.name for spec in self.outputs}):
            raise ValueError(
                "there is an output 'error' where 'uncertainty' says how it was calibrated, and only there"
            )
        return self


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """Return what the text of ``model.yaml`` says.

    Raises
    ------
    BundleError
        It is not valid; the message names every mistake.
    """
    where = f"manifest {path}"
    return validated(Manifest, parse_entries(text, where, BundleError, from_others=True), where, BundleError)
