"""Images as 16-bit integers."""

import math
from typing import Any, Literal

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from ..wire.items import Image, make_image
from .gadget import Stream, gadget
from .image_array import split_image_arrays
from .scale import note_scale
from .scan import Scan


@gadget(takes=(Image,))
def to_integer(
    items: Stream,
    scan: Scan,
    *,
    dtype: Literal["uint16", "int16"] = "uint16",
    min_intensity: int = 0,
    max_intensity: int = 4095,
    intensity_offset: int = 2048,
) -> Stream:
    """Round real images to integers and clip them to a range; say so when any is clipped.

    With the offset o: magnitude ``round(m)``, real and imaginary parts ``round(v + o)``, phase in radians
    ``round((phi / pi + 1) o)``, which takes -pi to 0 and pi to 2 o.

    Parameters
    ----------
    items
        Real images; others pass by.
    scan
        Told about clipping.
    dtype
        Unsigned or signed.
    min_intensity, max_intensity
        The range, as far as the type holds it.
    intensity_offset
        Where zero of real, imaginary and phase images goes; phase is multiplied by ``intensity_offset / pi``.
    """
    held = np.iinfo(dtype)
    low, high = max(min_intensity, held.min), min(max_intensity, held.max)
    for item in split_image_arrays(items, scan):
        if isinstance(item, Image) and item.data.dtype.kind == "f":
            factor, offset = _mapping(item, intensity_offset)
            values = item.data * np.float32(factor) + offset
            meta = item.meta
            if offset:
                note_scale(meta, factor, offset)
            if clipped := report_clipping(values, low, high, scan, signed=bool(offset)):
                meta["IsocenterClipped"] = clipped
            data = np.clip(np.rint(np.nan_to_num(values)), low, high).astype(dtype)
            yield make_image(data, item.getHead(), meta)
        else:
            yield item


def _mapping(image: Image, offset: int) -> tuple[float, int]:
    """Return what the image is multiplied with, and what is added then."""
    if image.image_type == ismrmrd.IMTYPE_PHASE:
        return offset / math.pi, offset
    return 1.0, offset if image.image_type in (ismrmrd.IMTYPE_REAL, ismrmrd.IMTYPE_IMAG) else 0


def report_clipping(values: NDArray[Any], low: int, high: int, scan: Scan, *, signed: bool = False) -> str:
    """Say how many pixels do not fit a range, if any; the client is told.

    Parameters
    ----------
    values
        Of the pixels.
    low, high
        The range.
    scan
        Told.
    signed
        Whether values below ``low`` count as well; magnitudes have none but by interpolated noise.

    Returns
    -------
    str
        For the image; empty if all fit.
    """
    beyond = int(np.count_nonzero(values > high + 0.5))
    if signed:
        beyond += int(np.count_nonzero(values < low - 0.5))
    if not beyond:
        return ""
    limits = f"{low} to {high}" if signed else str(high)
    text = f"{beyond} of {values.size} pixels ({beyond / values.size:.2%}) lie beyond {limits} and are clipped"
    scan.report("clipped", f"in an image, {text}; give a smaller factor as the option or parameter 'scale'")
    return text
