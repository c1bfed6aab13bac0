"""Which runtime of a bundle is fastest here, remembered in a file beside the bundle.

Which one it is depends on the network, the processor and the number of threads, and nobody knows it beforehand; so it is
measured when a bundle is loaded for the first time, on zeros of a usual size. The shortest of some rounds counts, because all
that disturbs a measurement makes it longer; runtimes take turns, because what disturbs lasts. Whether others kept the processor
busy all the same, Linux tells: the time for which threads of this process were ready and not run. Where that is much, the choice
is used and not remembered.
"""

import importlib.metadata
import json
import logging
import platform
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ..bundle.files import read_regular
from ..bundle.folder import Bundle
from ..bundle.manifest import MEASURED, BundleError
from .commission import ON_REQUEST, in_turn
from .runtimes import Runtime, readers

log: logging.Logger = logging.getLogger("isocenter.engine")

_LONGEST_CACHE = 2**20
ROUNDS = 3
_WORTH = 0.9
"""A batch has to save a tenth of the time of its slices one by one: it lets the first of them wait for the last."""
BATCH = 4
_SLOW_MS = 100.0
"""A model that takes this long keeps the device busy with one slice: batches are not tried, which would take seconds."""
_DOUBTFUL = 0.4
"""A busy process beside this one makes it 0.8, an idle machine less than 0.2."""
_ENOUGH_SECONDS = 1.0
"""No longer is measured when a bundle is loaded: scans may be waiting for it."""


