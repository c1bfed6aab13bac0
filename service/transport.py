"""One connection's bytes: a reading and a writing thread, each with a channel to the thread that runs the scan."""

import logging
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

from ..flow.channel import Channel
from ..flow.ledger import Account, Ledger
from ..wire import Close, Decoder, Limits, Message, ProtocolError
from ..wire.arrays import Buffer
from .spool import Recording

log = logging.getLogger("isocenter.transport")

_MAX_BUFFERS = 512
_LEAD_BYTES = 2**21
_SCRATCH_BYTES = 2**16
_SILENT_SECONDS = 1.0
_TICK = 0.25
"""Seconds after which a waiting thread looks whether the time that it may wait has changed."""


class Receiver:
    """Reads a socket in a thread of its own and iterates over the decoded messages.

    The iteration ends with the connection; ``error`` then says why it ended if that was not the end of the stream.

    Parameters
    ----------
    sock
        Connected socket.
    limits
        Longest lengths accepted.
    account
        Charged with what waits to be processed.
    timeout
        Seconds without a byte after which the connection counts as lost; can be changed while it waits.
    recording
        Gets every byte before it is decoded.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        limits: Limits | None = None,
        account: Account | None = None,
        timeout: float | None = None,
        recording: Recording | None = None,
    ) -> None:
        self._socket = sock
        self._decoder = Decoder(limits)
        self._account = account or Ledger().account("unbounded")
        self._channel: Channel[list[Message]] = Channel(self._account, lead=_LEAD_BYTES)
        self._decoded: deque[Message] = deque()
        self._recording = recording
        self._closed = False
        self._drain_seconds = self._drain_until = 0.0
        self._dropped = 0
        self._decided = threading.Event()
        self.error: Exception | None = None
        self.bytes_received = 0
        self.timeout = timeout
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._receive()
        except (OSError, ProtocolError) as error:
            self.error = error
        self._channel.finish()
        if self._channel.is_stopped or isinstance(self.error, ProtocolError):
            self._decided.wait()
            self._drain()

    def _receive(self) -> None:
        decoder, pending, grown = self._decoder, 0, 0
        while True:
            grown = self._charge_growth(grown)
            memory = decoder.writable()
            count = self._read_into(memory)
            if count == 0:
                decoder.finish()
                return
            self.bytes_received += count
            pending += count
            messages = self._decode(memory[:count])
            if messages:
                self._account.credit(grown)
                self._closed = isinstance(messages[-1], Close)
                if not self._channel.put(messages, pending):
                    return
                pending = grown = 0
            if decoder.fault is not None:
                raise decoder.fault

    def _decode(self, received: memoryview) -> list[Message]:
        """Keep bytes that lie in the decoder's memory now, and return the messages that are complete."""
        self._record(received)
        messages = self._decoder.received(len(received))
        if self._recording is not None:
            self._recording.follow(messages)
        return messages

    def _record(self, received: memoryview) -> None:
        if self._recording is not None:
            self._recording.write(received)

    def _charge_growth(self, charged: int) -> int:
        """Wait for room before memory is taken for a message larger than the usual piece; return what is charged for it."""
        size = self._decoder.growth
        if not size:
            return charged
        self._account.credit(charged)  # the larger piece takes the place of the one before
        return size if self._account.charge(size, leave=self._channel.is_closed) else 0

    def _read_into(self, memory: memoryview) -> int:
        """Wait for bytes and receive them.

        Raises
        ------
        TimeoutError
            None came for too long.
        """
        start = 0.0
        while True:
            try:
                return self._socket.recv_into(memory, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                start = start or time.monotonic()
            waited, limit = time.monotonic() - start, self.timeout
            if limit is not None and waited >= limit:
                raise TimeoutError(f"nothing was received for {limit:g} seconds")
            self._poll.poll(1000 * (_TICK if limit is None else min(_TICK, limit - waited)))

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        while not self._decoded:
            self._decoded.extend(self._channel.take())
        return self._decoded.popleft()

    def abort(self) -> None:
        """Take the connection for ended here; what had come is still iterated over."""
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:
            log.debug("the peer has closed the connection already")

    def drain(self, seconds: float) -> None:
        """Drop what waits and what still comes until the peer says CLOSE or is silent: unread data would reset the connection.

        Where the raw data are recorded, the time begins anew with every 64 KiB. Whoever still iterates gets ``Stopped``.
        """
        self._drain_seconds = seconds
        self._drain_until = time.monotonic() + seconds
        self._channel.stop()
        self._decided.set()
        while not self._closed and self._thread.is_alive() and (left := self._drain_until - time.monotonic()) > 0:
            self._thread.join(left)

    def _drain(self) -> None:
        try:
            while not self._closed and (left := self._drain_until - time.monotonic()) > 0:
                self._closed = self._drop(left)
        except OSError as error:
            log.debug("the rest of the stream is not read: %s", error)

    def _drop(self, seconds: float) -> bool:
        """Receive once; return whether that was the end. What cannot be followed any more ends when nothing comes for a while."""
        is_lost = self._decoder.fault is not None
        self.timeout = min(seconds, _SILENT_SECONDS) if is_lost else seconds
        memory = memoryview(bytearray(_SCRATCH_BYTES)) if is_lost else self._decoder.writable()
        count = self._read_into(memory)
        if count == 0:
            return True
        self._dropped += count
        if self._dropped >= _SCRATCH_BYTES and self._recording is not None and self._recording.keeps_raw_data:
            self._dropped, self._drain_until = 0, time.monotonic() + self._drain_seconds
        if is_lost:
            self._record(memory[:count])
            return False
        try:
            return any(isinstance(message, Close) for message in self._decode(memory[:count]))
        except ProtocolError:
            return False

    def stop(self) -> None:
        """End: nothing more is read, and whoever iterates gets ``Stopped``."""
        self._channel.stop()
        self._decided.set()
        self.abort()


class Sender:
    """Writes to a socket in a thread of its own.

    Parameters
    ----------
    sock
        Connected socket; a duplicate is used, so that it has its own timeout.
    account
        Charged with what waits to be sent.
    timeout
        Seconds that a single write may take.
    """

    def __init__(self, sock: socket.socket, *, account: Account | None = None, timeout: float | None = None) -> None:
        self._socket = sock.dup()
        self._socket.settimeout(timeout)
        self._channel: Channel[Sequence[Buffer]] = Channel(account)
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for buffers in self._channel:
                send_buffers(self._socket, buffers)
        except OSError as error:
            self.error = error
            self._channel.stop()

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Queue an encoded message.

        Raises
        ------
        OSError
            Sending has failed before.
        """
        if not self._channel.put(buffers, sum(len(buffer) for buffer in buffers)):
            raise self.error or ConnectionError("the connection is closed")

    def finish(self) -> None:
        """Wait until everything is sent."""
        self._channel.finish()
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
