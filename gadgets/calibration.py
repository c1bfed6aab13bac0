"""Calibration (reference) lines of a scan, kept apart from its images until an image needs them."""

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..flow.ledger import Account
from ..wire.errors import DataError
from ..wire.items import ACQUISITION_HEADER, Acquisition
from .block import Block, Refusals
from .kspace import Kspace
from .kspace_buffer import KspaceBuffer, Place, Readout
from .plan import Grid, Plan, calibration_middle

Key = tuple[int, ...]
"""Encoding space, slice, contrast, phase, repetition and set."""

_ENCODING, _SLICE, _CONTRAST, _SET = 0, 1, 2, 5
_TURNS = 4
"""Turns of an interleaved series that are averaged for its calibration."""
_NEAREST = 64
"""Sets of calibration lines whose distance is looked at where a slice has none of its own."""
_SAME_FOV = 0.01
"""Fields of view that differ by less are the same."""


@dataclass(frozen=True)
class FoundCalibration:
    """The calibration lines that serve an image.

    Attributes
    ----------
    buffer
        They.
    borrowed
        Why they are not the image's own, if that is to be said.
    """

    buffer: KspaceBuffer
    borrowed: str = ""


class CalibrationStore:
    """The calibration lines of a scan, by the counters that they came with.

    Parameters
    ----------
    plan
        Of the scan.
    make_block
        Begins a block of lines.
    """

    def __init__(self, plan: Plan, make_block: Callable[[], Block]) -> None:
        self._plan = plan
        self._make_block = make_block
        self._blocks: dict[Key, Block] = {}
        self._groups: dict[Key, dict[Key, Block]] = {}
        """Blocks that differ in phase and repetition alone."""
        self._slices: dict[int, dict[Key, dict[Key, Block]]] = {}
        """Groups of each slice."""
        self._refused = Refusals()
        self._clock = itertools.count(1)

    def add(self, key: Key, acquisition: Acquisition, fields: Readout) -> None:
        """Keep a calibration line.

        Raises
        ------
        DataError
            It does not fit, or there is no memory for it.
        """
        block = self._blocks.get(key) or self._begin(key, fields)
        block.add(acquisition, fields)
        block.latest = next(self._clock)

    def _begin(self, key: Key, first: Readout) -> Block:
        self._refused.check(key)
        block = self._make_block()
        try:
            block.open(first)
        except DataError as error:
            self._refused.add(key, error)
            raise
        self._blocks[key] = block
        group = self._groups.setdefault(_group(key), {})
        group[key] = self._slices.setdefault(key[_SLICE], {}).setdefault(_group(key), group)[key] = block
        return block

    def own(self, key: Key) -> KspaceBuffer | None:
        """Lines that were measured with exactly these counters."""
        block = self._blocks.get(key)
        return None if block is None or not block.readouts else block.buffer

    def readouts(self) -> int:
        """Number of all lines."""
        return sum(block.readouts for block in self._blocks.values())

    def others(self) -> Iterator[str]:
        """Say which readouts were not like the others."""
        for block in self._blocks.values():
            yield from block.others()

    def has_slice(self, key: Key) -> bool:
        """Whether there are lines for the slice of an image, in its encoding space or one of references only."""
        encodings = {key[_ENCODING], *self._plan.calibration_encodings()}
        return any(
            block.readouts
            for name, group in self._slices.get(key[_SLICE], {}).items()
            if name[_ENCODING] in encodings
            for block in group.values()
        )

    def find(self, key: Key, image: KspaceBuffer, *, borrow: bool) -> tuple[FoundCalibration | None, str]:
        """Find the lines for an image: of its own counters, or else the last ones of its contrast, slice, or next slice.

        Returns
        -------
        FoundCalibration or None
            The lines.
        str
            Why there are none though some were measured.
        """
        own = self.own(key)
        if own is not None and own.coils == image.coils:
            return FoundCalibration(own), ""
        encodings = {key[_ENCODING], *self._plan.calibration_encodings()}
        groups = self._slices.get(key[_SLICE], {})
        own_group = groups.get(_group(key), {})
        order: list[Callable[[Key], bool]] = [
            lambda other: _same(other, key, _ENCODING, _SLICE, _CONTRAST),
            lambda other: _same(other, key, _ENCODING, _SLICE),
            lambda other: other[_ENCODING] in encodings,
        ]
        if found := _latest(own_group.values(), image.coils):
            return FoundCalibration(found), ""
        for fits in order:
            alike = (block for name, group in groups.items() if fits(name) for block in group.values())
            if found := _latest(alike, image.coils):
                return FoundCalibration(found), ""
        found, problem = self._borrowed(key, image, encodings) if borrow else (None, self._misfit(image, encodings))
        if found is None and key in self._refused:
            problem = "there was no memory for its calibration (reference) lines"
        return found, problem

    def _borrowed(self, key: Key, image: KspaceBuffer, encodings: set[int]) -> tuple[FoundCalibration | None, str]:
        """Find the lines of the next slice, as ``find`` does."""
        near = (
            (other, block.buffer)
            for other, block in self._blocks.items()
            if other[_ENCODING] in encodings and block.readouts and block.buffer.coils == image.coils
        )
        some = heapq.nsmallest(_NEAREST, near, key=lambda found: abs(found[0][_SLICE] - key[_SLICE]))
        if not some:
            return None, self._misfit(image, encodings)
        nearest, buffer = min(some, key=lambda found: _distance(found[1], image))
        return FoundCalibration(
            buffer, f"slice {key[_SLICE]} has no calibration lines; those of slice {nearest[_SLICE]} are used"
        ), ""

    def _misfit(self, image: KspaceBuffer, encodings: set[int]) -> str:
        """Say that there are lines of another number of channels; empty if there are none."""
        for other, block in self._blocks.items():
            if other[_ENCODING] in encodings and block.readouts and block.buffer.coils != image.coils:
                channels = block.buffer.coils
                return f"the calibration (reference) lines have {channels} channels, the image has {image.coils}"
        return ""

    def forget(self, before: Key, handed_on: set[Key]) -> None:
        """Let go of lines that no image will need: of images that were handed on, but for the latest of a slice and contrast."""
        group = self._groups.get(_group(before), {})
        latest = max(group, key=lambda key: group[key].latest, default=None)
        for key in [key for key in group if key in handed_on and key != latest]:
            del group[key]
            self._blocks.pop(key).release()


