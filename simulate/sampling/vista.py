"""Lines in ky and time that keep away from one another: variable density incoherent spatiotemporal acquisition (VISTA)."""

import numpy as np
from numpy.typing import NDArray

from .lines import density, golden_offset
from .request import Mask, Request

_MOST_SWEEPS = 10
_LESS = 1 - 1e-9
"""Moves that save less are rounding."""


def vista(request: Request, random: np.random.Generator) -> Mask:
    """One line in R of every frame, denser in the middle, with the least energy as charges that repel one another in ky and time.

    The aims of Ahmad et al., MRM 2015;74:1266: samples are charges whose Riesz energy is minimised with the number of lines in
    each frame fixed. The energy is the sum over pairs of ``1 / (sqrt(d_i d_j) (ky^2 + t^2))``, ky in lines around a circle, t in
    frames, d the density of ``variable-density``, to which the charges' own density then tends (Borodachov et al., Trans. Am.
    Math. Soc. 2008;360:1559). From ``golden-offset``, line by line moves to where it lowers the energy most, until none does.
    """
    masks = golden_offset(request, random)
    may_move = request.rows & ~request.calibration
    charge = density(request.line_distance) ** -0.5
    repulsion = _repulsion(request.frames, request.lines)
    spectra = np.fft.rfft(repulsion, axis=1)
    for _ in range(_MOST_SWEEPS):
        moved = False
        for frame, mask in enumerate(masks):
            others = np.fft.rfft(np.where(masks & may_move, charge, 0.0), axis=1)
            distances = np.abs(np.arange(request.frames) - frame)
            potential = np.fft.irfft((spectra[distances] * others).sum(axis=0), request.lines)
            moved |= _relax(mask, potential, may_move, charge, repulsion[0])
        if not moved:
            break
    return masks


def _repulsion(frames: int, lines: int) -> NDArray[np.floating]:
    """Return what two unit charges at a distance [frames, ky] add to the energy; nothing of a charge with itself."""
    along = np.minimum(np.arange(lines), lines - np.arange(lines))
    squares = np.arange(frames)[:, None] ** 2 + along**2
    squares[0, 0] = 1
    repulsion = 1.0 / squares
    repulsion[0, 0] = 0.0
    return repulsion


def _relax(
    mask: Mask,
    potential: NDArray[np.floating],
    may_move: Mask,
    charge: NDArray[np.floating],
    repulsion: NDArray[np.floating],
) -> bool:
    """Move each line [ky] of a frame to where its energy is least; return whether any has moved."""
    moved = False
    for line in np.flatnonzero(mask & may_move):
        rest = potential - charge[line] * np.roll(repulsion, line)
        energy = np.where(may_move & ~mask, charge * rest, np.inf)
        best = int(energy.argmin())
        if energy[best] < _LESS * charge[line] * rest[line]:
            mask[line], mask[best] = False, True
            potential = rest + charge[best] * np.roll(repulsion, best)
            moved = True
    return moved
