"""What ``isocenter serve`` does: check, open the port, and then get ready while clients may come."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from ..service import settings as service_settings
from ..service.json_lines import only_json
from ..service.listening import listen
from ..service.log_writer import open_closed_streams
from ..service.logs import change_logging, configure_logging, show_everything, show_names
from ..service.outside import only_the_log
from ..service.settings import Settings
from ..service.systemd import notify
from ..wire.errors import IsocenterError
from .check import faults
from .frame import USAGE
from .home import make_home
from .named_bundles import gate_doubt

log: logging.Logger = logging.getLogger("isocenter.serve")

# GNU's OpenMP reads this when torch is first imported. Threads that wait for one another spin for milliseconds by default; where
# another process has one of the cores, they burn the time of the thread they wait for, and all takes up to 20 times as long.
SPIN_COUNT = ("GOMP_SPINCOUNT", "10000")


def serve(load_settings: Callable[[], Settings], *, log_format: str | None = None, verbose: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, and end with status 0; with 2, after a line for each fault, where that cannot be.

    The first one lets running scans finish, the second one aborts them. SIGHUP reads the settings again.

    What can be told without loading anything is checked first; then the port is open. All else, from loading torch to
    building bundles, is done while clients may come: those that come too early for what they need are told, and wait.

    Parameters
    ----------
    load_settings
        Reads the settings.
    log_format
        How faults of the settings themselves are written: ``text`` or ``json``.
    verbose
        Whether to log details.
    """
    os.environ.setdefault(*SPIN_COUNT)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # until there is something to finish
    open_closed_streams()
    configure_logging("json" if log_format == "json" else "text", verbose=verbose)
    with only_the_log():
        try:
            settings = load_settings()
            change_logging(settings.log_format, verbose=verbose, private=settings.log_private)
            if settings.log_format == "json":
                only_json(private=settings.log_private)
            if faults(settings, quick=True):
                _end(faults(settings))
            listeners = listen(settings.host, settings.port)
        except (IsocenterError, OSError) as error:
            _end([str(error)])
        _serve(settings, load_settings, listeners)


def _end(faults: Collection[str]) -> NoReturn:
    """End with what the user has to change, a line for each: all that is in it comes from the settings, and is shown."""
    show_everything()
    for fault in faults:
        log.error("%s", fault)
    raise SystemExit(USAGE)


def _serve(settings: Settings, load_settings: Callable[[], Settings], listeners: Sequence[socket.socket]) -> None:
    for note in settings.notes:
        log.warning("%s", note)
    port, folder = listeners[0].getsockname()[1], settings.home / "pipelines"
    log.info("listening on %s:%d, pipelines in %s", settings.host, port, folder)
    notify(status=f"listening on {settings.host}:{port}")
    try:
        make_home(settings.home)
    except IsocenterError as error:
        _end([str(error)])
    if doubt := gate_doubt(settings):
        show_names((settings.default_bundle or "",))
        log.warning("%s", doubt)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    from ..service.memory import keep_freed_memory
    from ..service.server import Server
    from .start import Start

    keep_freed_memory()
    if found := faults(settings.model_copy(update={"port": 0})):  # its own is open already
        _end(found)
    try:
        start = Start(settings)
        server = Server(settings, start.engine, load_settings=load_settings, listeners=listeners)
    except (IsocenterError, OSError) as error:
        _end([str(error)])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if stopped.is_set():
        server.stop()
    signal.signal(signal.SIGHUP, lambda *_: server.reload())
    with start.running(on_failure=server.stop):
        scans_ended = server.serve()
        notify(stopping=True)
    status = 1 if start.failed else 0
    if not start.engine.close() or not scans_ended:
        logging.shutdown()
        # a thread that does not end, or a lost card, would hold up the interpreter's own end, or crash in it
        os._exit(status)
    raise SystemExit(status)


def serve_one(descriptor: int) -> None:
    """Serve the one connection with this file descriptor, which the process inherited; bundles that it lacks are built for it."""
    os.environ.setdefault(*SPIN_COUNT)
    from ..service.configuration import register_gadgets
    from ..service.host import make_engine
    from ..service.server import new_scan_id
    from ..service.session import Session
    from .builder import Builder, supply_of

    settings = service_settings.load_settings(None)
    configure_logging(settings.log_format, private=settings.log_private)
    with only_the_log(), socket.socket(fileno=descriptor) as sock:
        supply = supply_of(settings)
        builder = Builder(settings, supply)
        threading.Thread(target=builder.build, name="builder", daemon=True).start()
        register_gadgets(settings)
        Session(sock, settings, make_engine(settings, supply), new_scan_id()).serve()
        builder.close()
