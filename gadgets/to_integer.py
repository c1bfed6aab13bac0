"""Images as 16-bit integers."""

import math
from typing import Any, Literal

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from ..wire.items import Image, make_image
from .gadget import Stream, gadget
from .image_array import split_image_arrays
from .scan import Scan


@gadget
def to_integer(
    items: Stream,
    scan: Scan,
    *,
    dtype: Literal["uint16", "int16"] = "uint16",
    min_intensity: int = 0,
    max_intensity: int = 4095,
    intensity_offset: int = 2048,
) -> Stream:
    """Round real images to integers and clip them to a range; say so when much is clipped.

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
            values = _shift(item, intensity_offset)
            clipped = float(np.mean(values > high))
            if clipped > 0.01:
                scan.report(
                    "clipped",
                    f"{clipped:.1%} of an image's pixels exceed {high} and are clipped; scale it first",
                )
            data = np.clip(np.rint(np.nan_to_num(values)), low, high).astype(dtype)
            yield make_image(data, item.getHead(), item.meta)
        else:
            yield item


def _shift(image: Image, offset: int) -> NDArray[Any]:
    if image.image_type == ismrmrd.IMTYPE_PHASE:
        return image.data * np.float32(offset / math.pi) + offset
    if image.image_type in (ismrmrd.IMTYPE_REAL, ismrmrd.IMTYPE_IMAG):
        return image.data + offset
    return image.data
