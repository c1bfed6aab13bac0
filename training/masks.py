"""How training undersamples: the recipe's section ``masks``, and a mask drawn by it."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..simulate import sampling
from .section import Range, Section


class Masks(Section):
    """Undersampling along ky, drawn anew for every slice and epoch; in a series, every frame has other lines."""

    kinds: tuple[Literal["uniform", "random"], ...] = ("uniform", "random")
    accelerations: tuple[float, ...] = (2, 4, 6, 8)
    acs: Range = (12, 24)
    """Smallest and largest number of calibration lines."""


def random_mask(random: np.random.Generator, lines: int, acs: int, masks: Masks, frames: int = 1) -> NDArray[np.bool_]:
    """Draw the measured lines [frames, lines]; where the calibration lines exceed the budget, the acceleration is lower.

    From frame to frame uniform lines move on by one, and random ones are drawn anew.
    """
    acceleration = float(random.choice(masks.accelerations))
    if random.choice(masks.kinds) == "uniform":
        spacing = max(round(acceleration), 1)
        first = int(random.integers(spacing))
        return sampling.uniform_frames(lines, spacing, acs, first, frames)
    return sampling.random_frames(lines, acceleration, acs, [int(random.integers(2**31)) for _ in range(frames)])
