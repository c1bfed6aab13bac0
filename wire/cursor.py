"""Reads values one after another from bytes that may not all be there yet."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import Limits, ProtocolError

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")


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
    """

    def __init__(self, slab: NDArray[np.uint8], start: int, end: int, limits: Limits) -> None:
        self.slab = slab
        self.start = start
        self.position = start
        self.end = end
        self.limits = limits

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

    def unpack(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        """Read a fixed struct."""
        return layout.unpack_from(self.slab.data, self.take(layout.size, what))

    def length(self, layout: struct.Struct, what: str, limit: int) -> int:
        """Read a length and check it against a limit."""
        (value,) = self.unpack(layout, f"length of {what}")
        if value > limit:
            raise ProtocolError(f"{what} announces a length of {value}, the limit is {limit}")
        return value

    def array(self, dtype: Any, shape: tuple[int, ...], what: str) -> NDArray[Any]:
        """View an array of known dtype and shape (C order)."""
        count = int(np.prod(shape, dtype=object))
        dtype = np.dtype(dtype)
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
