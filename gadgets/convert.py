"""Images in the numbers that scanners store: integers of 12 bits, alike for all images of a scan."""

import math
from typing import Annotated, Any, Literal

import ismrmrd
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..wire.items import Image, make_image
from .gadget import FromClient, Stream, gadget
from .image_array import split_image_arrays
from .scale import note_scale
from .scan import Scan
from .to_integer import report_clipping, report_rounding

_COUNTS_PER_NOISE = 4.0
"""Of whitened images, whose noise has a standard deviation of 1: rounding adds 0.3 % to it, and an SNR of 1000 fits 12 bits."""
_HEADROOM = 4.0
"""How many times brighter than the brightest pixels of the first image others may be."""
_BRIGHT = 99.9
"""Percentile of those pixels."""
_PHASE_MIDDLE = 2048
"""Siemens stores phases of -pi to pi as 0 to 4095, however many bits other images have."""
_BITS = range(8, 17)
_LEAST = 1e-30


@gadget(takes=(Image,))
def convert(
    items: Stream,
    scan: Scan,
    *,
    output: Annotated[Literal["float32", "uint16", "int16"], FromClient()] = "float32",
    scale: Annotated[float, Field(ge=0), FromClient()] = 0.0,
) -> Stream:
    """Bring images to the integers that scanners expect, by one factor for the whole scan; or leave them as they are.

    Magnitudes become ``round(scale * m)``; real and imaginary parts the same, with the middle of the range added; phases
    ``round(2048 * phi / pi) + 2048``, where pi becomes 0 as -pi does. The largest value is ``2^bits - 1``, with the header's
    ``userParameterLong`` ``BitsStored`` or 12 bits. What is larger is clipped; the image says how many pixels are, and whether
    few grey levels are left, and the client is told. Meta attributes ``IsocenterScale`` and ``IsocenterOffset`` say how to come
    back: ``value = (pixel - offset) / scale``.

    Parameters
    ----------
    items
        Images; others pass by, and so do complex images, and integers.
    scan
        Its header says how many bits are stored. Told about clipping and coarse rounding.
    output
        What pixels are: ``float32``, as they were reconstructed; ``uint16`` or ``int16``.
    scale
        What ``uint16`` and ``int16`` pixels are multiplied by; 0: by what the first image with signal decides for all that
        follow, of whatever series, so that slices, echoes and series can be compared. That leaves room for four times the
        99.9th percentile of that image; in whitened scans it is at most 4 counts for the standard deviation of the noise,
        whatever the image shows.
    """
    if output == "float32":
        yield from items
        return
    high = _largest(scan, output)
    factor = scale
    for item in split_image_arrays(items, scan):
        if not isinstance(item, Image) or item.data.dtype.kind != "f":
            yield item
            continue
        if item.image_type != ismrmrd.IMTYPE_PHASE:
            factor = factor or _factor(item, high)
        yield _converted(item, factor or 1.0, high, output, scan)


def _largest(scan: Scan, output: str) -> int:
    given = scan.header.userParameters.userParameterLong if scan.header.userParameters else []
    bits = next((int(each.value) for each in given if each.name == "BitsStored" and int(each.value) in _BITS), 12)
    return min((1 << bits) - 1, np.iinfo(output).max)


def _factor(image: Image, high: int) -> float:
    """Return the factor that an image asks for; 0 if it shows nothing."""
    pixels = np.abs(image.data[np.isfinite(image.data)])
    level = float(np.percentile(pixels, _BRIGHT)) if pixels.size else 0.0
    if level < _LEAST:
        return 0.0
    by_level = high / _HEADROOM / level
    whitened = image.meta.get("IsocenterNoiseSource", "none") != "none"
    return min(by_level, _COUNTS_PER_NOISE) if whitened else by_level


def _converted(image: Image, factor: float, high: int, output: str, scan: Scan) -> Image:
    is_phase = image.image_type == ismrmrd.IMTYPE_PHASE
    is_signed = image.image_type in (ismrmrd.IMTYPE_REAL, ismrmrd.IMTYPE_IMAG)
    offset = (high + 1) // 2 if is_signed else 0
    if is_phase:
        factor, offset, high = _PHASE_MIDDLE / math.pi, _PHASE_MIDDLE, 2 * _PHASE_MIDDLE - 1
    counts = image.data.astype(np.float64) * factor
    values = np.rint(np.nan_to_num(counts, posinf=math.inf, neginf=-math.inf)) + offset
    if is_phase:
        values = _wrapped(values)
    meta = image.meta
    note_scale(meta, factor, offset)
    if rounded := report_rounding(image, counts, scan):
        meta["IsocenterRounded"] = rounded
    if clipped := report_clipping(values, 0, high, scan, signed=is_signed):
        meta["IsocenterClipped"] = clipped
    return make_image(np.clip(values, 0, high).astype(output), image.getHead(), meta)


def _wrapped(values: NDArray[Any]) -> NDArray[Any]:
    """Take whole turns away; what is not finite is no phase and becomes none."""
    return np.mod(np.where(np.isfinite(values), values, _PHASE_MIDDLE), 2 * _PHASE_MIDDLE)
