"""What a pattern is asked for: the grid, the frames, how many samples, and which are measured in any case."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...wire.errors import IsocenterError

Mask = NDArray[np.bool_]


class SamplingError(IsocenterError):
    """A pattern is not known, or cannot be drawn as asked for."""

    kind = "sampling"


def acs_lines(lines: int, acs: int) -> Mask:
    """Mark the ``acs`` lines around the middle of k-space."""
    mask = np.zeros(lines, bool)
    start = lines // 2 - acs // 2
    mask[max(start, 0) : max(start + acs, 0)] = True
    return mask


def partial_fourier(lines: int, fraction: float) -> Mask:
    """Keep the last ``fraction`` of the lines, so that the middle of k-space is reached early."""
    mask = np.ones(lines, bool)
    mask[: lines - round(lines * fraction)] = False
    return mask


@dataclass(frozen=True)
class Request:
    """The grid that a pattern is drawn on, and how much of it.

    Attributes
    ----------
    lines
        Rows of the grid, along ky.
    samples
        Columns of the grid, along kx or whatever the second undersampled direction is; patterns of lines do not look at it.
    frames
        Frames of a series, 1 for a still image.
    acceleration
        Lines or points of the grid for each one that is measured.
    acs
        Calibration lines in the middle; patterns of points measure a block of so many lines by so many samples.
    offset
        Line beside the middle that equispaced lines of the first frame go through; None: drawn at random.
    measured
        bool [ky], the lines that can be measured, as a file holds padding beside them; None: all. Padding counts nowhere.
    """

    lines: int
    samples: int = 1
    frames: int = 1
    acceleration: float = 1.0
    acs: int = 0
    offset: int | None = None
    measured: Mask | None = field(default=None, repr=False)

    @cached_property
    def rows(self) -> Mask:
        """The lines [ky] that can be measured."""
        return np.ones(self.lines, bool) if self.measured is None else np.asarray(self.measured, bool)

    @cached_property
    def calibration(self) -> Mask:
        """The calibration lines [ky]."""
        return acs_lines(self.lines, self.acs) & self.rows

    @cached_property
    def calibration_block(self) -> Mask:
        """The calibration block [ky, kx] of patterns of points."""
        return self.calibration[:, None] & acs_lines(self.samples, min(self.acs, self.samples))

    @property
    def line_budget(self) -> int:
        """Lines to measure in each frame."""
        return round(int(self.rows.sum()) / self.acceleration)

    @property
    def point_budget(self) -> int:
        """Points to measure in each frame."""
        return round(int(self.rows.sum()) * self.samples / self.acceleration)

    @cached_property
    def line_distance(self) -> NDArray[np.floating]:
        """Distance [ky] of each line from the middle, 1 at the edge of the grid."""
        return np.abs(np.arange(self.lines) - self.lines // 2) / (self.lines / 2)

    @cached_property
    def point_distance(self) -> NDArray[np.floating]:
        """Distance [ky, kx] of each point from the middle, 1 at the edges of the grid."""
        across = np.abs(np.arange(self.samples) - self.samples // 2) / (self.samples / 2)
        return np.hypot(self.line_distance[:, None], across)

    def check_acs(self) -> None:
        """Refuse more calibration lines than there are.

        Raises
        ------
        SamplingError
            There are fewer lines.
        """
        lines = int(self.rows.sum())
        if not 0 <= self.acs <= lines:
            raise SamplingError(
                f"{self.acs} calibration lines were asked for, and there are {lines} lines", accepted=f"0 to {lines}"
            )

    def check_budget(self, budget: int, calibration: int, unit: str) -> None:
        """Refuse a budget that the calibration data alone exceed.

        Raises
        ------
        SamplingError
            They do, or there is nothing to measure.
        """
        if budget < max(calibration, 1):
            total = int(self.rows.sum()) * (self.samples if unit == "points" else 1)
            raise SamplingError(
                f"an acceleration of {self.acceleration:g} leaves {budget} of {total} {unit}, "
                f"fewer than the {calibration} of the calibration region"
                if calibration
                else f"an acceleration of {self.acceleration:g} leaves none of {total} {unit}",
                accepted=f"accelerations up to {total / max(calibration, 1):.3g}, or a smaller calibration region",
            )
