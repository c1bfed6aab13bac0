"""The centred, orthonormal Fourier transform.

Every transform is ``fftshift(fft(ifftshift(x), norm="ortho"))`` along the axes named. ``fft`` and ``ifft`` take complex
tensors, ``fft_planar`` and ``ifft_planar`` real ones with a trailing dimension of 2 (real, imaginary).
"""

import torch
from torch import Tensor

from .replaceable import replaceable


def fft(x: Tensor, dims: list[int]) -> Tensor:
    """Transform a complex tensor to k-space along ``dims``."""
    axes = _longer_than_one(x, dims)
    return x if len(axes) == 0 else centred(x, axes, False)


def ifft(x: Tensor, dims: list[int]) -> Tensor:
    """Transform a complex tensor to image space along ``dims``."""
    axes = _longer_than_one(x, dims)
    return x if len(axes) == 0 else centred(x, axes, True)


@replaceable
def centred(x: Tensor, axes: list[int], inverse: bool) -> Tensor:
    """Transform a complex tensor along ``axes``, counted from the front.

    Along even lengths the shifts are multiplications by alternating signs, which are faster.
    """
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


@replaceable
def keep_measured(x: Tensor, mask: Tensor, dims: list[int]) -> Tensor:
    """Transform a real tensor [..., 2] to k-space, multiply with a mask that broadcasts against it, and transform back.

    The mask is centred instead of images and k-space: the whole is a convolution, which no shift of its input changes.
    """
    axes = _longer_than_one(x, dims)
    images = torch.view_as_complex(x.contiguous())
    lines = mask[..., 0]
    if len(axes) == 0:
        return torch.view_as_real(images * lines)
    kspace = _transform(images, axes, False) * torch.fft.ifftshift(lines, dim=axes)
    return torch.view_as_real(_transform(kspace, axes, True))


def _planar(x: Tensor, dims: list[int], inverse: bool) -> Tensor:
    # negative dims count from the trailing complex dimension, which the complex view does not have
    axes = [dim % x.dim() for dim in dims]
    image = torch.view_as_complex(x.contiguous())
    return torch.view_as_real(ifft(image, axes) if inverse else fft(image, axes))
