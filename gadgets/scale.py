"""Scale image intensities, alike for all images of a series."""

from typing import Annotated

import ismrmrd
import numpy as np
from pydantic import Field

from ..wire.items import Image, make_image
from .gadget import Stream, gadget
from .image_array import split_image_arrays
from .scan import Scan

_LEAST = 1e-30
"""An image that is smaller counts as empty: what brings it to ``target`` would make others infinite."""


@gadget
def scale(
    items: Stream,
    scan: Scan,
    *,
    factor: Annotated[float, Field(ge=0)] = 0.0,
    target: Annotated[float, Field(gt=0)] = 2048.0,
    percentile: Annotated[float, Field(gt=0, le=100)] = 99.0,
    once: bool = True,
) -> Stream:
    """Multiply images by one factor per series, so that intensities can be compared within it.

    A factor that is taken from images depends on what the first of them shows, so that other series and scans have others: where
    intensities must be comparable beyond a series, give ``factor``.

    Parameters
    ----------
    items
        Images of floating-point or complex type, but for phase images; others pass by.
    scan
        Told of image arrays that cannot be read completely.
    factor
        The factor; 0 takes the one that brings the percentile of the first image that is not empty to ``target``:
        ``target / percentile(|image|)`` over all its pixels.
    target, percentile
        Used where ``factor`` is 0.
    once
        Whether the first image of a series decides for all; otherwise every image gets a factor of its own.
    """
    factors: dict[int, float] = {}
    for item in split_image_arrays(items, scan):
        if not isinstance(item, Image) or item.data.dtype.kind not in "fc" or item.image_type == ismrmrd.IMTYPE_PHASE:
            yield item
            continue
        ratio = factor or (factors.get(item.image_series_index) if once else None)
        if ratio is None:
            level = float(np.percentile(np.abs(item.data), percentile))
            known = level >= _LEAST
            ratio = target / level if known else 1.0
            if known:
                factors[item.image_series_index] = ratio
        data = (item.data * np.float32(ratio)).astype(item.data.dtype)
        meta = item.meta
        note_scale(meta, float(ratio))
        yield make_image(data, item.getHead(), meta)


def note_scale(meta: ismrmrd.Meta, factor: float, offset: float = 0.0) -> None:
    """Write down how to come back to the values that were reconstructed: ``value = (pixel - offset) / scale``.

    Not as ``RescaleSlope``, by which hosts would also read the window, as whole numbers, and whose values would be tiny.

    Parameters
    ----------
    meta
        Of the image. What stands there already is taken into account.
    factor, offset
        What values were multiplied with, and what was added then.
    """
    scale = factor * float(meta.get("IsocenterScale", 1.0))
    meta["IsocenterScale"] = meta["GADGETRON_ScaleRatio"] = str(scale)
    meta["IsocenterOffset"] = f"{factor * float(meta.get('IsocenterOffset', 0.0)) + offset:g}"
