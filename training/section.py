"""What the sections of a recipe have in common."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ends[0] <= ends[1]:
        raise ValueError(f"{list(ends)} is no range: the smallest value comes first, and none is negative")
    return ends


Range = Annotated[tuple[int, int], AfterValidator(_in_order)]
"""Smallest and largest value."""


class Section(BaseModel):
    """A part of a recipe's YAML file; what it does not know is a mistake."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)
