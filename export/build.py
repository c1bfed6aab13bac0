"""Turn a module into a bundle: write its model files, compare every runtime with the module in float64, write the manifest."""

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
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import models
from ..bundle.folder import Bundle, sha256
from ..bundle.manifest import MANIFEST, PROBE, RUNTIME_FILES, SIGNATURE, BundleError, Manifest, Parity
from ..bundle.minisign import SecretKey
from ..bundle.trust import EVERYBODY, Trust
from ..engine.runtimes import RUNTIMES, Runtime
from ..wire.entries import write_entries
from ..wire.errors import MissingExtraError
from .cases import Inputs
from .errors import ExportError
from .formats import FORMATS, cannot_be_written
from .half_precision import in_precision
from .parity import Comparison, run_module

log: logging.Logger = logging.getLogger("isocenter.export")

DEFAULT_FORMATS = ("torchscript", "onnx")
"""What a bundle gets where nobody says which formats it must have, as far as its module can have them."""
SHIPPED_FORMATS = ("torchscript",)
"""Of the bundles that come with Isocenter. ONNX is left to ``isocenter bundle prepare --onnx``: on a CPU it takes 0.46 (AMD
EPYC) to 1.05 (Intel Xeon) of eager mode's time for E2E-VarNet and more than eager mode's for all others, and writing and
verifying it would be most of what the first start takes."""
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
        Model files that it should have: ``torchscript``, ``onnx``, ``aoti``; None: ``DEFAULT_FORMATS``. Each is verified by
        itself: one that cannot be had is left out, with a warning that says why.
    impossible
        Formats that need not be tried, and why the module cannot have them.
    key
        Signs it.

    Raises
    ------
    MissingExtraError
        One of the formats that were named needs a package that is not installed; nothing is written.
    BundleError
        No format can be had, one of those that were named cannot (the bundle is written with the others), the module itself
        fails, or the disk is full.
    """
    chosen = _with_what_is_installed(manifest.name, formats)
    try:
        with workplace(folder) as place:
            comparison = Comparison(module.eval(), manifest, cases, edge_cases or {})
            written = in_precision(module, manifest.precision)
            parity, failures = _write_models(
                written, manifest, _for_tracing(cases), place, chosen, impossible or {}, comparison
            )
            reasons = [f"it can have no {name}: {why}" for name, why in failures.items()]
            if not parity:
                untried = [f"{name} (not tried)" for name in FORMATS if name not in {*failures, *(impossible or {})}]
                raise BundleError("; ".join(reasons), where=f"bundle {manifest.name!r}", accepted=", ".join(untried))
            _fill(place, module, manifest, cases[0], parity, key)
            move(place, folder)
    except OSError as error:
        raise BundleError(f"bundle {manifest.name!r} cannot be written to {folder}: {error.strerror}") from error
    if formats is not None and failures:
        kept = f"it was written to {folder} with {' and '.join(parity)}"
        raise BundleError("; ".join([*reasons, kept]), where=f"bundle {manifest.name!r}")
    for reason in reasons:
        log.warning("bundle %s: %s", manifest.name, reason)
    return replace(Bundle.open(folder), made_here=True)


def _with_what_is_installed(name: str, formats: Sequence[str] | None) -> list[str]:
    """Return the formats to write: those that were named must all be possible, of the default ones as many as are."""
    chosen = DEFAULT_FORMATS if formats is None else formats
    missing = cannot_be_written(chosen)
    if missing and formats is not None:
        raise MissingExtraError("; ".join(missing.values()))
    for why in missing.values():
        log.warning("bundle %s is built without it: %s", name, why)
    return [each for each in chosen if each not in missing]


def _fill(
    place: Path,
    module: nn.Module,
    manifest: Manifest,
    probe: Inputs,
    parity: Mapping[str, Parity],
    key: SecretKey | None,
) -> None:
    """Write what a bundle has beside its models, the manifest after the files whose hashes it lists."""
    _write_probe(module, manifest, probe, place / PROBE)
    provenance = manifest.provenance.model_copy(
        update={"tools": _tools(), "date": datetime.now(UTC).date().isoformat()}
    )
    files = {path.name: sha256(path) for path in sorted(place.iterdir())}
    complete = manifest.model_copy(update={"files": files, "parity": dict(parity), "provenance": provenance})
    write_manifest(complete, place, key)


def write_manifest(manifest: Manifest, folder: Path, key: SecretKey | None) -> None:
    """Write a manifest and, with a key, its signature."""
    text = write_entries(manifest.model_dump(mode="json"))
    (folder / MANIFEST).write_bytes(text)
    if key is not None:
        (folder / SIGNATURE).write_text(key.sign(text), encoding="utf-8")


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
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


def move(place: Path, folder: Path) -> None:
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
    formats: Sequence[str],
    impossible: Mapping[str, str],
    comparison: Comparison,
) -> tuple[dict[str, Parity], dict[str, str]]:
    """Write the model files, load and verify them; return what holds, and why the others cannot be."""
    parity: dict[str, Parity] = {}
    failures: dict[str, str] = {}
    for name in formats:
        path = folder / RUNTIME_FILES[name]
        try:
            if name in impossible:
                raise ExportError(impossible[name])
            FORMATS[name](module, manifest, inputs, path)
            parity[name] = comparison.check(_load(name, path, manifest))
        except ExportError as error:
            path.unlink(missing_ok=True)
            failures[name] = str(error)
    return parity, failures


def _load(name: str, path: Path, manifest: Manifest) -> Runtime:
    """Load a model file; exporters write some that no runtime reads."""
    device = torch.device(manifest.compiled_for if name == "aoti" else "cpu")
    try:
        return RUNTIMES[name](path, manifest, device)
    except Exception as error:
        raise ExportError(f"what was written cannot be loaded: {type(error).__name__}: {error}") from error


def _write_probe(module: nn.Module, manifest: Manifest, inputs: Inputs, path: Path) -> None:
    outputs = run_module(module, manifest, inputs)
    arrays: dict[str, Any] = {f"input.{name}": tensor.numpy() for name, tensor in inputs.items()}
    arrays |= {f"output.{name}": tensor.numpy() for name, tensor in outputs.items()}
    np.savez_compressed(path, **arrays)


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
    if not os.path.lexists(folder / MANIFEST):
        how = "it comes with Isocenter, and is built once, before its first use or by `isocenter bundle prepare`"
        log.info("building bundle %s: %s", folder.name, how)
        return None
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
