"""The replay client: sends a recorded scan as a scanner would and collects what comes back."""

import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import ismrmrd
import numpy as np

from ..flow.channel import Stopped
from ..flow.interruption import raise_interruption
from ..service.transport import Receiver, send_buffers, set_options
from ..wire import Close, ConfigFile, ConfigScript, ErrorReport, Header, Message, Query, Response, Text, encode
from ..wire.arrays import Buffer, as_bytes
from ..wire.compression import compress_nhlbi, compress_zfp
from ..wire.cursor import U32
from ..wire.errors import IsocenterError
from ..wire.items import Acquisition, DependencyReport, DicomFile, Feedback, Image, Waveform
from ..wire.streams import RecordedStream
from .silence import Silence

TICK_SECONDS = 0.0025
_CONNECT_RETRY_SECONDS = 0.1
_JOIN_SECONDS = 0.25
_STOP_SECONDS = 2.0
"""For what has arrived, but is not decoded yet, when a session is stopped."""


class ClientError(IsocenterError):
    """The server cannot be reached, or ended the session before it was done."""

    kind = "client"


@dataclass
class Compression:
    """How samples are compressed: to a number of bits, or to a tolerance relative to the noise level."""

    method: Literal["nhlbi", "zfp"] = "nhlbi"
    bits: int | None = None
    tolerance: float | None = None


@dataclass
class ReplayResult:
    """What came back, and when. Times are in seconds.

    Attributes
    ----------
    images
        In the order of arrival.
    texts
        What the server had to say.
    reports
        Answers about dependencies.
    responses
        Answers to queries.
    files, feedback
        DICOM files, and what the sequence was told.
    arrivals
        Time of each image after the last readout was sent; negative while the scan was running.
    send_seconds
        From the first to the last readout.
    """

    images: list[Image] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    reports: list[DependencyReport] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    files: list[DicomFile] = field(default_factory=list)
    feedback: list[Feedback] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    send_seconds: float = 0.0
    acquisitions: int = 0
    bytes_sent: int = 0

    @property
    def failed(self) -> bool:
        """Whether the server reported an error."""
        return any("ERROR" in text for text in self.texts)


