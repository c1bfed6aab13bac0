"""The last touch before images leave."""

import math
from typing import Annotated

import ismrmrd
import numpy as np
from pydantic import Field

from ..wire.items import Image
from .gadget import FromClient, Stream, gadget
from .image_array import split_image_arrays
from .scan import Scan

_PARTS = {
    ismrmrd.IMTYPE_PHASE: "phase",
    ismrmrd.IMTYPE_REAL: "real",
    ismrmrd.IMTYPE_IMAG: "imaginary",
    ismrmrd.IMTYPE_COMPLEX: "complex",
}
_LONGEST = 24
"""Characters of a bundle's name in a description: DICOM's takes 64, of which the protocol's name has most."""


@gadget(takes=(Image,))
def finish(
    items: Stream, scan: Scan, *, window_percentile: Annotated[float, Field(gt=0, le=100), FromClient()] = 99.5
) -> Stream:
    """Set what a scanner needs to show an image: window, description of the series, image number.

    The description is ``Isocenter``, the bundle that made the image, and what it shows if that is not a magnitude, joined by
    ``_``: ``Isocenter_ridge``, ``Isocenter_sense_phase``. Windows are in pixel values, whole numbers for integers.

    Parameters
    ----------
    items
        Images; others pass by.
    scan
        Told of image arrays that cannot be read completely.
    window_percentile
        The window of a series spans from 0 to this percentile of its first image that is not empty; that of real and imaginary
        parts as far below zero. That of phases is a whole turn.
    """
    widths: dict[int, float] = {}
    for item in split_image_arrays(items, scan):
        if isinstance(item, Image):
            meta = item.meta
            zero = float(meta.get("IsocenterOffset", 0.0))
            width = _width(item, zero, window_percentile, widths)
            is_signed = item.image_type in (ismrmrd.IMTYPE_PHASE, ismrmrd.IMTYPE_REAL, ismrmrd.IMTYPE_IMAG)
            center = zero if is_signed else width / 2
            meta["WindowCenter"] = meta["GADGETRON_WindowCenter"] = _number(center, item)
            meta["WindowWidth"] = meta["GADGETRON_WindowWidth"] = _number(2 * width if is_signed else width, item)
            description = _description(item)
            meta["SequenceDescriptionAdditional"] = meta["SeriesDescriptionAdditional"] = description
            meta["GADGETRON_SeqDescription"] = f"_{description}"
            meta["GADGETRON_ImageNumber"] = str(item.image_index)
        yield item


def _width(image: Image, zero: float, percentile: float, widths: dict[int, float]) -> float:
    """Return how far the window of a series reaches above zero."""
    if image.image_type == ismrmrd.IMTYPE_PHASE:
        return math.pi * float(image.meta.get("IsocenterScale", 1.0))
    series = image.image_series_index
    if series not in widths and (level := float(np.percentile(np.abs(image.data - zero), percentile))) > 0:
        widths[series] = level
    return widths.get(series, 1.0)


def _number(value: float, image: Image) -> str:
    return str(round(value)) if image.data.dtype.kind in "iu" else f"{value:g}"


def _description(image: Image) -> str:
    bundle = str(image.meta.get("IsocenterBundle", ""))[:_LONGEST]
    shows = str(image.meta.get("IsocenterShows", "")) or _PARTS.get(image.image_type, "")
    return "_".join(filter(None, ["Isocenter", bundle, shows]))
