"""What a picture is made of: a sheet has rows, a row has panels, a panel is an image with what must be known to read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .geometry import Geometry

Facts = list[tuple[str, str]]
"""What is known of something, by name."""

_BRIGHTEST = 99.8
"""Percentile of an image that is white where nothing else says what is."""
_FACTORS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Panel:
    """An image with what must be known to read it.

    Attributes
    ----------
    image
        float32 [y, x]; or uint8 [y, x, 3], colours that are shown as they are.
    title
        Lines above it.
    window
        What is black and what is white; None: from 0 to nearly the largest value.
    geometry
        How it lies in the patient, for letters and scale bar.
    warning
        What a reader must know, beside it in another colour.
    legend
        What stands in the corner in place of the window.
    """

    image: NDArray[Any]
    title: str = ""
    window: tuple[float, float] | None = None
    geometry: Geometry | None = None
    warning: str = ""
    legend: str | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """What is black and what is white; never the same."""
        low, high = self.window or (0.0, brightest(self.image))
        return (low, high) if high > low else (low, low + 1.0)

    @property
    def corner(self) -> str:
        """Window width and level, or the legend."""
        if self.legend is not None or self.image.ndim > 2:
            return self.legend or ""
        low, high = self.limits
        return f"W {high - low:.3g} L {(high + low) / 2:.3g}"

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return 1.0 if self.geometry is None else self.geometry.pixel[0] / self.geometry.pixel[1]

    def grey(self) -> NDArray[np.float32]:
        """The image as float32 [y, x] from 0, black, to 1; of colours their luminance. What is not finite is black."""
        if self.image.ndim > 2:
            return (self.image @ np.array([0.299, 0.587, 0.114]) / 255).astype(np.float32)
        low, high = self.limits
        scaled = (np.nan_to_num(self.image.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / (high - low)
        return np.clip(scaled, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Row:
    """Panels beside each other, with a heading of their own."""

    panels: Sequence[Panel]
    heading: str = ""


@dataclass(frozen=True)
class Sheet:
    """A picture: a title, rows of panels, what must be known of them (notes), and facts by name."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()


def brightest(image: NDArray[Any]) -> float:
    """Return the value that is to be white: the 99.8th percentile of the finite ones, or the largest where that is 0."""
    finite = np.abs(image[np.isfinite(image)])
    if not finite.size:
        return 1.0
    return float(np.percentile(finite, _BRIGHTEST)) or float(finite.max())


def error_panels(
    images: Sequence[NDArray[Any]], truth: NDArray[Any], white: float, geometry: Geometry | None
) -> list[Panel]:
    """Make panels of the absolute errors of several images, all with one factor: the largest that does not clip the median one.

    Parameters
    ----------
    images, truth
        float32 [y, x], on one scale.
    white
        What is white in the images.
    """
    errors = [np.abs(image - truth) for image in images]
    middle = float(np.median([brightest(error) for error in errors])) if errors else 0.0
    factor = max((each for each in _FACTORS if each * middle <= white), default=1)
    return [Panel(error * factor, f"error x {factor}", (0.0, white), geometry) for error in errors]


def in_rows(panels: Sequence[Panel], heading: str, columns: int) -> list[Row]:
    """Break panels into rows; the first has the heading."""
    return [
        Row(panels[start : start + columns], heading if start == 0 else "") for start in range(0, len(panels), columns)
    ]
