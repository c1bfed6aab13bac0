"""Where an image lies in the patient: letters at its edges, millimetres, and the way in which it is looked at.

Directions are in the coordinates of DICOM and MRD: x to the patient's left, y to the back, z to the head (LPS).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...wire.items import ImageHeader

Vector = tuple[float, float, float]

_LETTERS = ("RL", "AP", "FH")
"""Of each axis, towards its negative and its positive end."""
_LEAST_PART = 0.1
"""Part of a direction along an axis, from about 6 degrees, that gets a letter of its own."""
_OFF = 1e-2
"""How far directions may be from unit length and from a right angle."""
_USUAL: tuple[tuple[Vector, Vector], ...] = (
    ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
)
"""What points to the right and down in sagittal, coronal and transverse images, by the axis across them: the patient is looked at
from the left, from the front, and from the feet."""
_NAMES = ("sagittal", "coronal", "transverse")
_BARS = (1, 2, 5, 10, 20, 50, 100, 200)


@dataclass(frozen=True)
class Geometry:
    """How the pixels of an image [y, x] lie.

    Attributes
    ----------
    pixel
        Millimetres between pixels along y and x.
    right, down
        Unit vectors (LPS) in which x and y rise; None where nothing tells.
    """

    pixel: tuple[float, float]
    right: Vector | None = None
    down: Vector | None = None

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """Letters at the left, right, upper and lower edge; empty where nothing tells."""
        if self.right is None or self.down is None:
            return "", "", "", ""
        return _letters(_minus(self.right)), _letters(self.right), _letters(_minus(self.down)), _letters(self.down)

    @property
    def plane(self) -> str:
        """``transverse``, ``coronal`` or ``sagittal``, after ``oblique`` where no axis is straight across it; or empty."""
        if self.right is None or self.down is None:
            return ""
        across = np.abs(np.cross(self.right, self.down))
        name = _NAMES[int(across.argmax())]
        return name if across.max() > math.sqrt(1 - _LEAST_PART**2) else f"oblique {name}"

    def bar(self, width: int) -> int:
        """Length in millimetres of the scale bar of an image of so many pixels along x: up to a third of it, 0 if none fits."""
        return max((length for length in _BARS if length <= width * self.pixel[1] / 3), default=0)


def geometry_of(header: ImageHeader) -> Geometry | None:
    """Return how an MRD image lies; None where its header has no field of view."""
    pixel = [
        length / count if count else 0.0
        for length, count in zip(tuple(header.field_of_view)[:2], tuple(header.matrix_size)[:2], strict=True)
    ]
    return make_geometry((pixel[1], pixel[0]), header.read_dir, header.phase_dir)


def make_geometry(pixel: tuple[float, float], read: Iterable[float], phase: Iterable[float]) -> Geometry | None:
    """Return how an image lies, without directions where they are none; None where pixels have no size.

    Parameters
    ----------
    pixel
        Millimetres along y and x.
    read, phase
        Directions of x and y (LPS).
    """
    if not all(math.isfinite(length) and length > 0 for length in pixel):
        return None
    right, down = np.array(list(read), float), np.array(list(phase), float)
    lengths = [abs(float(np.linalg.norm(each)) - 1) for each in (right, down)]
    if not max(*lengths, abs(float(right @ down))) < _OFF:  # nor NaN
        return Geometry(pixel)
    return Geometry(pixel, _vector(right), _vector(down))


def radiological(image: NDArray[Any], geometry: Geometry | None) -> tuple[NDArray[Any], Geometry | None, str]:
    """Turn and mirror an image so that it is looked at as radiologists do.

    Parameters
    ----------
    image
        [y, x] or [y, x, colour].
    geometry
        How it lies; nothing is done where it does not tell directions.

    Returns
    -------
    tuple
        The image, how it lies then, and what was done in words: empty if nothing.
    """
    if geometry is None or geometry.right is None or geometry.down is None:
        return image, geometry, ""
    right, down, pixel = np.array(geometry.right), np.array(geometry.down), geometry.pixel
    to_right, to_bottom = _USUAL[int(np.abs(np.cross(right, down)).argmax())]
    done: list[str] = []
    if abs(right @ to_right) + abs(down @ to_bottom) < abs(right @ to_bottom) + abs(down @ to_right):
        image, right, down, pixel = np.swapaxes(image, 0, 1), down, right, (pixel[1], pixel[0])
        done.append("x and y exchanged")
    if right @ to_right < 0:
        image, right = image[:, ::-1], -right
        done.append("mirrored left to right")
    if down @ to_bottom < 0:
        image, down = image[::-1], -down
        done.append("mirrored top to bottom")
    return image, Geometry(pixel, _vector(right), _vector(down)), ", ".join(done)


def _letters(direction: Vector) -> str:
    """Name the axes that a direction goes along, the largest part first, as DICOM's Patient Orientation (PS3.3 C.7.6.1.1.1)."""
    order = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join(_LETTERS[axis][direction[axis] > 0] for axis in order if abs(direction[axis]) >= _LEAST_PART)


def _minus(vector: Vector) -> Vector:
    return -vector[0], -vector[1], -vector[2]


def _vector(values: NDArray[np.float64]) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
