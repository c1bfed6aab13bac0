"""One connection's bytes: a reading and a writing thread, with queues between them and the scan that are bounded in bytes."""

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Generic, TypeVar

from ..wire import Decoder, Limits, Message, ProtocolError
from ..wire.arrays import Buffer

log = logging.getLogger("isocenter.transport")

T = TypeVar("T")
_MAX_BUFFERS = 512
_LEAD_BYTES = 2**21
_MOMENT = 0.005


class ByteQueue(Generic[T]):
    """A queue between two threads that holds at most so many bytes; one entry always fits.

    Parameters
    ----------
    capacity
        Bytes that may wait.
    lead
        Bytes that may wait while the taker keeps up. Past it, ``put`` gives the taker a moment: what was written last is
        then still in the processor's cache, and its memory is free again for what comes next.
    """

    def __init__(self, capacity: int, lead: int | None = None) -> None:
        self._capacity = capacity
        self._lead = capacity if lead is None else min(lead, capacity)
        self._held = 0
        self._entries: deque[tuple[T, int]] = deque()
        self._closed = False
        self._condition = threading.Condition()

    def put(self, entry: T, size: int) -> bool:
        """Wait for room and append; False once the queue is closed."""
        with self._condition:
            if self._held > self._lead:
                self._condition.wait(_MOMENT)
            while self._held and self._held + size > self._capacity and not self._closed:
                self._condition.wait()
            if self._closed:
                return False
            self._entries.append((entry, size))
            self._held += size
            self._condition.notify_all()
            return True

    def get(self, leave: Callable[[], bool] = lambda: False) -> T | None:
        """Wait for an entry and remove it; None once the queue is closed and empty, or as soon as ``leave`` is true."""
        with self._condition:
            while not self._entries and not self._closed and not leave():
                self._condition.wait()
            if not self._entries or leave():
                return None
            entry, size = self._entries.popleft()
            self._held -= size
            self._condition.notify_all()
            return entry

    def wake(self) -> None:
        """Let those who wait ask again whether they should leave."""
        with self._condition:
            self._condition.notify_all()

    def close(self) -> None:
        """Accept no more entries; those that wait can still be taken."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()


class TakenOver(Exception):  # noqa: N818 - it is no fault
    """Somebody else iterates over the receiver now."""


class Receiver:
    """Reads a socket in a thread of its own and iterates over the decoded messages.

    The iteration ends with the connection; ``error`` then says why it ended if that was not the end of the stream.

    Parameters
    ----------
    sock
        Connected socket.
    limits
        Longest lengths accepted.
    capacity
        Bytes that may wait to be processed.
    timeout
        Seconds without a byte after which the connection counts as lost; can be changed later.
    spool
        File that gets every byte before it is decoded.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        limits: Limits | None = None,
        capacity: int = 2**30,
        timeout: float | None = None,
        spool: BinaryIO | None = None,
    ) -> None:
        self._socket = sock
        self._decoder = Decoder(limits)
        self._queue: ByteQueue[list[Message]] = ByteQueue(capacity, _LEAD_BYTES)
        self._decoded: deque[Message] = deque()
        self._reader: object = None
        self._spool = spool
        self.error: Exception | None = None
        self.bytes_received = 0
        self.set_timeout(timeout)
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._thread.start()

    def set_timeout(self, timeout: float | None) -> None:
        """Change after how many seconds without a byte the connection counts as lost."""
        self._socket.settimeout(timeout)

    def _run(self) -> None:
        try:
            self._receive()
        except TimeoutError:
            self.error = TimeoutError(f"nothing was received for {self._socket.gettimeout():g} seconds")
        except (OSError, ProtocolError) as error:
            self.error = error
        finally:
            self._queue.close()

    def _receive(self) -> None:
        decoder = self._decoder
        while True:
            memory = decoder.writable()
            count = self._socket.recv_into(memory)
            if count == 0:
                decoder.finish()
                return
            if self._spool is not None:
                self._spool.write(memory[:count])
            self.bytes_received += count
            messages = decoder.received(count)
            if messages and not self._queue.put(messages, count):
                return
            if decoder.fault is not None:
                raise decoder.fault

    def __iter__(self) -> Iterator[Message]:
        """Iterate over what has not been taken yet. Whoever iterated before, in whatever thread, gets ``TakenOver``."""
        self._reader = reader = object()
        self._queue.wake()

        def replaced() -> bool:
            return self._reader is not reader

        def messages() -> Iterator[Message]:
            while True:
                while self._decoded and not replaced():
                    yield self._decoded.popleft()
                batch = None if replaced() else self._queue.get(replaced)
                if batch is not None:
                    self._decoded.extend(batch)
                elif replaced():
                    raise TakenOver
                else:
                    return

        return messages()

    def stop(self) -> None:
        """Stop reading, and wake whoever iterates."""
        self._queue.close()
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:
            log.debug("the peer has closed the connection already")


class Sender:
    """Writes to a socket in a thread of its own.

    Parameters
    ----------
    sock
        Connected socket; a duplicate is used, so that it has its own timeout.
    capacity
        Bytes that may wait to be sent.
    timeout
        Seconds that a single write may take.
    """

    def __init__(self, sock: socket.socket, *, capacity: int = 2**30, timeout: float | None = None) -> None:
        self._socket = sock.dup()
        self._socket.settimeout(timeout)
        self._queue: ByteQueue[Sequence[Buffer]] = ByteQueue(capacity)
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while (buffers := self._queue.get()) is not None:
                send_buffers(self._socket, buffers)
        except OSError as error:
            self.error = error
            self._queue.close()

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Queue an encoded message.

        Raises
        ------
        OSError
            Sending has failed before.
        """
        if not self._queue.put(buffers, sum(len(buffer) for buffer in buffers)):
            raise self.error or ConnectionError("the connection is closed")

    def finish(self) -> None:
        """Wait until everything is sent."""
        self._queue.close()
        self._thread.join()
        self._socket.close()


def send_buffers(sock: socket.socket, buffers: Sequence[Buffer]) -> None:
    """Send buffers one after another without joining them."""
    pending = deque(memoryview(buffer).cast("B") for buffer in buffers if len(buffer))
    while pending:
        batch = [pending[index] for index in range(min(len(pending), _MAX_BUFFERS))]
        sent = sock.sendmsg(batch)
        while sent:
            if sent >= len(pending[0]):
                sent -= len(pending.popleft())
            else:
                pending[0] = pending[0][sent:]
                sent = 0
