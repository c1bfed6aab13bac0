"""What the sections of a recipe have in common."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ends[0] <= ends[1]:
        raise ValueError(f"{list(ends)} is no range: the smallest value comes first, and none is negative")
    return ends


Range = Annotated[tuple[int, int], AfterValidator(_in_order)]
"""Smallest and largest value."""

Truth = Literal["rss", "combined"]
"""How the coils of a true image are combined: by the root of the sum of squares, or by coil maps."""


class Section(BaseModel):
    """A part of a recipe's YAML file; what it does not know is a mistake."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)
