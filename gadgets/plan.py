"""What a scan is, decided from its header and its data together. Everybody who needs to know asks here.

Headers and readouts contradict each other: converters write half the matrix for the middle of k-space, announce lines that
never come, count slices as partitions. The rules by which that is resolved stand in ``docs/kspace.md``; in short, what readouts
carry comes before what the header announces, a majority before a stray readout, and what cannot be resolved is said.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from ..wire.errors import DataError
from ..wire.header import Encoding
from ..wire.items import ACQUISITION_HEADER
from .kspace_buffer import KspaceBuffer, Place, Readout

Rows = NDArray[np.int64]


def flag_mask(*flags: int) -> int:
    """Bits of acquisition flags, which are numbered from 1."""
    return sum(1 << (flag - 1) for flag in flags)


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
_CORRECTIONS = (ismrmrd.ACQ_IS_PHASECORR_DATA, 30, 31)
"""Readouts that an image would have to be corrected with, which nothing here does."""

_MOST_STRAYS = 0.1
"""Readouts outside what the header announces, as a fraction of all, up to which they are faults and not the header."""
_CLEARLY = 10.0
"""Ratio of energies from which on the brightest line says that the middle of k-space is elsewhere."""


def left_out_reason(flags: int) -> str:
    """Name the flags by which a readout belongs in no image."""
    names = [name for flag, name in NOT_FOR_THE_IMAGE.items() if flags >> (flag - 1) & 1]
    return "flagged " + " and ".join(names)


def uncorrected(flags: int) -> bool:
    """Whether readouts with these flags say that the image needs a correction."""
    return any(flags >> (flag - 1) & 1 for flag in _CORRECTIONS)


def is_cartesian(trajectory: NDArray[np.float32]) -> bool:
    """Whether a readout's trajectory [samples, dimensions] is a straight line along the readout, evenly sampled."""
    points = np.asarray(trajectory, np.float64)
    if len(points) < 2 or not np.isfinite(points).all():
        return True
    steps = np.diff(points, axis=0)
    largest = np.abs(steps).max()
    along, across = steps[:, 0], steps[:, 1:]
    even = np.abs(along - along.mean()).max() <= 0.1 * abs(along.mean())
    return largest == 0 or bool(even and np.abs(across).max(initial=0) <= 1e-3 * largest)


@dataclass(frozen=True)
class Grid:
    """Where the lines of one encoding space belong.

    Attributes
    ----------
    index
        Number of the encoding space in the header.
    encoding
        The encoding space with the extents that it really has; see ``docs/kspace.md``.
    place
        Rows of the grid, row of the line numbered 0 along kz and ky, and length of a readout.
    expected
        First and last row along kz and ky that the header announces.
    accepted
        First counter along kz and ky that is used, and the one after the last; readouts with others are left out.
    notes
        What of it is in doubt, for the images.
    """

    index: int
    encoding: Encoding
    place: Place
    expected: tuple[tuple[int, int], tuple[int, int]]
    accepted: tuple[tuple[int, int], tuple[int, int]]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def middle(self) -> tuple[int, int]:
        """Counters (kz, ky) of the middle of k-space."""
        (kz, ky), (z, y) = self.place.grid, self.place.offsets
        return kz // 2 - z, ky // 2 - y


@dataclass(frozen=True)
class Missing:
    """What a block lacks of what was announced.

    Attributes
    ----------
    readouts
        How many readouts have to come before it can be complete; 0 if it is.
    lines
        How many lines never came.
    text
        Which.
    """

    readouts: int = 0
    lines: int = 0
    text: str = ""


COMPLETE = Missing()


