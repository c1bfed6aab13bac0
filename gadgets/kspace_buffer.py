"""Where readouts are copied as they arrive: the memory of one block of k-space, under the counters that the readouts carry."""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import ismrmrd
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..flow.ledger import Account, Ledger
from ..wire.errors import DataError
from ..wire.header import Encoding
from ..wire.items import ACQUISITION_HEADER, Acquisition, header_of
from .kspace import Kspace

MAX_BLOCK_BYTES = 32 * 2**30
"""The largest block that is allocated; a header that asks for more is taken for a fault."""
_LARGEST_COUNTER = 8192
"""A counter from here on is a fault, unless the header announces as many lines."""

_LAYOUT = struct.Struct("<2xQ24xH2xH128x5H64x9H")
_REVERSE = 1 << (ismrmrd.ACQ_IS_REVERSE - 1)
_HEADER_BYTES = ACQUISITION_HEADER.itemsize
_LINE_BYTES = _HEADER_BYTES + 12
"""Held for each line besides its samples: header, count and energy."""
_BUFFER_BYTES = 24576
"""Held for each buffer, however small it is."""


class Readout(NamedTuple):
    """The fields of an acquisition header that decide where a readout belongs."""

    flags: int
    samples: int
    channels: int
    discard_pre: int
    discard_post: int
    center_sample: int
    encoding: int
    trajectory_dimensions: int
    step_1: int
    step_2: int
    average: int
    slice: int
    contrast: int
    phase: int
    repetition: int
    set: int
    segment: int


def read_fields(acquisition: Acquisition) -> Readout:
    """Read the header's fields in one go; attribute access through ctypes costs ten times as much."""
    return Readout._make(_LAYOUT.unpack_from(header_of(acquisition)))


def lay_out(acquisition: Acquisition, fields: Readout, length: int) -> tuple[NDArray[np.complex64], int]:
    """Return the measured samples [coils, samples] of a readout, and where the first one lies on a readout of a length.

    Discarded samples are left out, reversed readouts flipped, and the echo lies in the middle; whether it fits is not looked at.
    """
    samples = acquisition.data[:, fields.discard_pre : fields.samples - fields.discard_post]
    start, center = fields.discard_pre, fields.center_sample
    if fields.flags & _REVERSE:
        samples, start, center = samples[:, ::-1], fields.discard_post, fields.samples - center
    if fields.samples != length:
        start += length // 2 - center
    return samples, start


@dataclass(frozen=True)
class Place:
    """How the lines of a buffer lie on the grid of their block.

    Attributes
    ----------
    grid
        Rows (kz, ky) of the grid.
    offsets
        Row (kz, ky) of the lines that are numbered 0.
    samples
        Length of a readout; shorter ones lie around the middle.
    """

    grid: tuple[int, int]
    offsets: tuple[int, int]
    samples: int


