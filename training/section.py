"""What the sections of a recipe have in common."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


def pair(value: Any) -> Any:
    """Let one number stand for the range that has it alone."""
    return [value, value] if isinstance(value, (int, float)) else value


def listed(value: Any) -> Any:
    """Let one number or name stand for the list that has it alone."""
    return [value] if isinstance(value, (int, float, str, Path)) else value


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ends[0] <= ends[1]:
        raise ValueError(f"{list(ends)} is no range: the smallest value comes first, and none is negative")
    return ends


Range = Annotated[tuple[int, int], AfterValidator(_in_order), BeforeValidator(pair)]
"""Smallest and largest value; one number is for both."""

Truth = Literal["rss", "combined"]
"""How the coils of a true image are combined: by the root of the sum of squares, or by coil maps."""


class Section(BaseModel):
    """A part of a recipe's YAML file; what it does not know is a mistake."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)
