"""Write a module as TorchScript, ONNX or AOTInductor file, every axis but the numbered ones dynamic."""

import copy
import importlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..bundle.manifest import Manifest
from ..wire import extras
from ..wire.errors import MissingExtraError
from .cases import Inputs
from .errors import ExportError, cause_of

_TALKATIVE = ("torch.fx.experimental.symbolic_shapes",)


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
            raise ExportError(cause_of(error)) from error
    path.write_bytes(buffer.getvalue())


def write_onnx(module: nn.Module, manifest: Manifest, inputs: Inputs, path: Path) -> None:
    """Write an ONNX graph of real tensors, with Fourier transforms as matrix products (see ``lowering.py``).

    Raises
    ------
    ExportError
        The module cannot be expressed.
    """
    lowering = importlib.import_module(".lowering", __package__)
    with _quiet():
        try:
            content = lowering.to_onnx(lowering.trace(module, manifest, inputs), manifest).SerializeToString()
        except Exception as error:
            raise ExportError(_fixed_axes(error, manifest) or cause_of(error)) from error
    path.write_bytes(content)


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
    lowering = importlib.import_module(".lowering", __package__)
    # what is compiled takes the strides that it is traced with; the runtime passes contiguous tensors
    there = {name: tensor.to(device).contiguous() for name, tensor in inputs.items()}
    with _quiet(), torch.no_grad():
        try:
            program = lowering.trace(copy.deepcopy(module).to(device), manifest, there)
            real = lowering.trace(lowering.RealModule(program, device), manifest, there)
            compile_package: Any = importlib.import_module("torch._inductor").aoti_compile_and_package
            compile_package(real.program, package_path=str(path))
        except Exception as error:
            raise ExportError(_fixed_axes(error, manifest) or cause_of(error)) from error


def _fixed_axes(error: Exception, manifest: Manifest) -> str:
    """Say which axes the tracer found to be of one length only; nothing for any other error."""
    places = re.findall(r"L\['(\w+)'\]\.size\(\)\[(\d+)\]\D*(\d+)\)", str(error))
    axes = {spec.name: spec.axes for spec in manifest.inputs}
    names = [f"{axes[name][int(axis)]} of {name} to {size}" for name, axis, size in places if name in axes]
    if not names:
        return ""
    return f"its code fixes {', '.join(dict.fromkeys(names))}: a loop over them, or a length that it takes as a number"


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


FORMATS: dict[str, Callable[[nn.Module, Manifest, Inputs, Path], None]] = {
    "torchscript": write_torchscript,
    "onnx": write_onnx,
    "aoti": write_aoti,
}
"""The formats by the name of the runtime that reads them."""

_PACKAGES = {"onnx": ("onnx", "onnxruntime"), "aoti": ("onnx",)}
"""What is needed to write a format and to verify what was written; ``lowering`` writes both."""


def cannot_be_written(formats: Iterable[str]) -> dict[str, str]:
    """Return which of these formats cannot be had with what is installed, and what to install."""
    missing: dict[str, str] = {}
    for name in formats:
        try:
            for package in _PACKAGES.get(name, ()):
                extras.need(package, f"the format {name}")
        except MissingExtraError as error:
            missing[name] = str(error)
    return missing


def check_formats(formats: Iterable[str]) -> None:
    """Make sure that these formats can be had with what is installed.

    Raises
    ------
    MissingExtraError
        A package is not installed; the message says what to install.
    """
    if missing := cannot_be_written(formats):
        raise MissingExtraError("; ".join(missing.values()))
