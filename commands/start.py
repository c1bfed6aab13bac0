"""What is done beside a service from its start on: bundles are built and loaded, then earlier scans are recovered."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager

from ..bundle.manifest import BundleError
from ..engine import Engine
from ..service.host import make_engine
from ..service.logs import show_names
from ..service.settings import Settings
from ..service.systemd import notify
from ..wire.errors import IsocenterError
from .builder import Builder, supply_of
from .named_bundles import gate_doubt
from .recover import beside_service
from .shipped import NAMES

log: logging.Logger = logging.getLogger("isocenter.serve")

_TICK = 0.1
_END_SECONDS = 10.0


class PrepareError(IsocenterError):
    """The bundles that come with Isocenter cannot be built."""

    kind = "prepare"


class Start:
    """Makes a service ready while it serves.

    Parameters
    ----------
    settings
        Of the service.

    Attributes
    ----------
    engine
        Has the bundles that are there, and knows which are to come.
    failed
        Whether the service has nothing to serve with.

    Raises
    ------
    EngineError, SignatureError
        The devices or keys of the settings cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        show_names(NAMES)
        self._settings = settings
        self._supply = supply_of(settings)
        self._supply.loading = "bundles are being loaded"
        self._builder = Builder(settings, self._supply)
        self._stopped = threading.Event()
        self._begin = time.monotonic()
        self._doubt = gate_doubt(settings)
        self.engine: Engine = make_engine(settings, self._supply)
        self.failed = False

    @contextmanager
    def running(self, on_failure: Callable[[], object]) -> Iterator[None]:
        """Work in a thread until the context ends; call ``on_failure`` where there is nothing to serve with."""
        thread = threading.Thread(target=self._run, args=(on_failure,), name="start", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._builder.close()
            thread.join(_END_SECONDS)

    def _run(self, on_failure: Callable[[], object]) -> None:
        try:
            self._supply.want(NAMES)
            self._builder.build()
            self._check_bundles()
        except PrepareError as error:
            log.critical("%s", error)
            self.failed = True
            on_failure()
            return
        tickets = [] if self._stopped.is_set() else self.engine.preload()
        while not self._stopped.is_set() and wait(tickets, _TICK).not_done:
            continue
        if self._stopped.is_set():
            return
        self._supply.loading = ""
        self._check_default_bundle()
        devices = ", ".join(device.name for device in self.engine.devices)
        log.info("ready after %.1f s: bundles are loaded on %s", time.monotonic() - self._begin, devices)
        notify(ready=True, status="ready")
        with beside_service(self._settings):
            self._stopped.wait()

    def _check_bundles(self) -> None:
        """Go on with the bundles that there are, if there are any.

        Raises
        ------
        PrepareError
            There are none.
        """
        failures, available = self._supply.failures, self.engine.available()
        if failures and not available:
            raise PrepareError("the bundles that come with Isocenter could not be built; the lines above say why")
        if failures:
            names = ", ".join(sorted(available))
            log.error("not all bundles that come with Isocenter could be built; what there is: %s", names)

    def _check_default_bundle(self) -> None:
        """Warn where it cannot be used, or has been built again and lost the gate that it had passed."""
        try:
            if self.engine.default_bundle is not None:
                self.engine.load(self.engine.default_bundle)
        except BundleError as error:
            log.warning("the default bundle cannot be used: %s", error)
        if (doubt := gate_doubt(self._settings)) != self._doubt and doubt:
            log.warning("%s", doubt)