class Plan:
    """The plan of one scan.

    Parameters
    ----------
    encodings
        Encoding spaces as the header has them.
    """

    def __init__(self, encodings: Sequence[Encoding]) -> None:
        self.encodings = tuple(encodings)
        self._decided: dict[int, Grid] = {}
        self._images: set[int] = set()
        self.counters: dict[str, int] = {}
        """Largest value of each counter that an image has had."""

    def refusal(self, index: int) -> DataError | None:
        """Say why nothing can be made of an encoding space; None if it can."""
        if index >= len(self.encodings):
            count = len(self.encodings)
            return DataError(
                f"encoding_space_ref {index} is not in the header, which has {count}", kind="encoding space"
            )
        encoding = self.encodings[index]
        if encoding.trajectory != "cartesian":
            return DataError(
                f"trajectory {encoding.trajectory!r} is not accepted, only 'cartesian'",
                where=f"encoding {index}" if index else "",
                kind="trajectory",
            )
        if encoding.multiband > 1:
            return DataError(
                f"slices were measured simultaneously (multiband factor {encoding.multiband}), which is not unfolded here",
                where=f"encoding {index}" if index else "",
                kind="multiband",
            )
        return None

    def image_readout(self, index: int) -> None:
        """Note that an encoding space holds an image, and not only the reference of another."""
        self._images.add(index)

    def reference_encodings(self) -> list[int]:
        """Encoding spaces that held no readout of an image so far."""
        return [index for index in range(len(self.encodings)) if index not in self._images]

    def provisional(self, buffer: KspaceBuffer, first: Readout, header: Any) -> Grid:
        """Guess where lines belong when the first one comes, for what is done to them before all are there."""
        if first.encoding in self._decided:
            return self._with_length(self._decided[first.encoding], buffer)
        evidence = Evidence(
            np.array([[first.step_2], [first.step_1]]),
            np.zeros(1),
            (int(header.idx.user[6]), int(header.idx.user[5])),
        )
        return self._with_length(_decide(first.encoding, self.encodings[first.encoding], evidence), buffer)

    def grid(self, buffer: KspaceBuffer, others: Sequence[KspaceBuffer] = (), *, final: bool = False) -> Grid:
        """Say where the lines of a block belong.

        Parameters
        ----------
        buffer
            Of the block.
        others
            Of other blocks of the encoding space, which have a say as well.
        final
            Whether nothing more comes, so that what did not come does not exist.
        """
        index = buffer.encoding_index
        if index in self._decided:
            return self._with_length(self._decided[index], buffer, check=Evidence.of(buffer))
        evidence = Evidence.of(buffer, *others)
        return self._with_length(_decide(index, self.encodings[index], evidence, final=final), buffer)

    def settle(self, grid: Grid, lines: int) -> None:
        """Keep to a grid from now on, as a block of so many lines was handed on with it; a few lines decide nothing."""
        rows, acceleration = grid.encoding.encoded_matrix[1], grid.encoding.acceleration[0]
        if 4 * acceleration * lines >= rows:
            self._decided.setdefault(grid.index, grid)

    def _with_length(self, grid: Grid, buffer: KspaceBuffer, check: "Evidence | None" = None) -> Grid:
        """Fit a grid to one block: its length of a readout, and what its own lines say against the plan."""
        notes, index = dict(grid.notes), grid.index
        if check is not None:
            kz = np.unique(check.lines[0])
            if grid.place.grid[0] == 1 and kz.size > 1:  # partitions after all
                grid = self._decided[index] = _decide(index, self.encodings[index], check, final=True)
                notes = dict(grid.notes)
            if doubt := _doubt(grid, check):
                notes["Middle"] = doubt
        return replace(grid, place=replace(grid.place, samples=buffer.samples), notes=notes)

    def oversampling_removed(self, buffer: KspaceBuffer) -> bool:
        """Whether the readouts of an image came without the oversampling that the header tells of."""
        return buffer.samples != buffer.encoding.encoded_matrix[0]

    def missing(
        self, grid: Grid, buffer: KspaceBuffer, also: NDArray[np.bool_] | None, frames: int, averages: int
    ) -> Missing:
        """Compare what came of a block with what is announced: by limits, acceleration, frames and averages.

        Parameters
        ----------
        grid
            Where its lines belong.
        buffer
            The block.
        also
            Lines [kz, ky] on the grid that calibration readouts fill.
        frames, averages
            How many of each are announced.
        """
        times = buffer.on_grid(buffer.count, grid.place)
        extra = np.zeros(times.shape[1:], bool) if also is None else also
        found = [
            _missing_in_frame(
                times[frame] if frame < times.shape[0] else np.zeros_like(times[0]), extra, grid, averages
            )
            for frame in range(max(frames, times.shape[0]))
        ]
        lacking = [entry for entry in found if entry.readouts]
        if not lacking:
            return COMPLETE
        worst = max(lacking, key=lambda entry: entry.lines)
        return Missing(sum(entry.readouts for entry in lacking), worst.lines, worst.text)


