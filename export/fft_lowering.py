"""Replace ``torch.fft`` by matrix products while a module that uses it directly is exported.

ONNX Runtime's own transform loses three digits on lengths that are no power of two and runs on the CPU only; shifts of
an unknown length cannot be exported at all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..models.fourier import dft_matrix


class TorchFftLowering(TorchFunctionMode):
    """Inside this context, ``torch.fft`` transforms, its shifts and ``torch.roll`` are made of products and copies."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the replacement of a function, where there is one."""
        del types
        replacement = _REPLACEMENTS.get(func)
        return (replacement or func)(*args, **(kwargs or {}))


def _axes(x: Tensor, dim: int | Sequence[int] | None, default: Sequence[int] | None) -> list[int]:
    chosen = dim if dim is not None else default if default is not None else range(x.dim())
    return [axis % x.dim() for axis in ([chosen] if isinstance(chosen, int) else chosen)]


def _transform(inverse: bool, default: Sequence[int] | None) -> Callable[..., Tensor]:
    name = "s" if default is None or len(default) > 1 else "n"

    def transform(input: Tensor, *args: Any, dim: Any = None, norm: str | None = None, **kwargs: Any) -> Tensor:  # noqa: A002
        sizes, dims, norms = (*args, None, None, None)[:3]
        if sizes is not None or kwargs.get(name) is not None:
            raise NotImplementedError("a transform that also pads or cuts cannot be exported; pad or cut before it")
        axes = _axes(input, dims if dims is not None else dim, default)
        return _by_products(input, axes, inverse, norms or norm or "backward")

    return transform


def _by_products(x: Tensor, axes: list[int], inverse: bool, norm: str) -> Tensor:
    planar = torch.view_as_real(x) if x.is_complex() else torch.stack((x, torch.zeros_like(x)), dim=-1)
    real, imaginary = planar[..., 0], planar[..., 1]
    orthonormal, other = norm == "ortho", norm == ("backward" if inverse else "forward")
    for axis in axes:
        cosine, sine = dft_matrix(x.shape[axis], centred=False, orthonormal=orthonormal)
        if other:
            count = torch.ones_like(cosine[0]).sum()
            cosine, sine = cosine / count, sine / count
        sine = sine if inverse else -sine
        real, imaginary = real.transpose(axis, -1), imaginary.transpose(axis, -1)
        real, imaginary = real @ cosine - imaginary @ sine, real @ sine + imaginary @ cosine
        real, imaginary = real.transpose(axis, -1), imaginary.transpose(axis, -1)
    return torch.view_as_complex(torch.stack((real, imaginary), dim=-1))


def _rotate(x: Tensor, axis: int, start: Any) -> Tensor:
    """Begin with entry ``start`` along an axis."""
    if x.is_complex():
        return torch.view_as_complex(_rotate(torch.view_as_real(x), axis, start))
    return torch.cat((x.narrow(axis, start, x.shape[axis] - start), x.narrow(axis, 0, start)), dim=axis)


def _fftshift(input: Tensor, dim: Any = None) -> Tensor:  # noqa: A002  (torch's name)
    for axis in _axes(input, dim, None):
        input = _rotate(input, axis, (input.shape[axis] + 1) // 2)  # noqa: A001
    return input


def _ifftshift(input: Tensor, dim: Any = None) -> Tensor:  # noqa: A002  (torch's name)
    for axis in _axes(input, dim, None):
        input = _rotate(input, axis, input.shape[axis] // 2)  # noqa: A001
    return input


def _roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:  # noqa: A002  (torch's name)
    if dims is None:
        return _roll(input.flatten(), shifts, 0).reshape(input.shape)
    pairs = [(shifts, dims)] if isinstance(dims, int) else list(zip(shifts, dims, strict=True))
    for shift, dim in pairs:
        axis = dim % input.dim()
        start = (-shift) % input.shape[axis] if isinstance(shift, int) and shift < 0 else input.shape[axis] - shift
        input = _rotate(input, axis, start)  # noqa: A001
    return input


_REPLACEMENTS: dict[Any, Callable[..., Tensor]] = {
    torch.fft.fft: _transform(False, (-1,)),
    torch.fft.ifft: _transform(True, (-1,)),
    torch.fft.fft2: _transform(False, (-2, -1)),
    torch.fft.ifft2: _transform(True, (-2, -1)),
    torch.fft.fftn: _transform(False, None),
    torch.fft.ifftn: _transform(True, None),
    torch.fft.fftshift: _fftshift,
    torch.fft.ifftshift: _ifftshift,
    torch.roll: _roll,
    Tensor.roll: _roll,
}
