"""Other programs as steps of a pipeline: started or connected to as Gadgetron does it, and FIRE modules."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

from ..flow.channel import Channel, Stopped
from ..gadgets.kspace import Item, Kspace, size_of
from ..gadgets.recon_data import from_kspace
from ..gadgets.scan import Scan
from ..pipelines.loader import ExternalStep, FireStep
from ..wire import Close, ConfigFile, ConfigScript, ErrorReport, Header, Message, Text, encode
from ..wire.conversation import DATA
from ..wire.cursor import OBJECT_BYTES
from ..wire.header import write_header
from ..wire.items import (
    Acquisition,
    AcquisitionBucket,
    DependencyReport,
    DicomFile,
    Feedback,
    Image,
    ImageArray,
    Interruption,
    ReconData,
    Waveform,
)
from .program import ExternalError, Program
from .settings import Settings
from .transport import Receiver, send_buffers

_FORWARDED = (Acquisition, Waveform, Image, ReconData, ImageArray, AcquisitionBucket)
_RETURNED = (*DATA, DependencyReport, Feedback)
_TICK = 0.25
_HUNG = "external program hangs"


def process_externally(
    step: ExternalStep | FireStep,
    items: Iterator[Item],
    scan: Scan,
    settings: Settings,
    say: Callable[[str], None],
) -> Iterator[Item]:
    """Send items through an external program and yield what it returns; what it cannot take goes on directly.

    A program that fails on the way ends the stream with an ``Interruption``: the steps after it finish what they have.

    Parameters
    ----------
    step
        The program.
    items, scan
        As for a gadget.
    settings
        Of the service.
    say
        Called with text that the program has for the user.

    Raises
    ------
    ExternalError
        It cannot be started or reached.
    """
    header = Header(write_header(scan.header))
    if isinstance(step, FireStep):
        program = Program(f"FIRE module {step.module}", scan, settings, is_fire=True)
        opening: list[Message] = [ConfigFile(step.config), header]
        if scan.parameters:
            opening.append(Text(json.dumps({"parameters": dict(scan.parameters)})))
    else:
        where = f"{step.module}.{step.target}" if step.module else f"{step.address}:{step.port}"
        program = Program(f"external program {where}", scan, settings)
        opening = [ConfigScript(step.configuration), header]
    ended, failure = False, ""
    try:
        exchange = _Exchange(program, _reach(program, step), scan, settings)
        yield from exchange.process(opening, items, say)
        ended = True
    except _FailedError as error:
        ended, failure = error.kind != _HUNG, str(error)
    finally:
        status = program.close(patiently=ended and not program.was_ended)
    if status and not failure:
        failure = f"{program.name} ended with status {status}"
    if failure:
        yield Interruption(failure)


def _reach(program: Program, step: ExternalStep | FireStep) -> socket.socket:
    if isinstance(step, FireStep):
        return program.start("isocenter.service.fire", [step.module])
    if step.module:
        return program.start("gadgetron", [step.module, step.target])
    return program.connect(step.address, step.port)


class _FailedError(ExternalError):
    """A program failed while it was at work."""


class _Exchange:
    """Sends to a program in one thread, takes what it returns in another, and yields both in the thread of the scan."""

    def __init__(self, program: Program, sock: socket.socket, scan: Scan, settings: Settings) -> None:
        self._program = program
        self._scan = scan
        self._settings = settings
        self._socket = sock.dup()  # the one that sends may still use it when the other is closed
        self._receiver = Receiver(sock, limits=settings.limits, account=scan.ledger.account("from a program"))
        self._arrivals: Channel[Item | Message] = Channel(scan.ledger.account("past a program"))
        self._patience = settings.program_timeout
        self._waited = 0.0
        self._send_began = 0.0
        self._all_sent = 0.0

    def process(self, opening: list[Message], items: Iterator[Item], say: Callable[[str], None]) -> Iterator[Item]:
        threads = (lambda: self._feed(opening, items), self._collect)
        ends = 0
        try:
            for work in threads:
                threading.Thread(target=work, name="external", daemon=True).start()
            while ends < len(threads):
                arrival = self._take()
                if isinstance(arrival, Close):
                    ends += 1
                elif isinstance(arrival, Text):
                    say(arrival.text)
                elif isinstance(arrival, ErrorReport):
                    raise self._failure(arrival)
                elif isinstance(arrival, (*_RETURNED, Kspace, Interruption)):
                    yield arrival
                else:
                    raise _FailedError(f"{self._program.name} sent a message that has no place here")
        finally:
            self._arrivals.stop()
            self._receiver.stop()

    def _failure(self, report: ErrorReport) -> ExternalError:
        """Return what is said of an error that a program reports: its own text may hold anything."""
        name, scan = self._program.name, self._scan
        scan.log.error("%s reports an error: %s", name, report.text if self._program.is_fire else repr(report.text))
        return _FailedError(f"{name} failed; the service's log tells more about scan {scan.name}")

    def _take(self) -> Item | Message:
        """Wait for what comes next, as long as the program may keep the scan waiting."""
        while not self._arrivals.is_closed():
            self._check_patience()
            start = time.monotonic()
            try:
                return self._arrivals.take(timeout=_TICK)
            except TimeoutError:
                continue
            finally:
                if self._send_began:
                    self._waited += time.monotonic() - start
        return self._arrivals.take()

    def _check_patience(self) -> None:
        """Add up the time in which nothing came while the program took nothing, and that since it has everything.

        What the steps after it need does not count; but one message may not take longer than all together.
        """
        now, began = time.monotonic(), self._send_began
        waited = self._waited + (now - self._all_sent if self._all_sent else 0.0)
        if max(waited, now - began if began else 0.0) > self._patience:
            text = f"{self._program.name} has kept the scan waiting for {self._patience:g} seconds"
            raise _FailedError(text, kind=_HUNG)

    def _feed(self, opening: list[Message], items: Iterator[Item]) -> None:
        """Send everything that the program can take; the rest goes on directly."""
        try:
            with self._socket:
                self._feed_all(opening, items)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that runs the scan
            self._arrivals.finish(error)
        self._all_sent = time.monotonic()
        self._arrivals.put(Close())

    def _feed_all(self, opening: list[Message], items: Iterator[Item]) -> None:
        if not all(self._send(message) for message in opening):
            return
        for item in items:
            data = from_kspace(item) if isinstance(item, Kspace) else item
            if isinstance(data, _FORWARDED):
                if not self._send(data):
                    return
                continue
            if isinstance(item, Interruption):  # whoever waits for images may be gone
                self._patience = min(self._patience, self._settings.shutdown_timeout)
            if not self._arrivals.put(item, size_of(item)):
                return
        self._send(Close())

    def _send(self, message: Message) -> bool:
        """Send; False where the program takes no more: what it sends, or that it ended, says why."""
        self._send_began = time.monotonic()
        try:
            send_buffers(self._socket, encode(message))
        except OSError as error:
            self._scan.log.debug("%s takes no more: %s", self._program.name, error)
            return False
        finally:
            self._send_began = 0.0
        return True

    def _collect(self) -> None:
        """Take what the program returns until it closes."""
        try:
            for message in self._receiver:
                if not self._arrivals.put(message, _size(message)) or isinstance(message, Close):
                    return
        except Stopped:
            return
        reason = "it was ended" if self._program.was_ended else self._receiver.error or "it ended without CLOSE"
        self._arrivals.finish(_FailedError(f"{self._program.name}: {reason}"))


def _size(message: Message) -> int:
    """Bytes that a message holds while it waits, at least those of the object."""
    if isinstance(message, Text | ErrorReport):
        return OBJECT_BYTES + len(message.text)
    if isinstance(message, DicomFile):
        return OBJECT_BYTES + len(message.dicom)
    return OBJECT_BYTES + (size_of(message) if isinstance(message, _FORWARDED) else 0)