@dataclass
class Evidence:
    """What the lines of an encoding space say.

    Attributes
    ----------
    lines
        Counters (kz, ky) of every line [2, lines].
    energy
        Of every line.
    marked
        The line that readouts call the middle of k-space along kz and ky (Siemens' ``user[6]`` and ``user[5]``); 0 for none.
    """

    lines: Rows
    energy: NDArray[np.float64]
    marked: tuple[int, int]

    @classmethod
    def of(cls, *buffers: KspaceBuffer) -> "Evidence":
        """Collect what the lines of some blocks say."""
        lines, energies, users = [], [], []
        for buffer in buffers:
            measured = buffer.measured
            lines.append(np.argwhere(measured)[:, 1:].T)
            energies.append(buffer.energy[measured])
            users.append(buffer.headers[measured].view(ACQUISITION_HEADER)["idx"]["user"].reshape(-1, 8)[:, 5:7])
        user = np.concatenate(users)
        return cls(
            np.concatenate(lines, axis=1), np.concatenate(energies), (_majority(user[:, 1]), _majority(user[:, 0]))
        )

    def around(self, axis: int, line: int, reach: int) -> float:
        """Mean energy of the lines close to one."""
        near = np.abs(self.lines[axis] - line) <= reach
        return float(self.energy[near].mean()) if near.any() else 0.0

    def brightest(self, axis: int) -> int:
        """The line with the most energy."""
        totals = np.zeros(int(self.lines[axis].max()) + 1)
        np.add.at(totals, self.lines[axis], self.energy)
        return int(totals.argmax())

    def within(self, keep: NDArray[np.bool_]) -> "Evidence":
        """Leave lines out."""
        return Evidence(self.lines[:, keep], self.energy[keep], self.marked)


def _majority(values: NDArray[Any]) -> int:
    """Value of nearly all, or else 0."""
    if not values.size:
        return 0
    found, counts = np.unique(values, return_counts=True)
    best = int(counts.argmax())
    return int(found[best]) if counts[best] >= 0.9 * values.size else 0


