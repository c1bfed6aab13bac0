"""Bring images to the matrix and field of view of the recon space."""

import math
from collections.abc import Sequence
from contextlib import suppress

import ismrmrd
import numpy as np
import torch

from ..wire.header import Encoding
from ..wire.items import Image, make_image
from .gadget import Stream, gadget
from .image_array import split_image_arrays
from .recon_grid import grid_fov, to_recon_grid
from .scan import Scan


@gadget(takes=(Image,))
def adjust_field_of_view(items: Stream, scan: Scan) -> Stream:
    """Bring images to the pixels of the recon space: crop, zero-pad, and where pixel sizes differ, interpolate by Fourier sums.

    ``reconstruct`` does it before it takes the magnitude of coil images, as the magnitude of an image cannot be interpolated
    exactly.

    Parameters
    ----------
    items
        Images whose header, and whose meta attribute ``encoding_FOV`` along y and z, tell their field of view; others pass by.
    scan
        Its encodings give the recon spaces.
    """
    for item in split_image_arrays(items, scan):
        if isinstance(item, Image):
            index = str(item.meta.get("encoding", 0))
            known = index in map(str, range(len(scan.encodings)))
            yield _adjust(item, scan.encodings[int(index)]) if known else item
        else:
            yield item


def _adjust(image: Image, encoding: Encoding) -> Image:
    data = torch.from_numpy(np.ascontiguousarray(image.data))
    adjusted = to_recon_grid(data, _field_of_view(image, encoding), encoding)
    if image.image_type == ismrmrd.IMTYPE_MAGNITUDE and not adjusted.is_complex():
        adjusted = adjusted.clamp_min(0)  # between pixels the sums swing below zero
    header, meta = image.getHead(), image.meta
    fov = encoding.recon_fov if data.shape[1] > 1 else (*encoding.recon_fov[:2], header.field_of_view[2])
    header.field_of_view = fov
    meta["encoding_FOV"] = [str(length) for length in fov]  # or Gadgetron would crop it once more
    return make_image(adjusted.contiguous().numpy(), header, meta)


def _field_of_view(image: Image, encoding: Encoding) -> Sequence[float]:
    """Field of view of an image as it is, in mm.

    Gadgetron's headers name the recon space's from the beginning; which it is along y and z stands in their meta attributes.
    """
    lengths = tuple(image.field_of_view)
    named = image.meta.get("encoding_FOV")
    if isinstance(named, list) and len(named) == 3:
        with suppress(ValueError):  # what programs write there need not be numbers
            lengths = (lengths[0], float(named[1]), float(named[2]))
    usual = grid_fov(encoding, image.data.shape[1:])
    pairs = zip(lengths, usual, strict=True)
    return [length if math.isfinite(length) and length > 0 else known for length, known in pairs]
