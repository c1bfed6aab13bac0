"""Turn a module into a bundle: write its model files, compare every runtime with the module in float64, write the manifest."""

import copy
import hashlib
import importlib
import importlib.metadata
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from .. import models
from ..bundle.folder import Bundle, relative_error, sha256
from ..bundle.manifest import MANIFEST, PROBE, RUNTIME_FILES, SIGNATURE, BundleError, Manifest, Parity
from ..bundle.minisign import SecretKey
from ..bundle.trust import EVERYBODY, Trust
from ..engine.runtimes import RUNTIMES, Runtime
from .cases import Inputs
from .errors import ExportError
from .formats import FORMATS
from .half_precision import HALF, in_precision
from .rounding import accepted_deviation

log: logging.Logger = logging.getLogger("isocenter.export")

DEFAULT_FORMATS = ("torchscript", "onnx")
"""What a bundle gets where nobody says which formats it must have, as far as its module can have them."""
SHIPPED_FORMATS = ("torchscript",)
"""Of the bundles that come with Isocenter: ONNX takes minutes to write, and is faster for none of them on a CPU."""
PARTIAL = ".partial"
"""How the names of folders end in which bundles are being built."""
_LEFT_BEHIND_SECONDS = 86400.0
"""No bundle takes that long: whoever was building it is gone."""
_MODELS = "isocenter.models"


def build_bundle(
    module: nn.Module,
    manifest: Manifest,
    cases: Sequence[Inputs],
    folder: Path,
    *,
    edge_cases: Mapping[str, Inputs] | None = None,
    formats: Sequence[str] | None = None,
    impossible: Mapping[str, str] | None = None,
    key: SecretKey | None = None,
) -> Bundle:
    """Write a bundle.

    Parameters
    ----------
    module
        Takes the manifest's inputs in their order and returns its outputs.
    manifest
        Everything but files, parity and tools, which are filled in.
    cases
        Inputs of at least two different shapes, one without axes of length one; the first is the probe.
    folder
        Where to write; replaced whole once the bundle is complete.
    edge_cases
        Inputs by name on which every runtime's output must be finite.
    formats
        Model files that it must have: ``torchscript``, ``onnx``, ``aoti``. None: ``DEFAULT_FORMATS``, of which one is enough;
        a warning says what is missing.
    impossible
        Formats that need not be tried, and why the module cannot have them.
    key
        Signs it.

    Raises
    ------
    BundleError
        A format that it must have cannot be written, a runtime deviates from the module by more than is accepted, or the disk is
        full.
    """
    try:
        with _workplace(folder) as place:
            written = in_precision(module.eval(), manifest.precision)
            sessions = _write_models(written, manifest, _for_tracing(cases), place, formats, impossible or {})
            _fill(place, module, manifest, cases, edge_cases or {}, sessions, key)
            _move(place, folder)
    except OSError as error:
        raise BundleError(f"bundle {manifest.name!r} cannot be written to {folder}: {error.strerror}") from error
    return replace(Bundle.open(folder), made_here=True)


