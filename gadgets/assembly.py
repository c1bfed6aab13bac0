"""Blocks of k-space of the readouts that came: where they belong, what is missing, which calibration lines serve them."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..flow.ledger import Account
from ..wire.header import Encoding
from .calibration import CalibrationStore, Key, TimeAverage, calibration_on_grid, frames_to_average
from .gadget import Options
from .head_start import HeadStart
from .kspace import Kspace
from .kspace_buffer import KspaceBuffer
from .missing import Missing, find_missing, short_reach
from .plan import Grid
from .scan import Scan

KEY_COUNTERS = ("slice", "contrast", "phase", "repetition", "set")
"""Counters that tell images apart, in the order in which they stand in a key behind the encoding space."""


FrameCounter = Literal["none", "phase", "repetition", "contrast", "set", "average"]
"""What can become the dimension ``frames`` of a block."""
_SERIES_COUNTERS = ("phase", "repetition")
"""Counters along which a series runs, the likelier one first."""


def frames_counter(frames: str, encoding: Encoding, *, series: bool) -> str:
    """Return the counter that becomes the dimension ``frames``.

    Parameters
    ----------
    frames
        The option. ``auto`` asks whether a bundle wants a series; it runs along the phases where the header announces several,
        else along the repetitions.
    encoding
        Has the numbers that the header announces.
    series
        Whether the bundle that is tried first reconstructs series.
    """
    if frames != "auto":
        return frames
    announced = (name for name in _SERIES_COUNTERS if encoding.count(name) > 1)
    return next(announced, _SERIES_COUNTERS[0]) if series else "none"


def frame_count(encoding: Encoding, frames: str) -> int:
    """Number of frames of a block that the header announces."""
    return 1 if frames == "none" else encoding.count(frames)


def announced_sizes(encoding: Encoding, options: Options) -> dict[str, int]:
    """Sizes of the blocks of an encoding space that the header announces."""
    matrix = encoding.encoded_matrix
    frames = frames_counter(options["frames"], encoding, series=options.get("series", False))
    return {
        "frames": frame_count(encoding, frames),
        "kz": matrix[2],
        "ky": matrix[1],
        "kx": encoding.cropped_readout,
    }


def absent_images(encodings: Sequence[Encoding], handed_on: Iterable[Key], frames: str) -> list[str]:
    """Say of which images that the header announces nothing came; encoding spaces without any image announce none."""
    found = []
    for index, came in sorted(Counter(key[0] for key in set(handed_on)).items()):
        wanted = {name: encodings[index].count(name) for name in KEY_COUNTERS if name != frames}
        announced = math.prod(wanted.values())
        if came < announced:
            which = ", ".join(f"{count} {name}s" for name, count in wanted.items() if count > 1)
            found.append(f"readouts of only {came} images came; the header announces {announced} ({which})")
    return found


def _has_middle(mask: NDArray[np.bool_]) -> bool:
    """Whether the lines around the middle were measured in any of the frames [frames, kz, ky]."""
    lines = np.asarray(mask.any(axis=0))
    kz, ky = (size // 2 for size in lines.shape)
    return bool(lines[kz, max(ky - 2, 0) : ky + 2].all())


class Assembler:
    """Makes blocks of k-space.

    Parameters
    ----------
    scan
        Its plan says where lines belong; told what is left out.
    store
        Calibration lines.
    frames
        Counter that becomes the dimension ``frames``.
    fill_calibration
        Whether embedded calibration lines also serve the image.
    averages_apart
        Whether every average makes an image of its own.
    wants_maps
        Whether coil maps are made of the blocks.
    joined
        Whether frames are joined to series before they are.
    """

    def __init__(
        self,
        scan: Scan,
        store: CalibrationStore,
        frames: str,
        *,
        fill_calibration: bool,
        averages_apart: bool,
        wants_maps: bool,
        joined: bool = False,
    ) -> None:
        self._scan = scan
        self._store = store
        self._frames = frames
        self._fill_calibration = fill_calibration
        self._averages_apart = averages_apart
        self.wants_maps = wants_maps
        self._joined = joined
        self._series: dict[Key, TimeAverage] = {}
        self.account: Account = scan.ledger.account("series")

    def fills(self, index: int) -> bool:
        """Whether lines of an encoding space that are flagged as calibration only are lines of the image as well."""
        encoding = self._scan.encodings[index]
        together = encoding.calibration_mode in ("embedded", "") or encoding.acceleration == (1, 1)
        return self._fill_calibration and together

    def filled(self, key: Key) -> int:
        """Number of lines of a block that calibration lines fill."""
        own = self._store.own(key) if self.fills(key[0]) else None
        return 0 if own is None else int(own.mask.sum())

    def missing(self, key: Key, buffer: KspaceBuffer, grid: Grid) -> Missing:
        """Say what a block lacks of what is announced."""
        own = self._store.own(key) if self.fills(key[0]) else None
        also = None if own is None else own.on_grid(own.mask, grid.place)[0]
        encoding = self._scan.encodings[key[0]]
        averages = 1 if self._averages_apart else encoding.count("average")
        return find_missing(grid, buffer, also, frame_count(encoding, self._frames), averages)

    def assemble(self, key: Key, buffer: KspaceBuffer, grid: Grid, head_start: HeadStart | None) -> Kspace | None:
        """Make a block of what came, with notes of what is missing or in doubt; None if all of it lies outside."""
        encoding = self._scan.encodings[key[0]]
        self._leave_out_strays(buffer, grid)
        missing = self.missing(key, buffer, grid)
        own = self._store.own(key)
        if own is not None and self.fills(key[0]):
            buffer.fill_from(own)
        lines = int(buffer.on_grid(buffer.mask, grid.place).sum())
        if not lines:
            self._scan.report("outside", f"all {buffer.readouts} readouts of a block lie outside the encoded matrix")
            return None
        self._scan.plan.settle(grid, lines)
        found, problem = self._store.find(key, buffer, borrow=encoding.acceleration != (1, 1))
        kspace = self._to_kspace(buffer, None if found is None else found.buffer, grid, head_start)
        kspace.maps_problem = problem
        kspace.notes |= grid.notes
        if self._scan.doubts:
            kspace.notes["Header"] = self._scan.doubts
        if missing.lines:
            kspace.notes["Incomplete"] = f"the image is incomplete: {missing.text}"
        elif missing.readouts:
            announced = encoding.count("average")
            kspace.notes["Averages"] = f"fewer averages came than the {announced} that the header announces"
        if buffer.centered and buffer.readout_samples < buffer.samples:
            kspace.notes["Resolution"] = (
                f"readouts have {buffer.readout_samples} samples around the middle of k-space where the header has "
                f"{buffer.samples}: the resolution along the readout is lower"
            )
        elif not missing.lines and (short := short_reach(kspace.mask.any(dim=0).numpy(), grid)):
            kspace.notes["Resolution"] = short
        if found is not None and found.borrowed:
            kspace.notes["Calibration"] = found.borrowed
        return kspace

    def stray(self, key: Key, kspace: Kspace, largest: int, *, late: bool) -> str:
        """Say why a block is no image, but a few readouts with faulty counters, or that came when their image had left.

        Parameters
        ----------
        key, kspace
            The block.
        largest
            Readouts of the largest block so far.
        late
            Whether an image of its counters has left.
        """
        counters = dict(zip(KEY_COUNTERS, key[1:], strict=True))
        encoding = self._scan.encodings[key[0]]
        beyond = any(value >= encoding.count(name) and name != self._frames for name, value in counters.items())
        where = ", ".join(f"{name} {value}" for name, value in counters.items())
        if "Incomplete" not in kspace.notes:
            return ""
        if late:
            return f"they came when the image of {where} had left"
        if beyond and 10 * int(kspace.mask.sum()) <= largest:
            return f"the header announces no image of {where}, and they are too few for one"
        return ""

    def _to_kspace(
        self, buffer: KspaceBuffer, calibration: KspaceBuffer | None, grid: Grid, head_start: HeadStart | None
    ) -> Kspace:
        if head_start is not None:
            return head_start.finish(buffer, calibration, grid)
        lines = None if calibration is None else calibration_on_grid(calibration, buffer, grid)
        return buffer.to_kspace(grid.encoding, grid.place, lines)

    def waits_for_calibration(self, key: Key, buffer: KspaceBuffer, grid: Grid) -> bool:
        """Whether an undersampled image has no calibration lines yet, which may come after it."""
        encoding = self._scan.encodings[key[0]]
        wanted = encoding.calibration_mode in ("separate", "external") or self.wants_maps
        if encoding.acceleration == (1, 1) or encoding.calibration_mode == "interleaved" or not wanted:
            return False
        if self._store.has_slice(key):
            return False
        return not _has_middle(buffer.on_grid(buffer.mask, grid.place))

    def in_series(self, key: Key, kspace: Kspace) -> Iterator[Kspace]:
        """Give a frame that has no calibration lines those of the frames around it, which may be undersampled in turns."""
        encoding = self._scan.encodings[key[0]]
        declared = encoding.calibration_mode == "interleaved"
        alone = kspace.calibration is None and encoding.acceleration != (1, 1) and (declared or self.wants_maps)
        if self._joined or not alone or _has_middle(kspace.mask.cpu().numpy()):
            yield kspace
            return
        turns = {"phase", "repetition", encoding.interleaving_dimension}
        series = (key[0], *(0 if name in turns else value for name, value in zip(KEY_COUNTERS, key[1:], strict=True)))
        if series not in self._series:
            announced = encoding.count(encoding.interleaving_dimension or "repetition")
            # without a word of it in the header, all frames that there are
            window = frames_to_average(announced, math.prod(encoding.acceleration)) if declared else None
            self._series[series] = TimeAverage(window, self.account)
        yield from self._series[series].add(kspace)

    def end_series(self) -> Iterator[Kspace]:
        """Let all frames go that wait for others."""
        for average in self._series.values():
            yield from average.release()

    def _leave_out_strays(self, buffer: KspaceBuffer, grid: Grid) -> None:
        """Forget lines whose counters are faults."""
        strays = np.zeros(buffer.lines, bool)
        for axis, (first, end) in enumerate(grid.accepted):
            counters = np.arange(buffer.lines[1 + axis])
            rows = counters + grid.place.offsets[axis]
            outside = (counters < first) | (counters >= end) | (rows < 0) | (rows >= grid.place.grid[axis])
            strays |= outside[:, None] if axis == 0 else outside
        strays &= buffer.mask
        if self._frames != "none":
            strays |= self._stray_frames(buffer)
        for _, kz, ky in np.argwhere(strays).tolist():
            (z0, z1), (y0, y1) = grid.accepted
            self._scan.report(
                "counter",
                f"a readout was left out: kspace_encode_step_1 {ky}, kspace_encode_step_2 {kz} is outside the lines "
                f"{y0} to {y1 - 1} and {z0} to {z1 - 1} of the encoded matrix",
            )
        if strays.any():
            buffer.drop(strays)

    def _stray_frames(self, buffer: KspaceBuffer) -> NDArray[np.bool_]:
        """Lines of frames that the header does not announce, and that are too few to be one."""
        announced = frame_count(self._scan.encodings[buffer.encoding_index], self._frames)
        mask = buffer.mask
        lines = mask.sum(axis=(1, 2))
        few = (np.arange(len(lines)) >= announced) & (lines <= max(1, 0.02 * lines.sum()))
        if few.any() and lines[few].any():
            frames = ", ".join(str(frame) for frame in np.flatnonzero(few & (lines > 0)))
            self._scan.report(
                "counter", f"readouts of {self._frames} {frames} are too few for an image and are left out"
            )
        return mask & few[:, None, None]
