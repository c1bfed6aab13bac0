"""What ``isocenter serve`` does: build what is missing, serve, stop."""

import logging
import os
import signal
import socket
import subprocess
import sys

from rich.console import Console

from ..service.logs import configure_logging
from ..service.settings import Settings, load_settings
from ..wire.errors import IsocenterError
from . import stamp

# GNU's OpenMP reads this when torch is first imported. Threads that wait for one another spin for milliseconds by default; where
# another process has one of the cores, they burn the time of the thread they wait for, and all takes up to 20 times as long.
SPIN_COUNT = ("GOMP_SPINCOUNT", "10000")


class PrepareError(IsocenterError):
    """The bundles that come with Isocenter cannot be built."""

    kind = "prepare"


def serve(settings: Settings, *, verbose: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; running scans are finished first.

    Raises
    ------
    PrepareError
        A bundle that comes with Isocenter is missing and cannot be built.
    EngineError, OSError
        The devices or the address of the settings cannot be used.
    """
    os.environ.setdefault(*SPIN_COUNT)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # until there is something to finish
    configure_logging(settings.log_format, verbose=verbose)
    preparation = None if stamp.is_current(settings) else _start_preparation(settings)
    try:
        from ..service.host import make_engine
        from ..service.memory import keep_freed_memory
        from ..service.server import Server
        from .recover import beside_service

        if preparation is not None and preparation.wait() != 0:
            raise PrepareError("the bundles that come with Isocenter could not be prepared; the lines above say why")
    finally:
        if preparation is not None:
            preparation.terminate()
    keep_freed_memory()
    engine = make_engine(settings)
    server = Server(settings, engine)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    engine.preload()
    devices = ", ".join(device.name for device in engine.devices)
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"listening on {settings.host}:{server.port} ({devices}), pipelines in {settings.home / 'pipelines'}"
    )
    with beside_service(settings):
        scans_ended = server.serve()
    if not engine.close() or not scans_ended:
        logging.shutdown()
        os._exit(
            0 if scans_ended else 1
        )  # a thread that does not end would hold up the interpreter's own end, or crash in it


def _start_preparation(settings: Settings) -> "subprocess.Popen[bytes]":
    """Build bundles in a program of its own: the one that serves scans needs no network's class, nor the memory for it."""
    command = [sys.executable, "-m", "isocenter.commands.cli", "bundle", "prepare", "--build-only"]
    options = ["--home", str(settings.home), "--runtime", settings.runtime, "--log-format", settings.log_format]
    return subprocess.Popen([*command, *options], stdout=sys.stderr)  # noqa: S603


def serve_one(descriptor: int) -> None:
    """Serve the one connection with this file descriptor, which the process inherited."""
    os.environ.setdefault(*SPIN_COUNT)
    from ..service.configuration import register_gadgets
    from ..service.host import make_engine
    from ..service.server import new_scan_id
    from ..service.session import Session
    from .prepare import prepare_bundles

    settings = load_settings(None)
    configure_logging(settings.log_format)
    prepare_bundles(settings, networks=False)
    register_gadgets(settings)
    with socket.socket(fileno=descriptor) as sock:
        Session(sock, settings, make_engine(settings), new_scan_id()).run()
