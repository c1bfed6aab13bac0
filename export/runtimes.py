"""The programs that run a bundle's model files, behind one interface."""

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .bundle import BundleError, Manifest


class Runtime(Protocol):
    """Runs one model file on one device. Inputs and outputs are tensors by name."""

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs."""
        ...


class TorchScriptRuntime:
    """TorchScript, without the profiling of its first calls, which would make every new shape slow twice."""

    def __init__(self, path: Path, manifest: Manifest, device: torch.device) -> None:
        self.device = device
        self._inputs = [spec.name for spec in manifest.inputs]
        self._outputs = [spec.name for spec in manifest.outputs]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._module = torch.jit.load(str(path), map_location=device).eval()

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs."""
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
            result = self._module(*(inputs[name].to(self.device) for name in self._inputs))
        values = result if isinstance(result, tuple) else (result,)
        return dict(zip(self._outputs, values, strict=True))


class OnnxRuntime:
    """ONNX Runtime, on the CPU or on CUDA with TF32 off (it costs three digits of every Fourier transform)."""

    def __init__(self, path: Path, manifest: Manifest, device: torch.device) -> None:
        try:
            ort = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise BundleError(
                "model.onnx needs ONNX Runtime: pip install 'isocenter[cpu]' or 'isocenter[gpu]'"
            ) from error
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # threads that spin while they wait take the cores away from the stream
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.intra_op_num_threads = torch.get_num_threads()
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0", "device_id": str(device.index or 0)}))
        self._session = ort.InferenceSession(str(path), options, providers=providers)
        if device.type == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise BundleError("ONNX Runtime offers no CUDA here; it would silently run on the CPU")
        self._outputs = [spec.name for spec in manifest.outputs]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs."""
        feeds = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
        results = self._session.run(self._outputs, feeds)
        return {name: torch.from_numpy(result) for name, result in zip(self._outputs, results, strict=True)}


class AotiRuntime:
    """A graph that was compiled ahead of time by torch's Inductor; its file is native code for one kind of processor."""

    def __init__(self, path: Path, manifest: Manifest, device: torch.device) -> None:
        if device.type != "cpu":
            raise BundleError("model.pt2 was compiled for the CPU")
        self._inputs = [spec.name for spec in manifest.inputs]
        self._outputs = [spec.name for spec in manifest.outputs]
        inductor = importlib.import_module("torch._inductor")
        try:
            self._model = inductor.aoti_load_package(str(path))
        except RuntimeError as error:
            raise BundleError(f"model.pt2 cannot be loaded here: {error}") from error

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs."""
        with torch.inference_mode():
            result = self._model(*(inputs[name].contiguous() for name in self._inputs))
        values = result if isinstance(result, tuple | list) else (result,)
        return dict(zip(self._outputs, values, strict=True))


RUNTIMES: dict[str, type[TorchScriptRuntime] | type[OnnxRuntime] | type[AotiRuntime]] = {
    "torchscript": TorchScriptRuntime,
    "onnx": OnnxRuntime,
    "aoti": AotiRuntime,
}
"""The runtimes by name."""
