"""Magnitude, phase, real and imaginary part of complex images."""

from typing import Annotated

import ismrmrd
import numpy as np

from ..wire.errors import OptionError
from ..wire.items import Image, ImageHeader, make_image
from .gadget import FromClient, Stream, gadget
from .image_array import split_image_arrays
from .scan import Scan

_SERIES_OFFSET = {
    ismrmrd.IMTYPE_MAGNITUDE: 0,
    ismrmrd.IMTYPE_REAL: 1000,
    ismrmrd.IMTYPE_IMAG: 2000,
    ismrmrd.IMTYPE_PHASE: 3000,
    ismrmrd.IMTYPE_COMPLEX: 4000,
}


@gadget(takes=(Image,))
def extract(
    items: Stream,
    scan: Scan,
    *,
    magnitude: Annotated[bool, FromClient()] = True,
    real: bool = False,
    imaginary: bool = False,
    phase: Annotated[bool, FromClient()] = False,
    complex_images: Annotated[bool, FromClient("complex")] = False,
    phase_offset: float = 0.0,
    real_imag_offset: float = 0.0,
) -> Stream:
    """Make images of the parts that are wanted from complex images; the parts other than magnitude get series of their own.

    Parameters
    ----------
    items
        Complex images. Magnitude images pass by if magnitude is wanted; other items always do.
    scan
        Told of image arrays that cannot be read completely, and of parts that magnitude images do not have.
    magnitude
        Whether magnitude images are sent, in the series of the complex ones. Where it is false, another part must be wanted.
    real
        Whether images of the real part are sent, in a series of their own: its number is higher by 1000.
    imaginary
        The same of the imaginary part, by 2000.
    phase
        Whether phase images are sent, in a series of their own: its number is higher by 3000. There are none by methods that make
        magnitudes, and the client is told.
    complex_images
        Whether the complex images are sent as well, in a series of their own: its number is higher by 4000.
    phase_offset
        Added to the phase, which lies between -pi and pi.
    real_imag_offset
        Added to real and imaginary parts.

    Raises
    ------
    OptionError
        No part is wanted.
    """
    wanted = {
        ismrmrd.IMTYPE_MAGNITUDE: magnitude,
        ismrmrd.IMTYPE_REAL: real,
        ismrmrd.IMTYPE_IMAG: imaginary,
        ismrmrd.IMTYPE_PHASE: phase,
    }
    if not any(wanted.values()) and not complex_images:
        raise OptionError(
            "gadget 'extract' must make at least one of: magnitude, real, imaginary, phase, complex_images"
        )
    names = {"real": real, "imaginary": imaginary, "phase": phase, "complex": complex_images}
    lacking = " and ".join(name for name, is_wanted in names.items() if is_wanted)
    for item in split_image_arrays(items, scan):
        if not isinstance(item, Image):
            yield item
            continue
        if not np.iscomplexobj(item.data):
            is_magnitude = item.image_type in (0, ismrmrd.IMTYPE_MAGNITUDE) and "IsocenterShows" not in item.meta
            if is_magnitude and lacking:
                scan.report("no phase", _no_phase(item, lacking))
            if magnitude or not is_magnitude:
                yield item
            continue
        parts = {
            ismrmrd.IMTYPE_MAGNITUDE: lambda data: np.abs(data),
            ismrmrd.IMTYPE_REAL: lambda data: np.real(data) + np.float32(real_imag_offset),
            ismrmrd.IMTYPE_IMAG: lambda data: np.imag(data) + np.float32(real_imag_offset),
            ismrmrd.IMTYPE_PHASE: lambda data: np.angle(data) + np.float32(phase_offset),
        }
        for image_type, make in parts.items():
            if wanted[image_type]:
                data = np.ascontiguousarray(make(item.data), dtype=np.float32)
                yield make_image(data, _header(item, image_type), ismrmrd.Meta(item.meta))
        if complex_images:
            yield make_image(item.data, _header(item, ismrmrd.IMTYPE_COMPLEX), ismrmrd.Meta(item.meta))


def _no_phase(image: Image, lacking: str) -> str:
    bundle = image.meta.get("IsocenterBundle", "")
    return f"there are no {lacking} images{f' by {bundle!r}' if bundle else ''}: it makes magnitudes"


def _header(image: Image, image_type: int) -> ImageHeader:
    header = image.getHead()
    header.image_type = image_type
    header.image_series_index = (header.image_series_index + _SERIES_OFFSET[image_type]) % 65536
    return header


@gadget
def complex_to_float(items: Stream, scan: Scan) -> Stream:
    """Make the one real image that a complex image's type asks for; magnitude where it does not say.

    Parameters
    ----------
    items
        Complex images; others pass by.
    scan
        Told of image arrays that cannot be read completely.
    """
    parts = {
        ismrmrd.IMTYPE_REAL: np.real,
        ismrmrd.IMTYPE_IMAG: np.imag,
        ismrmrd.IMTYPE_PHASE: np.angle,
    }
    for item in split_image_arrays(items, scan):
        if isinstance(item, Image) and np.iscomplexobj(item.data):
            header = item.getHead()
            part = parts.get(header.image_type)
            if part is None:
                part, header.image_type = np.abs, ismrmrd.IMTYPE_MAGNITUDE
            yield make_image(np.ascontiguousarray(part(item.data), dtype=np.float32), header, item.meta)
        else:
            yield item
