"""Where readouts are copied as they arrive: the memory of one block of k-space."""

import math
import struct
from collections.abc import Callable
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
from .kspace import Kspace, to_tensor

MAX_BLOCK_BYTES = 32 * 2**30
"""The largest block that is allocated; a header that asks for more is taken for a fault."""

_LAYOUT = struct.Struct("<2xQ24xH2xH128x4H66x9H")
_REVERSE = 1 << (ismrmrd.ACQ_IS_REVERSE - 1)
_HEADER_BYTES = ACQUISITION_HEADER.itemsize
_LINE_BYTES = _HEADER_BYTES + 4
"""Held for each line besides its samples: header and count."""


class Readout(NamedTuple):
    """The fields of an acquisition header that decide where a readout belongs."""

    flags: int
    samples: int
    channels: int
    discard_pre: int
    discard_post: int
    center_sample: int
    encoding: int
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


class KspaceBuffer:
    """Memory for one block: samples [frames, kz, ky, coils, kx], how often each line came, and the lines' headers.

    A readout is one piece of this memory, so that it is copied in one go while the scan runs.

    Parameters
    ----------
    encoding
        Encoding space of the readouts.
    first
        The first readout; it sets the number of coils, and whether readout oversampling was removed before.
    frames
        Number of dynamic frames.
    account
        Keeps what the block takes.
    copies
        How many times its samples are held: once more where they are processed before the block is complete.

    Raises
    ------
    DataError
        The block would exceed ``MAX_BLOCK_BYTES``, or what the account may keep.
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
        cropped = first.samples == encoding.cropped_readout and first.center_sample == first.samples // 2
        self.encoding = encoding
        self.encoding_index = first.encoding
        self.coils = first.channels
        self.samples = encoding.cropped_readout if cropped else encoding.encoded_matrix[0]
        self.lines = (frames, encoding.encoded_matrix[2], encoding.encoded_matrix[1])
        self.offsets = (encoding.line_offset(2), encoding.line_offset(1))
        shape = (*self.lines, self.coils, self.samples)
        samples = 8 * int(np.prod(shape, dtype=object))
        if samples > MAX_BLOCK_BYTES:
            raise DataError(
                f"a block [frames, kz, ky, coils, kx] of {shape} exceeds the limit of {MAX_BLOCK_BYTES} bytes",
                kind="block size",
            )
        self._account = account or Ledger().account("block")
        self._kept = copies * samples + _LINE_BYTES * math.prod(self.lines)
        if not self._account.keep(self._kept):
            raise DataError(
                f"there is no memory for a block [frames, kz, ky, coils, kx] of {shape}: {self._kept} bytes more than the "
                f"{self._account.ledger.kept} that the scan keeps already exceed what it may keep",
                kind="memory",
            )
        # not cleared: a line is written when it comes, and lines that never came are cleared when the block is complete
        self.data = np.empty(shape, np.complex64)
        self._cleared = False
        self.count = np.zeros(self.lines, np.int32)
        self.headers = np.zeros((*self.lines, _HEADER_BYTES), np.uint8)
        self._header_bytes = self.headers.reshape(-1).data
        self.dwell_time = 0.0
        self.unseen = 0
        """Readouts since the last ``snapshot``."""
        self.fresh: list[tuple[int, int, int]] = []
        """Lines (frame, kz, ky) that ``process`` has not seen."""
        self._processed: Tensor | None = None

    def add(self, acquisition: Acquisition, fields: Readout, frame: int = 0) -> None:
        """Copy a readout to its place; readouts of the same line are summed, ``to_kspace`` averages them.

        Raises
        ------
        DataError
            The readout does not fit the encoding space, has another number of coils than those before, or holds NaN or
            infinite samples (kind ``not finite``).
        """
        kz, ky = fields.step_2 + self.offsets[0], fields.step_1 + self.offsets[1]
        self._check(fields, frame, kz, ky)
        place = frame, kz, ky
        header = header_of(acquisition)
        samples = acquisition.data[:, fields.discard_pre : fields.samples - fields.discard_post]
        start = fields.discard_pre
        center = fields.center_sample
        if fields.flags & _REVERSE:
            samples, start, center = samples[:, ::-1], fields.discard_post, fields.samples - center
        if fields.samples != self.samples:
            start += self.samples // 2 - center
        if start < 0 or start + samples.shape[1] > self.samples:
            raise DataError(
                f"readout (scan counter {header.scan_counter}): {fields.samples} samples with center_sample "
                f"{fields.center_sample} do not fit the encoded readout of {self.samples}",
                kind="samples",
            )
        # looked at while it is in the processor's cache, before the copy: a block would have to be read again
        if not np.isfinite(samples.view(np.float32) if samples.flags.c_contiguous else samples).all():
            raise DataError(
                f"readout (scan counter {header.scan_counter}) holds NaN or infinite samples and was left out",
                kind="not finite",
            )
        line = self.data[place]
        times = self.count[place]
        if times:
            line[:, start : start + samples.shape[1]] += samples
        else:
            if samples.shape[1] != self.samples:
                line[:] = 0
            line[:, start : start + samples.shape[1]] = samples
        self.count[place] = times + 1
        first_byte = ((frame * self.lines[1] + kz) * self.lines[2] + ky) * _HEADER_BYTES
        self._header_bytes[first_byte : first_byte + _HEADER_BYTES] = memoryview(header).cast("B")
        self.dwell_time = self.dwell_time or header.sample_time_us
        self.fresh.append(place)
        self.unseen += 1

    def process(self, step: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """Apply a step to the lines that are new since the last time, and keep what it returns beside the samples.

        Parameters
        ----------
        step
            From complex64 [coils, lines, kx] to the same with any number of samples, every line by itself.
        device
            Where to do it and to keep the results.
        """
        if not self.fresh:
            return
        index = tuple(np.array(self.fresh).T)
        lines = self.data[index]
        counts = self.count[index]
        if (counts > 1).any():
            lines /= np.maximum(counts, 1).astype(np.float32)[:, None, None]
        done = step(to_tensor(lines, device).transpose(0, 1))
        if self._processed is None:
            shape = (self.lines[0], self.coils, *self.lines[1:], done.shape[-1])
            self._processed = torch.zeros(shape, dtype=torch.complex64, device=device)
        self._processed[index[0], :, index[1], index[2]] = done.transpose(0, 1)
        self.fresh.clear()

    def start_again(self) -> None:
        """Count every line as new."""
        self._processed = None
        self.fresh = [tuple(place) for place in np.argwhere(self.measured).tolist()]

    def fill_from(self, other: "KspaceBuffer") -> None:
        """Take lines from another buffer where this one has none; one with other sizes is not used."""
        if (self.coils, self.samples) != (other.coils, other.samples):
            return
        samples = other.complete()
        for frame in range(self.lines[0]):
            missing = (self.count[frame] == 0) & other.measured[0]
            self.data[frame][missing] = samples[0][missing]
            self.headers[frame][missing] = other.headers[0][missing]
            self.count[frame][missing] = 1
            if self._processed is not None and other._processed is not None and not other.fresh:
                kz, ky = missing.nonzero()
                self._processed[frame][:, kz, ky] = other._processed[0][:, kz, ky]
            else:
                self.fresh += [(frame, *place) for place in np.argwhere(missing).tolist()]

    def _check(self, fields: Readout, frame: int, kz: int, ky: int) -> None:
        if fields.channels != self.coils:
            raise DataError(f"a readout has {fields.channels} channels, those before had {self.coils}", kind="channels")
        frames, partitions, lines = self.lines
        if 0 <= ky < lines and 0 <= kz < partitions and frame < frames:
            return
        for name, row, rows, step in (
            ("kspace_encode_step_1", ky, lines, fields.step_1),
            ("kspace_encode_step_2", kz, partitions, fields.step_2),
            ("frame counter", frame, frames, frame),
        ):
            if not 0 <= row < rows:
                raise DataError(
                    f"{name} {step} is outside the encoded matrix (row {row} of {rows}); see the encoding limits",
                    kind="counter",
                )

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Lines [frames, kz, ky] that came at least once."""
        return self.count > 0

    def complete(self) -> NDArray[np.complex64]:
        """Samples with repeated lines averaged and missing lines zero; both happen in place, once."""
        if not self._cleared:
            self._clear(self.count == 0)
            self._cleared = True
        repeated = self.count > 1
        if repeated.any():
            self.data /= np.maximum(self.count, 1).astype(np.float32)[..., None, None]
            self.count[repeated] = 1
        return self.data

    def _clear(self, lines: NDArray[np.bool_]) -> None:
        for frame, rows in enumerate(lines):
            if rows.any():
                self.data[frame][rows] = 0

    def header_array(self) -> NDArray[Any]:
        """Headers of the lines as ``ACQUISITION_HEADER`` [frames, kz, ky]."""
        return self.headers.view(ACQUISITION_HEADER)[..., 0]

    def to_kspace(self, device: torch.device, calibration: "KspaceBuffer | None") -> Kspace:
        """Hand over as a block [coils, frames, kz, ky, kx], as it was processed; the memory is shared on the CPU."""
        return Kspace(
            data=self._tensor(device).transpose(0, 1),
            mask=to_tensor(self.measured, device),
            calibration=None if calibration is None else calibration._tensor(device)[0],
            headers=self.header_array(),
            encoding=self.encoding,
            encoding_index=self.encoding_index,
        )

    def snapshot(self, device: torch.device) -> Kspace:
        """Copy what there is, as it came: repeated lines averaged, missing ones zero."""
        self.unseen = 0
        lines = self.measured
        data = np.zeros_like(self.data)
        for frame, rows in enumerate(lines):
            data[frame][rows] = self.data[frame][rows] / self.count[frame][rows].astype(np.float32)[:, None, None]
        return Kspace(
            data=_coils_first(to_tensor(data, device)).transpose(0, 1),
            mask=to_tensor(lines, device),
            calibration=None,
            headers=self.header_array().copy(),
            encoding=self.encoding,
            encoding_index=self.encoding_index,
        )

    def release(self) -> None:
        """Say that the block's memory is in other hands."""
        kept, self._kept = self._kept, 0
        self._account.release(kept)

    def _tensor(self, device: torch.device) -> Tensor:
        """Lines [frames, coils, kz, ky, kx], processed where they are."""
        if self._processed is None:
            return _coils_first(to_tensor(self.complete(), device))
        return self._processed


def _coils_first(lines: Tensor) -> Tensor:
    """View [frames, kz, ky, coils, kx] as [frames, coils, kz, ky, kx]."""
    return lines.permute(0, 3, 1, 2, 4)
