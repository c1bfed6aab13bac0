"""What the sections of a recipe have in common."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

Range = tuple[int, int]


class Section(BaseModel):
    """A part of a recipe's YAML file; what it does not know is a mistake."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)
