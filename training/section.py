"""What the sections of a recipe have in common."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

Range = tuple[int, int]

Truth = Literal["rss", "combined"]
"""How the coils of a true image are combined: by the root of the sum of squares, or by coil maps."""


class Section(BaseModel):
    """A part of a recipe's YAML file; what it does not know is a mistake."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)
