"""Refusing a peer in words that reach it."""

import logging
import selectors
import socket
import time
from contextlib import suppress

from ..wire import Close, Text, encode

log: logging.Logger = logging.getLogger("isocenter.server")

LINGER_SECONDS = 2.0
_MOST = 64
_SCRATCH_BYTES = 2**16


class Farewells:
    """Refused peers, for a moment: what they go on sending is read, as unread data would reset the connection.

    A peer whose connection is reset may lose the reason that it was sent.

    Parameters
    ----------
    selector
        Says when one of them has sent something; whoever asks it calls ``read``.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._ends: dict[socket.socket, float] = {}
        self._scratch = bytearray(_SCRATCH_BYTES)

    def refuse(self, sock: socket.socket, reason: str) -> None:
        """Say why, and listen for a moment; where too many are refused at once, the oldest are let go."""
        if not say(sock, reason):
            sock.close()
            return
        while len(self._ends) >= _MOST:
            self._close(next(iter(self._ends)))
        self._ends[sock] = time.monotonic() + LINGER_SECONDS
        self._selector.register(sock, selectors.EVENT_READ)

    def __contains__(self, sock: object) -> bool:
        return sock in self._ends

    def read(self, sock: socket.socket) -> None:
        """Drop what came from one of them."""
        try:
            if sock.recv_into(self._scratch, 0, socket.MSG_DONTWAIT):
                return
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("a refused client was gone already: %s", error)
        self._close(sock)

    def timeout(self) -> float | None:
        """Let go of those whose time is over; return the seconds until that of the next one is."""
        now = time.monotonic()
        for sock in [sock for sock, end in self._ends.items() if end <= now]:
            self._close(sock)
        return max(0.0, next(iter(self._ends.values())) - now) if self._ends else None

    def close(self) -> None:
        """Let go of all."""
        for sock in list(self._ends):
            self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        del self._ends[sock]
        self._selector.unregister(sock)
        sock.close()


def say(sock: socket.socket, reason: str) -> bool:
    """Send a reason and that nothing comes after it; return whether it was taken. It fits the socket's buffer: nothing waits."""
    parts = (*encode(Text(f"[Isocenter] ERROR: {reason}\n")), *encode(Close()))
    try:
        sock.setblocking(False)
        sock.send(b"".join(bytes(part) for part in parts))
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        log.debug("a refused client was gone already: %s", error)
        return False
    return True


def say_and_close(sock: socket.socket, reason: str) -> None:
    """Refuse in a thread that may wait a moment."""
    with sock, suppress(OSError):
        if say(sock, reason):
            end = time.monotonic() + LINGER_SECONDS
            while (left := end - time.monotonic()) > 0:
                sock.settimeout(left)
                if not sock.recv(_SCRATCH_BYTES):
                    break
