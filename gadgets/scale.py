"""Scale image intensities, alike for all images of a series."""

from typing import Annotated

import numpy as np
from pydantic import Field

from ..wire.items import Image, make_image
from .gadget import Stream, gadget
from .scan import Scan


@gadget
def scale(
    items: Stream,
    scan: Scan,  # noqa: ARG001
    *,
    factor: Annotated[float, Field(ge=0)] = 0.0,
    target: Annotated[float, Field(gt=0)] = 2048.0,
    percentile: Annotated[float, Field(gt=0, le=100)] = 99.0,
    once: bool = True,
) -> Stream:
    """Multiply images by one factor per series, so that intensities can be compared within it.

    Parameters
    ----------
    items
        Images of floating-point or complex type; others pass by.
    scan
        Not used.
    factor
        The factor; 0 takes the one that brings the first magnitude image's percentile to ``target``.
    target, percentile
        Used where ``factor`` is 0.
    once
        Whether the first image of a series decides for all; otherwise every image gets a factor of its own.
    """
    factors: dict[int, float] = {}
    for item in items:
        if not isinstance(item, Image) or item.data.dtype.kind not in "fc":
            yield item
            continue
        series = item.image_series_index
        if series not in factors or not once:
            factors[series] = factor or _factor(item, target, percentile)
        data = (item.data * np.float32(factors[series])).astype(item.data.dtype)
        meta = item.meta
        meta["GADGETRON_ScaleRatio"] = str(factors[series])
        meta["RescaleSlope"] = str(1 / factors[series])
        yield make_image(data, item.getHead(), meta)


def _factor(image: Image, target: float, percentile: float) -> float:
    level = float(np.percentile(np.abs(image.data), percentile))
    return target / level if level > 0 else 1.0
