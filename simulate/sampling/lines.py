"""Patterns of lines [frames, ky]: what a 2-D scan can measure, whose readouts are complete."""

import math

import numpy as np
from numpy.typing import NDArray

from .request import Mask, Request

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
"""The golden ratio's conjugate, by whose multiples a circle is covered most evenly however many they are."""


def equispaced(request: Request, random: np.random.Generator) -> Mask:
    """Every R-th line, moved on by one from frame to frame, and the calibration lines in addition.

    As in parallel imaging, and fastMRI's ``equispaced``: R is the distance of the lines, so that more than one in R is measured.
    """
    return _lattice(request, random, 1)


def kt_interleaved(request: Request, random: np.random.Generator) -> Mask:
    """Every R-th line on a sheared lattice in ky and time, and the calibration lines (Tsao et al., MRM 2003;50:1031).

    The lines move on from frame to frame by the step for which neighbours in ky and time lie farthest apart: one line up to
    four-fold acceleration, 2 at five-fold, 3 at eight-fold.
    """
    return _lattice(request, random, lattice_step(round(request.acceleration)))


def lattice_step(spacing: int) -> int:
    """Return the step along ky per frame that puts the nearest points of a lattice in ky and time farthest apart.

    Only steps that have no divisor in common with the spacing visit every line; the smallest of the best ones is taken.
    """

    def nearest(step: int) -> int:
        along_ky = ((frame * step) % spacing for frame in range(1, spacing))
        gaps = [frame**2 + min(row, spacing - row) ** 2 for frame, row in enumerate(along_ky, start=1)]
        return min([*gaps, spacing**2])

    steps = [step for step in range(1, spacing // 2 + 1) if math.gcd(step, spacing) == 1]
    return max(steps, key=nearest, default=1)


def _lattice(request: Request, random: np.random.Generator, step: int) -> Mask:
    spacing = round(request.acceleration)
    first = int(random.integers(spacing)) if request.offset is None else request.offset
    rows = np.arange(request.lines) - request.lines // 2 - first
    moved = step * np.arange(request.frames)
    return ((rows - moved[:, None]) % spacing == 0) & request.rows | request.calibration


def equispaced_exact(request: Request, random: np.random.Generator) -> Mask:
    """One line in R, the calibration lines counted, the others as evenly spaced as the grid allows.

    The distance of the lines is ``(lines - acs) / (lines / R - acs)``, as in fastMRI's ``EquispacedMaskFractionFunc``; here the
    lines are laid out over those outside the calibration region, so that the number is exact.
    """
    outside = np.flatnonzero(request.rows & ~request.calibration)
    count = request.line_budget - int(request.calibration.sum())
    masks = np.tile(request.calibration, (request.frames, 1))
    for mask in masks:
        places = (np.arange(count) + random.random()) * (outside.size / max(count, 1))
        mask[outside[places.astype(int)]] = True
    return masks


def bernoulli(request: Request, random: np.random.Generator) -> Mask:
    """Every line outside the calibration region with the same probability, so that one in R is measured on average.

    This is fastMRI's ``random`` (Zbontar et al., arXiv:1811.08839, section 6.2): the number differs from draw to draw.
    """
    outside = request.rows & ~request.calibration
    wanted = request.rows.sum() / request.acceleration - request.calibration.sum()
    chosen = random.random((request.frames, request.lines)) < wanted / max(int(outside.sum()), 1)
    return (chosen & outside) | request.calibration


def uniform_random(request: Request, random: np.random.Generator) -> Mask:
    """One line in R, the calibration lines counted, the others drawn without preference."""
    return _drawn(request, random, np.ones(request.lines))


def variable_density(request: Request, random: np.random.Generator) -> Mask:
    """One line in R, the calibration lines counted, the others drawn the more likely the nearer they are to the middle.

    Drawn one after the other with the weights ``(1 - 0.8 d)^2``, d the distance from the middle, 1 at the edge (a polynomial
    density, Lustig et al., MRM 2007;58:1182, section "Sampling").
    """
    return _drawn(request, random, density(request.line_distance))


def density(distance: NDArray[np.floating]) -> NDArray[np.floating]:
    """Weights ``(1 - 0.8 d)^2`` of patterns of variable density, for distances from the middle; beyond 1 they fall no further."""
    return (1 - 0.8 * np.minimum(distance, 1)) ** 2


def _drawn(request: Request, random: np.random.Generator, weights: NDArray[np.floating]) -> Mask:
    weights = np.where(request.rows & ~request.calibration, weights, 0.0)
    count = request.line_budget - int(request.calibration.sum())
    masks = np.tile(request.calibration, (request.frames, 1))
    for mask in masks if count else ():
        mask[random.choice(request.lines, count, replace=False, p=weights / weights.sum())] = True
    return masks


def golden_offset(request: Request, random: np.random.Generator) -> Mask:
    """One line in R of every frame, denser in the middle, moved on from frame to frame by the golden ratio of a distance.

    Equidistant points are mapped to lines by the cumulative density, which is that of ``variable-density``, and moved by the
    golden ratio from frame to frame, so that any few neighbouring frames cover k-space evenly: the golden ratio offset of
    Joshi et al., arXiv:2206.03630, section 2; ``vista`` starts from it.
    """
    count = request.line_budget - int(request.calibration.sum())
    edges, first = np.cumsum(inclusion(request, count)), random.random()
    masks = np.tile(request.calibration, (request.frames, 1))
    for frame, mask in enumerate(masks if count else ()):
        # no line has a share above one, so that no two of these points fall into the same
        places = (np.arange(count) + (first + frame * GOLDEN_RATIO) % 1) * (edges[-1] / count)
        mask[np.searchsorted(edges, places, side="right")] = True
    return masks


def inclusion(request: Request, count: int) -> NDArray[np.floating]:
    """Return the share [ky] of frames in which ``golden-offset`` measures a line outside the calibration region.

    It follows the density of ``variable-density``, is one at most, and adds up to ``count``.
    """
    weights = np.where(request.rows & ~request.calibration, density(request.line_distance), 0.0)
    always = np.zeros(request.lines, bool)
    while True:
        rest = np.where(always, 0.0, weights)
        share = always + rest * (count - always.sum()) / max(float(rest.sum()), 1e-30)
        if (share <= 1 + 1e-9).all():
            return share
        always |= share > 1
