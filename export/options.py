"""What a user may say about an export, beside the checkpoint: the YAML file of ``isocenter export --config``."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..bundle.manifest import BundleError, Domain, Precision, TensorSpec, Tolerance, Uncertainty
from ..models.scaling import Scaling
from ..wire.entries import read_entries, validated
from ..wire.errors import OptionError

Direction = Literal["ky", "kx"]
_OF_NETWORKS = frozenset(("configuration", "matrix"))
_OF_MODULES = frozenset(("arguments", "inputs", "outputs", "complex_tensors", "weights_inside"))


def _different(plane: tuple[Direction, Direction]) -> tuple[Direction, Direction]:
    if plane[0] == plane[1]:
        raise ValueError("it names one axis twice")
    return plane


Length = Annotated[int, Field(ge=1, le=65535)]


class ExportOptions(BaseModel):
    """Everything has a default.

    A network is described by ``configuration`` (arguments of its class, which take precedence over what the checkpoint says)
    and ``scaling``. An own module is described by ``arguments`` of its class, and by ``inputs`` and ``outputs``. What is for the
    one is refused for the other, where it would have no effect.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: str = "1.0"
    configuration: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    checkpoint_entry: str | None = None
    """Entry of the checkpoint that has the weights, where there are several, such as those of the last step and their average."""
    scaling: Scaling | None = None
    """What k-space is divided by in front of the network; without it, what the network's published weights expect."""
    sense_step: Annotated[float, Field(gt=0)] | None = None
    """Weight of a last step of SENSE towards the network's image, which must be complex; none without it."""
    plane: Annotated[tuple[Direction, Direction], AfterValidator(_different)] | None = None
    """Order of the two in-plane axes; ``[kx, ky]`` has the readout first."""
    undersampled: tuple[Direction, ...] | None = None
    """Directions along which the mask varies. Transforms along the other are done once, in front."""
    matrix: tuple[Length, Length] | None = None
    """Size along ky and kx, for networks that work for one size only."""
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    complex_tensors: bool | None = None
    """Whether an own module takes and returns complex tensors; without it, this is tried."""
    weights_inside: bool = False
    """Whether an own module loads its weights itself when it is made, so that there is no checkpoint."""
    tolerance: Tolerance = 1e-4
    """Largest deviation from float64, relative to the maximum of the image."""
    precision: Precision = "float32"
    """``fp16`` and ``bf16``: convolutions and linear layers compute in half precision; refused where the tolerance does not hold.
    ``tf32`` lets ONNX Runtime multiply with ten bits of mantissa on a GPU, where the probe still holds then."""
    compiled_for: Literal["cpu", "cuda"] = "cpu"
    """Kind of device that AOTInductor compiles for; this machine must have one."""
    uncertainty: Uncertainty | None = None
    """Calibration of the standard deviation of the error, which a bundle of ``ridge-net`` then returns beside its image."""
    domain: Domain = Domain()
    licence: str = "not stated"
    training_data: str = "not stated"
    intended_use: str = "research only"

    def check_use(self, *, own_module: bool) -> None:
        """Refuse entries that would have no effect.

        Raises
        ------
        OptionError
            Some are for networks of the literature alone, and this is an own module, or the other way round.
        """
        others = _OF_NETWORKS if own_module else _OF_MODULES
        if useless := [name for name in ExportOptions.model_fields if name in self.model_fields_set & others]:
            what, instead = (
                ("an own module", _OF_MODULES) if own_module else ("a network of the literature", _OF_NETWORKS)
            )
            raise OptionError(
                f"{', '.join(useless)} would have no effect for {what}",
                accepted=f"{', '.join(sorted(instead))}, and what both have",
            )


def load_options(path: Path | None) -> ExportOptions:
    """Read the file, or return the defaults without one.

    Raises
    ------
    BundleError
        It is not valid; the message names every wrong entry.
    """
    if path is None:
        return ExportOptions()
    where = "export configuration"
    entries = read_entries(path, where, BundleError)
    return validated(ExportOptions, entries, f"{where} {path}", BundleError)
