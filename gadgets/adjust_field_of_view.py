"""Bring images to the matrix and field of view of the recon space."""

import numpy as np
import torch
from torch import Tensor

from ..models.fourier import fft, ifft
from ..wire.header import Encoding
from ..wire.items import Image, make_image
from .gadget import Stream, gadget
from .scan import Scan


@gadget
def adjust_field_of_view(items: Stream, scan: Scan) -> Stream:
    """Interpolate to the pixel size of the recon space by zero-padding k-space, then crop oversampled field of view.

    Parameters
    ----------
    items
        Images in the encoded field of view along y and z, with readout oversampling removed along x; others pass by.
    scan
        Its encodings give matrices and fields of view.
    """
    for item in items:
        if isinstance(item, Image):
            index = int(item.meta.get("encoding", 0))
            yield _adjust(item, scan.encodings[index])
        else:
            yield item


def _adjust(image: Image, encoding: Encoding) -> Image:
    data = torch.from_numpy(np.ascontiguousarray(image.data))
    sizes = [(-1, 0), (-2, 1)] + ([(-3, 2)] if data.shape[1] > 1 else [])
    real = not data.is_complex()
    for dim, axis in sizes:
        fov = encoding.recon_fov[0] if axis == 0 else encoding.encoded_fov[axis]
        wanted = encoding.recon_matrix[axis]
        pixels = max(wanted, 2 * round(fov / encoding.recon_fov[axis] * wanted / 2))
        data = _center(_interpolate(data, dim, pixels), dim, wanted)
    if real and data.is_complex():
        data = data.real
    return make_image(data.contiguous().numpy(), image.getHead(), image.meta)


def _interpolate(data: Tensor, dim: int, size: int) -> Tensor:
    """Resample one axis to ``size`` pixels through k-space, keeping intensities."""
    before = data.shape[dim]
    if before == size:
        return data
    kspace = _center(fft(data, [dim]), dim, size)
    return ifft(kspace, [dim]) * (size / before) ** 0.5


def _center(data: Tensor, dim: int, size: int) -> Tensor:
    """Crop or zero-pad one axis around its middle."""
    before = data.shape[dim]
    if size <= before:
        return data.narrow(dim, before // 2 - size // 2, size)
    shape = list(data.shape)
    shape[dim] = size
    padded = torch.zeros(shape, dtype=data.dtype)
    padded.narrow(dim, size // 2 - before // 2, before).copy_(data)
    return padded