class Choice(BaseModel):
    """What was measured on one device.

    Attributes
    ----------
    runtime
        The fastest one.
    milliseconds
        Time of every runtime for one slice.
    batch
        How many slices are worth computing together with it.
    pace
        Seconds that it takes for a byte of inputs.
    waited
        For how much of the time threads of this process had to wait for a processor that others used.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    runtime: str
    milliseconds: dict[str, float]
    batch: Annotated[int, Field(ge=1, le=BATCH)]
    pace: float
    waited: float

    @property
    def is_doubtful(self) -> bool:
        """Whether other programs kept the processor so busy that another runtime may be the fastest without them."""
        return self.waited > _DOUBTFUL


def recall(bundle: Bundle, device: torch.device) -> Choice | None:
    """Return what was measured before on such a device with the same software and the same files; None if nothing was.

    What was written by hand chooses among the runtimes that measuring could have chosen; they must pass the probe all the same.
    """
    try:
        choice = Choice.model_validate(_read(bundle).get(_key(bundle, device)))
    except ValidationError:
        return None
    eligible = readers(bundle).keys() - set(ON_REQUEST)
    return choice if choice.runtime in eligible and choice.milliseconds.keys() <= eligible else None


def remember(bundle: Bundle, device: torch.device, choice: Choice) -> None:
    """Keep what was measured; a bundle on a disk that cannot be written is measured again every time."""
    path = bundle.folder / MEASURED
    entries = {**_read(bundle), _key(bundle, device): choice.model_dump()}
    try:
        _write(path, json.dumps(entries, indent=1) + "\n")
    except OSError as error:
        log.info("what was measured cannot be kept in %s: %s", path, error.strerror)


def _write(path: Path, text: str) -> None:
    """Write beside the folder, which may hold nothing else, and move it there: whoever reads it finds all of it."""
    partial = path.parent.parent / f".measured-{secrets.token_hex(4)}"
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read(bundle: Bundle) -> dict[str, object]:
    try:
        content = json.loads(read_regular(bundle.folder / MEASURED, _LONGEST_CACHE))
    except (BundleError, ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", content) if isinstance(content, dict) else {}


def _key(bundle: Bundle, device: torch.device) -> str:
    """Everything that the speed depends on."""
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        processor = f"{platform.machine()} with {torch.get_num_threads()} threads on {platform.node()}"
    files = "-".join(digest[:8] for name, digest in sorted(bundle.manifest.files.items()) if name != "probe.npz")
    versions = f"torch {torch.__version__}, onnxruntime {_version('onnxruntime') or _version('onnxruntime-gpu')}"
    return f"{processor}; {versions}; {files}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def choose(
    runtimes: Mapping[str, Runtime],
    inputs: Mapping[str, Tensor],
    device: torch.device,
    rounds: int = ROUNDS,
    enough_seconds: float = _ENOUGH_SECONDS,
) -> Choice:
    """Measure which runtime is fastest, and on a GPU whether slices are worth computing together with it.

    On a CPU they never are: one keeps all cores busy, and several do not fit into their caches.

    Slices are computed together, ``BATCH`` of them, where ``t(BATCH) < 0.9 BATCH t(1)``.

    Parameters
    ----------
    runtimes
        By name.
    inputs
        What they compute: float32 by name, with the axes of the manifest, one slice.
    device
        Where they run.
    rounds
        How often.
    enough_seconds
        Measuring ends after the round in which it has taken this long.

    Raises
    ------
    BundleError
        None of them can compute these inputs.
    """
    runtimes = _able(runtimes, inputs)
    start, waited = time.perf_counter(), _waiting_seconds()
    milliseconds = _measure(runtimes, inputs, rounds, enough_seconds)
    share = (_waiting_seconds() - waited) / (time.perf_counter() - start)
    fastest = min(milliseconds, key=lambda name: milliseconds[name])
    tries_batch = device.type != "cpu" and milliseconds[fastest] < _SLOW_MS
    batch = _worthwhile_batch(runtimes[fastest], inputs) if tries_batch else 1
    size = sum(tensor.nbytes for tensor in inputs.values())
    pace = milliseconds[fastest] / 1000 / size
    return Choice(runtime=fastest, milliseconds=milliseconds, batch=batch, pace=pace, waited=round(share, 2))


def _able(runtimes: Mapping[str, Runtime], inputs: Mapping[str, Tensor]) -> dict[str, Runtime]:
    """Return the runtimes that can compute these inputs. This first round is not counted, as it is slower."""
    able: dict[str, Runtime] = {}
    for name, outcome in in_turn({name: partial(runtime.infer, inputs) for name, runtime in runtimes.items()}).items():
        if isinstance(outcome, BundleError):
            log.warning("runtime %s is not used: with inputs of the usual size %s", name, outcome)
        elif isinstance(outcome, BaseException):
            log.warning(
                "runtime %s is not used: it fails on inputs of the usual size (%s)", name, type(outcome).__name__
            )
        else:
            able[name] = runtimes[name]
    if not able:
        raise BundleError("none of its runtimes can compute inputs of the usual size")
    return able


def _waiting_seconds() -> float:
    """Return how long the threads of this process have been ready to run and were not run; 0 where Linux does not say."""
    nanoseconds = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            nanoseconds += int(path.read_text(encoding="ascii").split()[1])
    return nanoseconds / 1e9


def _measure(
    runtimes: Mapping[str, Runtime], inputs: Mapping[str, Tensor], rounds: int, enough_seconds: float
) -> dict[str, float]:
    """Return the shortest time in ms of each runtime; they take turns, so that other load meets all alike."""
    durations: dict[str, list[float]] = {name: [] for name in runtimes}
    start = time.perf_counter()
    for _ in range(rounds):
        for name, runtime in runtimes.items():
            durations[name].append(timed(lambda runtime=runtime: runtime.infer(inputs)))
        if time.perf_counter() - start > enough_seconds:
            break
    return {name: round(1000 * min(values), 3) for name, values in durations.items()}


def _worthwhile_batch(runtime: Runtime, inputs: Mapping[str, Tensor]) -> int:
    """Return ``BATCH`` if as many slices together take clearly less time than one by one, else 1."""
    batch = {name: tensor.repeat(BATCH, *[1] * (tensor.dim() - 1)) for name, tensor in inputs.items()}

    def one_by_one() -> None:
        for _ in range(BATCH):
            runtime.infer(inputs)

    try:
        together = min(timed(lambda: runtime.infer(batch)) for _ in range(ROUNDS))
    except Exception as error:  # noqa: BLE001 - it may lack the memory, or be made for one slice only
        log.info("slices are not computed together: %s", type(error).__name__)
        return 1
    alone = min(timed(one_by_one) for _ in range(ROUNDS))
    return BATCH if together < _WORTH * alone else 1


def timed(call: Callable[[], object]) -> float:
    """Return how many seconds a call takes, its work on a GPU included: runtimes return when that is done."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
