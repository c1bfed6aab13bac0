"""What belongs to one scan: header, encodings, engine, noise store, log, parameters, and what went wrong."""

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from ismrmrd.xsd import ismrmrdHeader
from torch import Tensor

from ..bundle.manifest import Manifest
from ..flow.deferred import Deferred
from ..flow.ledger import Account, Ledger
from ..wire.errors import IsocenterError
from ..wire.header import Encoding, parse_encodings, parse_header
from ..wire.markup import Notes
from .plan import Plan


class Model(Protocol):
    """A loaded bundle."""

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        ...


class Result(Protocol):
    """What a bundle made of its inputs."""

    @property
    def outputs(self) -> dict[str, Tensor]:
        """float32 on the CPU by name, with the axes of the manifest's outputs."""
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

    @property
    def batch(self) -> str:
        """What was computed together with it."""
        ...

    @property
    def stands_in(self) -> str:
        """Why that device did it in place of another one; empty if it did not."""
        ...


class Engine(Protocol):
    """Where models run."""

    @property
    def default_bundle(self) -> str | None:
        """Bundle to use where a pipeline names none."""
        ...

    @property
    def deadline(self) -> float:
        """Seconds that a run may take."""
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
        last: bool = ...,
        patient: bool = ...,
        account: Account | None = ...,
    ) -> Future[Any]:
        """Queue inputs, which the account is charged with while they wait, and return the future of their ``Result``.

        Inputs are float32 by name, with the axes of the manifest's inputs.
        """
        ...

    def begin(self, value: Deferred, *, scan: str = ...) -> None:
        """Compute an input that a job will need, before there is the job."""
        ...

    def reason_to_wait(self, future: Future[Any]) -> str:
        """Return why a result has to wait for others than its own scan's; empty if it does not."""
        ...


_MOST_ALIKE = 8
"""Messages of one kind that are kept besides the first."""
_MOST_KINDS = 100
"""Kinds of problems that are told apart; others are counted together."""
_unnamed = itertools.count(1)


class Scan:
    """One scan, which does not change while it runs. Build it from an MRD header to use gadgets outside the service.

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
        Where coil maps are computed, if it can be done there. Blocks are on the host, which does not lose them.
    log
        Receives messages without patient data.
    name
        Tells scans apart that share an engine.
    ledger
        Bytes that the scan may hold; without one, as many as it likes.
    inform
        Called with what the client may like to know while the scan runs; without it, the log alone has it.
    """

    header: ismrmrdHeader
    encodings: tuple[Encoding, ...]
    """Encoding spaces as the header has them; what they really are, ``plan`` says."""
    plan: Plan
    engine: Engine | None
    noise_folder: Path | None
    parameters: Mapping[str, Any]
    device: torch.device
    log: logging.Logger | logging.LoggerAdapter[logging.Logger]
    name: str
    ledger: Ledger
    doubts: str
    """What was assumed about the header and changes the images if it is wrong; empty if nothing was."""
    problems: dict[str, str]
    """The first problem of each kind, as it was reported."""
    seconds: defaultdict[str, float]
    """Time that gadgets have spent elsewhere than in their own thread, by their name."""
    _problem_counts: Counter[str]
    _inform: Callable[[str], object] | None

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
        ledger: Ledger | None = None,
        inform: Callable[[str], object] | None = None,
    ) -> None:
        notes = Notes()
        parsed = header if isinstance(header, ismrmrdHeader) else parse_header(header, notes)
        encodings = parse_encodings(parsed, notes)
        self.__dict__.update(
            header=parsed,
            encodings=encodings,
            plan=Plan(encodings),
            engine=engine,
            noise_folder=noise_folder,
            parameters=MappingProxyType(dict(parameters or {})),
            device=torch.device(device),
            log=log or logging.getLogger("isocenter.scan"),
            name=name or f"scan {next(_unnamed)}",
            ledger=ledger or Ledger(),
            doubts="; ".join(notes.doubts),
            problems={},
            seconds=defaultdict(float),
            _problem_counts=Counter(),
            _inform=inform,
        )
        for accepted in notes.accepted:
            self.log.info("header: %s", accepted)
        if notes.doubts:
            self.report("header", f"the header is in doubt: {self.doubts}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a scan does not change while it runs: {name!r} cannot be set; give it to Scan(...)")

    def __repr__(self) -> str:
        return f"<Scan {self.name}: {len(self.encodings)} encoding spaces>"

    def with_parameters(self, parameters: Mapping[str, Any]) -> "Scan":
        """Return this scan with more of what its user chose."""
        changed = Scan.__new__(Scan)
        changed.__dict__.update(self.__dict__, parameters=MappingProxyType({**self.parameters, **parameters}))
        return changed

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

    def inform(self, text: str) -> None:
        """Say at once what is no problem of the scan: to its client, if that takes texts, and to the log."""
        self.log.info("%s", text)
        if self._inform is not None:
            self._inform(text)

    def report(self, kind: str, message: str, *, each: bool = False, times: int = 1) -> None:
        """Note a problem that does not stop the scan. The first of each kind is kept and logged, the others are counted.

        Parameters
        ----------
        kind
            By which problems are told apart.
        message
            What is said.
        each
            Whether other messages of the kind are kept as well, as long as they are few.
        times
            How often it came up.
        """
        if each and self.problems.get(kind, message) != message:
            alike = sum(other.startswith(f"{kind}: ") for other in self.problems)
            kind = f"{kind}: {message}" if alike < _MOST_ALIKE else f"{kind}: others"
            message = message if alike < _MOST_ALIKE else "the same is to be said of further images in other words"
        if kind not in self._problem_counts and len(self._problem_counts) >= _MOST_KINDS:
            kind, message = "others", "there are problems of further kinds"
        self._problem_counts[kind] += times
        if kind not in self.problems:
            self.problems[kind] = message
            self.log.warning("%s", message)

    def problem_messages(self) -> list[str]:
        """Every kind of problem once, with how often it came up."""
        return [
            message if self._problem_counts[kind] == 1 else f"{message} ({self._problem_counts[kind]} times)"
            for kind, message in self.problems.items()
        ]
