"""Files of MRD images (HDF5), as ``replay`` and Gadgetron's client write them: series of images in groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
from ismrmrd.hdf5 import image_header_dtype
from numpy.lib.recfunctions import require_fields

from .errors import FileError
from .files import open_hdf5
from .items import IMAGE_DTYPES, Image, ImageHeader, make_image

_HEADER = np.dtype(image_header_dtype)


@dataclass(frozen=True)
class ImageSeries:
    """Images of one size and type in a file.

    Attributes
    ----------
    path, name
        The file, and the group in it.
    count
        How many there are.
    """

    path: Path
    name: str
    count: int

    def read(self, index: int) -> Image:
        """Read an image with its header and meta attributes.

        Raises
        ------
        FileError
            It is damaged, or of a type that MRD does not have.
        """
        with open_hdf5(self.path, "file of MRD images") as file:
            group: Any = file[self.name]
            try:
                data, row = np.asarray(group["data"][index]), np.asarray(group["header"][index : index + 1])
                meta = _meta(group.get("attributes"), index)
                head = require_fields(row, _HEADER)
            except (OSError, RuntimeError, ValueError) as error:
                raise FileError(f"image {index} of {self.name} is damaged", where=str(self.path)) from error
        if data.dtype.names and len(data.dtype.names) == 2:
            real, imaginary = data.dtype.names
            data = data[real] + 1j * data[imaginary]
        data = data.astype(data.dtype.newbyteorder("="))
        if data.dtype not in IMAGE_DTYPES.values() or data.ndim != 4:
            raise FileError(
                f"image {index} of {self.name} is {data.dtype} {list(data.shape)}",
                where=str(self.path),
                accepted="MRD's types of numbers, [channels, z, y, x]",
            )
        return make_image(data, ImageHeader.from_buffer_copy(head.tobytes()), meta)

    def images(self) -> Iterator[Image]:
        """Iterate over all of them."""
        return (self.read(index) for index in range(self.count))


def image_series(path: Path) -> list[ImageSeries]:
    """Find the series of images in a file, in the order of their names; empty where it holds none.

    Raises
    ------
    FileError
        It is no HDF5 file.
    """
    found: list[ImageSeries] = []

    def look(name: str, member: object) -> None:
        if not isinstance(member, h5py.Group):
            return
        data, header = member.get("data"), member.get("header")
        if isinstance(data, h5py.Dataset) and isinstance(header, h5py.Dataset) and len(data.shape) > 1:
            found.append(ImageSeries(path, name, min(data.shape[0], header.shape[0])))

    with open_hdf5(path, "MRD file of a scan or of images") as file:
        file.visititems(look)
    return found


def _meta(attributes: Any, index: int) -> ismrmrd.Meta:
    """Meta attributes of an image; empty where there are none that can be read."""
    if attributes is None or index >= attributes.shape[0]:
        return ismrmrd.Meta()
    text = np.asarray(attributes[index]).ravel()[0]
    try:
        return ismrmrd.Meta.deserialize(text)
    except (
        AssertionError,
        AttributeError,
        TypeError,
        ValueError,
        SyntaxError,
    ):  # what it raises where XML is not as it likes
        return ismrmrd.Meta()