class KspaceBuffer:
    """Memory for lines of one number of channels and samples: [frames, kz, ky, coils, kx], by the counters of the readouts.

    A readout is one piece of this memory, so that it is copied in one go while the scan runs. Which row of the grid a line
    belongs to is decided when the block is handed on (``Place``), from all that came by then.

    Parameters
    ----------
    encoding
        Encoding space of the readouts.
    first
        The first readout; it sets the number of coils and samples.
    frames
        Number of dynamic frames that are announced.
    account
        Keeps what the block takes.
    copies
        How many times its samples are held: once more where they are processed before the block is complete.

    Raises
    ------
    DataError
        The readouts are longer than the encoding space, or the block would exceed ``MAX_BLOCK_BYTES`` or what the account
        may keep.
    """

    def __init__(
        self,
        encoding: Encoding,
        first: Readout,
        frames: int = 1,
        *,
        account: Account | None = None,
        copies: int = 1,
    ) -> None:
        self.encoding = encoding
        self.encoding_index: int = first.encoding
        self.coils: int = first.channels
        self.readout_samples: int = first.samples
        self.centered: bool = first.center_sample == first.samples // 2
        # as many samples as when the oversampling was removed: whether it was, the plan decides
        short = first.samples == encoding.cropped_readout and self.centered
        self.samples: int = encoding.cropped_readout if short else encoding.encoded_matrix[0]
        self.readouts: int = 0
        self.dwell_time: float = 0.0
        self.unseen: int = 0
        """Readouts since the last ``snapshot``."""
        self.fresh: list[tuple[int, int, int]] = []
        """Lines (frame, kz, ky) that ``process`` has not seen."""
        self._account = account or Ledger().account("block")
        self._copies = copies
        self._kept = 0
        self._processed: Tensor | None = None
        self._processed_place: Place | None = None
        self._allocate((frames, *_announced_rows(encoding)))

    def _allocate(self, lines: tuple[int, int, int]) -> int:
        """Take memory for so many (frames, kz, ky), and return what is kept for the memory before."""
        shape = (*lines, self.coils, self.samples)
        samples = 8 * math.prod(shape)
        if samples > MAX_BLOCK_BYTES:
            raise DataError(
                f"a block [frames, kz, ky, coils, kx] of {shape} exceeds the limit of {MAX_BLOCK_BYTES} bytes",
                kind="block size",
            )
        size, before = _BUFFER_BYTES + self._copies * samples + _LINE_BYTES * math.prod(lines), self._kept
        # once more for a moment when it is handed on: whitened, as inputs of a network
        if not self._account.keep(size, spare=samples):
            raise DataError(
                f"there is no memory for a block [frames, kz, ky, coils, kx] of {shape}: "
                f"{self._account.ledger.shortage(size + samples)}",
                kind="memory",
            )
        self._kept = size
        self.lines = lines
        self._cleared = False
        # not cleared: a line is written when it comes, and lines that never came are cleared when the block is complete
        self.data: NDArray[np.complex64] = np.empty(shape, np.complex64)
        self.count: NDArray[np.int32] = np.zeros(lines, np.int32)
        self.energy: NDArray[np.float64] = np.zeros(lines, np.float64)
        """Sum of the squared magnitudes of the readout of each line that came last."""
        self.headers: NDArray[np.uint8] = np.zeros((*lines, _HEADER_BYTES), np.uint8)
        self._header_bytes = self.headers.reshape(-1).data
        return before

    def _grow(self, frame: int, kz: int, ky: int) -> None:
        """Make room for a line that neither header nor readouts before led to expect."""
        before = self.lines
        for name, counter, rows in (("kspace_encode_step_1", ky, before[2]), ("kspace_encode_step_2", kz, before[1])):
            if counter >= max(_LARGEST_COUNTER, rows):
                raise DataError(
                    f"{name} {counter} is far outside the encoded matrix and the encoding limits", kind="counter"
                )
        held = self.data, self.count, self.energy, self.headers
        kept = self._allocate((_enlarged(before[0], frame), _enlarged(before[1], kz), _enlarged(before[2], ky)))
        old = tuple(slice(size) for size in before)
        for new, previous in zip((self.data, self.count, self.energy, self.headers), held, strict=True):
            new[old] = previous
        self._account.release(kept)

    def add(self, acquisition: Acquisition, fields: Readout, frame: int = 0) -> None:
        """Copy a readout to its place; readouts of the same line are summed, ``to_kspace`` averages them.

        Raises
        ------
        DataError
            The readout does not fit the encoding space, or holds NaN or infinite samples (kind ``not finite``).
        """
        place = frame, fields.step_2, fields.step_1
        frames, partitions, rows = self.lines
        header = header_of(acquisition)
        samples, start = lay_out(acquisition, fields, self.samples)
        if start < 0 or start + samples.shape[1] > self.samples:
            raise DataError(
                f"readout (scan counter {header.scan_counter}): {fields.samples} samples with center_sample "
                f"{fields.center_sample} do not fit the encoded readout of {self.samples}",
                kind="samples",
            )
        # NaN and infinity show in the energy; looked at while the readout is in the processor's cache, before the copy
        energy = np.vdot(samples, samples).real
        if not math.isfinite(energy):
            what = "samples too large to be squared" if np.isfinite(samples).all() else "NaN or infinite samples"
            raise DataError(
                f"readout (scan counter {header.scan_counter}) holds {what} and was left out",
                kind="not finite",
            )
        if fields.step_1 >= rows or fields.step_2 >= partitions or frame >= frames:
            self._grow(*place)
        line = self.data[place]
        times = self.count[place]
        if times:
            line[:, start : start + samples.shape[1]] += samples
        else:
            if samples.shape[1] != self.samples:
                line[:] = 0
            line[:, start : start + samples.shape[1]] = samples
        self.count[place] = times + 1
        self.energy[place] = energy
        first_byte = ((frame * self.lines[1] + place[1]) * self.lines[2] + place[2]) * _HEADER_BYTES
        self._header_bytes[first_byte : first_byte + _HEADER_BYTES] = memoryview(header).cast("B")
        self.dwell_time = self.dwell_time or header.sample_time_us
        self.fresh.append(place)
        self.readouts += 1
        self.unseen += 1

    def process(self, step: Callable[[Tensor], Tensor], place: Place) -> None:
        """Apply a step to the lines that are new since the last time, and keep what it returns beside the samples.

        Parameters
        ----------
        step
            From complex64 [coils, lines, kx] to the same with any number of samples, every line by itself.
        place
            Where the results lie; all lines are processed anew when it changes.
        """
        if place != self._processed_place:
            self.start_again()
            self._processed_place = place
        if not self.fresh:
            return
        index = np.array(self.fresh).T
        rows = index[1:] + np.array(place.offsets)[:, None]
        inside = ((rows >= 0) & (rows < np.array(place.grid)[:, None])).all(axis=0)
        self.fresh.clear()
        frame, (kz, ky) = index[0][inside], rows[:, inside]
        if not frame.size:
            return
        old = tuple(index[:, inside])
        lines = _centered(self.data[old], place.samples)
        counts = self.count[old]
        if (counts > 1).any():
            lines = lines / np.maximum(counts, 1).astype(np.float32)[:, None, None]
        done = step(torch.from_numpy(lines).transpose(0, 1))
        if self._processed is None:
            shape = (self.lines[0], self.coils, *place.grid, done.shape[-1])
            self._processed = torch.zeros(shape, dtype=torch.complex64)
        elif self._processed.shape[0] < self.lines[0]:
            grown = torch.zeros((self.lines[0], *self._processed.shape[1:]), dtype=torch.complex64)
            grown[: self._processed.shape[0]] = self._processed
            self._processed = grown
        self._processed[frame, :, kz, ky] = done.transpose(0, 1)

    def start_again(self) -> None:
        """Count every line as new."""
        self._processed = None
        self.fresh = [(frame, kz, ky) for frame, kz, ky in np.argwhere(self.count > 0).tolist()]

    def fill_from(self, other: "KspaceBuffer") -> None:
        """Take lines of the same counters from another buffer where this one has none; one of another shape is not used."""
        if (self.coils, self.samples) != (other.coils, other.samples):
            return
        kz, ky = np.nonzero(other.count[0])
        if kz.size and (kz.max() >= self.lines[1] or ky.max() >= self.lines[2]):
            self._grow(0, int(max(kz.max(), self.lines[1] - 1)), int(max(ky.max(), self.lines[2] - 1)))
        for frame in range(self.lines[0]):
            new = self.count[frame, kz, ky] == 0
            z, y = kz[new], ky[new]
            times = other.count[0, z, y].astype(np.float32)[:, None, None]
            self.data[frame, z, y] = other.data[0, z, y] if (times == 1).all() else other.data[0, z, y] / times
            self.headers[frame, z, y] = other.headers[0, z, y]
            self.energy[frame, z, y] = other.energy[0, z, y]
            self.count[frame, z, y] = 1
            self.fresh += [(frame, *place) for place in zip(z.tolist(), y.tolist(), strict=True)]

    def drop(self, lines: NDArray[np.bool_]) -> None:
        """Forget lines [frames, kz, ky] that turn out not to belong here."""
        self.count[lines] = 0
        self.headers[lines] = 0
        self._cleared = False
        self.start_again()

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Lines [frames, kz, ky] that came at least once, by their counters."""
        return self.count > 0

    def on_grid(self, values: NDArray[Any], place: Place) -> NDArray[Any]:
        """Put values of the lines [frames, kz, ky, ...] on the grid of a place; zero where there are none."""
        if place.offsets == (0, 0) and values.shape[1:3] == place.grid:
            return values
        out = np.zeros((values.shape[0], *place.grid, *values.shape[3:]), values.dtype)
        source, target = zip(*map(_overlap, values.shape[1:3], place.grid, place.offsets), strict=True)
        out[:, target[0], target[1]] = values[:, source[0], source[1]]
        return out

    def header_array(self, place: Place) -> NDArray[Any]:
        """Headers of the lines as ``ACQUISITION_HEADER`` [frames, kz, ky] on the grid."""
        return np.ascontiguousarray(self.on_grid(self.headers, place)).view(ACQUISITION_HEADER)[..., 0]

    def tensor(self, place: Place) -> Tensor:
        """Lines [frames, coils, kz, ky, kx] on the grid, processed where they were; memory is shared if it can be."""
        if self._processed is not None and self._processed_place == place and not self.fresh:
            return self._processed
        data = _centered(self.on_grid(self._complete(), place), place.samples)
        return _coils_first(torch.from_numpy(data))

    def to_kspace(self, encoding: Encoding, place: Place, calibration: Tensor | None) -> Kspace:
        """Hand over as a block [coils, frames, kz, ky, kx], as it was processed; frames that never came are left out."""
        mask = self.on_grid(self.mask, place)
        came = mask.any(axis=(1, 2))
        data, headers = self.tensor(place), self.header_array(place)
        if not came.all():
            data, mask, headers = data[torch.from_numpy(came)], mask[came], headers[came]
        return Kspace(
            data=data.transpose(0, 1),
            mask=torch.from_numpy(mask),
            calibration=calibration,
            headers=headers,
            encoding=encoding,
            encoding_index=self.encoding_index,
        )

    def snapshot(self, encoding: Encoding, place: Place) -> Kspace:
        """Copy what there is, as it came: repeated lines averaged, missing ones zero."""
        self.unseen = 0
        lines = self.mask
        data = np.zeros_like(self.data)
        data[lines] = self.data[lines] / self.count[lines].astype(np.float32)[:, None, None]
        lines = _coils_first(torch.from_numpy(_centered(self.on_grid(data, place), place.samples)))
        return Kspace(
            data=lines.transpose(0, 1),
            mask=torch.from_numpy(self.on_grid(self.mask, place).copy()),
            calibration=None,
            headers=self.header_array(place).copy(),
            encoding=encoding,
            encoding_index=self.encoding_index,
        )

    def _complete(self) -> NDArray[np.complex64]:
        """Samples with repeated lines averaged and missing lines zero; both happen in place, once."""
        if not self._cleared:
            self._cleared = True
            for frame, rows in enumerate(self.count == 0):
                if rows.any():
                    self.data[frame][rows] = 0
        repeated = self.count > 1
        if repeated.any():
            self.data[repeated] /= self.count[repeated].astype(np.float32)[:, None, None]
            self.count[repeated] = 1
        return self.data

    def release(self) -> None:
        """Say that the block's memory is in other hands."""
        kept, self._kept = self._kept, 0
        self._account.release(kept)