def connect(address: str, port: int, timeout: float) -> socket.socket:
    """Connect, trying again until the time is over, since a service may be starting.

    Raises
    ------
    ClientError
        Nothing accepts the connection.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            sock = socket.create_connection((address, port), timeout=max(0.1, deadline - time.monotonic()))
        except OSError as error:
            if time.monotonic() + _CONNECT_RETRY_SECONDS > deadline:
                raise ClientError(
                    f"cannot connect to {address}:{port} within {timeout:g} seconds: {error.strerror or error}"
                ) from error
            time.sleep(_CONNECT_RETRY_SECONDS)
        else:
            sock.settimeout(None)
            set_options(sock)
            return sock


class Client:
    """One session with a server.

    Parameters
    ----------
    sock
        Connected socket, for instance from ``connect``.
    on_image, on_text
        Called as images and texts arrive.
    silence
        Seconds that the server may be silent while it is waited for; None: it is waited for until the connection ends.
    on_wait
        Told what is waited for when that takes longer than a few seconds.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_image: Callable[[Image], None] | None = None,
        on_text: Callable[[str], None] | None = None,
        silence: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self._socket = sock
        self.result: ReplayResult = ReplayResult()
        self._on_image = on_image or (lambda _image: None)
        self._on_text = on_text or (lambda _text: None)
        self._times: list[float] = []
        self._last_sent = 0.0
        self._closed = False
        self._receiver = Receiver(sock)
        self._failure: BaseException | None = None
        self._silence: Silence | None = None
        if silence is not None:
            self._silence = Silence(silence, self._moved, on_wait or (lambda _text: None), self._give_up)
        self._thread = threading.Thread(target=self._collect, name="collector", daemon=True)
        self._thread.start()

    def _moved(self) -> int:
        return self.result.bytes_sent + self._receiver.bytes_received

    def _wait_for(self, what: str) -> None:
        if self._silence is not None:
            self._silence.waits_for = what

    def _give_up(self, reason: str) -> None:
        """End the session from the thread that watches it; whoever sends or waits for answers goes on at once."""
        self._failure = ClientError(reason)
        with suppress(OSError):  # it has ended meanwhile
            self._socket.shutdown(socket.SHUT_RDWR)

    def _collect(self) -> None:
        try:
            for message in self._receiver:
                self._take(message)
                if self._closed:
                    return
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - raised again by finish
            self._failure = error

    def _take(self, message: Message) -> None:
        if isinstance(message, Image):
            self._times.append(time.perf_counter())
            self.result.images.append(message)
            self._on_image(message)
        elif isinstance(message, Text):
            self.result.texts.append(message.text)
            self._on_text(message.text)
        elif isinstance(message, ErrorReport):
            self.result.texts.append(f"ERROR: {message.text}")
            self._on_text(self.result.texts[-1])
        elif isinstance(message, DependencyReport):
            self.result.reports.append(message)
        elif isinstance(message, DicomFile):
            self.result.files.append(message)
        elif isinstance(message, Feedback):
            self.result.feedback.append(message)
        elif isinstance(message, Response):
            self.result.responses.append(message.answer)
        elif isinstance(message, Close):
            self._closed = True

    def send(self, message: Message) -> None:
        """Send one message."""
        self._send(encode(message))

    def _send(self, buffers: list[Buffer]) -> None:
        raise_interruption()
        self._wait_for("the server to read what is sent")
        send_buffers(self._socket, buffers)
        self._wait_for("")
        self.result.bytes_sent += sum(len(buffer) for buffer in buffers)

    def send_recorded(self, data: bytes, acquisitions: int) -> None:
        """Send whole messages as they were recorded, among them this many acquisitions."""
        self._send([data])
        self.result.acquisitions += acquisitions
        self._last_sent = time.perf_counter()

    def send_scan(
        self,
        items: Iterable[Acquisition | Waveform],
        *,
        realtime: bool = False,
        compression: Compression | None = None,
        noise_level: float = 1.0,
        on_acquisition: Callable[[], None] | None = None,
    ) -> None:
        """Send readouts and waveforms.

        Parameters
        ----------
        items
            In the order of the scan.
        realtime
            Keep to the acquisitions' time stamps (ticks of 2.5 ms).
        compression
            Compress the samples of acquisitions.
        noise_level
            What the tolerance is relative to.
        on_acquisition
            Called after each readout is sent.
        """
        start = time.perf_counter()
        for item in _paced(items) if realtime else items:
            if isinstance(item, Acquisition):
                self._send(_encode_compressed(item, compression, noise_level) if compression else encode(item))
                self.result.acquisitions += 1
                self._last_sent = time.perf_counter()
                if on_acquisition:
                    on_acquisition()
            else:
                self._send(encode(item))
        self.result.send_seconds = (self._last_sent or start) - start

    def _join(self, timeout: float | None) -> None:
        """Wait for what comes back, for a moment at a time, as whoever asks to end it must be heard."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while self._thread.is_alive() and (left := end - time.monotonic()) > 0:
            raise_interruption()
            self._thread.join(min(left, _JOIN_SECONDS))

    def _end_watch(self) -> None:
        if self._silence is not None:
            self._silence.close()

    def interrupt(self) -> None:
        """End the stream without CLOSE, as a scan ends that is cut off; what comes back is still received."""
        self._socket.shutdown(socket.SHUT_WR)

    def stop(self) -> ReplayResult:
        """End the session at once, and return what has come; nothing happens to one that has ended."""
        self._end_watch()
        self._receiver.abort()
        self._thread.join(_STOP_SECONDS)
        self._receiver.stop()
        self._thread.join(_STOP_SECONDS)
        self._socket.close()
        return self.result

    def finish(self, *, timeout: float | None = None, close: bool = True) -> ReplayResult:
        """Send CLOSE, wait for the server's, and return what came.

        Parameters
        ----------
        timeout
            Seconds to wait.
        close
            Whether CLOSE is still to be sent.

        Raises
        ------
        ClientError
            The server ended the connection without CLOSE, or sent something that is no message.
        """
        self._last_sent = self._last_sent or time.perf_counter()
        try:
            if close:
                self.send(Close())
        except OSError:
            self._failure = self._failure or ClientError("the server closed the connection while the scan was sent")
        readouts = self.result.acquisitions
        self._wait_for(f"the server's answer{f' to {readouts} readouts' if readouts else ''}")
        self._join(timeout)
        self._end_watch()
        self._receiver.stop()
        self._socket.close()
        self.result.arrivals = [moment - self._last_sent for moment in self._times]
        if self._failure is not None:
            raise self._failure
        if not self._closed:
            reason = self._receiver.error or "the server ended the connection without CLOSE"
            texts = "".join(self.result.texts)
            raise ClientError(
                f"the session failed: {reason}" + (f" (the server said: {texts.strip()})" if texts else "")
            )
        return self.result


def replay(
    client: Client,
    header: bytes,
    items: Iterable[Acquisition | Waveform],
    config: ConfigFile | ConfigScript,
    *,
    parameters: str | None = None,
    realtime: bool = False,
    compression: Compression | None = None,
    noise_level: float = 1.0,
    on_acquisition: Callable[[], None] | None = None,
) -> ReplayResult:
    """Send one whole scan and return what came back.

    A server that ends the session early is still heard: what it said is in the result or in the error.
    """
    try:
        client.send(config)
        client.send(Header(header))
        if parameters is not None:
            client.send(Text(parameters))
        client.send_scan(
            items, realtime=realtime, compression=compression, noise_level=noise_level, on_acquisition=on_acquisition
        )
    except OSError:
        return client.finish()
    return client.finish()


def replay_stream(
    client: Client,
    stream: RecordedStream,
    *,
    configuration: ConfigFile | ConfigScript | None = None,
    parameters: str | None = None,
    on_acquisition: Callable[[], None] = lambda: None,
) -> ReplayResult:
    """Send a recorded stream byte by byte as it came, whole messages only, and return what came back.

    Parameters
    ----------
    client, stream
        Who sends what.
    configuration
        Takes the place of the stream's.
    parameters
        FIRE's JSON, sent after the header.
    on_acquisition
        Called after each readout is sent.
    """
    opening = stream.configuration if configuration is None else b"".join(encode(configuration))
    try:
        client.send_recorded(opening + stream.header, 0)
        if parameters is not None:
            client.send(Text(parameters))
        for piece, messages in stream.pieces():
            acquisitions = sum(isinstance(message, Acquisition) for message in messages)
            client.send_recorded(piece, acquisitions)
            for _ in range(acquisitions):
                on_acquisition()
        if stream.is_interrupted:
            client.interrupt()
    except OSError:
        return client.finish()  # a server that ends the session early is still heard
    return client.finish(close=not stream.is_closed and not stream.is_interrupted)


def ask(sock: socket.socket, question: str, silence: float | None = None) -> str:
    """Ask a server a question (message 6) and return its answer; ``silence`` is that of ``Client``."""
    client = Client(sock, silence=silence)
    client.send(Query(question, 1))
    responses = client.finish().responses
    if not responses:
        raise ClientError(f"the server did not answer {question!r}")
    return responses[0]


NOISE_QUERY = """<?xml version="1.0" encoding="utf-8"?>
<gadgetronStreamConfiguration xmlns="http://gadgetron.sf.net/gadgetron">
  <writer><slot>1019</slot><dll>gadgetron_mricore</dll><classname>DependencyQueryWriter</classname></writer>
  <gadget><name>NoiseSummary</name><dll>gadgetron_mricore</dll><classname>NoiseSummaryGadget</classname>
    <property><name>noise_file</name><value>{name}</value></property></gadget>
