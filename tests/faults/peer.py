"""A client that can do everything wrong: it knows the bytes of a whole session, and how far it has come."""

import random
import re
import socket
import struct
import time
from dataclasses import dataclass, field

from isocenter.wire import Close, ConfigFile, Decoder, ErrorReport, Header, ProtocolError, Text, encode
from isocenter.wire.items import Image

INTERNAL = re.compile(
    r"Traceback|(Runtime|Value|Type|Index|Key|Attribute|Assertion|UnicodeDecode|Memory|Recursion|Overflow)Error|__init__"
    r"|size of tensor|invalid literal|NoneType|could not convert|broadcast|internal error"
)
"""What only a programmer understands, and what the service says where it did not expect a fault."""


def joined(*messages):
    return b"".join(bytes(part) for message in messages for part in encode(message))


@dataclass
class Answer:
    """What came back until the service closed the connection, and whether that was an orderly end."""

    images: list = field(default_factory=list)
    texts: list = field(default_factory=list)
    others: list = field(default_factory=list)
    closed: bool = False
    ended: str = ""

    @property
    def said(self):
        return "".join(self.texts)

    @property
    def is_told(self):
        return "ERROR" in self.said or "WARNING" in self.said


class Peer:
    """One connection and the messages that an honest scanner would send over it.

    Attributes
    ----------
    rest
        Bytes of the messages that are still to be sent, one after another; faults change them.
    random
        Seeded.
    """

    def __init__(self, sock, scan, pipeline="rss.xml", *, parameters=None, seed=0):
        self.socket = sock
        self.scan = scan
        self.random = random.Random(seed)
        self.answer = Answer()
        self._decoder = Decoder()
        opening = [ConfigFile(pipeline), Header(scan.header.encode())]
        opening += [Text(parameters)] if parameters else []
        self.opening = len(opening)
        self.items = list(scan.items)
        self.rest = [joined(message) for message in (*opening, *self.items, Close())]
        self._total = len(self.rest)

    @property
    def sent(self):
        """How many messages have been sent."""
        return self._total - len(self.rest)

    def send(self, data):
        """Send bytes; a service that has closed the connection is no fault of ours."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            self.answer.ended = self.answer.ended or f"sending failed: {error}"

    def advance(self, count):
        """Send messages until this many are sent."""
        number = count - self.sent
        self.send(b"".join(self.rest[:number]))
        del self.rest[:number]

    def advance_inside(self, count):
        """Send messages until this many are sent, and half of the next one."""
        self.advance(count)
        half = len(self.rest[0]) // 2
        self.send(self.rest[0][:half])
        self.rest[0] = self.rest[0][half:]

    def finish(self):
        """Send what is left."""
        self.advance(self._total)

    def end(self):
        """Say by FIN that nothing more comes."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.answer.ended = self.answer.ended or f"gone already: {error}"

    def vanish(self, *, reset=False):
        """Close the connection, by RST or FIN."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def listen(self, until=lambda _: False, seconds=20.0):
        """Read what comes until the service closes the connection, or ``until`` holds of the answer."""
        end = time.monotonic() + seconds
        while not until(self.answer):
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                data = self.socket.recv(2**16)
            except TimeoutError:
                self.answer.ended = f"nothing for {seconds:g} seconds"
                break
            except OSError as error:
                self.answer.ended = f"reset: {error}"
                break
            if not data:
                self.answer.ended = "closed by the service"
                break
            self._take(data)
        return self.answer

    def _take(self, data):
        try:
            messages = self._decoder.feed(data)
        except ProtocolError as error:
            raise AssertionError(f"the service sent what is no message: {error}") from error
        for message in messages:
            assert not self.answer.closed, f"{type(message).__name__} came after CLOSE"
            if isinstance(message, Image):
                self.answer.images.append(message)
            elif isinstance(message, Text):
                self.answer.texts.append(message.text)
            elif isinstance(message, ErrorReport):  # what a Gadgetron is told
                self.answer.texts.append(f"ERROR: {message.text}\n")
            elif isinstance(message, Close):
                self.answer.closed = True
            else:
                self.answer.others.append(message)
