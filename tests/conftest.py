import logging
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ.setdefault("ISOCENTER_HOME", str(ROOT / ".isocenter"))

from isocenter.commands.client import Client, connect, replay  # noqa: E402
from isocenter.engine import Engine  # noqa: E402
from isocenter.export.build import DEFAULT_FORMATS  # noqa: E402
from isocenter.export.classical import METHODS, ensure_classical  # noqa: E402
from isocenter.export.shipped import ensure_shipped  # noqa: E402
from isocenter.service import logs  # noqa: E402
from isocenter.service.server import Server  # noqa: E402
from isocenter.service.settings import Settings  # noqa: E402
from isocenter.simulate.scan import ScanProtocol, simulate  # noqa: E402
from isocenter.wire import ConfigFile, ConfigScript  # noqa: E402

SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def bundles() -> Path:
    folder = Path(os.environ["ISOCENTER_HOME"]) / "bundles"
    ensure_classical(folder)
    ensure_shipped(folder)
    return folder


@pytest.fixture(scope="session")
def bundles_with_onnx(tmp_path_factory) -> Path:
    """Classical bundles in every format, SENSE with a few iterations, as its ONNX graph holds them one after the other."""
    folder = tmp_path_factory.mktemp("with_onnx")
    short = replace(METHODS["sense"], configuration={"iterations": 3, "regularization": 0.005})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "sense", short)
        ensure_classical(folder, DEFAULT_FORMATS)
    return folder


@pytest.fixture(scope="session")
def engine(bundles):
    return Engine([bundles])


@pytest.fixture
def make_engine(bundles):
    """Make engines with the bundles of the tests, after those of other folders, and close them."""
    engines = []

    def make(*folders: Path, **options) -> Engine:
        engines.append(Engine([*folders, bundles], **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def shared_data() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip("the real scans are not here")
    return SHARED / "data"


class Service:
    """A server on a free port of the loopback, and what a test asks of it."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.server = Server(settings, engine)
        self.port = self.server.port
        self._thread = threading.Thread(target=self.server.serve)
        self._thread.start()

    def connect(self) -> socket.socket:
        return connect("localhost", self.port, 5)

    def replay(self, scan, config="rss.xml", **options):
        message = ConfigScript(config) if isinstance(config, bytes) else ConfigFile(config)
        header = scan.header if isinstance(scan.header, bytes) else scan.header.encode()
        return replay(Client(self.connect()), header, scan.items, message, **options)

    def stop(self) -> None:
        if not self._thread.is_alive():
            return
        self.server.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def make_service_with(bundles, tmp_path):
    """Start services with an engine of the test's own."""
    services = []

    def make(engine, **settings) -> Service:
        values = {
            "port": 0,
            "home": tmp_path,
            "bundles": (bundles,),
            "drain_timeout": 5,
            "shutdown_timeout": 5,
            **settings,
        }
        service = Service(Settings(**values), engine)
        services.append(service)
        return service

    yield make
    for service in services:
        service.stop()


@pytest.fixture
def make_service(make_service_with, engine):
    return lambda **settings: make_service_with(engine, **settings)


@pytest.fixture
def service(make_service):
    return make_service()


@pytest.fixture(scope="session")
def small_scan():
    return simulate(ScanProtocol(matrix=32, coils=4, noise=0.5))


@pytest.fixture(autouse=True)
def log_as_it_was():
    """Commands that run in this process send the log to a stream that is closed after them, and may show more in it."""
    private = logs._private
    logger = logging.getLogger("isocenter")
    before = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], level, logger.propagate = before
    logger.setLevel(level)
    logs._private = private
