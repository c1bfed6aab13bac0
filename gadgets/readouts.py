"""Which readouts belong in an image, and how many were left out for which reason."""

from collections import Counter

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from ..wire.errors import DataError
from ..wire.items import Acquisition
from .kspace_buffer import Readout
from .plan import Plan


def flag_mask(*flags: int) -> int:
    """Bits of acquisition flags, which are numbered from 1."""
    return sum(1 << (flag - 1) for flag in flags)


CALIBRATION = flag_mask(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
CALIBRATION_AND_IMAGING = flag_mask(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
_REVERSE = flag_mask(ismrmrd.ACQ_IS_REVERSE)
NOT_FOR_THE_IMAGE = {
    ismrmrd.ACQ_IS_NOISE_MEASUREMENT: "noise measurement",
    ismrmrd.ACQ_IS_NAVIGATION_DATA: "navigation data",
    ismrmrd.ACQ_IS_PHASECORR_DATA: "phase correction data",
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA: "high-priority feedback",
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA: "real-time feedback",
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA: "dummy scan",
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA: "surface coil correction",
    30: "phase stabilisation reference",
    31: "phase stabilisation",
}
"""Flags of readouts that belong in no image, with their names."""
_NOISE = f"flagged {NOT_FOR_THE_IMAGE[ismrmrd.ACQ_IS_NOISE_MEASUREMENT]}"
_CORRECTIONS = (ismrmrd.ACQ_IS_PHASECORR_DATA, 30, 31)
"""Readouts that an image would have to be corrected with, which nothing here does."""


def is_cartesian(trajectory: NDArray[np.float32], *, reverse: bool = False) -> bool:
    """Whether a readout's trajectory [samples, dimensions] is a straight line, evenly sampled in the direction of its flag."""
    points = np.asarray(trajectory, np.float64)
    if not np.isfinite(points).all():
        return False
    if len(points) < 2:
        return True
    steps = np.diff(points, axis=0)
    largest = np.abs(steps).max()
    along, across = steps[:, 0], steps[:, 1:]
    even = np.abs(along - along.mean()).max() <= 0.1 * abs(along.mean())
    forwards = along.mean() < 0 if reverse else along.mean() > 0
    return largest == 0 or bool(even and forwards and np.abs(across).max(initial=0) <= 1e-3 * largest)


def _off_grid() -> DataError:
    """Return what is said of readouts that lie on no grid."""
    return DataError(
        "readouts carry a trajectory that is not Cartesian, though the header says 'cartesian'; they are left out",
        kind="trajectory",
    )


class Inspection:
    """Looks at readouts as they come, and counts those that are left out.

    Parameters
    ----------
    plan
        Of the scan.

    Attributes
    ----------
    left_out
        How many readouts went into no image, by the reason, as far as that was not reported for each.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.left_out: Counter[str] = Counter()
        self._off_grid: Counter[int] = Counter()
        self._corrections: Counter[str] = Counter()

    def pass_by(self, flags: int) -> None:
        """Note a readout whose flags say that it belongs in no image."""
        names = [name for flag, name in NOT_FOR_THE_IMAGE.items() if flags >> (flag - 1) & 1]
        self.left_out["flagged " + " and ".join(names)] += 1
        for flag in _CORRECTIONS:
            if flags >> (flag - 1) & 1:
                self._corrections[NOT_FOR_THE_IMAGE[flag]] += 1

    def check(self, acquisition: Acquisition, fields: Readout) -> None:
        """Refuse a readout that nothing can be made of.

        Raises
        ------
        DataError
            It is of an encoding space that cannot be reconstructed, holds no samples (kind ``empty``), or is not Cartesian.
        """
        self._plan.has_data = True
        if error := self._plan.refusal(fields.encoding):
            raise error
        discarded = fields.discard_pre + fields.discard_post
        if fields.channels == 0 or fields.samples <= discarded:
            raise DataError(
                f"a readout holds no samples: {fields.channels} channels, {fields.samples} samples of which "
                f"{discarded} are discarded",
                kind="empty",
            )
        reverse = bool(fields.flags & _REVERSE)
        if fields.trajectory_dimensions and not is_cartesian(acquisition.traj, reverse=reverse):
            self._off_grid[fields.encoding] += 1
            raise _off_grid()

    def off_grid(self, encoding: int, readouts: int) -> DataError | None:
        """Say that so many readouts only seem Cartesian, among others of their encoding space that are not; None if they are."""
        return _off_grid() if self._off_grid[encoding] > readouts // 10 else None

    def missed_corrections(self) -> str:
        """Say that images lack a correction for which readouts came; empty if none did."""
        if not self._corrections:
            return ""
        which = ", ".join(f"{count} of {name}" for name, count in self._corrections.items())
        return f"readouts were not applied ({which}): nothing here corrects images with them"

    def reasons(self) -> list[str]:
        """Say how many readouts were left out, and why; noise is nothing to speak of, unless nothing else came."""
        expected = _NOISE if self._plan.has_data else ""
        return [
            f"{count} readout{'s were' if count > 1 else ' was'} left out: {reason}"
            for reason, count in self.left_out.items()
            if count and reason != expected
        ]
