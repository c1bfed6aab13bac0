"""The commissioning test: which runtimes of a bundle reproduce its probe on a device."""

import logging

import torch

from ..bundle.folder import Bundle, relative_error
from ..bundle.manifest import BundleError
from .runtimes import RUNTIMES, NothingToGainError, Runtime, readers

log = logging.getLogger("isocenter.engine")

_ON_REQUEST = ("tensorrt",)
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
    failures = []
    inputs, expected = bundle.probe()
    manifest = bundle.manifest
    for name, path in readers(bundle).items():
        if name != wanted and (wanted != "auto" or name in _ON_REQUEST):
            continue
        try:
            runtime = RUNTIMES[name](path, manifest, device)
            error = relative_error(runtime.run(inputs), expected)
            if not error <= manifest.tolerance:
                raise BundleError(
                    f"the probe deviates by {error:.1e} of the maximum", accepted=f"{manifest.tolerance:.0e}"
                )
            runtimes[name] = runtime
        except NothingToGainError as error:
            log.debug("bundle %s: no %s, %s", manifest.name, name, error)
        except BundleError as error:
            failures.append(f"{name}: {error}")
    if not runtimes:
        reasons = "; ".join(failures) or f"it has no model file for runtime {wanted!r}"
        raise BundleError(f"bundle {manifest.name!r} cannot be used on {device}: {reasons}")
    for failure in failures:
        log.warning("bundle %s: %s", manifest.name, failure)
    return runtimes
