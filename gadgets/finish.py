"""The last touch before images leave."""

from typing import Annotated

import numpy as np
from pydantic import Field

from ..wire.items import Image
from .gadget import FromClient, Stream, gadget
from .image_array import split_image_arrays
from .scan import Scan


@gadget
def finish(
    items: Stream, scan: Scan, *, window_percentile: Annotated[float, Field(gt=0, le=100), FromClient()] = 99.5
) -> Stream:
    """Set what a scanner needs to show an image: window, description, image number.

    Parameters
    ----------
    items
        Images; others pass by.
    scan
        Told of image arrays that cannot be read completely.
    window_percentile
        The window of a series spans from 0 to this percentile of its first image that is not empty.
    """
    windows: dict[int, float] = {}
    for item in split_image_arrays(items, scan):
        if isinstance(item, Image):
            series = item.image_series_index
            if series not in windows and (level := float(np.percentile(np.abs(item.data), window_percentile))) > 0:
                windows[series] = level
            width = windows.get(series, 1.0)
            meta = item.meta
            meta["WindowCenter"] = meta["GADGETRON_WindowCenter"] = f"{width / 2:g}"
            meta["WindowWidth"] = meta["GADGETRON_WindowWidth"] = f"{width:g}"
            meta["SequenceDescriptionAdditional"] = meta["SeriesDescriptionAdditional"] = "Isocenter"
            meta["GADGETRON_SeqDescription"] = "_Isocenter"
            meta["GADGETRON_ImageNumber"] = str(item.image_index)
        yield item
