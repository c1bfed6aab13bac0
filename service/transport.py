"""One connection's bytes: a reading and a writing thread, each with a channel to the thread that runs the scan."""

import logging
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ..flow.channel import Channel
from ..flow.ledger import Account, Ledger
from ..wire import Close, Decoder, Limits, Message, ProtocolError
from ..wire.arrays import Buffer
from ..wire.cursor import OBJECT_BYTES
from .patience import BYTES_PER_SECOND, Patience
from .spool import Recording

log: logging.Logger = logging.getLogger("isocenter.transport")

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
    patience
        Says for how long the peer is waited for; for ever without it.
    recording
        Gets every byte before it is decoded.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        limits: Limits | None = None,
        account: Account | None = None,
        patience: Patience | None = None,
        recording: Recording | None = None,
    ) -> None:
        self._socket = sock
        self._decoder = Decoder(limits)
        self._account = account or Ledger().account("unbounded")
        self._grown = 0
        """Charged for a message that is not complete, and larger than usual."""
        self._channel: Channel[list[Message]] = Channel(self._account, lead=_LEAD_BYTES)
        self._decoded: deque[Message] = deque()
        self._recording = recording
        self._closed = False
        self._drain_seconds = self._drain_until = 0.0
        self._dropped = 0
        self._decided = threading.Event()
        self.error: Exception | None = None
        self._reason: ConnectionError | None = None
        self.bytes_received: int = 0
        self.patience: Patience = patience or Patience()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._thread = threading.Thread(target=self._loop, name="receiver", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        try:
            self._receive()
        except (OSError, ProtocolError) as error:
            self.error = error
        except Exception as error:
            log.error("a message could not be decoded", exc_info=error)
            self.error = ProtocolError("a message could not be decoded")
        self.error = self._reason or self.error
        self._forget_growth()
        self._channel.finish()
        if self._channel.is_stopped or isinstance(self.error, ProtocolError):
            self._decided.wait()
            self._drain()

    def _receive(self) -> None:
        decoder, pending = self._decoder, 0
        while True:
            if not self._charge_growth():
                return
            memory = decoder.writable()
            count = self._read_into(memory)
            if count == 0:
                decoder.finish()
                return
            self.bytes_received += count
            pending += count
            messages = self._decode(memory[:count])
            if messages:
                self.patience.received(messages)
                self._closed = isinstance(messages[-1], Close)
                self._forget_growth()
                if not self._channel.put(messages, pending + decoder.made):
                    return
                pending = 0
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

    def _charge_growth(self) -> bool:
        """Wait for room before memory is taken for a message larger than the usual piece; False once nothing is wanted.

        Raises
        ------
        ProtocolError
            There is none.
        """
        size = self._decoder.growth
        if not size:
            return True
        self._forget_growth()  # the larger piece takes the place of the one before
        if self._account.admit(size, leave=self._channel.is_closed):
            self._grown = size
            return True
        if self._channel.is_closed():
            return False
        raise ProtocolError(
            f"there is no memory for a message of {size} bytes: {self._account.ledger.shortage(size)}", kind="memory"
        )

    def _forget_growth(self) -> None:
        grown, self._grown = self._grown, 0
        self._account.credit(grown)

    def _read_into(self, memory: memoryview) -> int:
        """Wait for bytes and receive them.

        Raises
        ------
        TimeoutError
            What is waited for did not come in time.
        """
        while True:
            with suppress(BlockingIOError):
                return self._socket.recv_into(memory, 0, socket.MSG_DONTWAIT)
            decoder, start = self._decoder, time.monotonic()
            left = self.patience.left(decoder.announced if decoder.held else 0)
            self._poll.poll(1000 * min(_TICK, left))
            self.patience.waited(time.monotonic() - start, message_begun=decoder.held > 0)

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        while not self._decoded:
            self._decoded.extend(self._channel.take())
        return self._decoded.popleft()

    def abort(self, reason: str = "") -> None:
        """Take the connection for ended here, for this reason; what had come is still iterated over."""
        if reason:
            self._reason = ConnectionError(reason)
        with suppress(OSError):  # the peer has closed it already
            self._socket.shutdown(socket.SHUT_RD)

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
        except Exception as error:  # noqa: BLE001 - the scan is over, and nothing of this is used
            log.debug("the rest of the stream is not read: %s", error)

    def _drop(self, seconds: float) -> bool:
        """Receive once; return whether that was the end. What cannot be followed any more ends when nothing comes for a while."""
        is_lost = self._decoder.fault is not None
        self.patience.grant(min(seconds, _SILENT_SECONDS) if is_lost else seconds)
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
        Seconds in which the peer must take a message, besides those for its size; and all that is left, at the end.
    """

    def __init__(self, sock: socket.socket, *, account: Account | None = None, timeout: float | None = None) -> None:
        self._socket = sock.dup()
        self._timeout = timeout
        self._end: float | None = None
        self._account = account or Ledger().account("unbounded")
        self._channel: Channel[Sequence[Buffer]] = Channel(self._account)
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._loop, name="sender", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._socket.close()
            raise

    def _loop(self) -> None:
        try:
            for buffers in self._channel:
                send_buffers(self._socket, buffers, deadline=self._deadline(_size(buffers)))
        except OSError as error:
            self.error = error
            self._channel.stop()

    def _deadline(self, size: int) -> float | None:
        """Time by which so many bytes must be taken."""
        if self._timeout is None:
            return None
        deadline = time.monotonic() + self._timeout + size / BYTES_PER_SECOND
        return deadline if self._end is None else min(deadline, self._end)

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Queue an encoded message.

        Raises
        ------
        OSError
            Sending has failed before.
        """
        if not self._channel.put(buffers, OBJECT_BYTES + _size(buffers)):
            raise self.error or ConnectionError("the connection is closed")

    def finish(self, seconds: float | None = None) -> None:
        """Wait until everything is sent, or the peer has not taken it in time; at most ``seconds`` if they are given."""
        self._end = self._deadline(self._account.waiting)
        if seconds is not None:
            self._end = time.monotonic() + seconds
        self._channel.finish()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.abort()
            self._thread.join()
        self._socket.close()

    def abort(self) -> None:
        """Send nothing more, whatever waits, and let go of a peer that does not read."""
        self._channel.stop()
        with suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RDWR)


def set_options(sock: socket.socket) -> None:
    """Send what there is at once, and notice within minutes that a peer is gone without a word."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # not every system has them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def send_buffers(sock: socket.socket, buffers: Sequence[Buffer], *, deadline: float | None = None) -> None:
    """Send buffers one after another without joining them.

    Parameters
    ----------
    sock
        Connected socket; its time-out is changed where there is a deadline.
    buffers
        What to send.
    deadline
        Of ``time.monotonic``, by which all of it must be taken.

    Raises
    ------
    TimeoutError
        It was not.
    OSError
        The connection is lost.
    """
    pending = deque(memoryview(buffer).cast("B") for buffer in buffers if len(buffer))
    while pending:
        batch = [pending[index] for index in range(min(len(pending), _MAX_BUFFERS))]
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the peer did not read what was sent in time")
            sock.settimeout(left)
        sent = sock.sendmsg(batch)
        while sent:
            if sent >= len(pending[0]):
                sent -= len(pending.popleft())
            else:
                pending[0] = pending[0][sent:]
                sent = 0


def _size(buffers: Sequence[Buffer]) -> int:
    return sum(len(buffer) for buffer in buffers)
