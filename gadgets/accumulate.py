"""Buffer readouts into blocks of k-space, and hand each on as soon as it is complete."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Literal

import ismrmrd
from pydantic import Field

from ..wire.errors import DataError
from ..wire.items import Acquisition, AcquisitionBucket, Interruption, ReconData, header_of
from .assembly import (
    KEY_COUNTERS,
    Assembler,
    FrameCounter,
    absent_images,
    announced_sizes,
    frame_count,
    frames_counter,
)
from .block import Block
from .blocks import Blocks
from .calibration import CalibrationStore, Key
from .early import EarlyWork
from .gadget import FromChain, Stream, gadget
from .head_start import HeadStart
from .kspace import Item, Kspace, PartialKspace
from .kspace_buffer import KspaceBuffer, Readout, read_fields
from .plan import Grid
from .readouts import CALIBRATION, CALIBRATION_AND_IMAGING, NOT_FOR_THE_IMAGE, Inspection, flag_mask
from .recon_data import of_bucket, to_acquisitions
from .scan import Scan

Trigger = Literal["auto", "average", "slice", "contrast", "phase", "repetition", "set", "segment", "end"]


_NOT_FOR_THE_IMAGE = flag_mask(*NOT_FOR_THE_IMAGE)
_LAST_IN_SLICE = flag_mask(ismrmrd.ACQ_LAST_IN_SLICE)
_LAST_IN_REPETITION = flag_mask(ismrmrd.ACQ_LAST_IN_REPETITION)
_LAST_IN_MEASUREMENT = flag_mask(ismrmrd.ACQ_LAST_IN_MEASUREMENT)

_LAST = _LAST_IN_SLICE | _LAST_IN_REPETITION | _LAST_IN_MEASUREMENT

_FIRST_COUNTER = Readout._fields.index("slice")
_AFTER_COUNTERS = _FIRST_COUNTER + len(KEY_COUNTERS)


@gadget(makes=(Kspace,), waits=True, sizes=announced_sizes)
def accumulate(
    items: Stream,
    scan: Scan,
    *,
    trigger: Trigger = "auto",
    frames: FrameCounter | Literal["auto"] = "none",
    fill_calibration: bool = True,
    partial: Annotated[int, Field(ge=0)] = 0,
    early: Annotated[EarlyWork | None, FromChain] = None,
    series: Annotated[bool, FromChain] = False,
    joined: Annotated[bool, FromChain] = False,
) -> Stream:
    """Sort readouts into blocks of k-space; where they belong and what is missing, the plan of the scan says.

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
        ``auto``: where the bundle that is tried first reconstructs series, the phases or else the repetitions, whichever the
        header announces several of; none otherwise.
    fill_calibration
        Whether embedded calibration lines also serve the image.
    partial
        After so many more lines, a block is also handed on as it is, for previews and feedback; 0: only when it is complete.
    early
        What is done to lines before their block is complete.
    series
        Whether the bundle that is tried first reconstructs series.
    joined
        Whether a later gadget joins frames, which need not wait for one another here.

    Yields
    ------
    Kspace
        One per block. A readout that contradicts the header is left out and reported; the scan goes on.
    PartialKspace
        Copies of blocks that are not complete, where they are asked for.
    """
    counter = frames_counter(frames, scan.encodings[0], series=series)
    accumulator = _Accumulator(scan, trigger, counter, fill_calibration, partial, early, joined)
    try:
        for item in items:
            if isinstance(item, Acquisition):
                yield from accumulator.add(item)
            elif isinstance(item, AcquisitionBucket):
                yield from item.waveforms
                yield from accumulator.add_group(of_bucket(item))
            elif isinstance(item, ReconData):
                yield from accumulator.add_group(to_acquisitions(item))
            else:
                accumulator.interrupted = accumulator.interrupted or isinstance(item, Interruption)
                yield item
        yield from accumulator.flush()
    finally:
        accumulator.close()


class _Accumulator:
    """Sorts readouts into blocks, and decides when these are handed on."""

    def __init__(
        self,
        scan: Scan,
        trigger: Trigger,
        frames: str,
        fills: bool,
        partial: int,
        early: EarlyWork | None,
        joined: bool,
    ) -> None:
        self.scan = scan
        self.plan = scan.plan
        self.account = scan.ledger.account("k-space")
        self.partial = partial
        self.early = early
        self.interrupted = False
        self.trigger = trigger
        self.frames = frames
        self.blocks = Blocks()
        self.guesses: dict[Key, Grid] = {}
        self.head_starts: dict[Key, HeadStart] = {}
        self.store = CalibrationStore(self.plan, lambda: self._new_block(1))
        apart = frames == "average" or trigger == "average"
        maps = early is not None and early.maps is not None
        self.assembler = Assembler(
            scan, self.store, frames, fill_calibration=fills, averages_apart=apart, wants_maps=maps, joined=joined
        )
        self.handed_on: set[Key] = set()
        self.touched: set[Key] = set()
        """Blocks that may be complete by now."""
        self.inspection = Inspection(self.plan)
        self.last_value: int | None = None
        self.last_key: Key | None = None
        self.trigger_field = Readout._fields.index("repetition" if trigger in ("auto", "end") else trigger)
        self.frames_field = 1 + KEY_COUNTERS.index(frames) if frames in KEY_COUNTERS else None

    def add(self, acquisition: Acquisition) -> Iterable[Item]:
        """Take in a readout, and return what can be handed on: for nearly all nothing."""
        fields = read_fields(acquisition)
        if fields.flags & _NOT_FOR_THE_IMAGE:
            self.inspection.pass_by(fields.flags)
            return (acquisition,)
        key = self._key(fields)
        same = key == self.last_key and fields[self.trigger_field] == self.last_value
        ready: list[Item] = [] if same else self._before(key, fields)
        self.touched.add(key)
        try:
            ready += self._place_with_room(acquisition, fields, key)
        except DataError as error:
            self.scan.report(error.kind, str(error))
            if error.kind not in ("not finite", "empty"):
                return ready
            # of a readout that cannot be used, it is still known where it belongs, and what ends with it
            if key in self.blocks:
                self.blocks[key].unusable += 1
        if fields.flags & _LAST:
            ended = self._note_end(fields, key)
        else:
            block = self.blocks.get(key)
            ended = [key] if block and block.ended and self._received(key) >= block.check_at else []
        if ended and self.trigger == "auto":
            ready += self._hand_on_complete(ended)
        if self.partial and key in self.blocks and self.blocks[key].buffer.unseen >= self.partial:
            grid = self._guess(key)
            ready.append(PartialKspace(self.blocks[key].buffer.snapshot(grid.encoding, grid.place)))
        return ready

    def add_group(self, acquisitions: Iterable[Acquisition]) -> Iterator[Item]:
        """Add readouts that were collected before; that they were handed on says that they are at their end."""
        keys: dict[Key, None] = {}
        for acquisition in acquisitions:
            yield from self.add(acquisition)
            keys[self._key(read_fields(acquisition))] = None
        for key in keys:
            if key in self.blocks:
                self.blocks[key].ended = True
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
            if last == value:
                return []
            touched, self.touched = sorted(filter(self.blocks.__contains__, self.touched)), set()
            return self._hand_on_complete(touched)
        # without flags, the lines alone tell; they are looked at when something else begins, as lines may be measured again
        block = self.blocks.get(before)
        if before == key or block is None or block.ended or self._received(before) < block.check_at:
            return []
        return self._hand_on_if_complete(before)

    def _place_with_room(self, acquisition: Acquisition, fields: Readout, key: Key) -> list[Item]:
        """Copy a readout to its place; if there is no memory, blocks go that wait for what may never come."""
        try:
            self._place(acquisition, fields, key)
        except DataError as error:
            over = self.blocks.ended(key) if error.kind == "memory" else []
            if not over:
                raise
            self.blocks.weigh()
            gone = [item for other in over for item in self._hand_on(other)]
            self.blocks.refused.forgive(key)
            self._place(acquisition, fields, key)
            return gone
        return []

    def _place(self, acquisition: Acquisition, fields: Readout, key: Key) -> None:
        """Copy the readout to where it belongs."""
        self.inspection.check(acquisition, fields)
        if fields.flags & (CALIBRATION | CALIBRATION_AND_IMAGING):
            self.store.add(key, acquisition, fields)
        if fields.flags & CALIBRATION and not fields.flags & CALIBRATION_AND_IMAGING:
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
        self.blocks.readouts += 1
        return block

    def _open(self, key: Key, fields: Readout, acquisition: Acquisition) -> None:
        """Begin a block."""
        if self._is_late(key):
            self.scan.report("late readouts", "readouts came for an image that was reconstructed already")
        self.blocks.refused.check(key)
        self.plan.image_readout(fields.encoding)
        count = frame_count(self.scan.encodings[fields.encoding], self.frames)
        block = self._new_block(count)
        try:
            block.open(fields)
        except DataError as error:
            self.blocks.refused.add(key, error)
            raise
        self.blocks.open(key, block)
        self.guesses[key] = self.plan.provisional(block.buffer, fields, header_of(acquisition))
        if self.early is not None:
            self.head_starts[key] = HeadStart(self.scan, self.early)

    def _is_late(self, key: Key) -> bool:
        """Whether an image of these counters has left, which only a trigger by averages or segments means to."""
        return key in self.handed_on and self.trigger not in ("average", "segment")

    def _new_block(self, frames: int) -> Block:
        copies = 1 if self.early is None else 2

        def make_buffer(first: Readout) -> KspaceBuffer:
            encoding = self.scan.encodings[first.encoding]
            return KspaceBuffer(encoding, first, frames, account=self.account, copies=copies)

        return Block(make_buffer, self.account)

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
        return self.blocks[key].readouts + (own.readouts if own is not None and self.assembler.fills(key[0]) else 0)

    def _note_end(self, fields: Readout, key: Key) -> list[Key]:
        """Note what a readout's flags end, and return the blocks that may be complete with it."""
        if fields.flags & _LAST_IN_SLICE and key in self.blocks and self._belongs_to_image(fields):
            self.blocks[key].ended = True
        over = self._ended_by(fields)
        for each in over:
            self.blocks[each].ended = True
        return over or ([key] if key in self.blocks and self.blocks[key].ended else [])

    def _ended_by(self, fields: Readout) -> list[Key]:
        """Blocks for which nothing more comes by the flags of a whole repetition or measurement."""
        if fields.flags & _LAST_IN_MEASUREMENT:
            return self.blocks.over(None)
        return self.blocks.over(fields.repetition) if fields.flags & _LAST_IN_REPETITION else []

    def _belongs_to_image(self, fields: Readout) -> bool:
        """Whether a readout is part of the image's own acquisition, unlike separate calibration."""
        only_calibration = fields.flags & CALIBRATION and not fields.flags & CALIBRATION_AND_IMAGING
        return not only_calibration or self.assembler.fills(fields.encoding)

    def _grid(self, key: Key, *, final: bool = False) -> Grid:
        return self.plan.grid(self.blocks[key].buffer, self.blocks.witnesses(key), final=final)

    def _hand_on_complete(self, keys: Iterable[Key]) -> list[Item]:
        return [item for key in keys for item in self._hand_on_if_complete(key)]

    def _hand_on_if_complete(self, key: Key) -> list[Item]:
        """Hand on a block if it lacks nothing, its calibration lines included; else say when to look again."""
        block = self.blocks[key]
        sure = self.scan.encodings[key[0]].acceleration == (1, 1) and not block.unusable
        received, filled = self._received(key), self.assembler.filled(key)
        if not block.may_be_complete(received, filled, sure=sure):
            return []
        grid = self._grid(key)
        missing = self.assembler.missing(key, block.buffer, grid)
        if missing.readouts > (block.unusable if block.ended else 0):
            block.look_again(received, filled, missing)
            return []
        if self.assembler.waits_for_calibration(key, block.buffer, grid):
            block.check_at = 2**62
            self.touched.add(key)
            return []
        return list(self._hand_on(key, grid))

    def flush(self) -> Iterator[Item]:
        """Hand on every block, in the order of the counters: nothing more can come."""
        self.blocks.weigh()
        for key in sorted(self.blocks):
            yield from self._hand_on(key)
        yield from self.assembler.end_series()
        for text in absent_images(self.scan.encodings, self.handed_on, self.frames):
            self.scan.report(text, text)
        self._report_left_out()

    def _report_left_out(self) -> None:
        """Say how many readouts went into no image, where none was made."""
        self.inspection.left_out.update(self.store.others())
        if self.handed_on:
            return
        if count := self.store.readouts():
            self.inspection.left_out["flagged parallel calibration, and no readouts of an image came"] += count
        for text in self.inspection.reasons():
            self.scan.report(text, text)

    def _hand_on(self, key: Key, grid: Grid | None = None) -> Iterator[Item]:
        """Hand on a block; one without a grid is all that comes."""
        kspace = self._assemble(key, grid)
        if kspace is not None:
            for kind, note in kspace.notes.items():
                if kind != "Header":  # said when it was read
                    self.scan.report(kind.lower(), note, each=True)
        self._drop(key)
        if kspace is not None:
            self.handed_on.add(key)
            self.store.forget(key, self.handed_on)
            yield from self.assembler.in_series(key, kspace)

    def _assemble(self, key: Key, grid: Grid | None) -> Kspace | None:
        """Make a block of what came; None, with a word, if it makes no image."""
        block = self.blocks[key]
        if error := self.inspection.off_grid(key[0], block.readouts):
            self.scan.report(error.kind, str(error), times=block.readouts)
            return None
        self.inspection.left_out.update(block.others())
        for reason in block.others():
            self.scan.report(reason, f"a readout was left out: {reason}")
        if not block.readouts:
            return None
        grid = grid or self._grid(key, final=True)
        kspace = self.assembler.assemble(key, block.buffer, grid, self.head_starts.get(key))
        if kspace is None:
            return None
        if why := self.assembler.stray(key, kspace, self.blocks.largest, late=self._is_late(key)):
            self.inspection.left_out[why] += block.readouts
            self.scan.report(why, f"{block.readouts} readouts were left out: {why}")
            return None
        kspace.notes |= self._notes(key, block, kspace)
        return kspace

    def _drop(self, key: Key) -> None:
        block = self.blocks.pop(key)
        self.touched.discard(key)
        self.head_starts.pop(key, None)
        self.guesses.pop(key, None)
        block.release()

    def close(self) -> None:
        """Give back all memory that is counted."""
        self.account.close()
        self.assembler.account.close()

    def _notes(self, key: Key, block: Block, kspace: Kspace) -> dict[str, str]:
        """What else a reader of the block's images must know."""
        notes = {}
        accelerated = kspace.encoding.acceleration != (1, 1)
        if self.interrupted and not block.ended and accelerated and "Incomplete" not in kspace.notes:
            notes["Incomplete"] = f"the image may be incomplete: only {block.readouts} readouts had arrived"
        if missed := self.inspection.missed_corrections():
            notes["Correction"] = missed
        if self._is_late(key):
            notes["Late"] = "an image of the same counters was reconstructed before these readouts came"
        return notes
