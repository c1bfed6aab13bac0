"""Images as 16-bit integers."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from ..wire.items import Image, make_image
from .gadget import Stream, gadget
from .image_array import split_image_arrays
from .scale import note_scale
from .scan import Scan

_BRIGHT = 99.0
"""Percentile of the brightest pixels of an image; a few that are brighter say nothing of the others."""
_FEW = 16
"""Grey levels: with fewer, half a step is 3 % of the brightest pixels and more."""
_STEP_IN_NOISE = 0.5
"""Standard deviation of the noise in steps, from which on rounding adds less than 15 % to it."""
_STANDS_OUT = 5.0
"""Times the noise that a pixel must be to count as signal."""
_FEW_IN_A_PIXEL = 4
_MANY = 0.1


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
    """Round real images to integers and clip them to a range; say so when any is clipped, or few grey levels are left.

    With the offset o: magnitude ``round(m)``, real and imaginary parts ``round(v + o)``, phase in radians
    ``round((phi / pi + 1) o)``, which takes -pi to 0 and pi to 2 o.

    Parameters
    ----------
    items
        Real images; others pass by.
    scan
        Told about clipping and coarse rounding.
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
            counts = item.data * np.float32(factor)
            values = np.nan_to_num(counts, posinf=math.inf, neginf=-math.inf) + offset
            meta = item.meta
            if offset:
                note_scale(meta, factor, offset)
            if clipped := report_clipping(values, low, high, scan, signed=bool(offset)):
                meta["IsocenterClipped"] = clipped
            if rounded := report_rounding(item, counts, scan):
                meta["IsocenterRounded"] = rounded
            data = np.clip(np.rint(values), low, high).astype(dtype)
            yield make_image(data, item.getHead(), meta)
        else:
            yield item


def report_rounding(image: Image, counts: NDArray[Any], scan: Scan) -> str:
    """Say what whole numbers do not show of an image, if that is much; the client is told.

    Where the noise is known, it matters if steps are larger than twice its standard deviation: pixels that stand out of the
    noise and are shown with a few steps have lost what was measured; steps that are smaller drown in the noise. Of other images,
    and of those that show something else than the object, it matters if the brightest pixels are a few steps.

    Parameters
    ----------
    image
        Real. Its meta attributes say by what it has been multiplied in all, and whether it is whitened: then the standard
        deviation of the noise was 1 before.
    counts
        Its values in steps, that is, as they will be rounded, without offset. Phases always have enough of them.
    scan
        Told.

    Returns
    -------
    str
        For the image; empty if little is lost.
    """
    lost: list[str] = []
    if nan := int(np.isnan(counts).sum()):
        lost.append(f"{nan} of {counts.size} pixels are no numbers and become zero")
    steps = np.abs(counts[np.isfinite(counts)])
    if image.image_type != ismrmrd.IMTYPE_PHASE and steps.size and steps.max() > 0:
        lost += [f"{text}; give a larger factor as 'scale', or take float32" for text in _coarse(steps, _noise(image))]
    text = "; ".join(lost)
    if text:
        shows = f" of the {image.meta['IsocenterShows']}" if "IsocenterShows" in image.meta else ""
        scan.report("rounded", f"in an image{shows}, {text}")
    return text


def _noise(image: Image) -> float:
    """Standard deviation of an image's noise; 0 where it is not known, or the image shows something else than the object."""
    meta = image.meta
    is_known = meta.get("IsocenterNoiseSource", "none") != "none" and "IsocenterShows" not in meta
    return float(meta.get("IsocenterScale", 1.0)) if is_known else 0.0


def _coarse(steps: NDArray[Any], noise: float) -> Iterator[str]:
    if not noise:
        brightest = float(np.percentile(steps, _BRIGHT))
        if brightest < _FEW:
            yield f"the brightest of its pixels are {brightest:.2g} grey levels"
    elif noise < _STEP_IN_NOISE:
        shown = steps[steps > _STANDS_OUT * noise]
        few = np.count_nonzero(shown < _FEW_IN_A_PIXEL)
        if few > _MANY * shown.size:
            share = f"{few / shown.size:.0%} of the pixels that stand out of the noise"
            yield f"{share} have fewer than {_FEW_IN_A_PIXEL} grey levels"


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
