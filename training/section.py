"""What the sections of a recipe have in common."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..wire.accepted import ENDS


def pair(value: Any) -> Any:
    """Let one number stand for the range that has it alone."""
    return [value, value] if isinstance(value, (int, float)) else value


def listed(value: Any) -> Any:
    """Let one number or name stand for the list that has it alone."""
    return [value] if isinstance(value, (int, float, str, Path)) else value


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the smallest value comes first")
    return ends


Count = Annotated[int, Field(ge=1, le=10**6)]
"""Of what there must be one at least; more than anybody needs is a slip."""
_Lines = Annotated[int, Field(ge=0, le=65535)]
_Length = Annotated[int, Field(ge=1, le=65535)]
Range = Annotated[tuple[_Lines, _Lines], AfterValidator(_in_order), BeforeValidator(pair), ENDS]
"""Smallest and largest number of lines; one number is for both."""
Counts = Annotated[tuple[_Length, _Length], AfterValidator(_in_order), BeforeValidator(pair), ENDS]
"""Smallest and largest number of what there is one of at least; one number is for both."""

Truth = Literal["rss", "combined"]
"""How the coils of a true image are combined: by the root of the sum of squares, or by coil maps."""


class Section(BaseModel):
    """A part of a recipe's YAML file; what it does not know is a mistake."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
