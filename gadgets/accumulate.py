"""Buffer readouts into blocks of k-space, and hand each on as soon as it is complete."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Annotated, Literal

import ismrmrd
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..wire.errors import DataError
from ..wire.header import Encoding
from ..wire.items import Acquisition, AcquisitionBucket, Interruption, ReconData, header_of
from .block import Block
from .calibration import CalibrationStore, Key, TimeAverage, calibration_on_grid
from .early import EarlyWork
from .gadget import FromChain, Options, Stream, gadget
from .head_start import HeadStart
from .kspace import Item, Kspace, PartialKspace
from .kspace_buffer import KspaceBuffer, Readout, read_fields
from .plan import NOT_FOR_THE_IMAGE, Grid, Missing, count_reasons, flag_mask, is_cartesian, left_out_reason, uncorrected
from .recon_data import to_acquisitions
from .scan import Scan

Trigger = Literal["auto", "average", "slice", "contrast", "phase", "repetition", "set", "segment", "end"]
Frames = Literal["none", "phase", "repetition", "contrast", "set", "average"]


_CALIBRATION = flag_mask(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
_CALIBRATION_AND_IMAGING = flag_mask(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
_NOT_FOR_THE_IMAGE = flag_mask(*NOT_FOR_THE_IMAGE)
_LAST_IN_SLICE = flag_mask(ismrmrd.ACQ_LAST_IN_SLICE)
_LAST_IN_REPETITION = flag_mask(ismrmrd.ACQ_LAST_IN_REPETITION)
_LAST_IN_MEASUREMENT = flag_mask(ismrmrd.ACQ_LAST_IN_MEASUREMENT)

_LAST = _LAST_IN_SLICE | _LAST_IN_REPETITION | _LAST_IN_MEASUREMENT

_WITNESSES = 8
"""Other blocks that are asked where lines belong, before the first one is handed on."""
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
    """Sort readouts into blocks of k-space by their counters; where they belong and what is missing, the scan's plan says.

    1. Noise, navigator, feedback, dummy and phase-correction readouts, and waveforms, pass by.
    2. A line goes to row ``kspace_encode_step + matrix // 2 - middle``; a readout's ``center_sample`` goes to the middle, so
       partial Fourier and asymmetric echoes are zero where nothing was measured. Reversed readouts are flipped.
    3. Lines that come more than once (averages) are averaged.
    4. Calibration lines are kept beside the image's. Embedded ones also fill lines that the image lacks.
    5. A block waits until it is complete, or until nothing more can come; then its notes say what is missing.

    The rules are in ``docs/kspace.md``.

    Parameters
    ----------
    items
        Acquisitions; buckets and buffers from Gadgetron are accepted as well.
    scan
        Its encodings say where lines belong.
    trigger
        When blocks that are complete are handed on. ``auto``: once a flag LAST_IN_SLICE, LAST_IN_REPETITION or
        LAST_IN_MEASUREMENT has come, or something else begins. A counter's name: when that counter changes, in ascending
        order, as Gadgetron does. ``end``: at the end.
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
                yield from accumulator.add_group(to_acquisitions(item))
            else:
                accumulator.interrupted = accumulator.interrupted or isinstance(item, Interruption)
                yield item
        yield from accumulator.flush()
    finally:
        accumulator.account.close()


