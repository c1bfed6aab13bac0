"""TorchScript: as it is, with other strides, and as CUDA graphs."""

import io
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import torch
from torch import Tensor

from ..bundle.folder import read_listed
from ..bundle.manifest import BundleError, Manifest
from ..bundle.torchscript import checked_torchscript
from .link import Link

_WAITS = re.compile(
    r"aten::(item|_local_scalar_dense|(Bool|Int|Float|Complex)\.Tensor|(Scalar|Int|Float|Complex)Implicit|is_nonzero|equal|allclose)$"
    r"|aten::(nonzero|masked_select|index\.Tensor|index_put|unique|bincount|repeat_interleave\.Tensor|_?linalg_|cholesky|lu_)"
)
"""Operators that need a number on the processor, or whose result has a size that depends on the data."""
_recording = threading.Lock()
"""One model at a time."""
_failed: list[torch.cuda.CUDAGraph] = []
"""Recordings that failed are kept, as torch ends the process when it releases one that could not begin."""
_MOST_RECORDINGS = 8
"""Sizes of inputs that a model keeps recorded: batches, and slices of several scans."""


class _Jit(Protocol):
    """What is used here of ``torch.jit``, which torch gives no types."""

    def load(self, f: BinaryIO, map_location: torch.device) -> torch.nn.Module: ...

    def optimized_execution(self, should_optimize: bool) -> AbstractContextManager[None]: ...


_jit = cast("_Jit", torch.jit)


class NothingToGainError(BundleError):
    """A runtime would do what another one does."""


class TorchScriptRuntime:
    """TorchScript, without the profiling of its first calls, which would make every new shape slow twice.

    What TorchScript may do was checked before it was loaded (``bundle.torchscript``), but for one thing that no list of
    operators forbids: to write into its own weights. So the versions that torch counts of each are compared after every run.

    Parameters
    ----------
    path
        ``model.ts``.
    manifest
        Names inputs and outputs in the order of the arguments, and lists the file's hash.
    device
        Where to run.

    Raises
    ------
    BundleError
        It is not the file that the manifest lists, does more than compute, or (``run``) changes its weights.
    """

    def __init__(self, path: Path, manifest: Manifest, device: torch.device) -> None:
        self.description: str = f"TorchScript on {device}"
        self._link = Link(device)
        self._inputs = [spec.name for spec in manifest.inputs]
        self._outputs = [spec.name for spec in manifest.outputs]
        archive = io.BytesIO(checked_torchscript(read_listed(path, manifest)))
        # for good, and for this one alone: several threads load, and `catch_warnings` is one for all of them
        warnings.filterwarnings("ignore", "`torch.jit.load` is", DeprecationWarning)
        self._module = _jit.load(archive, map_location=device).eval()
        self._weights = [*self._module.parameters(), *self._module.buffers()]
        self._versions = self._count_changes()

    def _count_changes(self) -> int:
        # torch counts what is written into a tensor, and has no public name for it
        return sum(tensor._version for tensor in self._weights)  # pyright: ignore[reportPrivateUsage]

    def _check_weights(self) -> None:
        if self._count_changes() != self._versions:
            raise BundleError("it changes its own weights while it runs, which the next scan would meet")

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs."""
        link = self._link
        with torch.inference_mode(), _jit.optimized_execution(False), link.open():
            outputs = self._module(*(link.to_device(inputs[name]) for name in self._inputs))
            self._check_weights()
            return link.named(self._outputs, outputs)


class ChannelsLastRuntime(TorchScriptRuntime):
    """TorchScript with the weights of convolutions in the order channels last, in which some networks are a quarter faster."""

    def __init__(self, path: Path, manifest: Manifest, device: torch.device) -> None:
        super().__init__(path, manifest, device)
        self.description: str = f"TorchScript on {device}, channels last"
        layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
        weights = [tensor for tensor in self._module.parameters() if tensor.dim() in layouts]
        if not weights:
            raise NothingToGainError("it has no convolutions")
        for tensor in weights:
            tensor.data = tensor.data.contiguous(memory_format=layouts[tensor.dim()])
        self._versions = self._count_changes()


@dataclass(frozen=True)
class _Recording:
    """What a model launches on a card for inputs of one size, and where it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    outputs: Tensor | Sequence[Tensor]


class GraphRuntime(TorchScriptRuntime):
    """TorchScript on a card, recorded as a CUDA graph at the first run of each size and launched as a whole in later ones.

    A card does most steps of an unrolled network in less time than the processor takes to launch them.

    Raises
    ------
    BundleError
        As for ``TorchScriptRuntime``; or the device is no card, or the model waits for it in its midst, such as for a branch
        that depends on the data, and cannot be recorded.
    """

    def __init__(self, path: Path, manifest: Manifest, device: torch.device) -> None:
        if device.type != "cuda":
            raise NothingToGainError("a processor has nothing to record")
        super().__init__(path, manifest, device)
        self.description: str = f"TorchScript on {device}, as CUDA graphs"
        if waits := steps_that_wait(self._module):
            raise NothingToGainError(f"it waits for the card in its midst ({', '.join(waits)})")
        self._lock = threading.Lock()
        self._own = self._link.other_stream()
        self._recordings: dict[tuple[torch.Size, ...], _Recording] = {}

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs."""
        link, tensors = self._link, [inputs[name] for name in self._inputs]
        sizes = tuple(tensor.shape for tensor in tensors)
        with self._lock, torch.inference_mode(), _jit.optimized_execution(False), link.open():
            arrived = [link.to_device(tensor) for tensor in tensors]
            recording = self._recordings.pop(sizes, None) or self._record(arrived)
            self._recordings[sizes] = recording  # the last one now
            if len(self._recordings) > _MOST_RECORDINGS:
                del self._recordings[next(iter(self._recordings))]
            for place, tensor in zip(recording.inputs, arrived, strict=True):
                place.copy_(tensor)
            recording.graph.replay()
            return link.named(self._outputs, recording.outputs)

    def _record(self, arrived: Sequence[Tensor]) -> _Recording:
        link_stream = torch.cuda.current_stream()
        self._own.wait_stream(link_stream)
        # in a stream of its own: what other threads do in the one of all models meanwhile must not be recorded
        with _recording, torch.cuda.stream(self._own):
            inputs = [tensor.clone() for tensor in arrived]
            self._module(*inputs)  # what libraries plan and allocate at the first run of a size cannot be recorded
            graph = torch.cuda.CUDAGraph()
            # all work in the same memory, as each has been fetched from before the next one runs
            pool = next((other.graph.pool() for other in self._recordings.values()), None)
            try:
                graph.capture_begin(pool, capture_error_mode="thread_local")
                try:
                    outputs = self._module(*inputs)
                finally:
                    graph.capture_end()
            except RuntimeError as error:
                _failed.append(graph)
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise NothingToGainError("it cannot be recorded") from error
        self._check_weights()
        link_stream.wait_stream(self._own)
        return _Recording(graph, inputs, outputs)


def steps_that_wait(module: torch.nn.Module) -> list[str]:
    """Return the operators of a TorchScript module that make the processor wait for the card, such as ``aten::item``.

    Parameters
    ----------
    module
        With everything that it calls.
    """
    graph: Any = module.inlined_graph  # torch gives graphs no types
    blocks, found = [graph], set[str]()
    while blocks:
        for node in blocks.pop().nodes():
            blocks += node.blocks()
            found.add(node.schema().partition("(")[0])
    return sorted(filter(_WAITS.match, found))
