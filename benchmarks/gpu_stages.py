"""The network of ``gpu.py`` compiled in stages, for ``what_could_be``: all cascades share one program, and pass it their weights.

Compiling takes as long as one cascade and the sensitivity model do. No runtime of Isocenter runs such a thing yet.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from isocenter.export.lowering import RealModule, Traced
from isocenter.export.substitutions import Leaves
from isocenter.models.fourier import ifft_planar
from isocenter.models.planar import root_sum_of_squares
from isocenter.models.sampling import split_axes, to_hybrid
from torch import Tensor, nn
from torch.func import functional_call


class Front(nn.Module):
    """What comes before the cascades: hybrid k-space, mask, coil maps."""

    def __init__(self, sensitivities: nn.Module) -> None:
        super().__init__()
        self.sensitivities = sensitivities

    def forward(self, kspace: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return k-space, mask, maps."""
        measured, weights, axes = to_hybrid(kspace, mask)
        return measured, weights, self.sensitivities(measured, weights, axes)


class Stage(nn.Module):
    """A cascade that is given its weights."""

    def __init__(self, cascade: nn.Module, axes: list[int]) -> None:
        super().__init__()
        self.names = [name for name, _ in cascade.named_parameters()]
        self.cascade = [cascade]  # no child: its weights are no part of the program
        self.axes = axes

    def forward(self, current: Tensor, measured: Tensor, weights: Tensor, maps: Tensor, *own: Tensor) -> Tensor:
        """Return the next k-space."""
        parameters = dict(zip(self.names, own, strict=True))
        return functional_call(self.cascade[0], parameters, (current, measured, weights, maps, self.axes))


def parameters_of(cascade: nn.Module) -> list[Tensor]:
    """Return the weights of a cascade as its stage takes them."""
    return [parameter.detach() for parameter in cascade.parameters()]


def build(folder: Path, module: nn.Module, inputs: Sequence[Tensor], device: torch.device) -> None:
    """Compile the stages of a network for inputs of this size."""
    folder.mkdir()
    network: Any = module.to(device)
    kspace, mask = (tensor.to(device) for tensor in inputs)
    with torch.no_grad():
        front = Front(network.sens_net)
        # compiled for the strides that it is traced with
        measured, weights, maps = (tensor.contiguous() for tensor in front(kspace, mask))
        compile_to(folder / "front.pt2", front, (kspace, mask), device)
        stage = Stage(network.cascades[0], split_axes(mask)[1])
        # another tensor than the measured k-space, or the tracer would take both for one input
        given = (measured.clone(), measured, weights, maps, *parameters_of(network.cascades[0]))
        compile_to(folder / "stage.pt2", stage, given, device)


def compile_to(path: Path, module: nn.Module, inputs: Sequence[Tensor], device: torch.device) -> None:
    """Compile a module ahead of time, for inputs of this size."""
    with Leaves(), torch.no_grad():
        traced = torch.export.export(module, tuple(inputs))
        real = torch.export.export(RealModule(Traced(traced), device), tuple(inputs))
    importlib.import_module("torch._inductor").aoti_compile_and_package(real, package_path=str(path))


def program(folder: Path, module: nn.Module, inputs: Sequence[Tensor], device: torch.device) -> Callable[[], Any]:
    """Return a program that runs the stages."""
    load = importlib.import_module("torch._inductor").aoti_load_package
    index = device.index or 0 if device.type == "cuda" else -1
    front, stage = (
        load(str(folder / f"{name}.pt2"), run_single_threaded=True, device_index=index) for name in ("front", "stage")
    )
    network: Any = module
    cascades = [parameters_of(cascade) for cascade in network.cascades]
    axes = split_axes(inputs[1])[1]

    def run() -> dict[str, Tensor]:
        with torch.inference_mode():
            measured, weights, maps = (tensor.contiguous() for tensor in front(*inputs))
            current = measured
            for own in cascades:
                result = stage(current, measured, weights, maps, *own)
                current = (result if isinstance(result, Tensor) else result[0]).contiguous()
            return {"image": root_sum_of_squares(ifft_planar(current, axes))}

    return run
