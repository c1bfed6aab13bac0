"""Other programs as steps of a pipeline: started or connected to as Gadgetron does it, and FIRE modules."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

from ..flow.channel import Channel, Stopped
from ..gadgets.kspace import Item, Kspace, size_of
from ..gadgets.recon_data import from_kspace
from ..gadgets.scan import Scan
from ..pipelines.loader import ExternalStep, FireStep
from ..wire import Close, ConfigFile, ConfigScript, ErrorReport, Header, Message, Text, encode
from ..wire.errors import IsocenterError
from ..wire.header import write_header
from ..wire.items import Acquisition, AcquisitionBucket, Image, ImageArray, ReconData, Waveform
from .settings import Settings
from .transport import Receiver, send_buffers

log = logging.getLogger("isocenter.external")

_FORWARDED = (Acquisition, Waveform, Image, ReconData, ImageArray, AcquisitionBucket)
_CONNECT_ATTEMPTS = 10
_CONNECT_SECONDS = 2.0
_START_SECONDS = 60.0


class ExternalError(IsocenterError):
    """An external program could not be reached, or failed."""

    kind = "external"


def run_external(
    step: ExternalStep | FireStep,
    items: Iterator[Item],
    scan: Scan,
    settings: Settings,
    say: Callable[[str], None],
) -> Iterator[Item]:
    """Send items through an external program and yield what it returns; what it cannot take goes on directly.

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
        It cannot be reached, reports an error, or ends before it says so.
    """
    header = Header(write_header(scan.header))
    if isinstance(step, FireStep):
        name = step.module
        opening: list[Message] = [ConfigFile(step.config), header]
        if scan.parameters:
            opening.append(Text(json.dumps({"parameters": dict(scan.parameters)})))
        sock, process = _start([sys.executable, "-m", "isocenter.service.fire"], [step.module], settings)
    else:
        opening = [ConfigScript(step.configuration), header]
        if step.module:
            name = f"{step.module}.{step.target}"
            sock, process = _start([sys.executable, "-m", "gadgetron"], [step.module, step.target], settings)
        else:
            name, process = f"{step.address}:{step.port}", None
            sock = _connect(step.address, step.port)
    try:
        yield from _Exchange(name, sock, scan, settings).run(opening, items, say)
    finally:
        sock.close()
        if process is not None:
            _end(process)


def _start(
    command: list[str], arguments: list[str], settings: Settings
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Listen on a free port, start the program with it, and wait until it connects."""
    path = os.pathsep.join([*map(str, settings.python_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with socket.create_server(("localhost", 0)) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(  # noqa: S603 - only what the settings list gets here
            [*command, str(port), *arguments],
            env={**os.environ, "PYTHONPATH": path, "GADGETRON_EXTERNAL_LOG_LEVEL": "WARNING"},
            stdout=sys.stderr,
        )
        listener.settimeout(0.2)
        waited = 0.0
        while waited < _START_SECONDS:
            try:
                return listener.accept()[0], process
            except TimeoutError:
                waited += 0.2
            if process.poll() is not None:
                raise ExternalError(
                    f"external program {' '.join(arguments)} ended with status {process.returncode} before it connected"
                )
    _end(process)
    raise ExternalError(f"external program {' '.join(arguments)} did not connect within {_START_SECONDS:g} seconds")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _connect(address: str, port: int) -> socket.socket:
    """Connect as Gadgetron does: ten attempts, two seconds apart."""
    for attempt in range(_CONNECT_ATTEMPTS):
        try:
            sock = socket.create_connection((address, port), timeout=_CONNECT_SECONDS)
        except OSError as error:
            if attempt == _CONNECT_ATTEMPTS - 1:
                raise ExternalError(f"external program at {address}:{port} cannot be reached: {error}") from error
            threading.Event().wait(_CONNECT_SECONDS)
        else:
            return sock
    raise AssertionError


class _Exchange:
    """Sends to a program in one thread, takes what it returns in another, and yields both in the thread of the scan."""

    def __init__(self, name: str, sock: socket.socket, scan: Scan, settings: Settings) -> None:
        self._name = name
        self._socket = sock
        self._receiver = Receiver(sock, limits=settings.limits, account=scan.ledger.account("from a program"))
        self._arrivals: Channel[Item | Message] = Channel(scan.ledger.account("past a program"))

    def run(self, opening: list[Message], items: Iterator[Item], say: Callable[[str], None]) -> Iterator[Item]:
        threads = (lambda: self._feed(self._socket.dup(), opening, items), self._collect)
        for work in threads:
            threading.Thread(target=work, name="external", daemon=True).start()
        ends = 0
        try:
            while ends < len(threads):
                arrival = self._arrivals.take()
                if isinstance(arrival, Close):
                    ends += 1
                elif isinstance(arrival, Text):
                    say(arrival.text)
                elif isinstance(arrival, ErrorReport):
                    raise ExternalError(f"external program {self._name} failed: {arrival.text}")
                else:
                    yield arrival  # type: ignore[misc]
        finally:
            self._arrivals.stop()
            self._receiver.stop()

    def _feed(self, sock: socket.socket, opening: list[Message], items: Iterator[Item]) -> None:
        """Send everything that the program can take; the rest goes on directly."""
        try:
            for message in opening:
                send_buffers(sock, encode(message))
            for item in items:
                data = from_kspace(item) if isinstance(item, Kspace) else item
                if isinstance(data, _FORWARDED):
                    send_buffers(sock, encode(data))
                elif not self._arrivals.put(item, size_of(item)):
                    return
            send_buffers(sock, encode(Close()))
        except (ConnectionError, TimeoutError) as error:
            # it stopped reading; what it sends, or that it ended, says why
            log.debug("external program %s takes no more: %s", self._name, error)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that runs the scan
            self._arrivals.finish(error)
        finally:
            sock.close()
        self._arrivals.put(Close())

    def _collect(self) -> None:
        """Take what the program returns until it closes."""
        try:
            for message in self._receiver:
                if not self._arrivals.put(message, _size(message)) or isinstance(message, Close):
                    return
        except Stopped:
            return
        reason = self._receiver.error or "it ended without CLOSE"
        self._arrivals.finish(ExternalError(f"external program {self._name}: {reason}"))


def _size(message: Message) -> int:
    return size_of(message) if isinstance(message, _FORWARDED) else 0
