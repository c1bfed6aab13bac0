"""The grids that images lie on: pixel ``j`` of ``n`` lies at ``(j - n // 2) * fov / n``, zero being the MRD position."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..wire.header import Encoding

Lengths = tuple[float, float, float]

_TOLERANCE = 1e-3
"""Pixels by which positions may differ before anything is resampled; headers round lengths."""


def grid_fov(encoding: Encoding, shape: Sequence[int]) -> Lengths:
    """Field of view (x, y, z) in mm of an image on the grid of its k-space.

    Parameters
    ----------
    encoding
        Spacing of its pixels: encoded field of view by encoded matrix, which cropping the readout does not change.
    shape
        (z, y, x) of the image. A single partition is as thick as the recon space says.
    """
    x, y, z = (
        size * fov / matrix
        for size, fov, matrix in zip(reversed(shape), encoding.encoded_fov, encoding.encoded_matrix, strict=True)
    )
    return x, y, z if shape[0] > 1 else encoding.recon_fov[2]


def to_recon_grid(images: Tensor, fov: Sequence[float], encoding: Encoding) -> Tensor:
    """Bring images to matrix and field of view of the recon space.

    The value at a pixel is the Fourier sum over all samples of k-space, ``sum_k s_k exp(2 pi i k x) / sqrt(n)`` along each axis,
    whatever the ratio of the two grids; outside the field of view ``fov``, where that sum repeats, it is zero.

    Parameters
    ----------
    images
        complex64 or float32 [..., z, y, x], centred and orthonormal.
    fov
        Their field of view (x, y, z) in mm.
    encoding
        The recon space is the grid that is wanted. A single partition stays as it is.

    Returns
    -------
    Tensor
        [..., z, y, x] of the same type; ``images`` itself where it lies on that grid already.
    """
    for axis in range(3 if images.shape[-3] > 1 else 2):
        images = _resample(images, -1 - axis, fov[axis], encoding.recon_matrix[axis], encoding.recon_fov[axis])
    return images


def must_interpolate(shape: Sequence[int], fov: Sequence[float], encoding: Encoding) -> bool:
    """Whether images (z, y, x) over a field of view (x, y, z) have pixels of another size than the recon space."""
    return any(
        not _same_pixels(shape[-1 - axis], fov[axis], encoding.recon_matrix[axis], encoding.recon_fov[axis])
        for axis in range(3 if shape[0] > 1 else 2)
    )


def _same_pixels(before: int, fov: float, size: int, wanted_fov: float) -> bool:
    return abs(wanted_fov / size * before / fov - 1) * size / 2 < _TOLERANCE


def _resample(images: Tensor, dim: int, fov: float, size: int, wanted_fov: float) -> Tensor:
    """Bring one axis to ``size`` pixels over ``wanted_fov``."""
    before = images.shape[dim]
    if _same_pixels(before, fov, size, wanted_fov):
        return _center(images, dim, size)
    matrix = _fourier_matrix(before, fov, size, wanted_fov).to(images.device)
    result = (images.to(torch.complex64).movedim(dim, -1) @ matrix.T).movedim(-1, dim)
    return result if images.is_complex() else result.real


def _fourier_matrix(before: int, fov: float, size: int, wanted_fov: float) -> Tensor:
    """Matrix complex64 [size, before]: pixels to samples of k-space, and these to pixels elsewhere; computed in float64."""
    k = torch.arange(before, dtype=torch.float64) - before // 2
    x = (torch.arange(size, dtype=torch.float64) - size // 2) * (wanted_fov / size / fov)
    forward = torch.exp(-2j * math.pi / before * torch.outer(k, k))
    inverse = torch.exp(2j * math.pi * torch.outer(x, k)) / before
    slack = _TOLERANCE / before
    inside = (x >= -0.5 - slack) & (x < 0.5 - slack)
    return (inside[:, None] * (inverse @ forward)).to(torch.complex64)


def _center(images: Tensor, dim: int, size: int) -> Tensor:
    """Crop or zero-pad one axis around pixel ``n // 2``."""
    before = images.shape[dim]
    if size == before:
        return images
    if size < before:
        return images.narrow(dim, before // 2 - size // 2, size)
    shape = list(images.shape)
    shape[dim] = size
    padded = images.new_zeros(shape)
    padded.narrow(dim, size // 2 - before // 2, before).copy_(images)
    return padded
