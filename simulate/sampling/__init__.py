"""Which lines or points of k-space a scan measures: patterns by name, for the simulator, training and evaluation alike.

A pattern takes a `Request` and a generator of random numbers, and returns what is measured in each frame: lines [frames, ky]
or points [frames, ky, kx]. Patterns with a budget measure exactly ``round(n / R)`` of n lines or points in each frame, the
calibration region counted (``bernoulli`` on average); what cannot be had is refused with the numbers.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import lines, points
from .files import SUFFIXES, holds_points, load_mask
from .request import Mask, Request, SamplingError, acs_lines, partial_fourier
from .vista import vista

__all__ = [
    "PATTERNS",
    "Mask",
    "Pattern",
    "Request",
    "SamplingError",
    "acs_lines",
    "check",
    "current_name",
    "draw",
    "find_pattern",
    "partial_fourier",
    "possible",
    "undersamples_two",
]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pattern:
    """A way to choose lines or points.

    Attributes
    ----------
    make
        Draws them: bool [frames, ky] or [frames, ky, kx].
    summary
        What it is, in some words.
    points
        Whether it undersamples two directions; a pattern of lines one.
    budget
        Whether the calibration region counts towards the acceleration.
    whole
        Whether the acceleration is the distance of the lines, a whole number.
    """

    make: Callable[[Request, np.random.Generator], Mask]
    summary: str
    points: bool = False
    budget: bool = True
    whole: bool = False

    def check(self, request: Request) -> None:
        """Refuse what this pattern cannot do.

        Raises
        ------
        SamplingError
            The calibration region has more lines than there are or exceeds the budget, or the acceleration is none.
        """
        if not request.acceleration >= 1:
            raise SamplingError(f"the acceleration is {request.acceleration:g}", accepted="at least 1")
        if not self.budget and request.acceleration > (lines := int(request.rows.sum())):
            raise SamplingError(
                f"the acceleration is {request.acceleration:g}, and there are {lines} lines", accepted=f"1 to {lines}"
            )
        request.check_acs()
        if self.whole and request.acceleration != round(request.acceleration):
            raise SamplingError(
                f"lines cannot have a distance of {request.acceleration:g}",
                accepted="a whole number, or the pattern 'equispaced-exact'",
            )
        if self.budget and self.points:
            request.check_budget(request.point_budget, int(request.calibration_block.sum()), "points")
        elif self.budget:
            request.check_budget(request.line_budget, int(request.calibration.sum()), "lines")


PATTERNS: dict[str, Pattern] = {
    "equispaced": Pattern(lines.equispaced, "every R-th line, and calibration lines", budget=False, whole=True),
    "equispaced-exact": Pattern(lines.equispaced_exact, "evenly spaced, one line in R with the calibration lines"),
    "bernoulli": Pattern(lines.bernoulli, "every line with the same probability, one in R on average"),
    "uniform-random": Pattern(lines.uniform_random, "one line in R, drawn without preference"),
    "variable-density": Pattern(lines.variable_density, "one line in R, more of them in the middle"),
    "kt-interleaved": Pattern(
        lines.kt_interleaved, "every R-th line, on a sheared lattice in time", budget=False, whole=True
    ),
    "golden-offset": Pattern(lines.golden_offset, "variable density, moved on by the golden ratio from frame to frame"),
    "vista": Pattern(vista, "variable density, as far apart in ky and time as may be"),
    "points-uniform": Pattern(points.points_uniform, "one point in R, drawn without preference", points=True),
    "points-variable-density": Pattern(
        points.points_variable_density, "one point in R, more of them in the middle", points=True
    ),
    "poisson-disc": Pattern(points.poisson_disc, "one point in R, none near to another", points=True),
    "poisson-disc-variable-density": Pattern(
        points.poisson_disc_variable_density, "Poisson discs that are wider at the edge", points=True
    ),
    "radial": Pattern(points.radial, "spokes at equal angles on the grid", points=True),
    "golden-angle": Pattern(points.golden_angle, "spokes on the grid, each turned by the golden angle", points=True),
}

_FORMER = {"uniform": "equispaced", "random": "variable-density"}


def current_name(name: str) -> str:
    """Return the name of a pattern, or the file that it is in; names of earlier versions are warned about.

    Raises
    ------
    SamplingError
        There is no such pattern.
    """
    if name in _FORMER:
        _log.warning("the sampling pattern %r is called %r now", name, _FORMER[name])
        return _FORMER[name]
    if name not in PATTERNS and not name.endswith(SUFFIXES):
        raise SamplingError(
            f"the sampling pattern {name!r} is not known",
            accepted=f"{', '.join(PATTERNS)}, or a file ending in {', '.join(SUFFIXES)}",
        )
    return name


def find_pattern(name: str) -> Pattern:
    """Return a pattern by its name, or that of a file, of which only a drawn mask says whether it is of lines or points."""
    name = current_name(name)
    if name in PATTERNS:
        return PATTERNS[name]
    return Pattern(lambda request, _random: load_mask(Path(name), request), f"from {name}", budget=False)


def undersamples_two(name: str, series: bool) -> bool:
    """Whether a pattern undersamples two directions: known of those with a name, and read from a file."""
    return holds_points(Path(name), series) if name.endswith(SUFFIXES) else find_pattern(name).points


def check(name: str, request: Request) -> None:
    """Refuse what a pattern cannot do.

    Raises
    ------
    SamplingError
        As `Pattern.check`, or there is no such pattern.
    """
    find_pattern(name).check(request)


def possible(name: str, request: Request) -> bool:
    """Whether a pattern can be drawn as asked for."""
    try:
        check(name, request)
    except SamplingError:
        return False
    return True


def draw(name: str, request: Request, random: np.random.Generator, *, alike: bool = False) -> Mask:
    """Draw a pattern.

    Parameters
    ----------
    name
        Of ``PATTERNS``, or a file.
    request
        What is asked for.
    random
        Where chance comes from.
    alike
        Whether all frames are sampled like the first.

    Returns
    -------
    ndarray
        bool [frames, ky], or [frames, ky, kx].

    Raises
    ------
    SamplingError
        There is no such pattern, or it cannot be drawn as asked for.
    """
    pattern = find_pattern(name)
    pattern.check(request)
    if not alike:
        return pattern.make(request, random)
    return np.repeat(pattern.make(replace(request, frames=1), random), request.frames, axis=0)
