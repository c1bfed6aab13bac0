"""The last touch before images leave."""

import numpy as np

from ..wire.items import Image
from .gadget import Stream, gadget
from .scan import Scan


@gadget
def finish(items: Stream, scan: Scan, *, window_percentile: float = 99.5) -> Stream:  # noqa: ARG001
    """Set what a scanner needs to show an image: window, description, image number.

    Parameters
    ----------
    items
        Images; others pass by.
    scan
        Not used.
    window_percentile
        The window of a series spans from 0 to this percentile of its first image.
    """
    windows: dict[int, float] = {}
    for item in items:
        if isinstance(item, Image):
            series = item.image_series_index
            if series not in windows:
                windows[series] = float(np.percentile(np.abs(item.data), window_percentile)) or 1.0
            meta = item.meta
            meta["WindowCenter"] = meta["GADGETRON_WindowCenter"] = f"{windows[series] / 2:g}"
            meta["WindowWidth"] = meta["GADGETRON_WindowWidth"] = f"{windows[series]:g}"
            meta["SequenceDescriptionAdditional"] = meta["SeriesDescriptionAdditional"] = "Isocenter"
            meta["GADGETRON_SeqDescription"] = "_Isocenter"
            meta["GADGETRON_ImageNumber"] = str(item.image_index)
        yield item