def _group(key: Key) -> Key:
    return key[_ENCODING], key[_SLICE], key[_CONTRAST], 0, 0, key[_SET]


def _latest(blocks: Iterable[Block], coils: int) -> KspaceBuffer | None:
    """Buffer of so many coils whose last line came last."""
    fitting = [block for block in blocks if block.readouts and block.buffer.coils == coils]
    return max(fitting, key=lambda block: block.latest).buffer if fitting else None


def _same(one: Key, other: Key, *counters: int) -> bool:
    return all(one[counter] == other[counter] for counter in counters)


def _distance(one: KspaceBuffer, other: KspaceBuffer) -> float:
    """Distance between the positions of two sets of lines in mm."""
    first, second = (
        buffer.headers[buffer.mask].view(ACQUISITION_HEADER)["position"][:1].ravel() for buffer in (one, other)
    )
    return round(float(np.linalg.norm(first - second)), 3) if first.size and second.size else 0.0


def same_spacing(calibration: KspaceBuffer, image: KspaceBuffer, partitions: int) -> bool:
    """Whether the samples of calibration lines and image lie on one grid of k-space."""
    views = list(zip(*_fields_of_view(calibration, image), strict=True))
    return all(abs(ours / theirs - 1) < _SAME_FOV for ours, theirs in (views if partitions > 1 else views[1:]))


def _fields_of_view(calibration: KspaceBuffer, image: KspaceBuffer) -> list[tuple[float, float, float]]:
    """Fields of view (z, y, x) in mm that the sample spacings of calibration lines and image mean.

    Whether readout oversampling was removed before is a matter of the whole scan, and the image's readouts tell; shorter
    calibration readouts have a lower resolution.
    """
    removed = image.samples != image.encoding.encoded_matrix[0]
    views = []
    for buffer in (calibration, image):
        encoding = buffer.encoding
        x = encoding.encoded_fov[0]
        if removed and buffer.readout_samples <= encoding.cropped_readout:
            x *= encoding.cropped_readout / encoding.encoded_matrix[0]
        views.append((encoding.encoded_fov[2], encoding.encoded_fov[1], x))
    return views


