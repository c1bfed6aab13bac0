"""For how long a peer may keep a thread waiting, in total and not from byte to byte."""

import threading

from ..wire.messages import Message

BYTES_PER_SECOND = 1e6
"""A message may take a second more for each megabyte, in either direction."""


class Patience:
    """Two clocks, which run only while the peer is waited for: not while this end has no room for what it sends.

    One runs until something comes that counts as progress. Whatever else comes, such as single bytes, texts and questions, does
    not set it back. The other one runs while a message has begun and is not complete.

    Parameters
    ----------
    message_seconds
        Seconds that a message may be on its way, besides those for its size; None for any time.
    """

    def __init__(self, message_seconds: float | None = None) -> None:
        self._message_seconds = message_seconds
        self._seconds: float | None = None
        self._awaited = "a message"
        self._progress: tuple[type, ...] = ()
        self._waited = 0.0
        self._message_waited = 0.0
        self._lock = threading.Lock()

    def grant(self, seconds: float | None, awaited: str = "a message", progress: tuple[type, ...] = ()) -> None:
        """Begin to wait for something else; from any thread, also while another one waits.

        Parameters
        ----------
        seconds
            In all; None for ever.
        awaited
            What is waited for, to say what did not come.
        progress
            Types of messages that set the clock back.
        """
        with self._lock:
            self._seconds, self._awaited, self._progress, self._waited = seconds, awaited, progress, 0.0

    def received(self, messages: list[Message]) -> None:
        """Take note of messages that are complete."""
        with self._lock:
            self._message_waited = 0.0
            if any(isinstance(message, self._progress) for message in messages):
                self._waited = 0.0

    def waited(self, seconds: float, *, message_begun: bool) -> None:
        """Take note of time in which nothing came."""
        with self._lock:
            self._waited += seconds
            self._message_waited += seconds if message_begun else 0.0

    def left(self, message_size: int) -> float:
        """Return the seconds that are left.

        Parameters
        ----------
        message_size
            Bytes that the message on its way has at least; 0 if none has begun.

        Raises
        ------
        TimeoutError
            None are.
        """
        with self._lock:
            left = float("inf")
            if self._seconds is not None:
                left = self._seconds - self._waited
                if left <= 0:
                    raise TimeoutError(f"{self._awaited} did not come within {self._seconds:g} seconds")
            if self._message_seconds is not None and message_size:
                limit = self._message_seconds + message_size / BYTES_PER_SECOND
                left = min(left, limit - self._message_waited)
                if left <= 0:
                    raise TimeoutError(f"a message was not complete within {limit:g} seconds")
            return left
