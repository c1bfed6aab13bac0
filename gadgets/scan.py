"""What belongs to one scan: header, encodings, engine, noise store, log, parameters, and what went wrong."""

import itertools
import logging
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import torch
from ismrmrd.xsd import ismrmrdHeader
from torch import Tensor

from ..flow.deferred import Deferred
from ..flow.ledger import Account
from ..wire.errors import IsocenterError
from ..wire.header import Encoding, parse_encodings, parse_header


class Model(Protocol):
    """A loaded bundle."""

    @property
    def manifest(self) -> Any:
        """The bundle's manifest."""
        ...


class Result(Protocol):
    """What a bundle made of its inputs."""

    @property
    def outputs(self) -> dict[str, Tensor]:
        """Tensors by name."""
        ...

    @property
    def runtime(self) -> str:
        """What computed them."""
        ...

    @property
    def device(self) -> str:
        """Where."""
        ...

    @property
    def seconds(self) -> float:
        """How long that took."""
        ...


class Engine(Protocol):
    """Where models run."""

    @property
    def default_network(self) -> str | None:
        """Bundle to use where a pipeline names none."""
        ...

    @property
    def deadline(self) -> float:
        """Seconds to wait for a result."""
        ...

    def load(self, bundle: str) -> Model:
        """Return the model of a bundle; cheap when it is loaded already."""
        ...

    def submit(
        self,
        bundle: str,
        inputs: Mapping[str, Tensor | Deferred],
        *,
        scan: str = ...,
        urgent: bool = ...,
        account: Account | None = ...,
    ) -> Future[Any]:
        """Queue inputs, which the account is charged with while they wait, and return the future of their ``Result``."""
        ...

    def begin(self, value: Deferred, *, scan: str = ...) -> None:
        """Compute an input that a job will need, before there is the job."""
        ...

    def abandon(self, future: Future[Any], reason: str) -> None:
        """Wait for a result no longer."""
        ...


_unnamed = itertools.count(1)


class Scan:
    """One scan. Build it from an MRD header to use gadgets outside the service.

    Parameters
    ----------
    header
        MRD header as XML or parsed.
    engine
        Runs bundles; None if no gadget of the pipeline reconstructs.
    noise_folder
        Where noise covariances are kept from scan to scan; None keeps none.
    parameters
        What the scanner's user chose for this scan (the JSON message of FIRE), by name.
    device
        Where blocks are processed.
    log
        Receives messages without patient data.
    name
        Tells scans apart that share an engine.
    """

    def __init__(
        self,
        header: str | bytes | ismrmrdHeader,
        *,
        engine: Engine | None = None,
        noise_folder: Path | None = None,
        parameters: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        log: logging.Logger | logging.LoggerAdapter[logging.Logger] | None = None,
        name: str = "",
    ) -> None:
        self.name = name or f"scan {next(_unnamed)}"
        self.header = header if isinstance(header, ismrmrdHeader) else parse_header(header)
        self.encodings: tuple[Encoding, ...] = parse_encodings(self.header)
        self.engine = engine
        self.noise_folder = noise_folder
        self.parameters: dict[str, Any] = dict(parameters or {})
        self.device = torch.device(device)
        self.log = log or logging.getLogger("isocenter.scan")
        self.interrupted = False
        """Whether the stream ended without its end marker; set by whoever reads the stream."""
        self.problems: dict[str, str] = {}
        self.plan: Any = None
        """What ``accumulate`` does early, a ``head_start.Plan``; None: nothing."""
        self.needs_maps = True
        """Whether coil maps are begun as soon as possible; if not, only for a bundle that asks for them."""
        self.whitener: Any = None
        """The scan's whitening; ``prewhiten.whitener_of`` makes it."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Time that gadgets have spent elsewhere than in their own thread, by their name."""
        self._problem_counts: dict[str, int] = {}

    def require_engine(self) -> Engine:
        """Return the engine.

        Raises
        ------
        IsocenterError
            The scan was made without one.
        """
        if self.engine is None:
            raise IsocenterError("this scan has no engine to run bundles on; give one as Scan(..., engine=...)")
        return self.engine

    def report(self, kind: str, message: str) -> None:
        """Note a problem that does not stop the scan. The first of each kind is kept and logged, the others are counted."""
        count = self._problem_counts.get(kind, 0) + 1
        self._problem_counts[kind] = count
        if count == 1:
            self.problems[kind] = message
            self.log.warning("%s", message)

    def problem_messages(self) -> list[str]:
        """Every kind of problem once, with how often it came up."""
        return [
            message if self._problem_counts[kind] == 1 else f"{message} ({self._problem_counts[kind]} times)"
            for kind, message in self.problems.items()
        ]