def _decide(index: int, encoding: Encoding, evidence: Evidence, *, final: bool = False) -> Grid:
    """Decide where the lines of an encoding space belong."""
    notes: dict[str, str] = {}
    accepted = tuple(_accepted(encoding, axis, evidence, notes) for axis in (0, 1))
    keep = np.ones(evidence.lines.shape[1], bool)
    for axis, (first, end) in enumerate(accepted):
        keep &= (evidence.lines[axis] >= first) & (evidence.lines[axis] < end)
    if keep.any():
        evidence = evidence.within(keep)
    partitions = _partitions(encoding, evidence, accepted[0], notes, final=final)
    x, y, _ = encoding.encoded_matrix
    recon = encoding.recon_matrix
    encoding = replace(
        encoding,
        encoded_matrix=(x, y, partitions),
        recon_matrix=(
            recon[0],
            recon[1],
            1 if partitions == 1 else max(recon[2], 1) if encoding.encoded_matrix[2] > 1 else partitions,
        ),
    )
    middle_y = _middle(encoding, 1, evidence, accepted[1], notes)
    middle_z = (
        int(np.bincount(evidence.lines[0]).argmax())
        if partitions == 1
        else _middle(encoding, 0, evidence, accepted[0], notes)
    )
    place = Place((partitions, y), (partitions // 2 - middle_z, y // 2 - middle_y), x)
    expected = tuple(
        _expected(encoding, axis, place, accepted[axis]) if axis or partitions > 1 else (0, 0) for axis in (0, 1)
    )
    return Grid(index, encoding, place, expected, accepted, notes)  # type: ignore[arg-type]


def _limit(encoding: Encoding, axis: int) -> Any:
    """Limits of the lines along kz (0) or ky (1) that say something."""
    limit = encoding.limits.get(f"kspace_encoding_step_{2 - axis}")
    return limit if limit is not None and limit.maximum > limit.minimum else None


def _rows(encoding: Encoding, axis: int) -> int:
    return encoding.encoded_matrix[2 - axis]


def _accepted(encoding: Encoding, axis: int, evidence: Evidence, notes: dict[str, str]) -> tuple[int, int]:
    """Counters that are no strays, from the first to before the last."""
    limit = _limit(encoding, axis)
    announced = _rows(encoding, axis) if axis or _expects_partitions(encoding) else 1
    first, end = (limit.minimum, limit.maximum + 1) if limit is not None else (0, announced)
    outside = (evidence.lines[axis] < first) | (evidence.lines[axis] >= end)
    if outside.sum() <= max(1, _MOST_STRAYS * outside.size) and not outside.all():
        return first, end
    seen = int(evidence.lines[axis].min()), int(evidence.lines[axis].max()) + 1
    if limit is not None:
        name = f"kspace_encoding_step_{2 - axis}"
        notes["Limits"] = f"the header limits {name} to {first} to {end - 1}, but {seen[0]} to {seen[1] - 1} came"
    return min(first, seen[0]), max(end, seen[1])


def _expects_partitions(encoding: Encoding) -> bool:
    """Whether more than one partition is to come; headers count the slices of 2-D scans as partitions as well."""
    if encoding.encoded_matrix[2] == 1:
        return False
    return _limit(encoding, 0) is not None or (
        "kspace_encoding_step_2" not in encoding.limits and encoding.count("slice") == 1
    )


def _partitions(
    encoding: Encoding, evidence: Evidence, accepted: tuple[int, int], notes: dict[str, str], *, final: bool
) -> int:
    """Number of partitions: one where no more than one comes, however many the header has."""
    announced = encoding.encoded_matrix[2]
    seen = np.unique(evidence.lines[0])
    if seen.size == 1 and (final or not _expects_partitions(encoding)):
        return 1
    if announced >= seen.size and announced > 1:
        return announced
    count = accepted[1] - accepted[0]
    notes["Partitions"] = f"the header has {announced} partitions, but {count} came"
    return count


def _middle(encoding: Encoding, axis: int, evidence: Evidence, accepted: tuple[int, int], notes: dict[str, str]) -> int:
    """Line in the middle of k-space. Of those that are named, the brighter one is right where the data tells clearly."""
    rows = _rows(encoding, axis)
    limit = _limit(encoding, axis)
    lines = evidence.lines[axis]
    named: list[int] = []
    if 0 < evidence.marked[axis] < accepted[1]:
        named.append(evidence.marked[axis])
    stated = encoding.limits.get(f"kspace_encoding_step_{2 - axis}")
    if stated is not None and stated.center and (limit is None or limit.minimum < stated.center <= limit.maximum):
        named.append(stated.center)
    fallback = [rows // 2, accepted[0] + rows // 2, accepted[1] - (rows - rows // 2)]
    seen = int(lines.max()) + 1
    if limit is None:
        fallback.append(seen - (rows - rows // 2))
    reach = max(1, encoding.acceleration[1 - axis])
    fits = [line for line in named if _fits(lines, rows, line)]
    if not fits:
        if named and evidence.lines.shape[1] > 1:
            notes["Middle"] = (
                f"the middle of k-space cannot be line {' or '.join(map(str, dict.fromkeys(named)))} "
                f"with lines {int(lines.min())} to {seen - 1} on a matrix of {rows}"
            )
        fits = [line for line in dict.fromkeys(fallback) if line >= 0 and _fits(lines, rows, line)] or named or fallback
        return _brighter(fits, axis, evidence, reach, _CLEARLY)
    return _brighter(fits, axis, evidence, reach, 2.0)


def _fits(lines: Rows, rows: int, middle: int) -> bool:
    """Whether the lines are on the grid if its middle is this one."""
    placed = lines - middle + rows // 2
    return bool(((placed >= 0) & (placed < rows)).mean() >= 0.98)


def _brighter(candidates: list[int], axis: int, evidence: Evidence, reach: int, clearly: float) -> int:
    """Take the first of some lines, unless another one is clearly brighter."""
    chosen = candidates[0]
    for line in candidates[1:]:
        if evidence.around(axis, line, reach) > clearly * evidence.around(axis, chosen, reach):
            chosen = line
    return chosen


def _doubt(grid: Grid, evidence: Evidence) -> str:
    """Say where most of the signal lies, if it is clearly not around the middle of k-space."""
    for axis, name in ((1, "ky"), (0, "kz")):
        if grid.place.grid[axis] < 8 or np.unique(evidence.lines[axis]).size < 8:
            continue
        middle = grid.middle[axis]
        reach = max(1, grid.encoding.acceleration[1 - axis]) + 1
        brightest = evidence.brightest(axis)
        if abs(brightest - middle) <= max(2 * reach, grid.place.grid[axis] // 16):
            continue
        if evidence.around(axis, brightest, reach) > _CLEARLY * evidence.around(axis, middle, reach):
            return (
                f"most of the signal lies around line {brightest} along {name}, not around {middle}, "
                "which is taken for the middle of k-space"
            )
    return ""


def _expected(encoding: Encoding, axis: int, place: Place, accepted: tuple[int, int]) -> tuple[int, int]:
    """First and last row of the grid that the header announces."""
    rows, offset = place.grid[axis], place.offsets[axis]
    if _limit(encoding, axis) is None:
        return 0, rows - 1
    return max(0, accepted[0] + offset), min(rows, accepted[1] + offset) - 1


def calibration_middle(buffer: KspaceBuffer, image: Grid) -> tuple[int, int]:
    """Counters (kz, ky) of calibration lines in the middle of k-space; separate ones may have a numbering of their own.

    Parameters
    ----------
    buffer
        The calibration lines.
    image
        Grid of the image that they serve.
    """
    encoding = buffer.encoding
    alike = buffer.encoding_index == image.index
    if alike and encoding.calibration_mode not in ("separate", "external", "other"):
        return image.middle
    evidence = Evidence.of(buffer)
    middles = []
    for axis in (0, 1):
        first, last = int(evidence.lines[axis].min()), int(evidence.lines[axis].max())
        limit = _limit(encoding, axis)
        named = [evidence.marked[axis]]
        named += [image.middle[axis]] if alike else [] if limit is None or limit.center is None else [limit.center]
        inside = [line for line in named if first < line <= last]
        middles.append(_brighter([*inside, (first + last + 1) // 2], axis, evidence, 1, 2.0))
    return middles[0], middles[1]


def _missing_in_frame(times: NDArray[np.int32], extra: NDArray[np.bool_], grid: Grid, averages: int) -> Missing:
    """Compare the lines [kz, ky] of one frame with what is announced."""
    (z0, z1), (y0, y1) = grid.expected
    part = times[z0 : z1 + 1, y0 : y1 + 1]
    measured = (part > 0) | extra[z0 : z1 + 1, y0 : y1 + 1]
    again = int(np.maximum(0, averages - part[part > 0]).sum()) if averages > 1 else 0
    wanted = _wanted(measured, grid, (z0, y0))
    lacking = wanted & ~measured
    if not measured.any():
        return Missing(max(1, int(wanted.sum())), int(wanted.sum()), "none came")
    lines = int(lacking.sum())
    if not lines:
        few, came = _too_few(measured, grid), int(measured.sum())
        text = f"only {came} line{'s' if came > 1 else ''} came, of at least {came + few}"
        return Missing(few + again, few, text) if few + again else COMPLETE
    text = f"{lines} of {int((wanted | measured).sum())} lines are missing ({_spell(lacking, (z0, y0), grid)})"
    return Missing(lines + again, lines, text)


def _wanted(measured: NDArray[np.bool_], grid: Grid, first: tuple[int, int]) -> NDArray[np.bool_]:
    """Lines [kz, ky] that have to be there: all, or those of the regular pattern that the measured ones lie on."""
    r_y, r_z = grid.encoding.acceleration
    partitions = measured.shape[0]
    wanted = np.zeros_like(measured)
    if r_y == r_z == 1:
        wanted[:] = True
        if _elliptical(measured, grid, first):
            wanted = measured.copy()
        return wanted
    for plane in range(partitions):
        lines = np.flatnonzero(measured[plane])
        if lines.size < 3:
            continue
        phase = _phase(lines, r_y)
        if phase is not None:
            wanted[plane, phase::r_y] = True
    return wanted


def _elliptical(measured: NDArray[np.bool_], grid: Grid, first: tuple[int, int]) -> bool:
    """Whether nothing but the corners of a volume was left out, as elliptical scanning does."""
    corners = measured[0, 0] or measured[0, -1] or measured[-1, 0] or measured[-1, -1]
    planes = np.asarray(measured.any(axis=1))
    if measured.shape[0] == 1 or corners or not planes[1:].all():
        return False
    z, y = (
        (np.arange(size) + start - full // 2 + (0.5 if full % 2 == 0 else 0)) / (full / 2)
        for size, start, full in zip(measured.shape, first, grid.place.grid, strict=True)
    )
    inside = z[:, None] ** 2 + y**2 <= (1 - 2 / min(grid.place.grid)) ** 2
    return not (inside & ~measured).any()


def _phase(lines: NDArray[Any], acceleration: int) -> int | None:
    """Remainder of a regular pattern's lines; None if the lines outside the calibration lines lie on no such pattern."""
    if acceleration == 1:
        return None
    gaps = np.diff(lines)
    alone = lines[np.concatenate(([True], gaps > 1)) & np.concatenate((gaps > 1, [True]))]
    if alone.size < 2:
        return None
    remainders, counts = np.unique(alone % acceleration, return_counts=True)
    return int(remainders[0]) if remainders.size == 1 and counts[0] >= 2 else None


def _too_few(measured: NDArray[np.bool_], grid: Grid) -> int:
    """How many lines an irregular pattern lacks at least of what its acceleration announces."""
    r_y, r_z = grid.encoding.acceleration
    if r_y * r_z == 1:
        return 0
    share = 0.9 if measured.shape[0] == 1 else 0.7  # the corners of a volume may be left out
    least = int(share * measured.size / (r_y * r_z))
    if measured.shape[0] > 1:
        planes = np.flatnonzero(measured.any(axis=1))
        edges = max(int(planes[0]), measured.shape[0] - 1 - int(planes[-1]))
        if edges > r_z or (np.diff(planes) > r_z).any():
            least = max(least, int(measured.sum()) + 1)
    return max(0, least - int(measured.sum()))


def _spell(lacking: NDArray[np.bool_], first: tuple[int, int], grid: Grid) -> str:
    """Name lines by their counters: ``12 to 21, 30``; in a volume the partitions that lack some."""
    axis = 0 if lacking.shape[0] > 1 else 1
    rows = np.flatnonzero(lacking.any(axis=1 - axis)) + first[axis] - grid.place.offsets[axis]
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    words = [str(run[0]) if run.size == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    shown = ", ".join(words[:6]) + (" and others" if len(words) > 6 else "")
    return f"of partitions {shown}" if axis == 0 else shown


def count_reasons(reasons: Counter[str]) -> list[str]:
    """Say how many readouts were left out, and why."""
    return [
        f"{count} readout{'s were' if count > 1 else ' was'} left out: {reason}" for reason, count in reasons.items()
    ]
