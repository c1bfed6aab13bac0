"""What ``isocenter serve`` does: build what is missing, serve, stop."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ..bundle.manifest import BundleError
from ..service import settings as service_settings
from ..service.log_writer import open_closed_streams
from ..service.logs import configure_logging
from ..service.outside import only_the_log
from ..service.settings import Settings
from ..wire.errors import IsocenterError
from . import stamp

if TYPE_CHECKING:
    from ..engine import Engine

log: logging.Logger = logging.getLogger("isocenter.serve")

# GNU's OpenMP reads this when torch is first imported. Threads that wait for one another spin for milliseconds by default; where
# another process has one of the cores, they burn the time of the thread they wait for, and all takes up to 20 times as long.
SPIN_COUNT = ("GOMP_SPINCOUNT", "10000")
_TICK = 0.1


class PrepareError(IsocenterError):
    """The bundles that come with Isocenter cannot be built."""

    kind = "prepare"


def serve(load_settings: Callable[[], Settings], *, verbose: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, and end with status 0.

    The first one lets running scans finish, the second one aborts them. SIGHUP reads the settings again.

    Parameters
    ----------
    load_settings
        Reads the settings.
    verbose
        Whether to log details.

    Raises
    ------
    MissingExtraError
        The settings name what needs a package that is not installed.
    PrepareError
        There are no bundles, and those that come with Isocenter cannot be built.
    EngineError, OSError
        The devices or the address of the settings cannot be used.
    """
    os.environ.setdefault(*SPIN_COUNT)
    settings = load_settings()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # until there is something to finish
    open_closed_streams()
    configure_logging(settings.log_format, verbose=verbose, private=settings.log_private)
    with only_the_log():
        _serve(settings, load_settings)


def _serve(settings: Settings, load_settings: Callable[[], Settings]) -> None:
    service_settings.check_extras(settings)
    for note in settings.notes:
        log.warning("%s", note)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    preparation = None if stamp.is_current(settings) else _start_preparation(settings)
    try:
        from ..service.host import make_engine
        from ..service.memory import keep_freed_memory
        from ..service.server import Server
        from .recover import beside_service

        while preparation is not None and preparation.poll() is None and not stopped.wait(_TICK):
            continue
    finally:
        if preparation is not None:
            preparation.terminate()
    if stopped.is_set():
        return
    prepared = preparation is None or preparation.returncode == 0
    keep_freed_memory()
    engine = make_engine(settings)
    if not prepared:
        _say_what_is_missing(engine.available())
    _check_default_bundle(engine)
    server = Server(settings, engine, load_settings=load_settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if stopped.is_set():
        server.stop()
    signal.signal(signal.SIGHUP, lambda *_: server.reload())
    engine.preload()
    devices = ", ".join(device.name for device in engine.devices)
    folder = settings.home / "pipelines"
    log.info("listening on %s:%d (%s), pipelines in %s", settings.host, server.port, devices, folder)
    with beside_service(settings):
        scans_ended = server.serve()
    if not engine.close() or not scans_ended:
        logging.shutdown()
        os._exit(
            0
        )  # a thread that does not end, or a lost card, would hold up the interpreter's own end, or crash in it


def _start_preparation(settings: Settings) -> "subprocess.Popen[bytes]":
    """Build bundles in a program of its own: the one that serves scans needs no network's class, nor the memory for it."""
    command = [sys.executable, "-m", "isocenter.commands.cli", "bundle", "prepare", "--build-only"]
    options = ["--home", str(settings.home), "--runtime", settings.runtime, "--log-format", settings.log_format]
    if settings.keys:
        options.append("--sign")
    return subprocess.Popen([*command, *options], stdout=sys.__stderr__)  # noqa: S603


def _say_what_is_missing(available: Collection[str]) -> None:
    """Go on with the bundles that there are, if there are any."""
    if not available:
        raise PrepareError("the bundles that come with Isocenter could not be prepared; the lines above say why")
    log.error(
        "not all bundles that come with Isocenter could be prepared; the lines above say why. What there is: %s",
        ", ".join(sorted(available)),
    )


def _check_default_bundle(engine: "Engine") -> None:
    """Warn where pipelines that name no bundle get one that did not pass the gate."""
    if engine.default_bundle is None:
        return
    try:
        gate = engine.shelf.manifest(engine.default_bundle).gate
    except BundleError as error:
        log.warning("the default bundle cannot be used: %s", error)
        return
    if gate is None or not gate.passed:
        how = "has not been through" if gate is None else "did not pass"
        log.warning("the default bundle %r %s the gate; see `isocenter bundle show`", engine.default_bundle, how)


def serve_one(descriptor: int) -> None:
    """Serve the one connection with this file descriptor, which the process inherited."""
    os.environ.setdefault(*SPIN_COUNT)
    from ..service.configuration import register_gadgets
    from ..service.host import make_engine
    from ..service.server import new_scan_id
    from ..service.session import Session
    from .prepare import prepare_bundles

    settings = service_settings.load_settings(None)
    configure_logging(settings.log_format, private=settings.log_private)
    with only_the_log(), socket.socket(fileno=descriptor) as sock:
        if not stamp.is_current(settings):
            prepare_bundles(settings, networks=False)
        register_gadgets(settings)
        Session(sock, settings, make_engine(settings), new_scan_id()).serve()
