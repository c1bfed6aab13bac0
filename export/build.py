"""Turn a module into a bundle: script it, export it, compare every runtime with the module in float64, write the manifest."""

import copy
import importlib
import importlib.metadata
import logging
import shutil
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from ..models.fourier import lowering
from .bundle import MANIFEST, PROBE, RUNTIME_FILES, Bundle, BundleError, Manifest, Parity, relative_error, sha256
from .runtimes import RUNTIMES

log = logging.getLogger("isocenter.export")

Inputs = dict[str, Tensor]


def build_bundle(module: nn.Module, manifest: Manifest, cases: Sequence[Inputs], folder: Path) -> Bundle:
    """Write a bundle.

    Parameters
    ----------
    module
        Takes the manifest's inputs in their order and returns its outputs; scriptable.
    manifest
        Everything but files, parity and tools, which are filled in.
    cases
        Inputs of at least two different shapes, one without axes of length one; the first is the probe.
    folder
        Where to write; replaced whole once the bundle is complete.

    Raises
    ------
    BundleError
        A runtime deviates from the module by more than the manifest's tolerance.
    """
    module = module.eval()
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_torchscript(module, partial / RUNTIME_FILES["torchscript"])
    if _write_onnx(module, manifest, _for_tracing(cases), partial / RUNTIME_FILES["onnx"]):
        log.info("bundle %s: exported to ONNX", manifest.name)
    _write_probe(module, manifest, cases[0], partial / PROBE)
    parity = {
        runtime: _check_parity(runtime, partial / name, module, manifest, cases)
        for runtime, name in RUNTIME_FILES.items()
        if (partial / name).is_file()
    }
    provenance = manifest.provenance.model_copy(
        update={"tools": _tools(), "date": datetime.now(UTC).date().isoformat()}
    )
    files = {path.name: sha256(path) for path in sorted(partial.iterdir())}
    complete = manifest.model_copy(update={"files": files, "parity": parity, "provenance": provenance})
    text = yaml.safe_dump(complete.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (partial / MANIFEST).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return Bundle.open(folder)


def _write_torchscript(module: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))


def _for_tracing(cases: Sequence[Inputs]) -> Inputs:
    """Inputs without axes of length one, which the exporter would take for constants."""
    return max(cases, key=lambda inputs: min(size for tensor in inputs.values() for size in tensor.shape))


def _write_onnx(module: nn.Module, manifest: Manifest, inputs: Inputs, path: Path) -> bool:
    """Export with every named axis but ``complex`` dynamic; False where the exporter is not installed."""
    if importlib.util.find_spec("onnxscript") is None:
        log.warning(
            "the ONNX exporter is not installed (extra 'export'): bundle %s gets TorchScript only", manifest.name
        )
        return False
    dynamic = [
        {axis: torch.export.Dim.DYNAMIC for axis, name in enumerate(spec.axes) if name != "complex"}
        for spec in manifest.inputs
    ]
    with lowering("gemm"), warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            tuple(inputs[spec.name] for spec in manifest.inputs),
            input_names=[spec.name for spec in manifest.inputs],
            output_names=[spec.name for spec in manifest.outputs],
            dynamic_shapes=dynamic,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    return True


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


def _check_parity(runtime: str, path: Path, module: nn.Module, manifest: Manifest, cases: Sequence[Inputs]) -> Parity:
    session = RUNTIMES[runtime](path, manifest, torch.device("cpu"))
    exact = copy.deepcopy(module).double()
    worst = 0.0
    for inputs in cases:
        expected = _run_module(exact, manifest, {name: tensor.double() for name, tensor in inputs.items()})
        error = relative_error(session.run(inputs), expected)
        shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
        if not error <= manifest.tolerance:
            raise BundleError(
                f"bundle {manifest.name!r}: {runtime} deviates by {error:.1e} of the maximum on {shapes}, "
                f"accepted is {manifest.tolerance:.0e}"
            )
        worst = max(worst, error)
    return Parity(error=worst, cases=len(cases))


def _tools() -> dict[str, str]:
    versions = {}
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
