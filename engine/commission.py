"""The commissioning test: which runtimes of a bundle reproduce its probe on a device."""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, as_completed, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from ..bundle.folder import Bundle, relative_error
from ..bundle.manifest import BundleError
from .runtimes import MACHINE_CODE, RUNTIMES, VARIANTS, Runtime, readers
from .torchscript import NothingToGainError

log: logging.Logger = logging.getLogger("isocenter.engine")

T = TypeVar("T")
ON_REQUEST = ("tensorrt", "torchscript-graph")
"""Runtimes that are not tried by themselves: TensorRT compiles for minutes whenever it sees a new shape, and CUDA graphs have not
been recorded on a card yet while others loaded and ran there."""
_SECONDS = 30.0
"""A runtime that takes longer than this is left to itself where there is another one."""
_LAST_SECONDS = 600.0
"""For so long is waited besides where there is no other one; what never ends would never be tried again."""


def commission(bundle: Bundle, device: torch.device, wanted: str = "auto", without: str = "") -> dict[str, Runtime]:
    """Load the runtimes that are wanted, and keep those that reproduce the probe within the manifest's tolerance.

    One that fails or hangs costs only itself.

    Parameters
    ----------
    bundle
        The bundle.
    device
        Where to run.
    wanted
        Name of a runtime, or ``auto`` for all.
    without
        Name of a runtime that is not wanted.

    Raises
    ------
    BundleError
        None of them does.
    """
    files = {
        name: path
        for name, path in readers(bundle).items()
        if (name == wanted or (wanted == "auto" and name not in ON_REQUEST)) and name != without
    }
    calls = {name: partial(_commissioned, name, path, bundle, device) for name, path in files.items()}
    runtimes: dict[str, Runtime] = {}
    failures: dict[str, str] = {}
    for name, outcome in in_turn(calls).items():
        if not isinstance(outcome, BaseException):
            runtimes[name] = outcome
        elif isinstance(outcome, NothingToGainError):
            log.debug("bundle %s: no %s, %s", bundle.manifest.name, name, outcome)
        elif isinstance(outcome, BundleError):
            failures[name] = str(outcome)
        else:  # the programs that run models raise what they like
            said = str(outcome)  # of the probe: no patient's data can be in it
            log.warning("bundle %s: %s cannot be run here: %s", bundle.manifest.name, name, said, exc_info=outcome)
            failures[name] = f"it cannot be run here ({type(outcome).__name__})"
    if wanted in VARIANTS and not (runtimes or failures) and "torchscript" in readers(bundle):
        return commission(bundle, device, "torchscript")  # it would do the same
    told = _told(failures)
    if not runtimes:
        reasons = "; ".join(told) or f"it has no model file for runtime {wanted!r}"
        raise BundleError(f"bundle {bundle.manifest.name!r} cannot be used on {device}: {reasons}")
    for failure in told:
        log.warning("bundle %s is used without a runtime, %s", bundle.manifest.name, failure)
    return runtimes


def _told(failures: Mapping[str, str]) -> list[str]:
    """Say each reason once, of all that have it: several runtimes read the same file."""
    names: dict[str, list[str]] = {}
    for name, reason in failures.items():
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(alike)}: {reason}" for reason, alike in names.items()]


def _commissioned(name: str, path: Path, bundle: Bundle, device: torch.device) -> Runtime:
    """Load a runtime and run the probe.

    Raises
    ------
    BundleError
        The probe deviates, or it may not be used here.
    """
    inputs, expected = bundle.probe()  # its own: a runtime may write into its inputs
    runtime = load_runtime(bundle, name, path, device)
    error = relative_error(runtime.infer(inputs), expected)
    if not error <= bundle.manifest.tolerance:
        raise BundleError(
            f"the probe deviates by {error:.1e} of the maximum", accepted=f"{bundle.manifest.tolerance:.0e}"
        )
    return runtime


def load_runtime(bundle: Bundle, name: str, path: Path, device: torch.device) -> Runtime:
    """Load a model file, if what it is made of can be checked, or it is known who made it.

    Raises
    ------
    BundleError
        It is refused, or cannot be loaded.
    """
    if name in MACHINE_CODE and not bundle.may_hold_machine_code:
        raise BundleError(f"{path.name} is machine code, and no key that is trusted here has signed the bundle")
    return RUNTIMES[name](path, bundle.manifest, device)


def in_turn(calls: Mapping[str, Callable[[], T]]) -> dict[str, T | BaseException]:
    """Call one after the other, and return by name what each returned or raised.

    One that takes long is left to itself, a ``BundleError`` here; but as long as no other succeeds it is waited for.
    """
    begun: dict[str, Future[T]] = {}
    for name, call in calls.items():
        begun[name] = _in_thread(call)
        wait([begun[name]], _SECONDS)
    if not any(map(_succeeded, begun.values())):
        with suppress(TimeoutError):
            next(filter(_succeeded, as_completed(begun.values(), _LAST_SECONDS)), None)
    waited = _SECONDS if any(map(_succeeded, begun.values())) else _SECONDS + _LAST_SECONDS
    late = BundleError(f"it did not come back within {waited:g} seconds")
    return {
        name: (outcome.exception() or outcome.result()) if outcome.done() else late for name, outcome in begun.items()
    }


def _succeeded(outcome: Future[T]) -> bool:
    return outcome.done() and outcome.exception() is None


def _in_thread(call: Callable[[], T]) -> Future[T]:
    """Call in a thread of its own, which can be left alone if it takes too long."""
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where the outcome is asked for
            outcome.set_exception(error)

    threading.Thread(target=work, name="runtime", daemon=True).start()
    return outcome
