"""The programs that run a bundle's model files, behind one interface."""

import importlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from ..bundle.axes import fixed_length
from ..bundle.folder import Bundle, read_listed
from ..bundle.manifest import BundleError, Manifest
from ..bundle.onnx_graph import check_onnx
from ..wire import extras
from .link import Link
from .torchscript import ChannelsLastRuntime, GraphRuntime, TorchScriptRuntime

_Provider = str | tuple[str, dict[str, str]]
"""An execution provider of ONNX Runtime: its name, or that and its options."""


class Runtime(Protocol):
    """Runs one model file on one device.

    Inputs and outputs are float32 by name, with the axes of the manifest's ``TensorSpec``. Inputs may be on any device; outputs
    are on the CPU, and complete: no work on the device is left. Whether its numbers are right is not a runtime's to say; the
    probe finds out (``commission``).
    """

    @property
    def description(self) -> str:
        """What it runs on, such as the execution providers that are really in use."""
        ...

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs.

        Raises
        ------
        Exception
            Whatever the program raises that runs the file.
        """
        ...


class OnnxRuntime:
    """ONNX Runtime on the CPU or on CUDA.

    TF32 is off there unless the manifest has it: it costs three digits of every Fourier transform. Inputs and outputs are
    bound: the session reads and writes torch's memory, on the device. For that the sizes of outputs must be known before they
    are computed: each of their axes has the length of the inputs' axis of that name, or a fixed one.

    Parameters
    ----------
    path
        ``model.onnx``.
    manifest
        Names inputs and outputs and their axes, and lists the file's hash.
    device
        Where to run.

    Raises
    ------
    BundleError
        ONNX Runtime is not installed or lacks the provider, or the file is not one that may be run.
    """

    provider = "CUDAExecutionProvider"

    def __init__(self, path: Path, manifest: Manifest, device: torch.device) -> None:
        if reason := self.hindrance(device.type):
            raise BundleError(reason)
        ort = extras.load("onnxruntime", "model.onnx", BundleError)
        options = ort.SessionOptions()
        # what it would log of an error it raises as well
        options.log_severity_level = 4
        # threads that spin while they wait take the cores away from the stream
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.intra_op_num_threads = torch.get_num_threads()
        # planning which tensor may lie where another one was takes time by the square of the number of nodes, half a minute for
        # ten thousand; a tensor's memory is freed after its last use without it, so that neither time nor memory is lost
        options.enable_mem_reuse = False
        options.add_session_config_entry("session.load_model_format", "ONNX")
        content = read_listed(path, manifest)
        check_onnx(content)
        self._session = ort.InferenceSession(content, options, providers=self._providers(manifest, device))
        in_use = self._session.get_providers()
        if device.type == "cuda" and self.provider not in in_use:
            raise BundleError(f"ONNX Runtime offers no {self.provider} here; it would silently run on the CPU")
        self.description: str = f"ONNX Runtime on {device} ({', '.join(in_use)})"
        self._link = Link(device)
        self._input_axes = {spec.name: spec.axes for spec in manifest.inputs}
        self._output_axes = {spec.name: spec.axes for spec in manifest.outputs}
        first, axes = self._session.get_inputs()[0], manifest.inputs[0].axes
        self._one_by_one: bool = axes[0] == "batch" and first.shape[0] == 1

    @classmethod
    def hindrance(cls, kind: str) -> str:
        """Say why no bundle at all can run on a kind of device (``cpu``, ``cuda``); empty if they can.

        Raises
        ------
        BundleError
            ONNX Runtime is not installed.
        """
        ort = extras.load("onnxruntime", "model.onnx", BundleError)
        if kind == "cuda" and cls.provider not in ort.get_available_providers():
            return f"this ONNX Runtime has no {cls.provider}: pip install 'isocenter[gpu]'"
        return ""

    def _providers(self, manifest: Manifest, device: torch.device) -> list[_Provider]:
        if device.type == "cpu":
            return ["CPUExecutionProvider"]
        cuda = {"use_tf32": str(int(manifest.precision == "tf32")), "device_id": str(device.index or 0)}
        return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs; a graph of one batch entry runs once for each."""
        entries = len(next(iter(inputs.values())))
        if not self._one_by_one or entries == 1:
            return self._infer(inputs)
        each = [self._infer({name: x[n : n + 1] for name, x in inputs.items()}) for n in range(entries)]
        return {name: torch.cat([outputs[name] for outputs in each]) for name in each[0]}

    def _infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        binding, link = self._session.io_binding(), self._link
        with link.open():
            # the binding keeps addresses only: the tensors must live until the run is over
            bound = {name: link.to_device(inputs[name]).contiguous() for name in self._input_axes}
            outputs = self._allocate(bound, link.device)
            for bind, tensors in ((binding.bind_input, bound), (binding.bind_output, outputs)):
                for name, tensor in tensors.items():
                    place = tensor.device.type, tensor.device.index or 0
                    bind(name, *place, np.float32, tuple(tensor.shape), tensor.data_ptr())
            link.wait()
            self._session.run_with_iobinding(binding)
            return dict(zip(outputs, link.to_host(tuple(outputs.values())), strict=True))

    def _allocate(self, inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Memory for the outputs, whose axes have the lengths of the inputs' axes of the same name."""
        sizes = {
            axis: length
            for name, tensor in inputs.items()
            for axis, length in zip(self._input_axes[name], tensor.shape, strict=True)
        }
        return {
            name: torch.empty([fixed_length(axis) or sizes[axis] for axis in axes], device=device)
            for name, axes in self._output_axes.items()
        }


class TensorRtRuntime(OnnxRuntime):
    """ONNX Runtime with TensorRT, which compiles the graph for every new shape.

    The kernels are kept beside the bundle, not in it: they are code, and no manifest lists them.
    """

    provider = "TensorrtExecutionProvider"

    def __init__(self, path: Path, manifest: Manifest, device: torch.device) -> None:
        self._cache = str(path.parent.parent / ".tensorrt" / manifest.files.get(path.name, manifest.name))
        super().__init__(path, manifest, device)

    @classmethod
    def hindrance(cls, kind: str) -> str:
        """Say why no bundle at all can run on a kind of device."""
        return super().hindrance(kind) if kind == "cuda" else "TensorRT needs a CUDA device"

    def _providers(self, manifest: Manifest, device: torch.device) -> list[_Provider]:
        tensorrt = {
            "device_id": str(device.index or 0),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": self._cache,
        }
        return [(self.provider, tensorrt), *super()._providers(manifest, device)]


class AotiRuntime:
    """A graph that was compiled ahead of time by torch's Inductor; its file is native code for one kind of processor or GPU.

    Nothing can check what such code does: whoever loads it must know who made it (``Bundle.may_hold_machine_code``).

    Raises
    ------
    BundleError
        It was compiled for another kind of device, is not the file that the manifest lists, or cannot be loaded here.
    """

    def __init__(self, path: Path, manifest: Manifest, device: torch.device) -> None:
        if device.type != manifest.compiled_for:
            raise BundleError(f"model.pt2 was compiled for {manifest.compiled_for}")
        self.description: str = f"AOTInductor on {device}"
        self._link = Link(device)
        self._inputs = [spec.name for spec in manifest.inputs]
        self._outputs = [spec.name for spec in manifest.outputs]
        inductor = importlib.import_module("torch._inductor")
        index = cast("int | None", device.index)  # None for the device in use, which torch's types leave out
        try:
            self._model = inductor.aoti_load_package(
                io.BytesIO(read_listed(path, manifest)), device_index=-1 if index is None else index
            )
        except RuntimeError as error:
            raise BundleError("model.pt2 cannot be loaded here") from error

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs."""
        link = self._link
        with torch.inference_mode(), link.open():
            tensors = (link.to_device(inputs[name]).contiguous() for name in self._inputs)
            return link.named(self._outputs, self._model(*tensors))


RUNTIMES: dict[str, Callable[[Path, Manifest, torch.device], Runtime]] = {
    "torchscript": TorchScriptRuntime,
    "torchscript-nhwc": ChannelsLastRuntime,
    "torchscript-graph": GraphRuntime,
    "onnx": OnnxRuntime,
    "tensorrt": TensorRtRuntime,
    "aoti": AotiRuntime,
}
"""The runtimes by name."""
MACHINE_CODE = ("aoti",)
"""Those whose files are programs."""
VARIANTS = ("torchscript-nhwc", "torchscript-graph")
"""Other ways to run TorchScript's file."""
_SHARED_FILES = {**dict.fromkeys(VARIANTS, "torchscript"), "tensorrt": "onnx"}


def readers(bundle: Bundle) -> dict[str, Path]:
    """Return the names of the runtimes that can read one of a bundle's model files, and that file."""
    files = bundle.runtime_files()
    return files | {name: files[owner] for name, owner in _SHARED_FILES.items() if owner in files}
