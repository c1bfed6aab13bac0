"""The boundary around somebody's own module: real tensors outside, complex tensors and boolean masks inside."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .bundle import TensorSpec


def _inwards(x: Tensor, kind: str) -> Tensor:
    """Convert an input; a mask loses the complex axis where k-space does."""
    if kind == "complex":
        return torch.view_as_complex(x.contiguous())
    if kind == "bool":
        return x > 0.5
    if kind == "without complex axis":
        return x.squeeze(-1)
    if kind == "bool without complex axis":
        return x.squeeze(-1) > 0.5
    return x


def _outwards(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj().contiguous()) if x.is_complex() else x


class OneInput(nn.Module):
    """Boundary of a module with one input."""

    def __init__(self, module: nn.Module, kinds: list[str]) -> None:
        super().__init__()
        self.module = module
        self.first = kinds[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output, real with a complex axis where it is complex."""
        return _outwards(self.module(_inwards(x, self.first)))


class TwoInputs(nn.Module):
    """Boundary of a module with two inputs."""

    def __init__(self, module: nn.Module, kinds: list[str]) -> None:
        super().__init__()
        self.module = module
        self.first, self.second = kinds

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the module's output, real with a complex axis where it is complex."""
        return _outwards(self.module(_inwards(x, self.first), _inwards(y, self.second)))


class ThreeInputs(nn.Module):
    """Boundary of a module with three inputs."""

    def __init__(self, module: nn.Module, kinds: list[str]) -> None:
        super().__init__()
        self.module = module
        self.first, self.second, self.third = kinds

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return the module's output, real with a complex axis where it is complex."""
        return _outwards(self.module(_inwards(x, self.first), _inwards(y, self.second), _inwards(z, self.third)))


_BY_COUNT = {1: OneInput, 2: TwoInputs, 3: ThreeInputs}


def boundaries(
    module: nn.Module, inputs: Sequence[TensorSpec], complex_tensors: bool | None
) -> Iterator[tuple[nn.Module, str]]:
    """Yield the module behind every boundary that it may be meant for, and what passes it.

    Parameters
    ----------
    module
        The module.
    inputs
        Its inputs.
    complex_tensors
        Whether it takes complex tensors; None: unknown.
    """
    make = _BY_COUNT.get(len(inputs))
    for is_complex in (False, True) if complex_tensors is None else (complex_tensors,):
        for boolean in (False, True):
            kinds = [_kind(spec, is_complex, boolean) for spec in inputs]
            form = f"{'complex' if is_complex else 'real'} tensors" + (" and a boolean mask" if boolean else "")
            if boolean and not any(spec.name == "mask" for spec in inputs):
                continue
            if make is not None:
                yield make(module, kinds), form
            elif not is_complex and not boolean:
                yield module, form


def _kind(spec: TensorSpec, is_complex: bool, boolean: bool) -> str:
    if spec.name == "mask":
        ending = " without complex axis" if is_complex else ""
        return f"bool{ending}" if boolean else ending.strip() or "real"
    return "complex" if is_complex and spec.axes[-1] == "complex" else "real"
