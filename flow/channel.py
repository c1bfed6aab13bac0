"""The hand-over between two threads: bounded in bytes, closed from either end, with the errors of the end that fails."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from .ledger import Account, Ledger

T = TypeVar("T")
_MOMENT = 0.005


class Stopped(Exception):  # noqa: N818 - it is no fault
    """The thread at the other end wants no more; whoever still takes or gives is to end."""


class Channel(Generic[T]):
    """Carries entries from the threads that put to those that take.

    It ends in one of two ways. ``finish``, by the end that puts: what waits is still taken, then the iteration ends, with an
    error if there was one. ``stop``, by the end that takes, or by whoever ends both: what waits is dropped, ``put`` returns
    False, and a thread that still takes gets ``Stopped``.

    Parameters
    ----------
    account
        Charged with what waits here. Without one, nothing is bounded.
    lead
        Bytes that may wait while the taker keeps up. Past it, ``put`` gives the taker a moment: what was written last is then
        still in the processor's cache, and its memory is free again for what comes next.
    """

    def __init__(self, account: Account | None = None, *, lead: int | None = None) -> None:
        self._account = account or Ledger().account("unbounded")
        self._lead = lead
        self._entries: deque[tuple[T, int]] = deque()
        self._finished = False
        self._stopped = False
        self._error: BaseException | None = None
        self._condition = threading.Condition()

    def put(self, entry: T, size: int = 0, *, timeout: float | None = None) -> bool:
        """Wait for room, and append.

        Parameters
        ----------
        entry, size
            What to hand over, and its bytes.
        timeout
            Seconds to wait for room, in all.

        Returns
        -------
        bool
            False once the channel is finished or stopped, or the time was over.
        """
        if self._lead is not None and self._account.waiting > self._lead:
            with self._condition:
                self._condition.wait(_MOMENT)
        if not self._account.charge(size, leave=self.is_closed, timeout=timeout):
            return False
        with self._condition:
            if not self.is_closed():
                self._entries.append((entry, size))
                self._condition.notify_all()
                return True
        self._account.credit(size)
        return False

    def wait_for_room(self) -> bool:
        """Wait until an entry would be taken, before making it; False once nothing is taken any more."""
        return self._account.wait_for_room(leave=self.is_closed)

    def take(self, timeout: float | None = None) -> T:
        """Wait for an entry and remove it.

        Raises
        ------
        StopIteration
            It is finished, and everything was taken.
        Stopped
            It was stopped.
        TimeoutError
            None came within ``timeout`` seconds, in all.
        BaseException
            What the other end finished with.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._condition:
            while not self._entries and not self.is_closed():
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"nothing came within {timeout:g} seconds")
                self._condition.wait(left)
            if self._stopped:
                raise Stopped
            if not self._entries:
                if self._error is not None:
                    raise self._error
                raise StopIteration
            entry, size = self._entries.popleft()
            self._condition.notify_all()
        self._account.credit(size)
        return entry

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self.take()

    def finish(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes, because of an error or not; what was said first holds."""
        with self._condition:
            if not self._finished:
                self._finished, self._error = True, error
            self._condition.notify_all()
        self._account.ledger.wake()

    def stop(self) -> None:
        """Say that nothing more is wanted; what waits is dropped."""
        with self._condition:
            self._stopped = True
            dropped = sum(size for _, size in self._entries)
            self._entries.clear()
            self._condition.notify_all()
        self._account.credit(dropped)
        self._account.ledger.wake()

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is wanted."""
        return self._stopped

    def is_closed(self) -> bool:
        """Whether nothing more is taken in."""
        return self._finished or self._stopped
