"""Reads values one after another from bytes that may not all be there yet."""

import math
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import Limits, ProtocolError

Entry = TypeVar("Entry")
Scalar = TypeVar("Scalar", bound=np.generic)

OBJECT_BYTES = 1024
"""What a readout, a waveform or another object takes besides its samples, however small it is."""

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")

UINT8 = np.dtype(np.uint8)
UINT16 = np.dtype("<u2")
UINT32 = np.dtype("<u4")
UINT64 = np.dtype("<u8")
FLOAT32 = np.dtype("<f4")
COMPLEX64 = np.dtype("<c8")


class NeedMoreError(Exception):
    """The message is not complete; it has at least ``total`` bytes."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.total = total


class Cursor:
    """A position in a slab of received bytes. Arrays are views of the slab, nothing is copied.

    Parameters
    ----------
    slab
        uint8 memory that holds the received bytes.
    start, end
        Where the message starts, and where the received bytes end.
    limits
        Longest lengths accepted.
    progress
        How far lists were looked through when less of the message was there, by their place in it.
    """

    def __init__(
        self,
        slab: NDArray[np.uint8],
        start: int,
        end: int,
        limits: Limits,
        progress: dict[int, tuple[int, int]] | None = None,
    ) -> None:
        self.slab = slab
        self.start = start
        self.position: int = start
        self.end = end
        self.limits = limits
        self.made: int = 0
        """Bytes of memory that the message takes besides its own."""
        self._progress = {} if progress is None else progress

    def take(self, count: int, what: str) -> int:
        """Move on by ``count`` bytes and return where they start.

        Raises
        ------
        ProtocolError
            The message would exceed the limit.
        NeedMoreError
            They have not been received yet.
        """
        offset = self.position
        total = offset + count - self.start
        if total > self.limits.message:
            raise ProtocolError(f"{what} of {count} bytes exceeds the limit of {self.limits.message} bytes a message")
        if offset + count > self.end:
            raise NeedMoreError(total)
        self.position = offset + count
        return offset

    def expect(self, count: int, what: str) -> None:
        """Make sure that ``count`` bytes are there, so that what is read from them piece by piece is not begun anew for each.

        Raises
        ------
        ProtocolError
            The message would exceed the limit.
        NeedMoreError
            They have not been received yet.
        """
        self.take(count, what)
        self.position -= count

    def make(self, size: int, what: str) -> None:
        """Take note of memory that is made of the message, before it is.

        Raises
        ------
        ProtocolError
            It would exceed the limit of a message.
        """
        self.made += size
        if self.made > self.limits.message:
            raise ProtocolError(
                f"{what} of a message would take {self.made} bytes, the limit is {self.limits.message} bytes a message"
            )

    def make_objects(self, count: int, what: str) -> None:
        """Take note of so many objects that are made of the message, before they are.

        Raises
        ------
        ProtocolError
            They would exceed the limit of a message.
        """
        if count * OBJECT_BYTES > self.limits.message:
            raise ProtocolError(
                f"a message announces {count} {what}, of which {self.limits.message // OBJECT_BYTES} fit in the limit of "
                f"{self.limits.message} bytes a message"
            )
        self.make(count * OBJECT_BYTES, what)

    def each(self, layout: struct.Struct, read: Callable[["Cursor"], Entry], what: str) -> list[Entry]:
        """Read a number, and so many entries of any length. They are read once all are there, however many pieces they come in.

        Raises
        ------
        ProtocolError
            There would be too many of them.
        NeedMoreError
            They have not been received yet.
        """
        return self.entries(self.length(layout, what, self.limits.message), read, what)

    def entries(self, count: int, read: Callable[["Cursor"], Entry], what: str) -> list[Entry]:
        """Read so many entries of any length, as ``each`` does."""
        self.make_objects(count, what)
        first, made = self.position, self.made
        self._look_through(count, read)
        self.position, self.made = first, made
        return [read(self) for _ in range(count)]

    def _look_through(self, count: int, read: Callable[["Cursor"], object]) -> None:
        """Make sure that entries are there; those that were looked at before are not looked at again."""
        place = self.position - self.start
        done, offset = self._progress.get(place, (0, place))
        self.position = self.start + offset
        try:
            while done < count:
                read(self)
                done, offset = done + 1, self.position - self.start
        finally:
            self._progress[place] = done, offset

    def unpack(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        """Read a fixed struct."""
        return layout.unpack_from(self.slab.data, self.take(layout.size, what))

    def length(self, layout: struct.Struct, what: str, limit: int) -> int:
        """Read a length and check it against a limit.

        Raises
        ------
        ProtocolError
            It is larger.
        NeedMoreError
            It has not been received yet.
        """
        (value,) = self.unpack(layout, f"length of {what}")
        if value > limit:
            raise ProtocolError(f"{what} announces a length of {value}, the limit is {limit}")
        return value

    def array(self, dtype: np.dtype[Scalar], shape: tuple[int, ...], what: str) -> NDArray[Scalar]:
        """View an array of known dtype and shape (C order).

        Returns
        -------
        ndarray
            ``dtype`` [*shape], the received memory itself, which need not be aligned.

        Raises
        ------
        ProtocolError
            The message would exceed the limit.
        NeedMoreError
            It has not been received completely.
        """
        # as Python's integers: a peer may announce sizes whose product does not fit into 64 bits
        count = math.prod(map(int, shape))
        offset = self.take(count * dtype.itemsize, what)
        return np.ndarray(shape, dtype, buffer=self.slab, offset=offset)  # type: ignore[arg-type]

    def blob(self, layout: struct.Struct, what: str, limit: int) -> bytes:
        """Read bytes that are preceded by their length."""
        count = self.length(layout, what, limit)
        offset = self.take(count, what)
        return self.slab[offset : offset + count].tobytes()

    def flag(self, what: str) -> bool:
        """Read a one-byte boolean."""
        return bool(self.slab[self.take(1, what)])
