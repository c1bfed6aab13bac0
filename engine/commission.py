"""The commissioning test: which runtimes of a bundle reproduce its probe on a device."""

import logging
from pathlib import Path

import torch

from ..bundle.folder import Bundle, relative_error
from ..bundle.manifest import BundleError
from .runtimes import MACHINE_CODE, RUNTIMES, NothingToGainError, Runtime, readers

log = logging.getLogger("isocenter.engine")

ON_REQUEST = ("tensorrt",)
"""Runtimes that are not tried by themselves: TensorRT compiles for minutes whenever it sees a new shape."""


def commission(bundle: Bundle, device: torch.device, wanted: str = "auto") -> dict[str, Runtime]:
    """Load the runtimes that are wanted, and keep those that reproduce the probe within the manifest's tolerance.

    Parameters
    ----------
    bundle
        The bundle.
    device
        Where to run.
    wanted
        Name of a runtime, or ``auto`` for all.

    Raises
    ------
    BundleError
        None of them does.
    """
    runtimes: dict[str, Runtime] = {}
    failures: dict[str, list[str]] = {}
    inputs, expected = bundle.probe()
    manifest = bundle.manifest
    for name, path in readers(bundle).items():
        if name != wanted and (wanted != "auto" or name in ON_REQUEST):
            continue
        try:
            runtime = load_runtime(bundle, name, path, device)
            error = relative_error(runtime.run(inputs), expected)
            if not error <= manifest.tolerance:
                raise BundleError(
                    f"the probe deviates by {error:.1e} of the maximum", accepted=f"{manifest.tolerance:.0e}"
                )
            runtimes[name] = runtime
        except NothingToGainError as error:
            log.debug("bundle %s: no %s, %s", manifest.name, name, error)
        except BundleError as error:
            failures.setdefault(str(error), []).append(name)
        except Exception as error:
            log.debug("bundle %s: %s", manifest.name, name, exc_info=True)
            failures.setdefault(f"it cannot be run here ({type(error).__name__})", []).append(name)
    told = [f"{', '.join(names)}: {reason}" for reason, names in failures.items()]
    if not runtimes:
        reasons = "; ".join(told) or f"it has no model file for runtime {wanted!r}"
        raise BundleError(f"bundle {manifest.name!r} cannot be used on {device}: {reasons}")
    for failure in told:
        log.warning("bundle %s: %s", manifest.name, failure)
    return runtimes


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
