"""The readouts of one image or one set of calibration lines while they come. A majority decides what they are like."""

from collections.abc import Callable, Hashable

from ..flow.ledger import Account
from ..wire.cursor import OBJECT_BYTES
from ..wire.errors import DataError
from ..wire.items import Acquisition, AcquisitionHeader, header_of, make_acquisition
from .kspace_buffer import KspaceBuffer, Readout
from .missing import Missing

Shape = tuple[int, int]
_WAITING = 8
"""Readouts of another shape that wait for more of their kind before they get memory of their own."""
_MOST_SHAPES = 4
_MOST_REFUSED = 65536
"""Refused blocks that are remembered; once there are more, none is begun any more."""


class Refusals:
    """Blocks for which there was no memory. They stay refused: one that began later would lack the lines before."""

    def __init__(self) -> None:
        self._errors: dict[Hashable, DataError] = {}
        self._all: DataError | None = None

    def __contains__(self, key: Hashable) -> bool:
        return self._all is not None or key in self._errors

    def add(self, key: Hashable, error: DataError) -> None:
        """Remember a block."""
        self._errors[key] = error
        if len(self._errors) >= _MOST_REFUSED:
            self._all = error

    def forgive(self, key: Hashable) -> None:
        """Let a block begin after all."""
        self._errors.pop(key, None)

    def check(self, key: Hashable) -> None:
        """Make sure that a block may begin.

        Raises
        ------
        DataError
            It was refused before.
        """
        error = self._all or self._errors.get(key)
        if error is not None:
            raise DataError(error.what, kind=error.kind)


class Block:
    """Buffers for the readouts of one block, one for each number of channels and samples; the fullest one is the block.

    Parameters
    ----------
    make_buffer
        Makes the buffer for readouts like a first one.
    account
        Keeps readouts that wait for more of their kind.
    """

    def __init__(self, make_buffer: Callable[[Readout], KspaceBuffer], account: Account) -> None:
        self._make_buffer = make_buffer
        self._account = account
        self._kept = 0
        self._buffers: dict[Shape, KspaceBuffer] = {}
        self._waiting: dict[Shape, list[tuple[Acquisition, Readout, int]]] = {}
        self._shape: Shape | None = None
        self.lost: int = 0
        """Readouts of so many different shapes that they were not even kept."""
        self.ended = False
        """Whether a flag said that the block was at its end."""
        self.unusable = 0
        """Readouts of it that hold nothing usable and will not come again."""
        self.check_at: int = 0
        """Number of readouts before which the block cannot be complete, if it has to have all that are missing."""
        self._least = 0
        """Number of readouts before which it cannot be complete in any case, as long as as many lines are filled."""
        self._filled = 0
        self.latest = 0
        """When its last readout came, in an order of its owner's."""

    @property
    def buffer(self) -> KspaceBuffer:
        """The buffer with the most readouts."""
        assert self._shape is not None
        return self._buffers[self._shape]

    @property
    def readouts(self) -> int:
        """Readouts in the fullest buffer."""
        return 0 if self._shape is None else self._buffers[self._shape].readouts

    def may_be_complete(self, received: int, filled: int, *, sure: bool) -> bool:
        """Say whether it is worth a look, without one.

        Parameters
        ----------
        received
            Readouts, calibration lines that fill the block included.
        filled
            Lines that these fill.
        sure
            Whether all that were missing have to come.
        """
        if not self.readouts or (sure and received < self.check_at):
            return False
        return filled != self._filled or received + self.unusable >= self._least

    def look_again(self, received: int, filled: int, missing: Missing) -> None:
        """Note what is missing now."""
        self.check_at, self._least, self._filled = received + missing.readouts, received + missing.least, filled

    def open(self, first: Readout) -> None:
        """Take memory for readouts like a first one.

        Raises
        ------
        DataError
            There is none.
        """
        shape = first.channels, first.samples
        self._buffers[shape] = self._make_buffer(first)
        self._shape = shape

    def add(self, acquisition: Acquisition, fields: Readout, frame: int = 0) -> None:
        """Keep a readout.

        Raises
        ------
        DataError
            It does not fit, or there is no memory for it.
        """
        shape = fields.channels, fields.samples
        if self._shape is None:
            self.open(fields)
        if shape == self._shape:
            self._buffers[shape].add(acquisition, fields, frame)
        else:
            self._add_other(shape, acquisition, fields, frame)

    def _add_other(self, shape: Shape, acquisition: Acquisition, fields: Readout, frame: int) -> None:
        """Keep a readout that is not like most before."""
        if shape in self._buffers:
            self._buffers[shape].add(acquisition, fields, frame)
        else:
            size = OBJECT_BYTES + acquisition.data.nbytes + acquisition.traj.nbytes
            many = shape not in self._waiting and len(self._waiting) == _MOST_SHAPES
            if many or not self._account.keep(size):
                self.lost += 1
                return
            self._kept += size
            waiting = self._waiting.setdefault(shape, [])
            waiting.append((_copied(acquisition), fields, frame))
            if len(waiting) < min(_WAITING, self.readouts):
                return
            self._buffers[shape] = self._make_buffer(fields)
            for each in self._waiting.pop(shape):
                self._buffers[shape].add(*each)
        if self._buffers[shape].readouts > self.readouts:
            self._shape = shape

    def others(self) -> list[str]:
        """Say which readouts were not like the others, and are left out."""
        counts = {shape: buffer.readouts for shape, buffer in self._buffers.items() if shape != self._shape}
        counts |= {shape: len(waiting) for shape, waiting in self._waiting.items()}
        channels, samples = self._shape or (0, 0)
        found = []
        for (other_channels, other_samples), count in counts.items():
            if other_channels != channels:
                reason = f"{other_channels} channels where most readouts have {channels}"
            else:
                reason = f"{other_samples} samples where most readouts have {samples}"
            found += [reason] * count
        return found + ["readouts of many different shapes"] * self.lost

    def release(self) -> None:
        """Say that the block's memory is in other hands."""
        for buffer in self._buffers.values():
            buffer.release()
        self._waiting.clear()
        kept, self._kept = self._kept, 0
        self._account.release(kept)


def _copied(acquisition: Acquisition) -> Acquisition:
    """Copy what lies in receive memory, which is used again."""
    header = AcquisitionHeader.from_buffer_copy(header_of(acquisition))
    return make_acquisition(header, acquisition.data.copy(), acquisition.traj.copy())
