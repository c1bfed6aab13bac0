"""Three depths at which a session is tried: the decoder, the conversation with what it reads, and a whole service on sockets."""

import json
import logging
import re
import socket
import struct
import tempfile
import threading
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from isocenter.engine import Engine
from isocenter.gadgets.scan import Scan
from isocenter.pipelines import loader
from isocenter.service.settings import default_home
from isocenter.wire import Decoder, Limits, ProtocolError
from isocenter.wire.conversation import Conversation, Meaning
from isocenter.wire.errors import IsocenterError
from isocenter.wire.items import Image
from isocenter.wire.messages import ConfigFile, ConfigScript, Text

from ..faults.house import House
from ..faults.peer import INTERNAL
from .corpus import Delivery

LIMITS = Limits(text=2**18, message=2**22)
SLAB = 2**16
HONEST_EVERY = 50
"""Sessions after which an honest scan must still look as it did."""
SECONDS = 20.0
"""What a session may take to end on a busy machine."""


class Broken(Exception):
    """Something that must never happen has happened."""


def shape(text: str) -> str:
    """A text without what differs from case to case: numbers, names and quotations."""
    return re.sub(r"[0-9a-f]{6,}|[-+]?\d[\d.e+-]*", "#", re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", text))[:200]


class DecoderMode:
    """Bytes to messages: nothing but errors of ours comes out, and memory is bounded by the limits."""

    name = "decoder"

    def __init__(self) -> None:
        self.messages = 0

    def run(self, data: bytes) -> set[str]:
        """Try a case, and return what was seen.

        Raises
        ------
        Broken
            It has broken a rule.
        Exception
            Whatever came out that is none of our errors.
        """
        decoder, seen = Decoder(LIMITS, slab_bytes=SLAB), set()
        try:
            for piece in Delivery(data).pieces:
                for message in decoder.feed(piece):
                    self.messages += 1
                    seen.add(self.take(message))
            decoder.finish()
        except IsocenterError as error:
            self.messages += 1
            seen.add(f"{type(error).__name__} {error.kind}: {shape(str(error))}")
        held = decoder._slab.size + sum(slab.size for slab in decoder._pool)
        if held > 9 * SLAB + LIMITS.message + 2**20:
            raise Broken(f"the decoder holds {held} bytes")
        return seen

    def take(self, message: object) -> str:
        return type(message).__name__

    def close(self) -> None:
        """Nothing is left open."""


class ConversationMode(DecoderMode):
    """Messages to meanings, and what a session reads of them before it starts: pipeline, header, parameters."""

    name = "conversation"

    def run(self, data: bytes) -> set[str]:
        self._conversation = Conversation()
        return super().run(data)

    def take(self, message: object) -> str:
        state = self._conversation.state
        try:
            meaning = self._conversation.receive(message)
            found = self._read(meaning, message)
        except IsocenterError as error:
            found = f"{type(error).__name__} {error.kind}: {shape(str(error))}"
        return f"{state.value}: {type(message).__name__}: {found}"

    def _read(self, meaning: Meaning, message: object) -> str:
        if isinstance(message, ConfigFile):
            return str(len(loader.load(message.name).steps))
        if isinstance(message, ConfigScript):
            return read_pipeline(message.xml)
        if meaning is Meaning.HEADER:
            return read_header(message.xml)
        if meaning is Meaning.PARAMETERS and isinstance(message, Text):
            return read_parameters(message.text)
        return meaning.value


@lru_cache(512)
def read_pipeline(xml: bytes) -> str:
    loader.is_external_configuration(xml)
    loader.readers_of_host(xml)
    return str(min(20, len(loader.parse(xml).steps)))


@lru_cache(512)
def read_header(xml: bytes) -> str:
    return str(min(5, len(Scan(xml).encodings)))


@lru_cache(512)
def read_parameters(text: str) -> str:
    from isocenter.pipelines.parameters import of_message

    return "none" if of_message(text) is None else "parameters"


class SessionMode:
    """Whole sessions with a service on the loopback."""

    name = "sessions"

    def __init__(self) -> None:
        self.messages = 0
        self._faults: list[str] = []
        self._sessions = 0
        self._handler = _Note(self._faults)
        self._folder = tempfile.TemporaryDirectory()
        logger = logging.getLogger("isocenter")
        logger.handlers[:], logger.propagate = [self._handler], False
        logger.setLevel(logging.WARNING)
        threading.excepthook = lambda what: self._faults.append(f"a thread ended with {what.exc_value!r}")
        bundles = default_home() / "bundles"
        self._engine = Engine([bundles])
        limits = {"max_text_bytes": 2**20, "max_message_bytes": 2**24, "memory_bytes": 2**30, "scan_bytes": 2**26}
        self._settings = {"bundles": (bundles,), **limits}
        self._house = self._build()

    def _build(self) -> House:
        house = House(self._engine, Path(self._folder.name), **self._settings)
        house.open()
        return house

    def run(self, data: bytes) -> set[str]:
        """Try a case, and return what was seen.

        Raises
        ------
        Broken
            It has broken a rule; the next case is tried with another service.
        """
        try:
            return self._run(data)
        except Broken:
            self._house.close()
            self._house = self._build()
            raise

    def _run(self, data: bytes) -> set[str]:
        self._faults.clear()
        delivery = Delivery(data)
        with self._house.connect() as sock:
            seen = _talk(sock, delivery)
        try:
            self._house.wait_until_empty()
        except AssertionError as error:
            raise Broken(str(error)) from error
        if self._faults:
            raise Broken(self._faults[0])
        self._sessions += 1
        self.messages += data.count(b"\xf0\x03") + 1
        if self._sessions % HONEST_EVERY == 0 and self._house.honest.send() != self._house.honest.alone:
            raise Broken("an honest scan differs from what it was")
        return seen

    def close(self) -> None:
        """Stop the service."""
        self._house.close()
        self._engine.close()
        self._folder.cleanup()


class _Note(logging.Handler):
    """Takes note of exceptions that the service did not expect."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__()
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._faults.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


def _talk(sock: socket.socket, delivery: Delivery) -> set[str]:
    """Send, end as the case says, and return what came."""
    sock.settimeout(SECONDS)
    with suppress(OSError):  # the service may end a session before all is sent
        for piece in delivery.pieces:
            sock.sendall(piece)
        if delivery.ending == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return {"reset"}
        sock.shutdown(socket.SHUT_WR)
    decoder, seen, end = Decoder(), set(), time.monotonic() + SECONDS
    try:
        while data := sock.recv(2**16):
            for message in decoder.feed(data):
                seen.add(_describe(message))
            if time.monotonic() > end:
                raise Broken("the session does not end")
    except TimeoutError as error:
        raise Broken("the session does not end") from error
    except ProtocolError as error:
        raise Broken(f"the service sent what is no message: {shape(str(error))}") from error
    except OSError:
        seen.add("reset by the service")
    return seen


def _describe(message: object) -> str:
    if isinstance(message, Text):
        if INTERNAL.search(message.text):
            raise Broken(f"a text shows an internal error: {shape(message.text)}")
        return shape(message.text)
    if isinstance(message, Image):
        marks = sorted(name for name in message.meta if name.startswith("Isocenter"))
        return f"Image {json.dumps(marks)}"
    return type(message).__name__


MODES = {mode.name: mode for mode in (DecoderMode, ConversationMode, SessionMode)}
