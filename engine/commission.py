"""The commissioning test: which runtimes of a bundle reproduce its probe on a device."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, as_completed, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from ..bundle.folder import Bundle, relative_error
from ..bundle.manifest import BundleError
from .runtimes import MACHINE_CODE, RUNTIMES, NothingToGainError, Runtime, readers

log: logging.Logger = logging.getLogger("isocenter.engine")

T = TypeVar("T")
ON_REQUEST = ("tensorrt",)
"""Runtimes that are not tried by themselves: TensorRT compiles for minutes whenever it sees a new shape."""
_SECONDS = 30.0
"""A runtime that takes longer than this is left to itself where there is another one."""
_LAST_SECONDS = 600.0
"""For so long is waited besides where there is no other one; a load that never ends would never be tried again."""


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
    runtimes: dict[str, Runtime] = {}
    late: dict[Future[Runtime], str] = {}
    failures: dict[str, str] = {}

    def take(name: str, outcome: Future[Runtime]) -> None:
        try:
            runtimes[name] = outcome.result()
        except NothingToGainError as error:
            log.debug("bundle %s: no %s, %s", bundle.manifest.name, name, error)
        except BundleError as error:
            failures[name] = str(error)
        except Exception as error:  # the programs that run models raise what they like
            log.debug("bundle %s: %s", bundle.manifest.name, name, exc_info=True)
            failures[name] = f"it cannot be run here ({type(error).__name__})"

    for name, path in files.items():
        outcome = in_thread(partial(_commissioned, name, path, bundle, device))
        if wait([outcome], _SECONDS).done:
            take(name, outcome)
        else:
            late[outcome] = name
            failures[name] = f"it did not come back within {_SECONDS:g} seconds"
    if not runtimes:
        for outcome in _done(late):
            take(late[outcome], outcome)
            if runtimes:
                break
        hanging = f"it did not come back within {_SECONDS + _LAST_SECONDS:g} seconds"
        failures |= {name: hanging for outcome, name in late.items() if not outcome.done()}
    if wanted == "torchscript-nhwc" and not (runtimes or failures) and "torchscript" in readers(bundle):
        return commission(bundle, device, "torchscript")  # it would do the same
    told = _told({name: reason for name, reason in failures.items() if name not in runtimes})
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


def _done(late: Iterable[Future[T]]) -> Iterator[Future[T]]:
    """Yield those that take long as they come back, for as long as is waited for them."""
    with suppress(TimeoutError):
        yield from as_completed(late, _LAST_SECONDS)


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


def in_thread(call: Callable[[], T]) -> Future[T]:
    """Call in a thread of its own, which can be left alone if it takes too long."""
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where the outcome is asked for
            outcome.set_exception(error)

    threading.Thread(target=work, name="runtime", daemon=True).start()
    return outcome