</gadgetronStreamConfiguration>
"""


def noise_statistics(sock: socket.socket, measurement_id: str, silence: float | None = None) -> dict[str, str]:
    """Ask a server for the noise statistics of an earlier scan, empty if it has none; ``silence`` is that of ``Client``."""
    client = Client(sock, silence=silence)
    client.send(ConfigScript(NOISE_QUERY.format(name=f"GadgetronNoiseCovarianceMatrix_{measurement_id}").encode()))
    reports = client.finish().reports
    return reports[0].values if reports and reports[0].values.get("status") == "success" else {}


def _paced(items: Iterable[Acquisition | Waveform]) -> Iterator[Acquisition | Waveform]:
    """Hold every acquisition back until its time since the first one has passed."""
    start, first = time.perf_counter(), None
    for item in items:
        if isinstance(item, Acquisition):
            stamp = item.acquisition_time_stamp
            first = stamp if first is None else first
            delay = (stamp - first) * TICK_SECONDS - (time.perf_counter() - start)
            if delay > 0:
                time.sleep(delay)
        yield item


def _encode_compressed(acquisition: Acquisition, compression: Compression, noise_level: float) -> list[Buffer]:
    header = acquisition.getHead()
    data = np.ascontiguousarray(acquisition.data, np.complex64)
    tolerance = None if compression.tolerance is None else compression.tolerance * noise_level
    if compression.method == "zfp":
        header.set_flag(ismrmrd.ACQ_COMPRESSION1)
        blob = compress_zfp(data, tolerance or 0.0)
    else:
        header.set_flag(ismrmrd.ACQ_COMPRESSION2)
        blob = compress_nhlbi(data, bits=compression.bits, tolerance=tolerance)
    head = encode(acquisition)[0][:2]
    return [bytes(head) + bytes(header), as_bytes(acquisition.traj), U32.pack(len(blob)) + blob]
