"""Whether coil maps explain the block that they are used for."""

from ..models.map_misfit import map_misfit
from .domain import calibration_lines
from .kspace import Kspace
from .percent import percent_up_to

ACCEPTED = 0.05
"""Largest signal that maps may leave unexplained, relative to the brightest.

On fully sampled heads of 4 to 16 coils, with 12 and 24 calibration lines and SNR down to 2, it is 0 to 0.025 in ample fields
of view, up to 0.04 in those that the object just fits into. Fields of view that are 20 % too small leave 0.06 to 0.25, a head
that moved by 4 % of its field of view after its calibration lines 0.05 to 0.26.
"""
LEAST_LINES = 8
"""Calibration lines with which maps are good enough at R = 3, on heads and made-up brains of 8 coils.

With 6 lines, errors are 4 to 18 % of the brightest signal, and what the maps leave unexplained does not tell them.
"""


def maps_doubt(kspace: Kspace) -> str:
    """Say that the coil maps of a block come of too little, or do not explain what was measured, of its first frame; or nothing.

    Parameters
    ----------
    kspace
        The block; without coil maps, or off the grid, nothing is said.
    """
    if kspace.coil_maps is None or kspace.trajectory is not None:
        return ""
    lines = calibration_lines(kspace)
    if lines < LEAST_LINES:
        came = f"{lines} calibration line{'s' if lines != 1 else ''}"
        return f"the coil maps come from {came} (needed: {LEAST_LINES} and more): ghosts are to be expected"
    misfit, row = map_misfit(kspace.data[:, 0], kspace.mask[0], kspace.coil_maps.get(), ACCEPTED)
    if misfit <= ACCEPTED:
        return ""
    return (
        f"the coil maps leave up to {percent_up_to(misfit)} of the brightest signal unexplained "
        f"(accepted: {100 * ACCEPTED:g} %), most around row {row} of {kspace.data.shape[3]}: the object is larger than the "
        "field of view, it moved after its calibration lines were measured, or there are too few of these"
    )
