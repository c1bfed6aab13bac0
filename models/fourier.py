"""The centred, orthonormal Fourier transform, with two lowerings for networks.

Every transform is ``fftshift(fft(ifftshift(x), norm="ortho"))`` along the axes named. ``fft`` and ``ifft`` take complex
tensors. ``fft_planar`` and ``ifft_planar`` take real tensors with a trailing dimension of 2 (real, imaginary) and
come in two lowerings:

``native``
    ``torch.fft``: eager mode and TorchScript.
``gemm``
    Matrix products with the centring folded into the matrices: exported graphs. ONNX Runtime's ``DFT`` loses three
    digits on lengths that are no power of two and has no GPU kernel; matrix products run everywhere.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Lowering = Literal["native", "gemm"]
_lowering: Lowering = "native"
_matrices: dict[str, tuple[Tensor, Tensor]] = {}
"""Fourier matrices of the graph that is being traced, by (symbolic) length, so that it holds each once."""


@contextmanager
def lowering(name: Lowering) -> Iterator[None]:
    """Use one lowering of the planar transforms inside this context (while exporting)."""
    global _lowering
    before, _lowering = _lowering, name
    _matrices.clear()
    try:
        yield
    finally:
        _lowering = before
        _matrices.clear()


def fft(x: Tensor, dims: list[int]) -> Tensor:
    """Transform a complex tensor to k-space along ``dims``."""
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, dim=dims), dim=dims, norm="ortho"), dim=dims)


def ifft(x: Tensor, dims: list[int]) -> Tensor:
    """Transform a complex tensor to image space along ``dims``."""
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(x, dim=dims), dim=dims, norm="ortho"), dim=dims)


def fft_planar(x: Tensor, dims: list[int]) -> Tensor:
    """Transform a real tensor [..., 2] to k-space; negative ``dims`` count from the complex dimension, which is -1."""
    return _planar(x, dims, False)


def ifft_planar(x: Tensor, dims: list[int]) -> Tensor:
    """Transform a real tensor [..., 2] to image space; negative ``dims`` count from the complex dimension, which is -1."""
    return _planar(x, dims, True)


def fft2c(x: Tensor) -> Tensor:
    """Transform images [..., y, x, 2] to k-space [..., ky, kx, 2]."""
    return _planar(x, [-3, -2], False)


def ifft2c(x: Tensor) -> Tensor:
    """Transform k-space [..., ky, kx, 2] to images [..., y, x, 2]."""
    return _planar(x, [-3, -2], True)


def _planar(x: Tensor, dims: list[int], inverse: bool) -> Tensor:
    if torch.jit.is_scripting():
        return _planar_native(x, dims, inverse)
    if _lowering == "gemm":
        return _planar_gemm(x, dims, inverse)
    return _planar_native(x, dims, inverse)


def _planar_native(x: Tensor, dims: list[int], inverse: bool) -> Tensor:
    axes = [dim % x.dim() for dim in dims]
    values = torch.view_as_complex(x.contiguous())
    out = ifft(values, axes) if inverse else fft(values, axes)
    return torch.view_as_real(out)


def _planar_gemm(x: Tensor, dims: list[int], inverse: bool) -> Tensor:
    real, imaginary = x[..., 0], x[..., 1]
    for dim in dims:
        axis = dim % x.dim()
        length = str(x.shape[axis])
        if length not in _matrices:
            _matrices[length] = _dft_matrix(x.shape[axis])
        cosine, sine = _matrices[length]
        sine = sine if inverse else -sine
        real, imaginary = (
            _multiply(cosine, real, axis) - _multiply(sine, imaginary, axis),
            _multiply(sine, real, axis) + _multiply(cosine, imaginary, axis),
        )
    return torch.stack((real, imaginary), dim=-1)


def _dft_matrix(n: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine part [n, n] of the centred orthonormal DFT; symmetric. ``n`` may be symbolic."""
    index = (torch.arange(n) - n // 2).to(torch.float64)
    count = torch.ones_like(index).sum()
    product = index[:, None] * index[None, :]
    product = product - count * torch.floor(product / count)
    angle = product * (2 * math.pi / count)
    scale = torch.rsqrt(count)
    return (torch.cos(angle) * scale).to(torch.float32), (torch.sin(angle) * scale).to(torch.float32)


def _multiply(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    if axis == x.dim() - 2:
        return torch.matmul(matrix, x)
    return torch.matmul(x.transpose(axis, -1), matrix).transpose(axis, -1)
