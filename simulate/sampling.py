"""Which phase-encoding lines a scan measures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def acs_lines(lines: int, acs: int) -> NDArray[np.bool_]:
    """Mark the ``acs`` lines around the middle of k-space."""
    mask = np.zeros(lines, bool)
    start = lines // 2 - acs // 2
    mask[max(start, 0) : start + acs] = True
    return mask


def uniform(lines: int, acceleration: int, offset: int = 0) -> NDArray[np.bool_]:
    """Every ``acceleration``-th line; the pattern contains the middle line plus ``offset``."""
    return (np.arange(lines) - lines // 2 - offset) % acceleration == 0


def random(lines: int, acceleration: float, acs: int, seed: int) -> NDArray[np.bool_]:
    """Random lines, denser towards the middle, with the ACS lines counted towards the acceleration.

    Raises
    ------
    ValueError
        The ACS lines alone exceed the budget of ``lines / acceleration``.
    """
    mask = acs_lines(lines, acs)
    budget = round(lines / acceleration) - int(mask.sum())
    if budget < 0:
        raise ValueError(
            f"{acs} ACS lines exceed the {round(lines / acceleration)} lines that acceleration {acceleration} leaves"
        )
    distance = np.abs(np.arange(lines) - lines // 2) / (lines / 2)
    weight = np.where(mask, 0.0, (1 - 0.8 * distance) ** 2)
    chosen = np.random.default_rng(seed).choice(lines, budget, replace=False, p=weight / weight.sum())
    mask[chosen] = True
    return mask


def uniform_frames(lines: int, spacing: int, acs: int, offset: int, frames: int) -> NDArray[np.bool_]:
    """Lines [frames, lines] of a series: every ``spacing``-th, moved on by one from frame to frame, and the ACS lines."""
    return np.stack([uniform(lines, spacing, offset + frame) for frame in range(frames)]) | acs_lines(lines, acs)


def random_frames(lines: int, acceleration: float, acs: int, seeds: Sequence[int]) -> NDArray[np.bool_]:
    """Random lines [frames, lines] of a series, one seed a frame; the acceleration is lower where the ACS lines exceed it."""
    acceleration = min(acceleration, lines / (acs + 1))
    return np.stack([random(lines, acceleration, acs, seed) for seed in seeds])


def partial_fourier(lines: int, fraction: float) -> NDArray[np.bool_]:
    """Keep the last ``fraction`` of the lines, so that the middle of k-space is reached early."""
    mask = np.ones(lines, bool)
    mask[: lines - round(lines * fraction)] = False
    return mask
