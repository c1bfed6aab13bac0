"""Pictures of images: a montage as PNG."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

from ..wire.items import Image


def planes(images: Sequence[Image]) -> list[NDArray[np.float32]]:
    """Magnitudes [y, x] of all channels and partitions of the images."""
    return [np.abs(plane).astype(np.float32) for image in images for channel in image.data for plane in channel]


def montage(slices: Sequence[NDArray[np.float32]], path: Path) -> None:
    """Write slices [y, x] side by side, all on one grey scale from 0 to the 99.8th percentile; y points down."""
    columns = 4 if len(slices) % 4 == 0 else math.ceil(math.sqrt(len(slices)))
    height, width = (max(plane.shape[axis] for plane in slices) for axis in (0, 1))
    sheet = np.zeros((math.ceil(len(slices) / columns) * height, columns * width), np.float32)
    for index, plane in enumerate(slices):
        row, column = divmod(index, columns)
        sheet[row * height : row * height + plane.shape[0], column * width : column * width + plane.shape[1]] = plane
    imsave(path, sheet, cmap="gray", vmin=0, vmax=float(np.percentile(sheet, 99.8)) or 1.0)