def calibration_place(calibration: KspaceBuffer, grid: Grid) -> Place:
    """Where calibration lines lie on the grid of a block of the same field of view."""
    middle = calibration_middle(calibration, grid)
    (kz, ky) = grid.place.grid
    return Place((kz, ky), (kz // 2 - middle[0], ky // 2 - middle[1]), grid.place.samples)


def calibration_on_grid(calibration: KspaceBuffer, block: KspaceBuffer, grid: Grid) -> Tensor:
    """Calibration lines [coils, kz, ky, kx] on the grid of a block, as they came."""
    if same_spacing(calibration, block, grid.place.grid[0]):
        return calibration.tensor(calibration_place(calibration, grid))[0]
    raw = Place(calibration.lines[1:], (0, 0), calibration.samples)
    lines = calibration.tensor(raw)[0]
    return resampled(lines, calibration, block, calibration_middle(calibration, grid), grid.place)


def resampled(
    lines: Tensor, calibration: KspaceBuffer, image: KspaceBuffer, middle: tuple[int, int], grid: Place
) -> Tensor:
    """Bring calibration lines of another field of view to the grid of an image.

    A field of view that holds the whole object can be exchanged for another one: the samples between those that were measured
    follow from them by band-limited interpolation (Whittaker and Shannon), along each axis ::

        s(k) = v / have * sum_i s_i sinc(v (k - k_i)),   k_i = (i - center) / have,   v = min(have, want)

    with k in 1/mm, fields of view in mm, and ``sinc(u) = sin(pi u) / (pi u)``. The band v is the smaller of the two fields of
    view: what lies outside the image's would fold into it.

    Parameters
    ----------
    lines
        complex64 [coils, kz, ky, kx] by the counters of the lines.
    calibration, image
        Where lines and image come from.
    middle
        Counters (kz, ky) of the calibration lines' middle of k-space.
    grid
        Of the image.

    Returns
    -------
    Tensor
        complex64 [coils, kz, ky, kx], zero beyond what was measured.
    """
    centers = (*middle, lines.shape[-1] // 2)
    sizes = (*grid.grid, grid.samples)
    views = zip(*_fields_of_view(calibration, image), strict=True)
    for axis, (center, size, (have, want)) in enumerate(zip(centers, sizes, views, strict=True), start=1):
        if size == lines.shape[axis] == 1:
            continue
        matrix = _interpolation(lines.shape[axis], center, have, size, want).to(lines)
        lines = (lines.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return lines


def _interpolation(samples: int, center: int, have: float, size: int, want: float) -> Tensor:
    """Return the matrix [size, samples] from samples at (i - center) / have to those at (j - size // 2) / want.

    float64. Rows of places more than half a sample beyond the outermost measured one are zero: nothing is extrapolated.
    """
    source = (np.arange(samples) - center) / have
    target = (np.arange(size) - size // 2) / want
    view = min(have, want)
    matrix = np.sinc((target[:, None] - source) * view) * view / have
    outside = (target < source[0] - 0.5 / have) | (target > source[-1] + 0.5 / have)
    matrix[outside] = 0
    return torch.from_numpy(matrix)


def frames_to_average(announced: int, turn: int) -> int:
    """How many frames of an interleaved series are averaged for its calibration.

    Parameters
    ----------
    announced
        Number of frames that is announced; no more are awaited. 1 where nothing is announced.
    turn
        Frames that are undersampled in turns.
    """
    return min(announced, _TURNS * turn) if announced > 1 else _TURNS * turn


class TimeAverage:
    """Calibration lines of a series whose frames are undersampled in turns: their average.

    ``s(k) = sum_t m_t(k) s_t(k) / sum_t m_t(k)`` over the frames t, with m 1 where a frame has the line, else 0: as in TSENSE
    (Kellman et al., MRM 2001;45:846). What moves from frame to frame leaves a ghost in the average of one turn,
    which maps would inherit, so that several turns are awaited. The average is replaced by that of the next turns as the
    series goes on.

    Parameters
    ----------
    window
        Frames that are averaged; None: all that come, as long as there is memory for them.
    account
        Keeps frames that wait for others.
    """

    def __init__(self, window: int | None, account: Account) -> None:
        self._window = window
        self._account = account
        self._kept = 0
        self._waiting: list[Kspace] = []
        self._lines: Tensor | None = None
        self._sum: Tensor | None = None
        self._count: Tensor | None = None
        self._frames = 0

    def add(self, kspace: Kspace) -> list[Kspace]:
        """Take a frame, and return those that can go on."""
        total, count = kspace.data.sum(dim=1), kspace.mask.sum(dim=0)
        if self._sum is None or self._count is None or self._sum.shape != total.shape:
            self._sum, self._count, self._frames = total, count, 0
        else:
            self._sum, self._count = self._sum + total, self._count + count
        self._frames += 1
        self._waiting.append(kspace)
        reached = self._window is not None and self._frames >= self._window
        if reached or (self._lines is None and not self._keep(kspace.nbytes)):
            self._renew()
        return self.release() if self._lines is not None else []

    def _keep(self, size: int) -> bool:
        kept = self._account.keep(size)
        self._kept += size if kept else 0
        return kept

    def _renew(self) -> None:
        assert self._sum is not None
        assert self._count is not None
        self._lines = self._sum / self._count.clamp(min=1)[:, :, None]
        self._sum = self._count = None

    def release(self) -> list[Kspace]:
        """Let the waiting frames go, with the average of what there is."""
        if self._lines is None and self._sum is not None:
            self._renew()
        released, self._waiting = self._waiting, []
        kept, self._kept = self._kept, 0
        self._account.release(kept)
        for kspace in released:
            if self._lines is not None and self._lines.shape[0] == kspace.data.shape[0]:
                kspace.calibration = self._lines
        return released
