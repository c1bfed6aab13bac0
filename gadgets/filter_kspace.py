"""Filters on the k-space of images: smoothing, and the transition at the edge of partial Fourier data.

Both multiply k-space by one real filter along each axis, ``image <- F^H (f_z f_y f_x F image)``, F centred and orthonormal.
"""

import math
from typing import Annotated, Literal, TypeGuard, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ..models.fourier import fft, ifft
from ..wire.items import Image, make_image
from .gadget import Stream, gadget
from .image_array import split_image_arrays
from .scan import Scan

Shape = Literal["Gaussian", "Hanning", "TaperedHanning", "None"]
Filter = NDArray[np.float64]


@gadget
def filter_kspace(
    items: Stream,
    scan: Scan,
    *,
    readout: Shape = "Gaussian",
    phase: Shape = "Gaussian",
    partition: Shape = "Gaussian",
    sigma: Annotated[float, Field(ge=1e-3)] = 1.0,
    width: Annotated[float, Field(gt=0, lt=0.5)] = 0.15,
) -> Stream:
    """Multiply the k-space of complex images by a symmetric filter of unit mean square along each axis.

    Parameters
    ----------
    items
        Complex images; others pass by, and so do images whose meta attribute ``Skip_processing_after_recon`` is set.
    scan
        Told of image arrays that cannot be read completely.
    readout, phase, partition
        Filter along x, y and z.
    sigma
        Of the Gaussian: it falls to ``exp(-sigma**2 / 2)`` at the edge of k-space.
    width
        Of the tapered Hanning window's slopes, as a fraction of the axis.
    """
    for item in split_image_arrays(items, scan):
        if _is_filterable(item):
            _, z, y, x = cast(tuple[int, int, int, int], item.data.shape)
            sizes: tuple[tuple[Shape, int], ...] = ((partition, z), (phase, y), (readout, x))
            filters = [symmetric_filter(shape, n, sigma, width) for shape, n in sizes]
            yield _apply(item, filters)
        else:
            yield item


@gadget
def filter_partial_fourier(
    items: Stream,
    scan: Scan,
    *,
    width: Annotated[float, Field(gt=0, lt=0.5)] = 0.15,
) -> Stream:
    """Let the k-space of partial Fourier images fade out towards the edge that was not measured.

    The sampled range comes from the meta attributes ``sampling_limits_E1`` and ``sampling_limits_E2``.

    Parameters
    ----------
    items
        Complex images; others pass by.
    scan
        Told of image arrays that cannot be read completely.
    width
        Of the Hanning slope, as a fraction of the axis.
    """
    for item in split_image_arrays(items, scan):
        if not _is_filterable(item):
            yield item
            continue
        _, z, y, x = cast(tuple[int, int, int, int], item.data.shape)
        filters = [_edge_filter(item, "E2", z, width), _edge_filter(item, "E1", y, width), np.ones(x)]
        yield item if all((values == 1).all() for values in filters) else _apply(item, filters)


def _is_filterable(item: object) -> TypeGuard[Image]:
    return isinstance(item, Image) and np.iscomplexobj(item.data) and "Skip_processing_after_recon" not in item.meta


def _apply(image: Image, filters: list[Filter]) -> Image:
    axes = [axis for axis, values in zip((1, 2, 3), filters, strict=True) if not (values == 1).all()]
    kspace = fft(torch.from_numpy(np.ascontiguousarray(image.data)), axes)
    for axis in axes:
        shape = [1] * 4
        shape[axis] = -1
        kspace = kspace * torch.from_numpy(filters[axis - 1].astype(np.float32)).reshape(shape)
    return make_image(ifft(kspace, axes).numpy(), image.getHead(), image.meta)


def symmetric_filter(shape: Shape, size: int, sigma: float, width: float) -> Filter:
    """Return a filter of one axis, symmetric about the middle of k-space, ``n // 2``, and of unit mean square.

    With ``d = i - n // 2`` and ``h = (n - 1) // 2``, before it is normalised::

        Gaussian        exp(-sigma^2 (d / h)^2 / 2)
        Hanning         (1 + cos(pi d / (h + 1))) / 2
        TaperedHanning  1, falling like half a Hanning window over the outer ``width * n`` samples of each side

    A mean square of 1 keeps the variance of white noise. The first sample of an even length has no counterpart on the other
    side of the middle: it is zero.

    Parameters
    ----------
    shape
        Which; ``None`` is all ones.
    size
        Length n of the axis; filters of fewer than four samples are all ones.
    sigma
        Of the Gaussian.
    width
        Of the slopes of ``TaperedHanning``, as a fraction of n.

    Returns
    -------
    ndarray
        float64 [size].
    """
    if shape == "None" or size < 4:
        return np.ones(size)
    half = (size - 1) // 2
    offset = np.arange(size) - size // 2
    if shape == "Gaussian":
        values = np.exp(-0.5 * sigma**2 * (offset / half) ** 2)
    elif shape == "Hanning":
        values = 0.5 * (1 + np.cos(math.pi * offset / (half + 1)))
    else:
        values = _slopes(np.abs(offset), half, max(1, round(width * size)))
    if size % 2 == 0:
        values[0] = 0
    return values / math.sqrt(np.mean(values**2))


def _slopes(distance: NDArray[np.int_], half: int, width: int) -> Filter:
    """One inside, falling like a Hanning window over the outer ``width`` samples."""
    step = np.clip(half - distance + 1, 0, width + 1)
    return np.where(step > width, 1.0, 0.5 * (1 - np.cos(2 * math.pi * step / (2 * width + 1))))


def _edge_filter(image: Image, axis: str, size: int, width: float) -> Filter:
    """Return [size], 1 but for half a Hanning window at the end of k-space where samples are missing."""
    limits = image.meta.get(f"sampling_limits_{axis}")
    values = np.ones(size)
    if limits is None or size < 4:
        return values
    first, center, last = (int(value) for value in limits)
    missing = (center - first) - (last - center)
    if abs(missing) <= 1 + (size % 2 == 0):
        return values
    ramp = 0.5 * (1 - np.cos(math.pi * (np.arange(max(1, round(width * size))) + 1) / (round(width * size) + 1)))
    if missing < 0:
        values[first : first + ramp.size] = ramp
    else:
        values[last - ramp.size + 1 : last + 1] = ramp[::-1]
    return values
