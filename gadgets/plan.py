"""What a scan is, decided from its header and its data together. Everybody who needs to know asks here.

Headers and readouts contradict each other: converters write half the matrix for the middle of k-space, announce lines that
never come, count slices as partitions. The rules by which that is resolved stand in ``docs/kspace.md``; in short, what readouts
carry comes before what the header announces, a majority before a stray readout, and what cannot be resolved is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..wire.errors import DataError
from ..wire.header import Encoding
from ..wire.items import ACQUISITION_HEADER
from .kspace_buffer import KspaceBuffer, Place, Readout

Rows = NDArray[np.int64]

_MOST_STRAYS = 0.1
"""Readouts outside what the header announces, as a fraction of all, up to which they are faults and not the header."""
_CLEARLY = 4.0
"""Ratio of energies from which on the brightest line says that the middle of k-space is elsewhere."""


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


class Plan:
    """The plan of one scan.

    Parameters
    ----------
    encodings
        Encoding spaces as the header has them.

    Attributes
    ----------
    has_data
        Whether readouts came that are of lines, be they refused: the scan is not one of noise.
    """

    def __init__(self, encodings: Sequence[Encoding]) -> None:
        self.encodings: tuple[Encoding, ...] = tuple(encodings)
        self._decided: dict[int, Grid] = {}
        self._images: set[int] = set()
        self.has_data: bool = False

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
        """Note that an encoding space holds an image, and not only the calibration lines of another."""
        self._images.add(index)

    def calibration_encodings(self) -> list[int]:
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
        index, own = buffer.encoding_index, Evidence.of(buffer)
        grid = self._decided.get(index)
        if grid is None:
            evidence = Evidence.of(buffer, *others) if others else own
            grid = _decide(index, self.encodings[index], evidence, final=final)
        return self._with_length(grid, buffer, check=own)

    def settle(self, grid: Grid, lines: int) -> None:
        """Keep to a grid from now on, as a block of so many lines was handed on with it; a few lines decide nothing."""
        rows, acceleration = grid.encoding.encoded_matrix[1], grid.encoding.acceleration[0]
        if 4 * acceleration * lines >= rows:
            self._decided.setdefault(grid.index, grid)

    def _with_length(self, grid: Grid, buffer: KspaceBuffer, check: "Evidence | None" = None) -> Grid:
        """Fit a grid to one block: its length of a readout, and what its own lines say against the plan."""
        notes, index = dict(grid.notes), grid.index
        if check is not None:
            if grid.place.grid[0] == 1 and not check.flat:  # partitions after all
                grid = self._decided[index] = _decide(index, self.encodings[index], check, final=True)
                notes = dict(grid.notes)
            if grid.place.grid[0] == 1:  # whatever the only partition of a slice is numbered
                kz = check.commonest_partition
                place = replace(grid.place, offsets=(-kz, grid.place.offsets[1]))
                grid = replace(grid, place=place, accepted=((kz, kz + 1), grid.accepted[1]))
            if doubt := _doubt(grid, check):
                notes["Middle"] = doubt
        return replace(grid, place=replace(grid.place, samples=buffer.samples), notes=notes)


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
    flat: bool = True
    """Whether no block has more than one partition, but for strays."""

    @classmethod
    def of(cls, *buffers: KspaceBuffer) -> "Evidence":
        """Collect what the lines of some blocks say."""
        lines, energies, users, flat = [], [], [], True
        for buffer in buffers:
            mask = buffer.mask
            lines.append(np.argwhere(mask)[:, 1:].T)
            partitions = np.bincount(lines[-1][0], minlength=1)
            flat = flat and partitions.sum() - partitions.max() <= max(1, _MOST_STRAYS * partitions.sum())
            energies.append(buffer.energy[mask])
            users.append(buffer.headers.view(ACQUISITION_HEADER)[..., 0]["idx"]["user"][mask][:, 5:7])
        user = np.concatenate(users)
        marked = _majority(user[:, 1]), _majority(user[:, 0])
        return cls(np.concatenate(lines, axis=1), np.concatenate(energies), marked, bool(flat))

    def around(self, axis: int, line: int, reach: int) -> float:
        """Mean energy of the lines close to one."""
        near = np.abs(self.lines[axis] - line) <= reach
        return float(self.energy[near].mean()) if near.any() else 0.0

    def brightest(self, axis: int) -> int:
        """The line with the most energy."""
        totals = np.zeros(int(self.lines[axis].max()) + 1)
        np.add.at(totals, self.lines[axis], self.energy)
        return int(totals.argmax())

    @property
    def commonest_partition(self) -> int:
        """The kz of most lines."""
        return int(np.bincount(self.lines[0]).argmax())

    def within(self, keep: NDArray[np.bool_]) -> "Evidence":
        """Keep the lines of a mask, bool [lines], and leave the others out."""
        return Evidence(self.lines[:, keep], self.energy[keep], self.marked, self.flat)


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
    slices = evidence.flat and (final or not _expects_partitions(encoding))
    partitions_seen = int(evidence.lines[0].min()), int(evidence.lines[0].max()) + 1
    accepted_z = partitions_seen if slices else _accepted(encoding, 0, evidence, notes)
    accepted = accepted_z, _accepted(encoding, 1, evidence, notes)
    keep = np.ones(evidence.lines.shape[1], bool)
    for axis, (first, end) in enumerate(accepted):
        keep &= (evidence.lines[axis] >= first) & (evidence.lines[axis] < end)
    if keep.any():
        evidence = evidence.within(keep)
    partitions = 1 if slices else _partitions(encoding, evidence, accepted_z, notes)
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
    middle_z = evidence.commonest_partition if partitions == 1 else _middle(encoding, 0, evidence, accepted[0], notes)
    place = Place((partitions, y), (partitions // 2 - middle_z, y // 2 - middle_y), x)
    expected_z = _expected(encoding, 0, place, accepted_z) if partitions > 1 else (0, 0)
    expected = expected_z, _expected(encoding, 1, place, accepted[1])
    return Grid(index, encoding, place, expected, accepted, notes)


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
    first, end = _continued(encoding, axis, np.unique(evidence.lines[axis]), first, end)
    outside = (evidence.lines[axis] < first) | (evidence.lines[axis] >= end)
    if outside.sum() <= max(1, _MOST_STRAYS * outside.size) and not outside.all():
        return first, end
    seen = int(evidence.lines[axis].min()), int(evidence.lines[axis].max()) + 1
    if limit is not None:
        name = f"kspace_encoding_step_{2 - axis}"
        notes["Limits"] = f"the header limits {name} to {first} to {end - 1}, but {seen[0]} to {seen[1] - 1} came"
    return min(first, seen[0]), max(end, seen[1])


def _continued(encoding: Encoding, axis: int, seen: Rows, first: int, end: int) -> tuple[int, int]:
    """Counters that go on where those that the header announces end, and have room on the matrix, are lines as well."""
    limit = _limit(encoding, axis)
    if limit is None or limit.center is None:
        return first, end
    rows, step = _rows(encoding, axis), encoding.acceleration[1 - axis]
    below, above = limit.center - rows // 2, limit.center + rows - rows // 2
    for line in seen[(seen >= end) & (seen < above)]:
        end = int(line) + 1 if line < end + step else end
    for line in seen[(seen < first) & (seen >= below)][::-1]:
        first = int(line) if line >= first - step else first
    return first, end


def _expects_partitions(encoding: Encoding) -> bool:
    """Whether more than one partition is to come; headers count the slices of 2-D scans as partitions as well."""
    if encoding.encoded_matrix[2] == 1:
        return False
    return _limit(encoding, 0) is not None or (
        "kspace_encoding_step_2" not in encoding.limits and encoding.count("slice") == 1
    )


def _partitions(encoding: Encoding, evidence: Evidence, accepted: tuple[int, int], notes: dict[str, str]) -> int:
    """Number of partitions of a volume: those of the header, unless more came."""
    announced = encoding.encoded_matrix[2]
    seen = np.unique(evidence.lines[0])
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
        if abs(brightest - middle) <= max(reach, grid.place.grid[axis] // 16):
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