class _Accumulator:
    """Sorts readouts into blocks. Where they belong and what is missing, the scan's plan says."""

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
        self.plan = scan.plan
        self.account = scan.ledger.account("k-space")
        self.partial = partial
        self.early = early
        self.interrupted = False
        self.trigger = trigger
        self.frames = frames
        self.fill_calibration = fill_calibration
        self.blocks: dict[Key, Block] = {}
        self.guesses: dict[Key, Grid] = {}
        self.head_starts: dict[Key, HeadStart] = {}
        self.store = CalibrationStore(self.plan, self._new_reference_buffer)
        self.averages: dict[Key, TimeAverage] = {}
        self.handed_on: set[Key] = set()
        self.refused: dict[Key, tuple[str, str]] = {}
        """Blocks for which there was no memory; one that began later would lack the lines before."""
        self.left_out: Counter[str] = Counter()
        self.off_grid: Counter[int] = Counter()
        """Readouts of each encoding space whose trajectory is not Cartesian."""
        self.uncorrected = False
        self.last_value: int | None = None
        self.last_key: Key | None = None
        self.trigger_field = Readout._fields.index("repetition" if trigger in ("auto", "end") else trigger)
        self.frames_field = 1 + _KEY_COUNTERS.index(frames) if frames in _KEY_COUNTERS else None

    def add(self, acquisition: Acquisition) -> Iterable[Item]:
        """Take in a readout and return what can be handed on; this runs for every readout and returns () for nearly all."""
        fields = read_fields(acquisition)
        if fields.flags & _NOT_FOR_THE_IMAGE:
            self._pass_by(fields.flags)
            return (acquisition,)
        key = self._key(fields)
        same = key == self.last_key and fields[self.trigger_field] == self.last_value
        ready: list[Item] = [] if same else self._before(key, fields)
        try:
            self._place(acquisition, fields, key)
        except DataError as error:
            self.scan.report(error.kind, str(error))
            if error.kind not in ("not finite", "empty"):
                return ready
            # of a readout that cannot be used, it is still known where it belongs, and what ends with it
            if key in self.blocks:
                self.blocks[key].unusable += 1
        if fields.flags & _LAST:
            self._note_end(fields, key)
            ready += self._hand_on_ended(fields, key)
        elif (block := self.blocks.get(key)) is not None and block.ended and self._received(key) >= block.check_at:
            ready += self._hand_on_if_complete(key)
        if self.partial and key in self.blocks and self.blocks[key].buffer.unseen >= self.partial:
            grid = self._guess(key)
            ready.append(PartialKspace(self.blocks[key].buffer.snapshot(self.scan.device, grid.encoding, grid.place)))
        return ready

    def _pass_by(self, flags: int) -> None:
        self.left_out[left_out_reason(flags)] += 1
        self.uncorrected = self.uncorrected or uncorrected(flags)

    def add_bucket(self, bucket: AcquisitionBucket) -> Iterator[Item]:
        """Add the readouts of a trigger of Gadgetron's; readouts that are in both of its lists count once."""
        yield from bucket.waveforms
        only_reference = (a for a in bucket.reference if not read_fields(a).flags & _CALIBRATION_AND_IMAGING)
        yield from self.add_group((*only_reference, *bucket.data))

    def add_group(self, acquisitions: Iterable[Acquisition]) -> Iterator[Item]:
        """Add readouts that were collected before; that they were handed on says that they are at their end."""
        keys: dict[Key, None] = {}
        for acquisition in acquisitions:
            yield from self.add(acquisition)
            keys[self._key(read_fields(acquisition))] = None
        for key in keys:
            if key in self.blocks:
                self.blocks[key].ended += 1
                if self.trigger == "auto":
                    yield from self._hand_on_if_complete(key)

    def _key(self, fields: Readout) -> Key:
        """Encoding space, slice, contrast, phase, repetition and set; the counter of the frames does not count."""
        key = (fields.encoding, *fields[_FIRST_COUNTER:_AFTER_COUNTERS])
        if self.frames_field is None:
            return key
        return (*key[: self.frames_field], 0, *key[self.frames_field + 1 :])

    def _before(self, key: Key, fields: Readout) -> list[Item]:
        """Hand on what a readout with other counters than the one before says to be over."""
        before, self.last_key = self.last_key, key
        value = fields[self.trigger_field]
        last, self.last_value = self.last_value, value
        if self.trigger == "end" or before is None:
            return []
        if self.trigger != "auto":
            return [] if last == value else self._hand_on_complete(sorted(self.blocks))
        # without flags, the lines alone tell; they are looked at when something else begins, as lines may be measured again
        block = self.blocks.get(before)
        if before == key or block is None or block.ended or self._received(before) < block.check_at:
            return []
        return self._hand_on_if_complete(before)

    def _place(self, acquisition: Acquisition, fields: Readout, key: Key) -> None:
        """Copy the readout to where it belongs."""
        if error := self.plan.refusal(fields.encoding):
            self.left_out[error.what] += 1
            raise error
        if fields.channels == 0 or fields.samples <= fields.discard_pre + fields.discard_post:
            self.left_out["without samples"] += 1
            raise DataError(
                f"a readout holds no samples: {fields.channels} channels, {fields.samples} samples of which "
                f"{fields.discard_pre + fields.discard_post} are discarded",
                kind="empty",
            )
        if fields.trajectory_dimensions and not is_cartesian(acquisition.traj):
            self.off_grid[fields.encoding] += 1
            self.left_out["its trajectory is not Cartesian"] += 1
            raise DataError(
                "readouts carry a trajectory that is not Cartesian, though the header says 'cartesian'; they are left out",
                kind="trajectory",
            )
        if fields.flags & (_CALIBRATION | _CALIBRATION_AND_IMAGING):
            self.store.add(key, acquisition, fields)
        if fields.flags & _CALIBRATION and not fields.flags & _CALIBRATION_AND_IMAGING:
            block = self.blocks.get(key)
        else:
            block = self._add_to_block(acquisition, fields, key)
        if key in self.head_starts and block is not None:
            self.head_starts[key].line_added(block.buffer, self.store.own(key), self._guess(key))

    def _add_to_block(self, acquisition: Acquisition, fields: Readout, key: Key) -> Block:
        if key not in self.blocks:
            self._open(key, fields, acquisition)
        block = self.blocks[key]
        block.add(acquisition, fields, 0 if self.frames == "none" else getattr(fields, self.frames))
        return block

    def _open(self, key: Key, fields: Readout, acquisition: Acquisition) -> None:
        """Begin a block."""
        if self._is_late(key):
            message = "readouts came for an image that was reconstructed already; they make another one"
            self.scan.report("late readouts", message)
        if key in self.refused:
            message, kind = self.refused[key]
            raise DataError(message, kind=kind)
        self.plan.image_readout(fields.encoding)
        count = _frame_count(self.scan.encodings[fields.encoding], self.frames)
        block = Block(lambda first: self._new_buffer(first, count))
        try:
            block.open(fields)
        except DataError as error:
            self.refused[key] = str(error), error.kind
            raise
        self.blocks[key] = block
        self.guesses[key] = self.plan.provisional(block.buffer, fields, header_of(acquisition))
        if self.early is not None:
            self.head_starts[key] = HeadStart(self.scan, self.early)

    def _is_late(self, key: Key) -> bool:
        """Whether an image of these counters was handed on before, which only a trigger by averages or segments means to."""
        return key in self.handed_on and self.trigger not in ("average", "segment")

    def _new_buffer(self, first: Readout, frames: int) -> KspaceBuffer:
        encoding = self.scan.encodings[first.encoding]
        return KspaceBuffer(encoding, first, frames, account=self.account, copies=1 if self.early is None else 2)

    def _new_reference_buffer(self, first: Readout) -> KspaceBuffer:
        return self._new_buffer(first, 1)

    def _guess(self, key: Key) -> Grid:
        """Where the lines of a block seem to belong while they come."""
        buffer = self.blocks[key].buffer
        guess = self.guesses[key]
        if guess.place.samples != buffer.samples:
            guess = self.guesses[key] = replace(guess, place=replace(guess.place, samples=buffer.samples))
        return guess

    def _received(self, key: Key) -> int:
        """Readouts of a block, calibration lines that fill it included."""
        own = self.store.own(key)
        return self.blocks[key].readouts + (own.readouts if own is not None and self._fills(key) else 0)

    def _note_end(self, fields: Readout, key: Key) -> None:
        """Count what a readout's flags say to be finished."""
        if fields.flags & _LAST_IN_SLICE and key in self.blocks and self._belongs_to_image(fields):
            self.blocks[key].ended += 1
        for done in self._ended_by(fields):
            self.blocks[done].ended += 1

    def _ended_by(self, fields: Readout) -> list[Key]:
        """Blocks for which nothing more comes by the flags of a whole repetition or measurement."""
        if fields.flags & _LAST_IN_MEASUREMENT:
            return sorted(self.blocks)
        if fields.flags & _LAST_IN_REPETITION:
            return sorted(key for key in self.blocks if key[4] <= fields.repetition)
        return []

    def _hand_on_ended(self, fields: Readout, key: Key) -> list[Item]:
        if self.trigger != "auto":
            return []
        keys = self._ended_by(fields)
        return self._hand_on_complete(keys if keys else [key] if key in self.blocks and self.blocks[key].ended else [])

    def _belongs_to_image(self, fields: Readout) -> bool:
        """Whether a readout is part of the image's own acquisition, which a separate calibration scan is not."""
        both = fields.flags & _CALIBRATION_AND_IMAGING
        return both or not fields.flags & _CALIBRATION or self._fills((fields.encoding,))  # type: ignore[return-value]

    def _fills(self, key: Key) -> bool:
        """Whether lines that are flagged as calibration only are lines of the image as well."""
        encoding = self.scan.encodings[key[0]]
        together = encoding.calibration_mode in ("embedded", "") or encoding.acceleration == (1, 1)
        return self.fill_calibration and together

    def _hand_on_complete(self, keys: Iterable[Key]) -> list[Item]:
        return [item for key in keys for item in self._hand_on_if_complete(key)]

    def _hand_on_if_complete(self, key: Key) -> list[Item]:
        """Hand on a block if it lacks nothing, its calibration lines included; else say when to look again."""
        block = self.blocks[key]
        if not block.readouts:
            return []
        missing = self._missing(key, self._grid(key))
        if missing.readouts > (block.unusable if block.ended else 0):
            block.check_at = self._received(key) + missing.readouts
            return []
        if self._waits_for_calibration(key):
            block.check_at = 2**62
            return []
        return list(self._hand_on(key))

    def _waits_for_calibration(self, key: Key) -> bool:
        """Whether separate calibration lines of a slice may come after its image."""
        encoding = self.scan.encodings[key[0]]
        separate = encoding.calibration_mode in ("separate", "external") and encoding.acceleration != (1, 1)
        return separate and not self.store.has_slice(key)

    def _grid(self, key: Key, *, final: bool = False) -> Grid:
        encoding = key[0]
        alike = (block.buffer for other, block in self.blocks.items() if other[0] == encoding and other != key)
        others = list(islice((buffer for buffer in alike if buffer.readouts), _WITNESSES))
        return self.plan.grid(self.blocks[key].buffer, others, final=final)

    def _missing(self, key: Key, grid: Grid) -> Missing:
        own = self.store.own(key) if self._fills(key) else None
        also = None
        if own is not None:
            also = own.on_grid(own.measured, grid.place)[0]
        encoding = self.scan.encodings[key[0]]
        separate = self.frames == "average" or self.trigger == "average"
        averages = 1 if separate else encoding.count("average")
        return self.plan.missing(grid, self.blocks[key].buffer, also, _frame_count(encoding, self.frames), averages)

    def flush(self) -> Iterator[Item]:
        """Hand on every block, in ascending order of the counters: nothing more can come."""
        for key in sorted(self.blocks):
            yield from self._hand_on(key, final=True)
        for average in self.averages.values():
            yield from average.release()
        self._report_absent()
        self._report_left_out()

    def _report_absent(self) -> None:
        """Say that images which the header announces never came."""
        for index in sorted({key[0] for key in self.handed_on}):
            keys = {key[1:] for key in self.handed_on if key[0] == index}
            encoding = self.scan.encodings[index]
            wanted = {name: encoding.count(name) for name in _KEY_COUNTERS if name != self.frames}
            announced = math.prod(wanted.values())
            if len(keys) < announced:
                which = ", ".join(f"{count} {name}s" for name, count in wanted.items() if count > 1)
                self.scan.report(
                    "absent", f"readouts of only {len(keys)} images came; the header announces {announced} ({which})"
                )

    def _report_left_out(self) -> None:
        """Say how many readouts went into no image, where that may be what is wrong."""
        for reason in self.store.others():
            self.left_out[reason] += 1
        if not self.handed_on:
            if self.store.keys():
                self.left_out["flagged parallel calibration, and no readouts of an image came"] += self.store.readouts()
            for text in count_reasons(self.left_out):
                self.scan.report(text, text)

    def _hand_on(self, key: Key, *, final: bool = False) -> Iterator[Item]:
        """Hand on a block, unless every line of it was refused."""
        block = self.blocks[key]
        if self.off_grid[key[0]] > block.readouts // 10:
            self.left_out["among others whose trajectory is not Cartesian"] += block.readouts
            self._drop(key)
            return
        if not block.readouts:
            self._drop(key)
            return
        buffer = block.buffer
        grid = self._grid(key, final=final)
        self.plan.settle(grid, int(buffer.measured.sum()))
        notes = dict(grid.notes)
        own = self.store.own(key)
        self._leave_out_strays(buffer, grid)
        missing = self._missing(key, grid)
        if own is not None and self._fills(key):
            buffer.fill_from(own)
        if not buffer.on_grid(buffer.measured, grid.place).any():
            self.scan.report("outside", f"all {block.readouts} readouts of a block lie outside the encoded matrix")
            self._drop(key)
            return
        for reason in block.others():
            self.left_out[reason] += 1
            self.scan.report(reason, f"a readout was left out: {reason}")
        notes |= self._notes(key, block, missing)
        wanted = self.scan.encodings[key[0]].acceleration != (1, 1)
        reference, problem = self.store.find(key, buffer, borrow=wanted)
        if reference is not None and reference.borrowed:
            notes["Calibration"] = reference.borrowed
        kspace = self._assemble(key, buffer, None if reference is None else reference.buffer, grid)
        kspace.maps_problem = problem
        for kind, note in notes.items():
            if kind != "Header":  # said when it was read
                self.scan.report(kind.lower(), note)
        kspace.notes |= notes
        self._drop(key)
        self.handed_on.add(key)
        self.store.forget(key, self.handed_on)
        yield from self._averaged(key, kspace)

    def _drop(self, key: Key) -> None:
        block = self.blocks.pop(key)
        self.head_starts.pop(key, None)
        self.guesses.pop(key, None)
        block.release()

    def _assemble(self, key: Key, buffer: KspaceBuffer, reference: KspaceBuffer | None, grid: Grid) -> Kspace:
        head_start = self.head_starts.get(key)
        if head_start is not None:
            return head_start.finish(buffer, reference, grid)
        device = self.scan.device
        lines = None if reference is None else calibration_on_grid(reference, buffer, grid, device)
        return buffer.to_kspace(device, grid.encoding, grid.place, lines)

    def _averaged(self, key: Key, kspace: Kspace) -> Iterator[Item]:
        """Give a frame of an interleaved series the lines of the frames around it for calibration."""
        encoding = self.scan.encodings[key[0]]
        alone = kspace.calibration is None and encoding.acceleration != (1, 1)
        if encoding.calibration_mode != "interleaved" or not alone:
            yield kspace
            return
        turns = {"phase", "repetition", encoding.interleaving_dimension}
        series = (key[0], *(0 if name in turns else value for name, value in zip(_KEY_COUNTERS, key[1:], strict=True)))
        if series not in self.averages:
            announced = encoding.count(encoding.interleaving_dimension or "repetition")
            self.averages[series] = TimeAverage(announced, encoding.acceleration[0] * encoding.acceleration[1])
        yield from self.averages[series].add(kspace)

    def _leave_out_strays(self, buffer: KspaceBuffer, grid: Grid) -> None:
        """Forget lines whose counters are faults."""
        strays = np.zeros(buffer.lines, bool)
        for axis, (first, end) in enumerate(grid.accepted):
            outside = np.ones(buffer.lines[1 + axis], bool)
            outside[max(first, 0) : end] = False
            strays |= outside[None, :, None] if axis == 0 else outside
        offsets = np.array(grid.place.offsets)
        for axis in (0, 1):
            rows = np.arange(buffer.lines[1 + axis]) + offsets[axis]
            off = (rows < 0) | (rows >= grid.place.grid[axis])
            strays |= off[None, :, None] if axis == 0 else off
        strays &= buffer.measured
        if self.frames != "none":
            strays |= self._stray_frames(buffer)
        for _, kz, ky in np.argwhere(strays).tolist():
            (z0, z1), (y0, y1) = grid.accepted
            self.scan.report(
                "counter",
                f"a readout was left out: kspace_encode_step_1 {ky}, kspace_encode_step_2 {kz} is outside the lines "
                f"{y0} to {y1 - 1} and {z0} to {z1 - 1} of the encoded matrix",
            )
        if strays.any():
            buffer.drop(strays)

    def _stray_frames(self, buffer: KspaceBuffer) -> NDArray[np.bool_]:
        """Lines of frames that the header does not announce, and that are too few to be one."""
        announced = _frame_count(self.scan.encodings[buffer.encoding_index], self.frames)
        measured = buffer.measured
        lines = measured.sum(axis=(1, 2))
        few = (np.arange(len(lines)) >= announced) & (lines <= max(1, 0.02 * lines.sum()))
        if few.any() and lines[few].any():
            frames = ", ".join(str(frame) for frame in np.flatnonzero(few & (lines > 0)))
            self.scan.report("counter", f"readouts of {self.frames} {frames} are too few for an image and are left out")
        return measured & few[:, None, None]

    def _notes(self, key: Key, block: Block, missing: Missing) -> dict[str, str]:
        """What a reader of the block's images must know."""
        notes = {}
        encoding = self.scan.encodings[key[0]]
        if missing.lines:
            notes["Incomplete"] = f"the image is incomplete: {missing.text}"
        elif missing.readouts and self.frames != "average":
            notes["Averages"] = f"fewer averages came than the {encoding.count('average')} that the header announces"
        elif self.interrupted and not block.ended and encoding.acceleration != (1, 1):
            notes["Incomplete"] = f"the image may be incomplete: only {block.readouts} readouts had arrived"
        if self.uncorrected:
            flags = [reason for reason in self.left_out if "correction" in reason or "stabilisation" in reason]
            count = sum(self.left_out[reason] for reason in flags)
            notes["Correction"] = (
                f"{count} readouts ({'; '.join(flags)}) were not applied: nothing here corrects images with them"
            )
        if self.scan.doubts:
            notes["Header"] = self.scan.doubts
        if self._is_late(key):
            notes["Late"] = "an image of the same counters was reconstructed before these readouts came"
        return notes
