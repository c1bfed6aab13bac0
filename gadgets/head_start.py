"""What is done to a block of k-space before its last line is in, so that only the rest has to wait for it."""

from typing import Any

import torch
from torch import Tensor

from ..flow.deferred import Deferred
from ..wire.errors import DataError
from ..wire.header import Encoding
from .early import EarlyWork
from .estimate_coil_maps import defer_maps
from .kspace import Kspace
from .kspace_buffer import KspaceBuffer
from .remove_oversampling import crop_readout
from .scan import Scan

CHUNK = 16
"""Lines that are whitened and cropped together; the rest of a block that waits for its last line is smaller."""
_PAUSE = 8
"""Lines without one for the coil maps, after which these seem to be complete."""
_MOST_ESTIMATES = 2


class HeadStart:
    """The early work on one block and its calibration lines. Its results are those of the gadgets that it runs ahead of.

    Parameters
    ----------
    scan
        Reported to.
    encoding
        Encoding space of the block.
    work
        What to do.
    """

    def __init__(self, scan: Scan, encoding: Encoding, work: EarlyWork) -> None:
        self._scan = scan
        self._work = work
        self._encoding = encoding
        self._matrices: dict[KspaceBuffer, Any] = {}
        self._added = 0
        self._estimates = 0
        self._region: tuple[int, ...] | None = None
        self._maps: Deferred | None = None
        self._made_from: tuple[KspaceBuffer, tuple[int, ...]] | None = None

    def line_added(self, block: KspaceBuffer, calibration: KspaceBuffer | None) -> None:
        """Work on the lines that have come, once there are enough of them."""
        self._added += 1
        if len(block.fresh) + (len(calibration.fresh) if calibration is not None else 0) >= CHUNK:
            self._process_both(block, calibration)
        if self._work.maps is not None and self._added % _PAUSE == 0 and self._estimates < _MOST_ESTIMATES:
            self._consider_maps(block, calibration)

    def _process_both(self, block: KspaceBuffer, calibration: KspaceBuffer | None) -> bool:
        """Work on the new lines of both; return whether the block's are whitened."""
        if calibration is not None:
            self.process(calibration)
        return self.process(block)

    def process(self, buffer: KspaceBuffer) -> bool:
        """Whiten and crop the new lines of a buffer; return whether they are whitened."""
        matrix = None
        if self._work.whitener is not None:
            matrix = self._work.whitener.matrix(buffer.coils, buffer.dwell_time)
            if matrix is not self._matrices.setdefault(buffer, matrix):
                self._matrices[buffer] = matrix  # noise came after the first lines
                buffer.start_again()
        mixing = None if matrix is None else torch.from_numpy(matrix).to(self._scan.device)

        def step(lines: Tensor) -> Tensor:
            if mixing is not None:
                lines = torch.tensordot(mixing, lines, dims=1)
            crops = self._work.crop and lines.shape[-1] == self._encoding.encoded_matrix[0]
            return crop_readout(lines, self._encoding.cropped_readout) if crops else lines

        buffer.process(step, self._scan.device)
        return matrix is not None

    def finish(self, block: KspaceBuffer, calibration: KspaceBuffer | None) -> Kspace:
        """Do what is left, and hand over the block."""
        whitened = self._process_both(block, calibration)
        kspace = block.to_kspace(self._scan.device, calibration)
        kspace.whitened = whitened
        if self._maps is not None and self._made_from == self._calibration_lines(block, calibration):
            kspace.coil_maps = self._maps
        return kspace

    def _consider_maps(self, block: KspaceBuffer, calibration: KspaceBuffer | None) -> None:
        """Begin the coil maps once the calibration lines seem to be in: all that are wanted, or no more have come."""
        assert self._work.maps is not None
        source, lines = self._calibration_lines(block, calibration)
        before, self._region = self._region, lines
        middle = self._encoding.encoded_matrix[1] // 2
        wanted = self._work.maps.calibration_size
        start = middle - wanted // 2
        complete = set(range(start, start + wanted)) <= set(lines)
        if self._made_from == (source, lines) or not lines or (not complete and before != lines):
            return
        self._process_both(block, calibration)
        try:
            maps = defer_maps(block.to_kspace(self._scan.device, calibration), self._work.maps, self._scan)
        except DataError:
            return
        self._estimates += 1
        self._maps, self._made_from = maps, (source, lines)

    def _calibration_lines(
        self, block: KspaceBuffer, calibration: KspaceBuffer | None
    ) -> tuple[KspaceBuffer, tuple[int, ...]]:
        """What the maps would be made from: a buffer, and its lines within the largest calibration region.

        There are none where they may still change, as averages are measured again.
        """
        source = block if calibration is None else calibration
        frames, partitions, lines = source.lines
        assert self._work.maps is not None
        reach = self._work.maps.calibration_size // 2
        if frames > 1 or partitions > 1 or self._encoding.count("average") > 1:
            return source, ()
        first = max(0, lines // 2 - reach)
        counts = source.count[0, 0, first : lines // 2 + reach + 1]
        if (counts > 1).any():
            return source, ()
        return source, tuple(first + int(line) for line in counts.nonzero()[0])
