"""Gadgetron's image arrays as images."""

from collections.abc import Iterator
from xml.etree.ElementTree import ParseError

import ismrmrd

from ..wire.items import Image, ImageArray, ImageHeader, make_image
from .gadget import Stream
from .scan import Scan


def split_image_arrays(items: Stream, scan: Scan) -> Stream:
    """Make complex images of image arrays, location by location; what takes images reads its items through this.

    Parameters
    ----------
    items
        Image arrays; others pass by, but for images without pixels.
    scan
        Told of these, and of meta attributes that cannot be read, which such images go without.
    """
    for item in items:
        for each in _images(item, scan) if isinstance(item, ImageArray) else (item,):
            if isinstance(each, Image) and not each.data.size:
                scan.report("no pixels", "an image without pixels came and is left out")
            else:
                yield each


def _images(array: ImageArray, scan: Scan) -> Iterator[Image]:
    images = array.data.reshape(-1, *array.data.shape[3:])
    for index, (data, header) in enumerate(zip(images, array.headers, strict=True)):
        meta = ismrmrd.Meta()
        if index < len(array.meta):
            try:
                meta = ismrmrd.Meta.deserialize(array.meta[index])
            except (ParseError, ValueError, AssertionError):  # it asserts what it finds
                scan.report(
                    "meta attributes", "meta attributes of an image array are not readable XML and are left out"
                )
        yield make_image(data, ImageHeader.from_buffer_copy(header), meta)
