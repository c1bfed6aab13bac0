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


def is_gemm() -> bool:
    """Whether a graph is being exported, for other blocks with two forms."""
    return _lowering == "gemm"


def fft(x: Tensor, dims: list[int]) -> Tensor:
    """Transform a complex tensor to k-space along ``dims``."""
    return _centred(x, dims, False)


def ifft(x: Tensor, dims: list[int]) -> Tensor:
    """Transform a complex tensor to image space along ``dims``."""
    return _centred(x, dims, True)


def _centred(x: Tensor, dims: list[int], inverse: bool) -> Tensor:
    """Transform along ``dims``; along even lengths the shifts are multiplications by alternating signs, which are faster."""
    axes = _longer_than_one(x, dims)
    if len(axes) == 0:
        return x
    even = True
    for axis in axes:
        even = even and x.shape[axis] % 2 == 0
    if not even:
        shifted = torch.fft.ifftshift(x, dim=axes)
        return torch.fft.fftshift(_transform(shifted, axes, inverse), dim=axes)
    signs = _alternating(x, axes)
    result = _transform(x * signs, axes, inverse)
    half = 0
    for axis in axes:
        half += x.shape[axis] // 2
    return result.mul_(signs if half % 2 == 0 else -signs)


def _longer_than_one(x: Tensor, dims: list[int]) -> list[int]:
    """Return those of ``dims``, counted from the front, along which there is anything to transform."""
    axes: list[int] = []
    for dim in dims:
        axis = dim % x.dim()
        if x.shape[axis] > 1:
            axes.append(axis)
    return axes


def _transform(x: Tensor, axes: list[int], inverse: bool) -> Tensor:
    return torch.fft.ifftn(x, dim=axes, norm="ortho") if inverse else torch.fft.fftn(x, dim=axes, norm="ortho")


def _alternating(x: Tensor, axes: list[int]) -> Tensor:
    """Product of 1, -1, 1, ... along each of the axes, to multiply ``x`` with."""
    signs = torch.ones([1] * x.dim(), dtype=torch.float32, device=x.device)
    for axis in axes:
        shape = [1] * x.dim()
        shape[axis] = x.shape[axis]
        index = torch.arange(x.shape[axis], device=x.device)
        signs = signs * (1 - 2 * (index % 2)).to(torch.float32).reshape(shape)
    return signs


def ifft_uncentred(x: Tensor, dims: list[int]) -> Tensor:
    """Transform a complex tensor to image space without both shifts: the middle comes first, and the phase is off."""
    axes = _longer_than_one(x, dims)
    return x if len(axes) == 0 else _transform(x, axes, True)


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


def keep_measured(x: Tensor, mask: Tensor, dims: list[int]) -> Tensor:
    """Transform a real tensor [..., 2] to k-space, multiply with a mask that broadcasts against it, and transform back."""
    if not torch.jit.is_scripting():  # noqa: SIM102 - it compiles both halves of an "and"  # pyright: ignore[reportPrivateImportUsage]
        if is_gemm():
            return ifft_planar(fft_planar(x, dims) * mask, dims)
    return _keep_measured_native(x, mask, dims)


def _keep_measured_native(x: Tensor, mask: Tensor, dims: list[int]) -> Tensor:
    """Centre the mask instead of images and k-space: the whole is a convolution, which no shift of its input changes."""
    axes = _longer_than_one(x, dims)
    images = torch.view_as_complex(x.contiguous())
    lines = mask[..., 0]
    if len(axes) == 0:
        return torch.view_as_real(images * lines)
    kspace = _transform(images, axes, False) * torch.fft.ifftshift(lines, dim=axes)
    return torch.view_as_real(_transform(kspace, axes, True))


def _planar(x: Tensor, dims: list[int], inverse: bool) -> Tensor:
    if not torch.jit.is_scripting():  # noqa: SIM102 - it compiles both halves of an "and"  # pyright: ignore[reportPrivateImportUsage]
        if is_gemm():
            return _planar_gemm(x, dims, inverse)
    return _planar_native(x, dims, inverse)


def _planar_native(x: Tensor, dims: list[int], inverse: bool) -> Tensor:
    # negative dims count from the trailing complex dimension, which the complex view does not have
    axes = [dim % x.dim() for dim in dims]
    return torch.view_as_real(_centred(torch.view_as_complex(x.contiguous()), axes, inverse))


def _planar_gemm(x: Tensor, dims: list[int], inverse: bool) -> Tensor:
    real, imaginary = x[..., 0], x[..., 1]
    for dim in dims:
        axis = dim % x.dim()
        length = str(x.shape[axis])
        if length not in _matrices:
            _matrices[length] = dft_matrix(x.shape[axis])
        cosine, sine = _matrices[length]
        sine = sine if inverse else -sine
        real, imaginary = (
            _multiply(cosine, real, axis) - _multiply(sine, imaginary, axis),
            _multiply(sine, real, axis) + _multiply(cosine, imaginary, axis),
        )
    return torch.stack((real, imaginary), dim=-1)


def dft_matrix(n: int, *, centred: bool = True, orthonormal: bool = True) -> tuple[Tensor, Tensor]:
    """Cosine and sine part [n, n] of the inverse DFT, without its factor 1/n where not orthonormal; ``n`` may be symbolic."""
    index = (torch.arange(n) - (n // 2 if centred else 0)).to(torch.float64)
    count = torch.ones_like(index).sum()
    product = index[:, None] * index[None, :]
    product = product - count * torch.floor(product / count)
    angle = product * (2 * math.pi / count)
    scale = torch.rsqrt(count) if orthonormal else torch.ones_like(count)
    return (torch.cos(angle) * scale).to(torch.float32), (torch.sin(angle) * scale).to(torch.float32)


def _multiply(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    if axis == x.dim() - 2:
        return torch.matmul(matrix, x)
    return torch.matmul(x.transpose(axis, -1), matrix).transpose(axis, -1)
