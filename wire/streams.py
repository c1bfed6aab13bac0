"""Recorded streams of messages: what the service spools, and what ISMRMRD's converters write."""

import struct
from collections.abc import Iterator
from pathlib import Path

from .cursor import U32
from .decoder import Decoder
from .errors import FileError, Limits, ProtocolError
from .messages import Close, Message, MessageId

_ID = struct.Struct("<H")
_CLOSE = _ID.pack(MessageId.CLOSE)
_CONFIG_FILE_BYTES = 1024
_PIECE = 2**20
_OTHER_STARTS = (MessageId.TEXT, MessageId.QUERY)
"""What a session can start with that has no configuration and no header yet."""


class RecordedStream:
    """A recorded stream; it is never in memory as a whole.

    Parameters
    ----------
    path
        File.

    Attributes
    ----------
    configuration, header
        The messages that it starts with, as bytes with their ids; empty where it has none.
    is_cut_off, is_closed
        Whether it ends inside a message, and whether its end marker (CLOSE) came; known once the pieces have been read.

    Raises
    ------
    FileError
        It does not start as a stream of messages does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_cut_off: bool = False
        self.is_closed: bool = False
        if not path.is_file():
            raise FileError(f"{path} does not exist or is no file")
        with path.open("rb") as file:
            start = file.read(_ID.size + Limits().text)
        self.configuration: bytes = self._opening_message(start, (MessageId.CONFIG_FILE, MessageId.CONFIG_SCRIPT))
        rest = start[len(self.configuration) :]
        if self.configuration and len(rest) <= _ID.size + U32.size and rest != _CLOSE:
            raise FileError(f"{path} ends before its MRD header")
        self.header: bytes = self._opening_message(rest, (MessageId.HEADER,))
        self._start = len(self.configuration) + len(self.header)
        if not self._start and (len(start) < _ID.size or _ID.unpack_from(start)[0] not in _OTHER_STARTS):
            raise FileError(
                f"{path} is empty" if not start else f"{path} is neither an MRD file (HDF5) nor a stream of messages",
                accepted="HDF5, or a stream that starts with a configuration or an MRD header",
            )

    def _opening_message(self, start: bytes, numbers: tuple[MessageId, ...]) -> bytes:
        """Return the message that the bytes start with if it is one of these, and looks like it."""
        if len(start) < _ID.size + U32.size or _ID.unpack_from(start)[0] not in numbers:
            return b""
        if _ID.unpack_from(start)[0] == MessageId.CONFIG_FILE:
            size, mark = _ID.size + _CONFIG_FILE_BYTES, b"\0"
        else:
            size, mark = _ID.size + U32.size + U32.unpack_from(start, _ID.size)[0], b"<"
        message = start[:size]
        content, found, _ = message[_ID.size :].partition(mark)
        is_name = bool(content) and min(content) >= ord(" ")
        if not found or (mark == b"\0" and not is_name):
            return b""
        if len(message) < size:
            raise FileError(f"{self._path} ends inside its configuration or MRD header")
        return message

    def pieces(self) -> Iterator[tuple[bytes, list[Message]]]:
        """Iterate over what follows configuration and header, as bytes of whole messages and what they are.

        Where it is no message of the protocol, the bytes that remain come as they are.
        """
        decoder, held = Decoder(), bytearray()
        with self._path.open("rb") as file:
            file.seek(self._start)
            while piece := file.read(_PIECE):
                held += piece
                messages: list[Message] = []
                if decoder.fault is None:
                    messages = _decode(decoder, piece)
                whole = len(held) - (decoder.held if decoder.fault is None else 0)
                if whole:
                    self.is_closed = self.is_closed or any(isinstance(message, Close) for message in messages)
                    yield bytes(held[:whole]), messages
                    del held[:whole]
        self.is_cut_off = bool(held)

    @property
    def is_interrupted(self) -> bool:
        """Whether the scan did not come to its end. Streams of converters, which hold no configuration, may lack the marker."""
        return self.is_cut_off or (bool(self.configuration) and not self.is_closed)


def read_messages(path: Path) -> Iterator[Message]:
    """Iterate over the messages of a file, up to where it ends, even inside a message, or holds something else."""
    decoder = Decoder()
    with path.open("rb", buffering=0) as file:
        while decoder.fault is None and (count := file.readinto(decoder.writable())):
            try:
                yield from decoder.received(count)
            except ProtocolError:
                return


def _decode(decoder: Decoder, piece: bytes) -> list[Message]:
    try:
        return decoder.feed(piece)
    except ProtocolError:
        return []  # said by whoever it is sent to
