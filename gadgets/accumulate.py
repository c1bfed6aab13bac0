"""Buffer readouts into blocks of k-space, and hand each on as soon as it is complete."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import ismrmrd
from pydantic import Field

from ..wire.errors import DataError
from ..wire.header import Encoding
from ..wire.items import Acquisition, AcquisitionBucket, Interruption, ReconData
from .early import EarlyWork
from .gadget import FromChain, Options, Stream, gadget
from .head_start import HeadStart
from .kspace import Item, Kspace, PartialKspace
from .kspace_buffer import KspaceBuffer, Readout, read_fields
from .recon_data import to_kspaces
from .scan import Scan

Trigger = Literal["auto", "average", "slice", "contrast", "phase", "repetition", "set", "segment", "end"]
Frames = Literal["none", "phase", "repetition", "contrast", "set", "average"]
Key = tuple[int, ...]


def _mask(*flags: int) -> int:
    return sum(1 << (flag - 1) for flag in flags)


_CALIBRATION = _mask(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
_CALIBRATION_AND_IMAGING = _mask(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
_NOT_FOR_THE_IMAGE = _mask(
    ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
    30,  # phase stabilisation, reference
    31,  # phase stabilisation
)
_LAST_IN_SLICE = _mask(ismrmrd.ACQ_LAST_IN_SLICE)
_LAST_IN_REPETITION = _mask(ismrmrd.ACQ_LAST_IN_REPETITION)
_LAST_IN_MEASUREMENT = _mask(ismrmrd.ACQ_LAST_IN_MEASUREMENT)

_LAST = _LAST_IN_SLICE | _LAST_IN_REPETITION | _LAST_IN_MEASUREMENT

_KEY_COUNTERS = ("slice", "contrast", "phase", "repetition", "set")
_FIRST_COUNTER = Readout._fields.index("slice")
_AFTER_COUNTERS = _FIRST_COUNTER + len(_KEY_COUNTERS)


def _frame_count(encoding: Encoding, frames: str) -> int:
    return 1 if frames == "none" else encoding.count(frames)


def _sizes(encoding: Encoding, options: Options) -> dict[str, int]:
    matrix = encoding.encoded_matrix
    return {
        "frames": _frame_count(encoding, options["frames"]),
        "kz": matrix[2],
        "ky": matrix[1],
        "kx": encoding.cropped_readout,
    }


@gadget(waits=True, sizes=_sizes)
def accumulate(
    items: Stream,
    scan: Scan,
    *,
    trigger: Trigger = "auto",
    frames: Frames = "none",
    fill_calibration: bool = True,
    partial: Annotated[int, Field(ge=0)] = 0,
    early: Annotated[EarlyWork | None, FromChain] = None,
) -> Stream:
    """Sort readouts into blocks of k-space by their counters and place them by the encoding limits.

    1. Noise, navigator, feedback, dummy and phase-correction readouts, and waveforms, pass by.
    2. A line goes to row ``kspace_encode_step + matrix // 2 - center``; a readout's ``center_sample`` goes to the middle,
       so partial Fourier and asymmetric echoes are zero where nothing was measured. Reversed readouts are flipped.
    3. Lines that come more than once (averages) are averaged.
    4. Calibration lines are kept beside the image's. Embedded ones also fill lines that the image lacks.

    Parameters
    ----------
    items
        Acquisitions; buckets and buffers from Gadgetron are accepted as well.
    scan
        Its encodings say where lines belong.
    trigger
        When blocks are handed on. ``auto``: as soon as a block is complete, by the flags LAST_IN_SLICE, LAST_IN_REPETITION
        and LAST_IN_MEASUREMENT or because no line is missing. A counter's name: all blocks when that counter changes, in
        ascending order, as Gadgetron does. ``end``: at the end.
    frames
        Counter that becomes the dimension ``frames`` of one block; every value of the others makes a block of its own.
    fill_calibration
        Whether embedded calibration lines also serve the image.
    partial
        After so many more lines, a block is also handed on as it is, for previews and feedback; 0: only when it is complete.
    early
        What is done to lines before their block is complete.

    Yields
    ------
    Kspace
        One per block. A readout that contradicts the header is left out and reported; the scan goes on.
    PartialKspace
        Copies of blocks that are not complete, where they are asked for.
    """
    accumulator = _Accumulator(scan, trigger, frames, fill_calibration, partial, early)
    try:
        for item in items:
            if isinstance(item, Acquisition):
                yield from accumulator.add(item)
            elif isinstance(item, AcquisitionBucket):
                yield from accumulator.add_bucket(item)
            elif isinstance(item, ReconData):
                yield from to_kspaces(item, scan)
            else:
                accumulator.interrupted = accumulator.interrupted or isinstance(item, Interruption)
                yield item
        yield from accumulator.flush()
    finally:
        accumulator.account.close()


class _Accumulator:
    def __init__(
        self,
        scan: Scan,
        trigger: Trigger,
        frames: Frames,
        fill_calibration: bool,
        partial: int,
        early: EarlyWork | None,
    ) -> None:
        self.scan = scan
        self.account = scan.ledger.account("k-space")
        self.partial = partial
        self.early = early
        self.interrupted = False
        self.trigger = trigger
        self.frames = frames
        self.fill_calibration = fill_calibration
        self.blocks: dict[Key, KspaceBuffer] = {}
        self.head_starts: dict[Key, HeadStart] = {}
        self.calibration: dict[Key, dict[Key, KspaceBuffer]] = {}
        self.finished: dict[Key, int] = {}
        self.handed_on: set[Key] = set()
        self.refused: dict[Key, tuple[str, str]] = {}
        """Blocks for which there was no memory; one that began later would lack the lines before."""
        self.last_value: int | None = None
        self.flags_seen = False
        self.trigger_field = Readout._fields.index("repetition" if trigger in ("auto", "end") else trigger)
        self.frames_field = 1 + _KEY_COUNTERS.index(frames) if frames in _KEY_COUNTERS else None
        self.largest_step = [_largest_step(encoding) for encoding in scan.encodings]
        self.last_line = [e.encoded_matrix[1] - 1 - e.line_offset(1) for e in scan.encodings]

    def add(self, acquisition: Acquisition) -> Iterable[Item]:
        """Take in a readout and return what can be handed on; this runs for every readout and returns () for nearly all."""
        fields = read_fields(acquisition)
        if fields.flags & _NOT_FOR_THE_IMAGE:
            return (acquisition,)
        ready = self._triggered(fields)
        try:
            key = self._place(acquisition, fields)
        except DataError as error:
            self.scan.report(error.kind, str(error))
            # of a readout that cannot be used, it is still known where it belongs, and what ends with it
            key = self._key(fields) if error.kind == "not finite" else None
        if key is not None and fields.flags & _LAST:
            self._note_end(fields, key)
        if (
            self.trigger == "auto"
            and key is not None
            and (fields.flags & _LAST or fields.step_1 == self.last_line[key[0]])
        ):
            ready = [*ready, *self._flush_complete(fields, key)]
        if self.partial and key in self.blocks and self.blocks[key].unseen >= self.partial:
            return [*ready, PartialKspace(self.blocks[key].snapshot(self.scan.device))]
        return ready

    def _triggered(self, fields: Readout) -> Iterable[Kspace]:
        """Return the blocks that have to go because the counter that triggers has changed with this readout."""
        value = fields[self.trigger_field]
        before, self.last_value = self.last_value, value
        if before == value or before is None or self.trigger == "end":
            return ()
        if self.trigger != "auto":
            return list(self.flush())
        return list(self._flush_repetitions_before(value)) if self.frames != "repetition" else ()

    def add_bucket(self, bucket: AcquisitionBucket) -> Iterator[Item]:
        """Add the readouts of a trigger of Gadgetron's; readouts that are in both of its lists count once."""
        yield from bucket.waveforms
        only_reference = (a for a in bucket.reference if not read_fields(a).flags & _CALIBRATION_AND_IMAGING)
        for acquisition in (*only_reference, *bucket.data):
            yield from self.add(acquisition)
        yield from self.flush()

    def _key(self, fields: Readout) -> Key:
        """Encoding space, slice, contrast, phase, repetition and set; the counter of the frames does not count."""
        key = (fields.encoding, *fields[_FIRST_COUNTER:_AFTER_COUNTERS])
        if self.frames_field is None:
            return key
        return (*key[: self.frames_field], 0, *key[self.frames_field + 1 :])

    def _place(self, acquisition: Acquisition, fields: Readout) -> Key:
        """Copy the readout to where it belongs and return the key of its block."""
        if fields.encoding >= len(self.scan.encodings):
            raise DataError(
                f"encoding_space_ref {fields.encoding} is not in the header, which has {len(self.scan.encodings)}",
                kind="encoding space",
            )
        if self.scan.encodings[fields.encoding].trajectory != "cartesian":
            raise DataError(
                f"trajectory {self.scan.encodings[fields.encoding].trajectory!r} is not accepted, only 'cartesian'",
                kind="trajectory",
            )
        if fields.step_1 > self.largest_step[fields.encoding]:
            largest = self.largest_step[fields.encoding]
            raise DataError(
                f"kspace_encode_step_1 {fields.step_1} is outside the encoding limits 0 to {largest}", kind="counter"
            )
        key = self._key(fields)
        if fields.flags & (_CALIBRATION | _CALIBRATION_AND_IMAGING):
            own = self.calibration.setdefault(key[:2], {})
            if key not in own:
                own[key] = self._new_buffer(fields, 1)
            own[key].add(acquisition, fields)
        if not fields.flags & _CALIBRATION:
            if key not in self.blocks:
                self._open(key, fields)
            frame = 0 if self.frames == "none" else getattr(fields, self.frames)
            self.blocks[key].add(acquisition, fields, frame)
        if key in self.blocks and key in self.head_starts:
            self.head_starts[key].line_added(self.blocks[key], self.calibration.get(key[:2], {}).get(key))
        return key

    def _open(self, key: Key, fields: Readout) -> None:
        if key in self.handed_on:
            message = "readouts came for an image that was reconstructed already; they make another one"
            self.scan.report("late readouts", message)
        encoding = self.scan.encodings[fields.encoding]
        if key in self.refused:
            message, kind = self.refused[key]
            raise DataError(message, kind=kind)
        try:
            self.blocks[key] = self._new_buffer(fields, _frame_count(encoding, self.frames))
        except DataError as error:
            self.refused[key] = str(error), error.kind
            raise
        if self.early is not None:
            self.head_starts[key] = HeadStart(self.scan, encoding, self.early)

    def _new_buffer(self, fields: Readout, frames: int) -> KspaceBuffer:
        encoding = self.scan.encodings[fields.encoding]
        return KspaceBuffer(encoding, fields, frames, account=self.account, copies=1 if self.early is None else 2)

    def _flush_repetitions_before(self, repetition: int) -> Iterator[Kspace]:
        for key in sorted(key for key in self.blocks if key[4] < repetition):
            yield from self._hand_on(key)

    def _note_end(self, fields: Readout, key: Key) -> None:
        """Count what a readout's flags say to be finished."""
        if fields.flags & _LAST_IN_SLICE and self._belongs_to_image(fields):
            self.flags_seen = True
            self.finished[key] = self.finished.get(key, 0) + 1
        if self._ends_all(fields):
            self.flags_seen = True
            for done in self.blocks:
                self.finished[done] = self._parts(done)

    def _flush_complete(self, fields: Readout, key: Key) -> Iterator[Kspace]:
        if self._ends_all(fields):
            yield from self.flush()
        elif key in self.blocks and (self._all_parts_finished(key) or self._no_line_missing(key, fields)):
            self.finished[key] = self._parts(key)
            yield from self._hand_on(key)

    def _ends_all(self, fields: Readout) -> bool:
        """Whether nothing more comes for the blocks that are being filled; where repetitions are frames, others may follow."""
        if fields.flags & _LAST_IN_MEASUREMENT:
            return True
        count = self.scan.encodings[fields.encoding].count("repetition") if self.frames == "repetition" else 0
        return bool(fields.flags & _LAST_IN_REPETITION) and fields.repetition + 1 >= count

    def _belongs_to_image(self, fields: Readout) -> bool:
        """Whether a readout is part of the image's own acquisition, which a separate calibration scan is not."""
        embedded = self.scan.encodings[fields.encoding].calibration_mode == "embedded"
        return embedded or not fields.flags & _CALIBRATION

    def _parts(self, key: Key) -> int:
        """How many times LAST_IN_SLICE comes for a block: once per average and frame."""
        encoding = self.scan.encodings[key[0]]
        frames = 1 if self.frames in ("none", "average") else encoding.count(self.frames)
        return encoding.count("average") * frames

    def _all_parts_finished(self, key: Key) -> bool:
        return self.finished.get(key, 0) >= self._parts(key)

    def _no_line_missing(self, key: Key, fields: Readout) -> bool:
        """Whether every line of the grid was measured as often as there are averages."""
        encoding = self.scan.encodings[key[0]]
        if encoding.acceleration != (1, 1) or fields.step_1 != self.last_line[key[0]]:
            return False
        averages = encoding.count("average") if self.frames != "average" else 1
        return bool((self.blocks[key].count >= averages).all())

    def flush(self) -> Iterator[Kspace]:
        """Hand on every block, in ascending order of the counters."""
        for key in sorted(self.blocks):
            yield from self._hand_on(key)

    def _hand_on(self, key: Key) -> Iterator[Kspace]:
        """Hand on a block, unless every line of it was refused."""
        block = self.blocks.pop(key)
        head_start = self.head_starts.pop(key, None)
        calibration = self._calibration_for(key)
        if calibration is not None and self.fill_calibration and block.encoding.calibration_mode == "embedded":
            if head_start is not None:
                head_start.process(calibration)
            block.fill_from(calibration)
        if not block.measured.any():
            block.release()
            return
        if head_start is not None:
            kspace = head_start.finish(block, calibration)
        else:
            kspace = block.to_kspace(self.scan.device, calibration)
        if not self._all_parts_finished(key) and (self.interrupted or (self.flags_seen and self.trigger == "auto")):
            lines = int(block.measured.sum())
            kspace.notes["Incomplete"] = f"only {lines} lines had arrived"
            self.scan.report("incomplete", f"a block of k-space is incomplete: {lines} lines had arrived")
        self.finished.pop(key, None)
        self.handed_on.add(key)
        block.release()
        yield kspace

    def _calibration_for(self, key: Key) -> KspaceBuffer | None:
        """Calibration lines with the block's own counters, or else the last ones measured for its slice."""
        candidates = self.calibration.get(key[:2], {})
        if not candidates:
            return None
        latest = next(reversed(candidates))
        chosen = candidates.get(key, candidates[latest])
        for old in [old for old in candidates if old != latest and old not in self.blocks]:
            candidates.pop(old).release()
        return chosen


def _largest_step(encoding: Encoding) -> int:
    """Largest kspace_encode_step_1 that the limits allow; limits without extent say nothing."""
    limit = encoding.limits.get("kspace_encoding_step_1")
    return limit.maximum if limit is not None and limit.maximum > 0 else 65535
