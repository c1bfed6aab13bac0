"""One scan over one connection: handshake, pipeline, stream, close."""

import json
import logging
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any, BinaryIO

from ..engine import Engine
from ..gadgets.kspace import Item, Kspace
from ..gadgets.recon_data import from_kspace
from ..gadgets.scan import Scan
from ..pipelines import loader
from ..pipelines.loader import ExternalStep, GadgetStep, Pipeline
from ..wire import (
    Close,
    ConfigFile,
    ConfigScript,
    ErrorReport,
    Header,
    Message,
    ProtocolError,
    Query,
    Response,
    Text,
    encode,
)
from ..wire.errors import IsocenterError
from ..wire.items import Acquisition, AcquisitionBucket, DependencyReport, Image, ImageArray, ReconData, Waveform
from . import queries
from .external import FireStep, check_allowed, run_external
from .logs import ScanLog
from .preparation import plan_ahead, warm_up
from .settings import Settings
from .transport import Receiver, Sender

_DATA = (Acquisition, Waveform, Image, AcquisitionBucket, ReconData, ImageArray)
_TO_CLIENT = (Image, DependencyReport)
_TIMED_OTHERWISE = ("accumulate", "reconstruct")
"""Gadgets that mostly wait: the first for readouts, the second for the engine, whose time it notes itself."""
_NO_HEADER = (
    "<ismrmrdHeader><encoding>"
    "<encodedSpace><matrixSize><x>1</x><y>1</y><z>1</z></matrixSize>"
    "<fieldOfView_mm><x>1</x><y>1</y><z>1</z></fieldOfView_mm></encodedSpace>"
    "<reconSpace><matrixSize><x>1</x><y>1</y><z>1</z></matrixSize>"
    "<fieldOfView_mm><x>1</x><y>1</y><z>1</z></fieldOfView_mm></reconSpace>"
    "<encodingLimits/><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
)


class SessionError(IsocenterError):
    """The peer does not keep to the protocol."""