def _announced_rows(encoding: Encoding) -> tuple[int, int]:
    """Rows (kz, ky) for the counters that the header leads to expect; more are added where others come."""
    y, z = (encoding.limits.get(f"kspace_encoding_step_{step}") for step in (1, 2))
    ky = max(encoding.encoded_matrix[1], y.maximum + 1 if y is not None else 1)
    # a header may count slices as partitions: without limits that announce them, partitions show when they come
    kz = 1 if z is None else min(z.maximum + 1, max(encoding.encoded_matrix[2], 1))
    return max(kz, 1), ky


def _enlarged(size: int, index: int) -> int:
    """Size that has room for an index: at least twice as much as before, so that growing seldom copies."""
    return size if index < size else max(index + 1, 2 * size if size > 1 else 1)


def _overlap(rows: int, grid: int, offset: int) -> tuple[slice, slice]:
    """Rows that lie on the grid once they are moved, and where they lie there."""
    first, last = max(0, -offset), min(rows, grid - offset)
    return slice(first, max(first, last)), slice(first + offset, max(first, last) + offset)


def _centered(lines: NDArray[np.complex64], samples: int) -> NDArray[np.complex64]:
    """Bring readouts [..., kx] to a length around their middle: zeros to both sides, or cut off."""
    have = lines.shape[-1]
    if have == samples:
        return lines
    out = np.zeros((*lines.shape[:-1], samples), np.complex64)
    source, target = _overlap(have, samples, samples // 2 - have // 2)
    out[..., target] = lines[..., source]
    return out


def _coils_first(lines: Tensor) -> Tensor:
    """View [frames, kz, ky, coils, kx] as [frames, coils, kz, ky, kx]."""
    return lines.permute(0, 3, 1, 2, 4)
