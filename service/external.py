"""Other programs as steps of a pipeline: started or connected to as Gadgetron does it, and FIRE modules."""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import ismrmrd.xsd

from ..gadgets.kspace import Item, Kspace
from ..gadgets.recon_data import from_kspace
from ..gadgets.scan import Scan
from ..pipelines.loader import ExternalStep, PipelineError
from ..wire import Close, ConfigFile, ConfigScript, ErrorReport, Header, Message, Text, encode
from ..wire.errors import IsocenterError
from ..wire.items import Acquisition, AcquisitionBucket, Image, ImageArray, ReconData, Waveform
from .settings import Settings
from .transport import Receiver, send_buffers

_FORWARDED = (Acquisition, Waveform, Image, ReconData, ImageArray, AcquisitionBucket)
_CONNECT_ATTEMPTS = 10
_CONNECT_SECONDS = 2.0
_START_SECONDS = 60.0


class ExternalError(IsocenterError):
    """An external program could not be reached, or failed."""


@dataclass(frozen=True)
class FireStep:
    """A FIRE module's ``process(connection, config, metadata)``, run in a process of its own."""

    module: str
    config: str


def check_allowed(step: ExternalStep, settings: Settings, *, sent: bool) -> None:
    """Refuse programs that the site does not list: a peer never names code, and a sent pipeline never names an address.

    Raises
    ------
    PipelineError
        The program is not listed in the settings.
    """
    if step.module:
        name = f"{step.module}.{step.target}"
        if name not in settings.handlers:
            raise PipelineError(f"external module {name!r} is not listed under 'handlers' in the service's settings")
    elif sent and f"{step.address}:{step.port}" not in settings.connect:
        raise PipelineError(
            f"external address {step.address}:{step.port} is not listed under 'connect' in the service's settings"
        )


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
    header = Header(ismrmrd.xsd.ToXML(scan.header, encoding="utf-8").encode())
    if isinstance(step, FireStep):
        name = step.module
        opening: list[Message] = [ConfigFile(step.config), header]
        if scan.parameters:
            opening.append(Text(json.dumps({"parameters": scan.parameters})))
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
        yield from _exchange(name, sock, opening, items, settings, say)
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


def _exchange(
    name: str,
    sock: socket.socket,
    opening: list[Message],
    items: Iterator[Item],
    settings: Settings,
    say: Callable[[str], None],
) -> Iterator[Item]:
    arrivals: queue.Queue[Item | Message | BaseException] = queue.Queue(maxsize=256)
    receiver = Receiver(sock, limits=settings.limits, capacity=settings.queue_bytes)
    threads = [
        threading.Thread(target=_feed, args=(sock.dup(), opening, items, arrivals), daemon=True),
        threading.Thread(target=_collect, args=(name, receiver, arrivals), daemon=True),
    ]
    for thread in threads:
        thread.start()
    waiting_for = len(threads)
    while waiting_for:
        arrival = arrivals.get()
        if isinstance(arrival, BaseException):
            raise arrival
        if isinstance(arrival, Close):
            waiting_for -= 1
        elif isinstance(arrival, Text):
            say(arrival.text)
        elif isinstance(arrival, ErrorReport):
            raise ExternalError(f"external program {name} failed: {arrival.text}")
        else:
            yield arrival  # type: ignore[misc]


def _feed(
    sock: socket.socket,
    opening: list[Message],
    items: Iterator[Item],
    arrivals: "queue.Queue[Item | Message | BaseException]",
) -> None:
    """Send everything that the program can take; the rest goes on directly."""
    try:
        for message in opening:
            send_buffers(sock, encode(message))
        for item in items:
            data = from_kspace(item) if isinstance(item, Kspace) else item
            if isinstance(data, _FORWARDED):
                send_buffers(sock, encode(data))
            else:
                arrivals.put(item)
        send_buffers(sock, encode(Close()))
        arrivals.put(Close())
    except (ConnectionError, TimeoutError):
        arrivals.put(Close())  # it stopped reading; what it sends, or that it ended, says why
    except BaseException as error:  # noqa: BLE001 - handed to the thread that runs the scan
        arrivals.put(error)
    finally:
        sock.close()


def _collect(name: str, receiver: Receiver, arrivals: "queue.Queue[Item | Message | BaseException]") -> None:
    """Take what the program returns until it closes."""
    for message in receiver:
        arrivals.put(message)
        if isinstance(message, Close):
            return
    reason = receiver.error or "it ended without CLOSE"
    with suppress(Exception):
        arrivals.put(ExternalError(f"external program {name}: {reason}"))