class Session:
    """Serves one connection from its first byte to its last. ``run`` returns when it is over and never raises.

    Parameters
    ----------
    sock
        Connected socket; closed at the end.
    settings
        Of the service.
    engine
        Runs the bundles.
    scan_id
        Appears in every line of the log.
    """

    def __init__(self, sock: socket.socket, settings: Settings, engine: Engine, scan_id: str) -> None:
        self.settings = settings
        self.engine = engine
        self.scan_id = scan_id
        self.log = ScanLog(scan_id)
        self._socket = sock
        self._spool = self._open_spool(scan_id)
        self._receiver = Receiver(
            sock,
            limits=settings.limits,
            capacity=settings.queue_bytes,
            timeout=settings.handshake_timeout,
            spool=self._spool,
        )
        self._messages = iter(self._receiver)
        self._sender = Sender(sock, capacity=settings.queue_bytes, timeout=settings.send_timeout)
        self._pipeline: Pipeline | None = None
        self._inside_gadgetron = False
        self._terminated = False
        self._closed_by_peer = False
        self._counts = {"acquisitions": 0, "images": 0, "not sent": 0}
        self._seconds: dict[str, float] = {}
        self._last_data = 0.0
        self._first_image = 0.0

    def _open_spool(self, scan_id: str) -> BinaryIO | None:
        if self.settings.spool is None:
            return None
        self.settings.spool.mkdir(parents=True, exist_ok=True)
        return (self.settings.spool / f"{scan_id}.stream").open("xb", buffering=0)

    def run(self) -> None:
        """Serve the connection."""
        start = time.perf_counter()
        try:
            self._serve()
        except IsocenterError as error:
            self._fail(str(error))
        except (ConnectionError, TimeoutError) as error:
            self.log.warning("the connection was lost: %s", error)
        except Exception as error:
            self.log.exception("reconstruction failed")
            self._fail(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        finally:
            self._end(time.perf_counter() - start)

    def abort(self) -> None:
        """End the session from another thread."""
        self._receiver.stop()

    def _end(self, seconds: float) -> None:
        self._receiver.stop()
        self._sender.finish()
        self._socket.close()
        fields: dict[str, Any] = {
            "pipeline": self._pipeline.name if self._pipeline else "",
            **{name: count for name, count in self._counts.items() if count},
            "MB": round(self._receiver.bytes_received / 1e6, 1),
            "seconds": round(seconds, 3),
        }
        if self._first_image and self._last_data:
            fields["last_readout_to_first_image_ms"] = round(1000 * (self._first_image - self._last_data), 2)
            fields["stages_ms"] = {name: round(1000 * value, 2) for name, value in self._seconds.items()}
        if self._spool is not None:
            self._spool.close()
            fields["spool"] = self._spool.name
        self.log.info("session ended", extra={"fields": fields})

    def _serve(self) -> None:
        self._pipeline = self._handshake_config()
        if self._pipeline is None:
            self._send(Close())
            return
        header = self._handshake_header()
        scan = Scan(
            _NO_HEADER if header is None else header,
            engine=self.engine,
            noise_folder=self.settings.noise_folder,
            device=self.engine.device,
            log=self.log,
            name=self.scan_id,
        )
        self._receiver.set_timeout(self.settings.idle_timeout)
        first = self._parameters(scan) if header is not None else None
        self.log.info("scan started", extra={"fields": {"pipeline": self._pipeline.name}})
        plan_ahead(self._pipeline, scan, self.engine)
        items: Iterator[Item] = self._items(scan, first)
        for step in self._pipeline.steps:
            items = self._chain(step, items, scan)
        for item in items:
            self._send_item(item)
        self._seconds |= scan.seconds
        self._finish(scan)

    def _handshake_config(self) -> Pipeline | None:
        """Read the configuration; None if the peer only asked a question or said goodbye."""
        for message in self._messages:
            if isinstance(message, ConfigFile):
                return self._find_pipeline(message.name)
            if isinstance(message, ConfigScript):
                self._terminated = message.terminated
                self._inside_gadgetron = loader.is_external_configuration(message.xml)
                pipeline = loader.parse(message.xml, "configuration", self.settings.pipeline_folders)
                return self._check_programs(pipeline, sent=True)
            if isinstance(message, Close):
                self._closed_by_peer = True
                return None
            if not self._answer(message):
                raise SessionError(f"{_name(message)} came before the configuration; send a configuration first")
        self._raise_end("before the configuration")
        return None

    def _find_pipeline(self, name: str) -> Pipeline:
        folders = self.settings.pipeline_folders
        name = self.settings.aliases.get(name, name)
        if name in self.settings.fire_modules:
            return Pipeline(name, (FireStep(self.settings.fire_modules[name], name),))  # type: ignore[arg-type]
        try:
            pipeline = loader.load(name, folders)
        except loader.PipelineError:
            fallback = self.settings.default_pipeline
            if fallback is None or {name, f"{name}.xml"} & loader.available(folders).keys():
                raise
            self.log.warning("configuration %r is not known: using %s", name[:80], fallback)
            pipeline = loader.load(fallback, folders)
        return self._check_programs(pipeline, sent=False)

    def _check_programs(self, pipeline: Pipeline, *, sent: bool) -> Pipeline:
        for step in pipeline.steps:
            if isinstance(step, ExternalStep):
                check_allowed(step, self.settings, sent=sent)
        return pipeline

    def _handshake_header(self) -> bytes | None:
        """Read the MRD header; None if the peer closes instead, as clients do that only ask for stored data."""
        for message in self._messages:
            if isinstance(message, Header):
                self._terminated = self._terminated or message.terminated
                return message.xml
            if isinstance(message, Close):
                self._closed_by_peer = True
                return None
            if isinstance(message, ConfigFile | ConfigScript):
                raise SessionError("a second configuration came; only one is accepted")
            if not self._answer(message):
                raise SessionError(f"{_name(message)} came before the MRD header; send the header first")
        self._raise_end("before the MRD header")
        return None

    def _parameters(self, scan: Scan) -> Message | None:
        """Warm up, take FIRE's JSON parameters if they come, and return the first message of the stream."""
        assert self._pipeline is not None
        warm_up(self._pipeline, scan, self.engine)
        for message in self._messages:
            if isinstance(message, Text) and (parameters := _json_parameters(message.text)) is not None:
                scan.parameters.update(parameters)
                name = parameters.get("customconfig") or parameters.get("config")
                if name:
                    self._pipeline = self._find_pipeline(str(name))
                    warm_up(self._pipeline, scan, self.engine)
            elif not self._answer(message):
                return message
        return None

    def _items(self, scan: Scan, first: Message | None) -> Iterator[Item]:
        """Data messages until the end of the stream; others are answered or refused."""
        if self._closed_by_peer:
            return
        for message in self._messages if first is None else chain((first,), self._messages):
            if isinstance(message, _DATA):
                self._counts["acquisitions"] += isinstance(message, Acquisition)
                self._last_data = time.perf_counter()
                yield message
            elif isinstance(message, Close):
                self._closed_by_peer = True
                return
            elif not self._answer(message):
                raise SessionError(f"{_name(message)} is not accepted within the stream")
        scan.interrupted = True
        reason = self._receiver.error or "the connection ended without CLOSE"
        scan.report("interrupted", f"the scan was interrupted: {reason}")

    def _answer(self, message: Message) -> bool:
        """Answer a question, note a text; False for any other message."""
        if isinstance(message, Query):
            answer = queries.answer(message.question, self.engine)
            self._send(Response(answer, message.correlation_id))
            return True
        if isinstance(message, Text):
            self.log.debug("the client says something", extra={"fields": {"characters": len(message.text)}})
            return True
        return False

    def _chain(self, step: Any, items: Iterator[Item], scan: Scan) -> Iterator[Item]:
        if isinstance(step, GadgetStep):
            if step.gadget.name in _TIMED_OTHERWISE:
                return step.gadget(items, scan, **step.options)
            return self._timed(step, items, scan)
        return run_external(step, items, scan, self.settings, self._say)

    def _say(self, text: str) -> None:
        """Pass on what an external program has for the user; Gadgetron takes no text."""
        if self._inside_gadgetron:
            self.log.info("an external program says: %s", text)
        else:
            self._send(Text(text, self._terminated))

    def _timed(self, step: GadgetStep, items: Iterator[Item], scan: Scan) -> Iterator[Item]:
        """Run a gadget and add up the time that it takes, without the time of the steps before it."""
        name = step.gadget.name
        waited = 0.0

        def upstream() -> Iterator[Item]:
            nonlocal waited
            while True:
                start = time.perf_counter()
                item = next(items, None)
                waited += time.perf_counter() - start
                if item is None:
                    return
                yield item

        output = step.gadget(upstream(), scan, **step.options)
        while True:
            start, waited = time.perf_counter(), 0.0
            item = next(output, None)
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start - waited
            if item is None:
                return
            yield item

    def _send_item(self, item: Item) -> None:
        if isinstance(item, Kspace) and self._inside_gadgetron:
            item = from_kspace(item)
        accepted = _DATA if self._inside_gadgetron else _TO_CLIENT
        if not isinstance(item, accepted):
            self._counts["not sent"] += 1
            return
        self._send(item)
        if isinstance(item, Image):
            self._counts["images"] += 1
            self._first_image = self._first_image or time.perf_counter()

    def _send(self, message: Message) -> None:
        self._sender.send(encode(message))

    def _finish(self, scan: Scan) -> None:
        """Say what went wrong on the way, then close."""
        problems = scan.problem_messages()
        if not self._counts["images"] and self._makes_images():
            readouts = self._counts["acquisitions"]
            problems.append(
                f"no image was made from {readouts} acquisitions" if readouts else "the scan ended without any data"
            )
        nothing_made = bool(problems) and not self._counts["images"]
        if nothing_made and self._inside_gadgetron:
            self._send(ErrorReport("; ".join(problems)))
        elif not self._inside_gadgetron:
            for problem in problems:
                self._tell("ERROR" if nothing_made else "WARNING", problem)
        self._drain()
        self._send(Close())

    def _tell(self, severity: str, text: str) -> None:
        """Send a line that a scanner's client shows."""
        name = self._pipeline.name if self._pipeline else "handshake"
        self._send(Text(f"[Isocenter/{name}] {severity}: {text}\n", self._terminated))

    def _makes_images(self) -> bool:
        assert self._pipeline is not None
        return any(isinstance(step, GadgetStep) and step.gadget.name == "reconstruct" for step in self._pipeline.steps)

    def _fail(self, reason: str) -> None:
        """Tell the peer in the way that it can show, let it finish sending, then close."""
        self.log.error("%s", reason)
        with suppress(OSError):
            if self._inside_gadgetron:
                self._send(ErrorReport(f"[Isocenter] {reason}"))
                self._send(Close())
                self._drain()
            else:
                self._tell("ERROR", reason)
                self._drain()
                self._send(Close())

    def _drain(self) -> None:
        """Read on until the peer closes, so that the reason reaches it: unread data would reset the connection."""
        # another thread may still read ahead for a gadget
        self._messages = iter(self._receiver)
        if self._closed_by_peer:
            return
        deadline = time.monotonic() + self.settings.drain_timeout
        self._receiver.set_timeout(self.settings.drain_timeout)
        for message in self._messages:
            if isinstance(message, Close) or time.monotonic() > deadline:
                return
        if isinstance(self._receiver.error, ProtocolError):
            self._drain_bytes(deadline)

    def _drain_bytes(self, deadline: float) -> None:
        """The stream cannot be followed any more: read bytes until the peer is silent or gone."""
        self._socket.settimeout(min(1.0, self.settings.drain_timeout))
        with suppress(OSError):
            while time.monotonic() < deadline and self._socket.recv(2**20):
                continue

    def _raise_end(self, when: str) -> None:
        error = self._receiver.error
        if isinstance(error, ProtocolError):
            raise error
        if error is None and self._receiver.bytes_received == 0:
            self.log.debug("the connection was closed without a byte")
            raise ConnectionError("closed without a byte")
        raise ConnectionError(f"ended {when}: {error or 'the peer closed the connection'}")


def _name(message: Message) -> str:
    return f"a message of type {type(message).__name__}"


def _json_parameters(text: str) -> Mapping[str, Any] | None:
    """Parameters of FIRE's JSON message; None if the text is something else."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    parameters = content.get("parameters") if isinstance(content, dict) else None
    return parameters if isinstance(parameters, dict) else ({} if isinstance(content, dict) else None)


logging.getLogger("isocenter").addHandler(logging.NullHandler())
