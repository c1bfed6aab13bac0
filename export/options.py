"""What a user may say about an export, beside the checkpoint: the YAML file of ``isocenter export --config``."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..bundle.manifest import BundleError, Domain, Precision, TensorSpec, Tolerance, Uncertainty
from ..models.scaling import Scaling
from ..wire.errors import FileError
from ..wire.plain_files import read_plain

Direction = Literal["ky", "kx"]


class ExportOptions(BaseModel):
    """Everything has a default.

    A network is described by ``configuration`` (arguments of its class, which take precedence over what the checkpoint says)
    and ``scaling``. An own module is described by ``arguments`` of its class, and by ``inputs`` and ``outputs``.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    version: str = "1.0"
    configuration: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    scaling: Scaling | None = None
    """What k-space is divided by in front of the network; without it, what the network's published weights expect."""
    sense_step: Annotated[float, Field(gt=0)] | None = None
    """Weight of a last step of SENSE towards the network's image, which must be complex; none without it."""
    plane: tuple[Direction, Direction] | None = None
    """Order of the two in-plane axes; ``[kx, ky]`` has the readout first."""
    undersampled: tuple[Direction, ...] | None = None
    """Directions along which the mask varies. Transforms along the other are done once, in front."""
    matrix: tuple[int, int] | None = None
    """Size along ky and kx, for networks that work for one size only."""
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    complex_tensors: bool | None = None
    """Whether an own module takes and returns complex tensors; without it, this is tried."""
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


def load_options(path: Path | None) -> ExportOptions:
    """Read the file, or return the defaults without one.

    Raises
    ------
    BundleError
        It is not valid; the message names every wrong entry.
    """
    if path is None:
        return ExportOptions()
    try:
        return ExportOptions.model_validate(yaml.safe_load(read_plain(path).decode()) or {})
    except ValidationError as error:
        wrong = [(".".join(map(str, one["loc"])), one["type"], one["msg"]) for one in error.errors()]
        words = [
            f"{name}: {'there is no such entry' if kind == 'extra_forbidden' else text}" for name, kind, text in wrong
        ]
        raise BundleError(
            f"{path} is not a valid export configuration: {'; '.join(words)}",
            accepted=", ".join(ExportOptions.model_fields)
            if any(kind == "extra_forbidden" for _, kind, _ in wrong)
            else "",
        ) from error
    except FileError as error:
        raise BundleError(f"the export configuration {error.what}", accepted=error.accepted) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not a valid export configuration: {error}") from error
