"""Patterns of points [frames, ky, kx]: two undersampled directions, as in 3-D scans, and in papers on slices."""

import math
from itertools import count as count_from

import numpy as np
from numpy.typing import NDArray

from .lines import GOLDEN_RATIO, density
from .request import Mask, Request, SamplingError

GOLDEN_ANGLE = math.pi * GOLDEN_RATIO
"""111.25 degrees: that between successive spokes (Winkelmann et al., IEEE TMI 2007;26:68)."""

_TAPER = 2.0
"""How much wider than in the middle, relative to it, discs are at the edge where the density falls."""
_SHRINK = 0.96
"""Discs become so much smaller when no more fit and more are wanted."""


def points_uniform(request: Request, random: np.random.Generator) -> Mask:
    """One point in R, the calibration block counted, the others drawn without preference."""
    return _drawn(request, random, np.ones((request.lines, request.samples)))


def points_variable_density(request: Request, random: np.random.Generator) -> Mask:
    """One point in R, the calibration block counted, the others drawn the more likely the nearer they are to the middle.

    The weights are those of ``variable-density`` for the distance in two dimensions.
    """
    return _drawn(request, random, density(request.point_distance))


def _drawn(request: Request, random: np.random.Generator, weights: NDArray[np.floating]) -> Mask:
    block = request.calibration_block
    weights = np.where(request.rows[:, None] & ~block, weights, 0.0).ravel()
    number = request.point_budget - int(block.sum())
    masks = np.tile(block, (request.frames, 1, 1))
    for mask in masks if number else ():
        mask.ravel()[random.choice(weights.size, number, replace=False, p=weights / weights.sum())] = True
    return masks


def poisson_disc(request: Request, random: np.random.Generator) -> Mask:
    """One point in R, the calibration block counted, no two of the others nearer to each other than a distance.

    The distance is the largest, to 4 %, at which that many fit when they are thrown one after the other (dart throwing, with
    discs that shrink when no more fit: McCool, Fiume, Graphics Interface 1992:94; in MRI: Vasanawala et al., ISBI 2011:1039).
    """
    return np.stack([_throw(request, random, np.ones((request.lines, request.samples))) for _ in range(request.frames)])


def poisson_disc_variable_density(request: Request, random: np.random.Generator) -> Mask:
    """As ``poisson-disc``, with discs that are three times as wide at the edge as in the middle."""
    widths = 1 + _TAPER * np.minimum(request.point_distance, 1)
    return np.stack([_throw(request, random, widths) for _ in range(request.frames)])


def _throw(request: Request, random: np.random.Generator, widths: NDArray[np.floating]) -> Mask:
    """Choose points [ky, kx], none nearer to an earlier one than that one's width [ky, kx] times a common factor."""
    block, candidates = request.calibration_block, request.rows[:, None] & ~request.calibration_block
    wanted = request.point_budget - int(block.sum())
    chosen = np.zeros_like(block)
    order = random.permutation(np.flatnonzero(candidates))
    # discs thrown at random cover 0.547 of the plane when no more fit, that is a distance of 0.83 for one point per unit area
    factor = 0.9 * math.sqrt((1 / widths[candidates] ** 2).sum() / max(wanted, 1))
    while (missing := wanted - int(chosen.sum())) > 0:
        _add(chosen, order, missing, factor * widths)
        factor *= _SHRINK if factor * widths.max() > 1 else 0.0
    return chosen | block


def _add(chosen: Mask, order: NDArray[np.int64], missing: int, radius: NDArray[np.floating]) -> None:
    """Add up to ``missing`` points in the given order, none within the ``radius`` of another."""
    rows, columns = chosen.shape
    reach = math.ceil(radius.max())
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    squares = (dy**2 + dx**2).ravel()
    nearest_first = np.argsort(squares, kind="stable")
    squares, width = squares[nearest_first], columns + 2 * reach
    steps = (dy * width + dx).ravel()[nearest_first]
    free = np.ones((rows + 2 * reach) * width, bool)
    places = (order // columns + reach) * width + order % columns + reach
    within = np.searchsorted(squares, radius.ravel()[order] ** 2)
    taken = chosen.ravel()
    before = taken[order]
    for step, reached in zip(steps, range(int(within.max())), strict=False):
        free[places[before & (within > reached)] + step] = False
    for index in np.flatnonzero(free[places] & ~before):
        place = places[index]
        if free[place]:
            taken[order[index]] = True
            free[place + steps[: within[index]]] = False
            missing -= 1
            if not missing:
                return


def radial(request: Request, random: np.random.Generator) -> Mask:
    """Spokes at equal angles, drawn on the grid, turned by the golden angle from frame to frame ("pseudo-radial").

    As many spokes as give one point in R, the calibration block counted; of the points that are then too many, the outermost
    are left out.
    """
    first = random.random() * math.pi
    return np.stack([_equal_spokes(request, first + frame * GOLDEN_ANGLE) for frame in range(request.frames)])


def _equal_spokes(request: Request, first: float) -> Mask:
    length = max(request.lines, request.samples)
    number = max((request.point_budget - int(request.calibration_block.sum())) // (2 * length), 1)
    while number < 8 * length:
        angles = first + math.pi / number * np.arange(number)
        mask = _spokes(request, angles) | request.calibration_block
        if mask.sum() >= request.point_budget:
            return _trimmed(request, mask)
        number += 1 + number // 32
    raise _out_of_reach(request)


def golden_angle(request: Request, random: np.random.Generator) -> Mask:
    """Spokes on the grid, each turned by 111.25 degrees from the one before, on and on over the frames.

    As many spokes as give one point in R in each frame, the calibration block counted (Winkelmann et al., IEEE TMI 2007;26:68);
    of the points that are then too many, the outermost are left out.
    """
    angle = random.random() * math.pi
    masks = []
    for _ in range(request.frames):
        mask = request.calibration_block.copy()
        for number in count_from():
            if mask.sum() >= request.point_budget:
                break
            if number > 8 * max(mask.shape):
                raise _out_of_reach(request)
            mask |= _spokes(request, np.array([angle]))
            angle += GOLDEN_ANGLE
        masks.append(_trimmed(request, mask))
    return np.stack(masks)


def _spokes(request: Request, angles: NDArray[np.floating]) -> Mask:
    """Draw lines through the middle, from edge to edge of the grid, at angles from kx to ky."""
    mask = np.zeros((request.lines, request.samples), bool)
    along = np.linspace(-1, 1, 2 * max(mask.shape) + 1)
    sine, cosine = np.sin(angles), np.cos(angles)
    reach = along[:, None] / np.maximum(np.abs(sine), np.abs(cosine))
    rows = np.rint(request.lines // 2 + reach * sine * request.lines / 2).astype(int)
    columns = np.rint(request.samples // 2 + reach * cosine * request.samples / 2).astype(int)
    inside = (rows >= 0) & (rows < request.lines) & (columns >= 0) & (columns < request.samples)
    mask[rows[inside], columns[inside]] = True
    return mask & request.rows[:, None]


def _trimmed(request: Request, mask: Mask) -> Mask:
    outside = np.flatnonzero(mask & ~request.calibration_block)
    farthest = np.argsort(-request.point_distance.ravel()[outside], kind="stable")
    mask.ravel()[outside[farthest[: int(mask.sum()) - request.point_budget]]] = False
    return mask


def _out_of_reach(request: Request) -> SamplingError:
    return SamplingError(
        f"an acceleration of {request.acceleration:g} asks for {request.point_budget} points, more than spokes reach"
    )
