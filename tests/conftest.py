import logging
import os
import socket
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import typer.testing

ROOT = Path(__file__).parent.parent
os.environ.setdefault("ISOCENTER_HOME", str(ROOT / ".isocenter"))
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker, which torch reads as it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from isocenter.commands.client import Client, connect, replay  # noqa: E402
from isocenter.commands.prepare import prepare_bundles  # noqa: E402
from isocenter.engine import Engine  # noqa: E402
from isocenter.export.classical import METHODS  # noqa: E402
from isocenter.export.options import ExportOptions  # noqa: E402
from isocenter.export.own_module import export_module  # noqa: E402
from isocenter.service import logs  # noqa: E402
from isocenter.service.server import Server  # noqa: E402
from isocenter.service.settings import Settings  # noqa: E402
from isocenter.simulate.scan import ScanProtocol, simulate  # noqa: E402
from isocenter.wire import ConfigFile, ConfigScript  # noqa: E402

SHARED = ROOT.parent / "shared"

# a command line is run more than a thousand times: the tree of its commands is made once, as in a program
typer.testing._get_command = cache(typer.testing._get_command)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """One folder for all processes that share out the tests."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def bundles() -> Path:
    home = Path(os.environ["ISOCENTER_HOME"])
    prepare_bundles(Settings(home=home))
    return home / "bundles"


@pytest.fixture(scope="session")
def bundles_with_onnx(shared_folder) -> Path:
    """Classical bundles with ONNX, SENSE with a few iterations, as its ONNX graph holds them one after the other."""
    home = shared_folder / "with_onnx"
    short = replace(METHODS["sense"], configuration={"iterations": 2, "regularization": 0.005})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "sense", short)
        prepare_bundles(Settings(home=home), onnx=True, only=("rss", "combine", "sense"))
    return home / "bundles"


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


@pytest.fixture(scope="session")
def large_scan():
    """More than sockets hold."""
    return simulate(ScanProtocol(matrix=128, coils=16, slices=2))


@pytest.fixture(scope="session")
def faulty_bundles(tmp_path_factory) -> Path:
    """Bundles of the modules in ``faulty.py``."""
    folder = tmp_path_factory.mktemp("faulty")
    for name in ("ReturnsNan", "Raises", "Hangs", "NeedsMemory", "Signed", "Convolves"):
        options = ExportOptions(weights_inside=name == "Convolves")
        export_module(f"faulty:{name}", None, folder / name, options, formats=["torchscript"])
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    """An empty folder for files of scans, with room for a cache beside it."""
    (tmp_path / "scans").mkdir()
    return tmp_path / "scans"


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
