"""Write a module as TorchScript, ONNX or AOTInductor file, every axis but the numbered ones dynamic."""

import copy
import importlib
import importlib.util
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..bundle.axes import fixed_length
from ..bundle.manifest import Manifest
from ..models.fourier import lowering
from ..wire.errors import IsocenterError
from .cases import Inputs
from .fft_lowering import TorchFftLowering
from .planar_pass import PlanarModule

_TALKATIVE = ("torch.onnx", "torch.onnx._internal.exporter._registration", "torch.fx.experimental.symbolic_shapes")


class ExportError(IsocenterError):
    """A module cannot be written in this format."""

    kind = "export"


def write_torchscript(module: nn.Module, manifest: Manifest, inputs: Inputs, path: Path) -> None:
    """Script the module; tracing would freeze sizes and calibration lines unnoticed.

    Raises
    ------
    ExportError
        The module's code is not TorchScript.
    """
    del manifest, inputs
    with _quiet():
        try:
            # torch ends the process where a disk is full: it gets memory instead
            buffer = io.BytesIO()
            torch.jit.save(torch.jit.script(module), buffer)
        except Exception as error:
            raise ExportError(_cause(error)) from error
    path.write_bytes(buffer.getvalue())


def write_onnx(module: nn.Module, manifest: Manifest, inputs: Inputs, path: Path) -> None:
    """Export with Fourier transforms as matrix products, which run everywhere and keep their digits.

    Raises
    ------
    ExportError
        The exporter is not installed, or cannot express the module.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise ExportError("the exporter is not installed (extra 'export')")
    with lowering("gemm"), TorchFftLowering(), _quiet(), torch.inference_mode():
        try:
            program = _to_onnx(module, manifest, inputs)
        except Exception as error:  # noqa: BLE001  (the exporter raises what it likes)
            try:
                program = _to_onnx(_without_complex_tensors(module, manifest, inputs), manifest, inputs)
            except Exception as second:
                causes = dict.fromkeys((_cause(error), _cause(second)))
                raise ExportError("; and with complex tensors rewritten: ".join(causes)) from second
    program.save(str(path), external_data=False)


def _to_onnx(module: nn.Module, manifest: Manifest, inputs: Inputs) -> Any:
    return torch.onnx.export(
        module,
        tuple(inputs[spec.name] for spec in manifest.inputs),
        input_names=[spec.name for spec in manifest.inputs],
        output_names=[spec.name for spec in manifest.outputs],
        dynamic_shapes=_dynamic_shapes(module, manifest),
        dynamo=True,
        verbose=False,
    )


def _without_complex_tensors(module: nn.Module, manifest: Manifest, inputs: Inputs) -> PlanarModule:
    program = torch.export.export(
        module,
        tuple(inputs[spec.name] for spec in manifest.inputs),
        dynamic_shapes=_dynamic_shapes(module, manifest),
    )
    graph: Any = program.run_decompositions().module(check_guards=False)
    return PlanarModule(graph)


def write_aoti(module: nn.Module, manifest: Manifest, inputs: Inputs, path: Path) -> None:
    """Compile ahead of time for this processor, or for a GPU like this machine's; needs a C++ compiler.

    Raises
    ------
    ExportError
        The module cannot be compiled.
    """
    device = torch.device(manifest.compiled_for)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ExportError("it is to be compiled for CUDA, and there is no CUDA device here")
    # inside the context, what a graph makes itself is made on the device as well
    with lowering("gemm"), TorchFftLowering(), _quiet(), torch.no_grad(), device:
        try:
            program = torch.export.export(
                copy.deepcopy(module).to(device),
                tuple(inputs[spec.name].to(device) for spec in manifest.inputs),
                dynamic_shapes=_dynamic_shapes(module, manifest),
            )
            compile_package: Any = importlib.import_module("torch._inductor").aoti_compile_and_package
            compile_package(program, package_path=str(path))
        except Exception as error:
            raise ExportError(_cause(error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' warnings, and their listings of whole graphs, from the user; the cause of an error is told anyway."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _dynamic_shapes(module: nn.Module, manifest: Manifest) -> Any:
    shapes = [
        {axis: torch.export.Dim.DYNAMIC for axis, name in enumerate(spec.axes) if fixed_length(name) is None}
        for spec in manifest.inputs
    ]
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    return (tuple(shapes),) if kinds == [inspect.Parameter.VAR_POSITIONAL] else shapes


def _cause(error: BaseException) -> str:
    """What the first cause of an error says, without its listing of code."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: " + " ".join(lines[:4])[:600]


FORMATS: dict[str, Callable[[nn.Module, Manifest, Inputs, Path], None]] = {
    "torchscript": write_torchscript,
    "onnx": write_onnx,
    "aoti": write_aoti,
}
"""The formats by the name of the runtime that reads them."""
