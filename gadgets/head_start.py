"""What is done to a block of k-space before its last line is in, so that only the rest has to wait for it."""

from typing import Any

import torch
from torch import Tensor

from ..flow.deferred import Deferred
from ..wire.errors import DataError
from .calibration import calibration_on_grid, calibration_place, same_spacing
from .early import EarlyWork
from .estimate_coil_maps import Region, defer_maps, find_region
from .kspace import Kspace
from .kspace_buffer import KspaceBuffer, Place
from .plan import Grid
from .remove_oversampling import crop_readout
from .scan import Scan

CHUNK = 16
"""Lines that are whitened and cropped together; the rest of a block that waits for its last line is smaller."""
_PAUSE = 4
"""Lines without one for the coil maps, after which these seem to be complete."""
_MOST_ESTIMATES = 2

_Source = tuple[KspaceBuffer, Place, tuple[int, ...]]


class HeadStart:
    """The early work on one block and its calibration lines. Its results are those of the gadgets that it runs ahead of.

    Parameters
    ----------
    scan
        Reported to.
    work
        What to do.
    """

    def __init__(self, scan: Scan, work: EarlyWork) -> None:
        self._scan = scan
        self._work = work
        self._matrices: dict[KspaceBuffer, Any] = {}
        self._added = 0
        self._estimates = 0
        self._region: tuple[int, ...] | None = None
        self._maps: Deferred | None = None
        self._made_from: tuple[_Source, Region | None] | None = None

    def line_added(self, block: KspaceBuffer, calibration: KspaceBuffer | None, grid: Grid) -> None:
        """Work on the lines that have come, once there are enough of them.

        Parameters
        ----------
        block, calibration
            The lines of the image, and the calibration lines that were measured with it.
        grid
            Where they seem to belong.
        """
        self._added += 1
        if len(block.fresh) + (len(calibration.fresh) if calibration is not None else 0) >= CHUNK:
            self._process_both(block, calibration, grid)
        if self._work.maps is not None and self._added % _PAUSE == 0 and self._estimates < _MOST_ESTIMATES:
            self._consider_maps(block, calibration, grid)

    def _process_both(self, block: KspaceBuffer, calibration: KspaceBuffer | None, grid: Grid) -> bool:
        """Work on the new lines of both; return whether the block's are whitened."""
        if calibration is not None and same_spacing(calibration, block, grid.place.grid[0]):
            self._process(calibration, calibration_place(calibration, grid), grid)
        return self._process(block, grid.place, grid)

    def _process(self, buffer: KspaceBuffer, place: Place, grid: Grid) -> bool:
        """Whiten and crop the new lines of a buffer; return whether they are whitened."""
        matrix = self._matrix(buffer)
        if matrix is not self._matrices.setdefault(buffer, matrix):
            self._matrices[buffer] = matrix  # noise came after the first lines
            buffer.start_again()
        buffer.process(lambda lines: self._step(lines, matrix, grid), place)
        return matrix is not None

    def _matrix(self, buffer: KspaceBuffer) -> Any:
        return None if self._work.whitener is None else self._work.whitener.matrix(buffer.coils, buffer.dwell_time)

    def _step(self, lines: Tensor, matrix: Any, grid: Grid) -> Tensor:
        """Whiten and crop lines [coils, ..., kx]."""
        if matrix is not None:
            lines = torch.tensordot(torch.from_numpy(matrix), lines, dims=1)
        crops = self._work.crop and lines.shape[-1] == grid.encoding.encoded_matrix[0]
        return crop_readout(lines, grid.encoding.cropped_readout) if crops else lines

    def finish(self, block: KspaceBuffer, calibration: KspaceBuffer | None, grid: Grid) -> Kspace:
        """Do what is left, and hand over the block."""
        whitened = self._process_both(block, calibration, grid)
        lines = None if calibration is None else self.calibration_lines(calibration, block, grid)
        kspace = block.to_kspace(grid.encoding, grid.place, lines)
        kspace.whitened = whitened
        if self._maps is not None and self._made_from == (
            self._source(block, calibration, grid),
            self._region_of(kspace),
        ):
            kspace.coil_maps = self._maps
        return kspace

    def _region_of(self, kspace: Kspace) -> Region | None:
        """Return the lines that maps are made of, which may be more than at first once others came beside them."""
        assert self._work.maps is not None
        try:
            return find_region(kspace, self._work.maps.calibration_size)
        except DataError:
            return None

    def calibration_lines(self, calibration: KspaceBuffer, block: KspaceBuffer, grid: Grid) -> Tensor:
        """Calibration lines [coils, kz, ky, kx] on the grid of a block, processed as its lines are."""
        lines = calibration_on_grid(calibration, block, grid)
        if same_spacing(calibration, block, grid.place.grid[0]):
            return lines  # processed as they came
        return self._step(lines, self._matrix(calibration), grid)

    def _consider_maps(self, block: KspaceBuffer, calibration: KspaceBuffer | None, grid: Grid) -> None:
        """Begin the coil maps once the calibration lines seem to be in: all that are wanted, or no more have come."""
        assert self._work.maps is not None
        source = self._source(block, calibration, grid)
        lines = source[2]
        before, self._region = self._region, lines
        middle = grid.place.grid[1] // 2
        wanted = self._work.maps.calibration_size
        start = middle - wanted // 2
        complete = len(lines) >= wanted and set(range(start, start + wanted)) <= set(lines)
        made = self._made_from is not None and self._made_from[0] == source
        if made or not lines or (not complete and before != lines):
            return
        self._process_both(block, calibration, grid)
        try:
            own = None if calibration is None else self.calibration_lines(calibration, block, grid)
            kspace = block.to_kspace(grid.encoding, grid.place, own)
            maps = defer_maps(kspace, self._work.maps, self._scan)
        except DataError:
            return
        self._estimates += 1
        self._maps, self._made_from = maps, (source, self._region_of(kspace))

    def _source(self, block: KspaceBuffer, calibration: KspaceBuffer | None, grid: Grid) -> _Source:
        """What the maps would be made from: a buffer, where it lies, and its rows within the largest calibration region.

        There are none where they may still change, as averages are measured again, or as the lines have to be brought to
        another field of view.
        """
        assert self._work.maps is not None
        source = block if calibration is None else calibration
        place = grid.place if calibration is None else calibration_place(calibration, grid)
        partitions, lines = place.grid
        averages = grid.encoding.count("average")
        if source.lines[0] > 1 or partitions > 1 or averages > 1 or not same_spacing(source, block, partitions):
            return source, place, ()
        reach = self._work.maps.calibration_size // 2
        first = max(0, lines // 2 - reach)
        counts = source.on_grid(source.count, place)[0, 0, first : lines // 2 + reach + 1]
        if (counts > 1).any():
            return source, place, ()
        return source, place, tuple(first + int(line) for line in counts.nonzero()[0])