def _fill(
    place: Path,
    module: nn.Module,
    manifest: Manifest,
    cases: Sequence[Inputs],
    edge_cases: Mapping[str, Inputs],
    sessions: Mapping[str, Runtime],
    key: SecretKey | None,
) -> None:
    """Write what a bundle has beside its models, the manifest after the files whose hashes it lists."""
    _write_probe(module, manifest, cases[0], place / PROBE)
    parity = _check_parity(module, manifest, cases, edge_cases, sessions)
    provenance = manifest.provenance.model_copy(
        update={"tools": _tools(), "date": datetime.now(UTC).date().isoformat()}
    )
    files = {path.name: sha256(path) for path in sorted(place.iterdir())}
    complete = manifest.model_copy(update={"files": files, "parity": parity, "provenance": provenance})
    text = yaml.safe_dump(complete.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode()
    (place / MANIFEST).write_bytes(text)
    if key is not None:
        (place / SIGNATURE).write_text(key.sign(text), encoding="utf-8")


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """Make a folder beside the one to be written, whose name begins with a dot: nobody takes it for a bundle."""
    for left in folder.parent.glob(f".*{PARTIAL}"):
        if left.lstat().st_mtime < time.time() - _LEFT_BEHIND_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    place = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{PARTIAL}")
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _move(place: Path, folder: Path) -> None:
    """Put a whole bundle where another one may be."""
    if os.path.lexists(folder):
        former = place.with_name(f".{folder.name}.{secrets.token_hex(4)}{PARTIAL}")
        folder.rename(former)
        place.rename(folder)
        shutil.rmtree(former, ignore_errors=True)
    else:
        place.rename(folder)


def _for_tracing(cases: Sequence[Inputs]) -> Inputs:
    """Inputs with as few axes of length one as possible, which the exporter would take for constants."""
    return max(cases, key=lambda inputs: -sum(size == 1 for tensor in inputs.values() for size in tensor.shape))


def _write_models(
    module: nn.Module,
    manifest: Manifest,
    inputs: Inputs,
    folder: Path,
    formats: Sequence[str] | None,
    impossible: Mapping[str, str],
) -> dict[str, Runtime]:
    """Write the model files and load them again: what cannot be loaded counts as not written."""
    sessions: dict[str, Runtime] = {}
    failures: dict[str, str] = {}
    for name in DEFAULT_FORMATS if formats is None else formats:
        path = folder / RUNTIME_FILES[name]
        try:
            if name in impossible:
                raise ExportError(impossible[name])
            FORMATS[name](module, manifest, inputs, path)
            sessions[name] = _load(name, path, manifest)
        except ExportError as error:
            path.unlink(missing_ok=True)
            failures[name] = str(error)
    reasons = [f"it can have no {name}: {why}" for name, why in failures.items()]
    if failures and (formats is not None or not sessions):
        untried = [f"{name} (not tried)" for name in FORMATS if name not in {*sessions, *failures, *impossible}]
        raise BundleError(
            "; ".join(reasons), where=f"bundle {manifest.name!r}", accepted=", ".join([*sessions, *untried])
        )
    for reason in reasons:
        log.warning("bundle %s: %s", manifest.name, reason)
    return sessions


def _load(name: str, path: Path, manifest: Manifest) -> Runtime:
    """Load a model file; exporters write some that no runtime reads."""
    device = torch.device(manifest.compiled_for if name == "aoti" else "cpu")
    try:
        return RUNTIMES[name](path, manifest, device)
    except Exception as error:
        raise ExportError(f"what was written cannot be loaded: {type(error).__name__}: {error}") from error


def _write_probe(module: nn.Module, manifest: Manifest, inputs: Inputs, path: Path) -> None:
    outputs = _run_module(module, manifest, inputs)
    arrays: dict[str, Any] = {f"input.{name}": tensor.numpy() for name, tensor in inputs.items()}
    arrays |= {f"output.{name}": tensor.numpy() for name, tensor in outputs.items()}
    np.savez_compressed(path, **arrays)


def _run_module(module: nn.Module, manifest: Manifest, inputs: Inputs) -> dict[str, Tensor]:
    with torch.inference_mode():
        result = module(*(inputs[spec.name] for spec in manifest.inputs))
    values = result if isinstance(result, tuple) else (result,)
    return dict(zip((spec.name for spec in manifest.outputs), values, strict=True))


def _check_parity(
    module: nn.Module,
    manifest: Manifest,
    cases: Sequence[Inputs],
    edge_cases: Mapping[str, Inputs],
    sessions: Mapping[str, Runtime],
) -> dict[str, Parity]:
    """Compare every runtime with the module in float64 on all cases."""
    exact = copy.deepcopy(module).double()
    expected, eager, accepted = [], [], []
    for inputs in cases:
        doubled = {name: x.double() for name, x in inputs.items()}
        expected.append(_run_module(exact, manifest, doubled))
        eager.append(relative_error(_run_module(module, manifest, inputs), expected[-1]))
        accepted.append(_accepted(exact, manifest, doubled, expected[-1]))
    parity = {}
    for runtime, session in sessions.items():
        errors = [relative_error(session.infer(inputs), truth) for inputs, truth in zip(cases, expected, strict=True)]
        worst = max(range(len(cases)), key=lambda case: errors[case] / accepted[case])
        if not errors[worst] <= accepted[worst]:
            shapes = {name: tuple(tensor.shape) for name, tensor in cases[worst].items()}
            raise BundleError(
                f"{runtime} deviates from float64 by {errors[worst]:.1e} of the maximum on {shapes}",
                where=f"bundle {manifest.name!r}",
                accepted=f"{accepted[worst]:.1e} (eager mode deviates by {eager[worst]:.1e})",
            )
        for what, inputs in edge_cases.items():
            if not all(torch.isfinite(output).all() for output in session.infer(inputs).values()):
                raise BundleError(
                    f"{runtime} returns values that are not finite for {what}", where=f"bundle {manifest.name!r}"
                )
        parity[runtime] = Parity(error=errors[worst], accepted=accepted[worst], eager=eager[worst], cases=len(cases))
    return parity


def _accepted(exact: nn.Module, manifest: Manifest, inputs: Inputs, expected: dict[str, Tensor]) -> float:
    """By how much a runtime may deviate: by what roundings explain, and never by more than the tolerance."""
    if manifest.precision in HALF:
        return manifest.tolerance
    longest = max(size for tensor in inputs.values() for size in tensor.shape)
    explained = accepted_deviation(partial(_run_module, exact, manifest, inputs), expected, longest)
    return min(manifest.tolerance, explained)


def _tools() -> dict[str, str]:
    versions = {}
    for package in ("torch", "onnx", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**versions, _MODELS: _models_digest()}


@cache
def _models_digest() -> str:
    """Hash of the code that reconstructions are made of."""
    digest = hashlib.sha256()
    folder = Path(models.__path__[0])
    for path in sorted((*folder.glob("*.py"), *folder.glob("networks/*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def find_current(folder: Path, fingerprint: str, formats: Sequence[str], key: SecretKey | None = None) -> Bundle | None:
    """Return a bundle that need not be built again, or None, and log why.

    Parameters
    ----------
    folder
        Where it should be.
    fingerprint
        Of what it should be made from; the code of the models and torch must be those that there are now, too.
    formats
        Model files that it should have; it may have more.
    key
        That should have signed it.
    """
    try:
        bundle = Bundle.open(folder, Trust((key.public,)) if key is not None else EVERYBODY)
    except BundleError as error:
        log.info("building bundle %s: %s", folder.name, error)
        return None
    made, now = bundle.manifest.provenance, _tools()
    same_code = all(made.tools.get(name) == now[name] for name in ("torch", _MODELS))
    missing = sorted(set(formats) - bundle.runtime_files().keys())
    if made.fingerprint == fingerprint and same_code and not missing:
        return bundle
    reason = (
        f"it has no {' and no '.join(missing)}" if missing else "what it is made from, its code or torch have changed"
    )
    log.info("building bundle %s: %s", folder.name, reason)
    return None
