"""Complex images with the texture of photographs and of a real head, as a scan would have them, from pictures of either.

Networks that learn from smooth phantoms take texture for noise, and the anatomy for all there is. Photographs have neither
fault, a real head has what they lack: thin bright rims around darker folds. Both get random contrast, tissue texture or a support
with a bright rim, shading and phase on a finer grid, and k-space is then cut off, so that edges ring as in a scan.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Array = NDArray[np.float32]
SMALLEST = 512
"""Fewest pixels along an edge of a photograph."""
LARGEST = 400
"""Most pixels of an image along an edge, with which a photograph still is finer than the image."""
_STEPS = (1.4, 3.0)
"""How much finer than the image a photograph is; small ones may not have as much."""
_HEADS = 0.6
"""Part of the images that are heads."""
_FINE_MM = 0.75
"""Voxels below this size may be reduced further than others."""
_SIDES = (0.15, 0.85)
"""Between which parts of an edge of a volume slices are taken; at its ends there is little to see."""
_CROPS = 4
"""Crops of photographs of which the one with the most detail is taken."""


@dataclass(frozen=True)
class Volume:
    """A head.

    Attributes
    ----------
    voxels
        uint8 [x, y, z], from left to right, back to front, bottom to top.
    size_mm
        Edge of a voxel.
    held_out
        First and last transverse slice of the slab, in voxels, that is for validation alone.
    """

    voxels: NDArray[np.uint8]
    size_mm: float
    held_out: tuple[int, int]


@dataclass(frozen=True)
class Pictures:
    """What images are made of, in training or in validation.

    Attributes
    ----------
    photographs
        uint16 [y, x] each, black to white.
    heads
        Volumes.
    validation
        Whether slices come out of the held-out slab, or from elsewhere.
    """

    photographs: Sequence[NDArray[np.uint16]]
    heads: Sequence[Volume]
    validation: bool = False


def random_textured_image(
    random: np.random.Generator, pictures: Pictures, shape: tuple[int, int]
) -> NDArray[np.complex64]:
    """Return a random complex image.

    Parameters
    ----------
    random
        Source of everything that is random.
    pictures
        What it is made of.
    shape
        Pixels along y and x, even, at most ``SMALLEST``; of more than ``LARGEST`` hardly any finer grid is left.

    Returns
    -------
    ndarray
        complex64 [y, x], of magnitudes up to about 3: that of bright tissue is near one, rims are brighter.
    """
    image = _head(random, pictures, shape) if random.random() < _HEADS else _photograph(random, pictures, shape)
    image *= np.exp(0.3 * random.random() * waves(random, image.shape, 1))
    phase = random.uniform(0, 1.2) * waves(random, image.shape, int(random.integers(1, 4)))
    turned = image * np.exp(1j * (phase + np.float32(random.uniform(0, 2 * math.pi)))).astype(np.complex64)
    return cut_off(turned, shape)


def _head(random: np.random.Generator, pictures: Pictures, shape: tuple[int, int]) -> Array:
    """Return a slice on a fine grid, with a contrast and a texture of its own."""
    volume = pictures.heads[int(random.integers(len(pictures.heads)))]
    fine = volume.size_mm < _FINE_MM
    step = random.uniform(1.5, 2.9) if fine else random.uniform(1.0, 1.5)
    image = np.float32(1 / 255) * _turned(random, head_slice(random, volume, validation=pictures.validation))
    image = _windowed(random, image, tuple(_even(n * step, n) for n in shape))
    if random.random() < 0.6:
        rising = random.random() < 0.6
        knots = np.sort(random.random(4)) if rising else random.uniform(0.1, 1, 4)
        curve = [0, *knots, random.uniform(0.6, 1.2)]
        image = np.interp(image, [0, 0.15, 0.35, 0.5, 0.65, 1], curve).astype(np.float32)
    if random.random() < 0.6:
        image *= 1 + random.uniform(0.02, 0.12) * _tissue(random, image.shape)
    return image


def head_slice(random: np.random.Generator, volume: Volume, *, validation: bool) -> NDArray[np.uint8]:
    """Return a slice of any orientation, clear of the held-out slab, or a transverse one of that slab."""
    low, high = volume.held_out
    if validation:
        return volume.voxels[:, :, random.integers(low, high + 1)]
    axis = int(random.integers(3))
    length = volume.voxels.shape[axis]
    every = range(int(length * _SIDES[0]), int(length * _SIDES[1]))
    gap = round(4 / volume.size_mm)
    allowed = [n for n in every if axis < 2 or not low - gap <= n <= high + gap]
    return np.moveaxis(volume.voxels, axis, 0)[allowed[random.integers(len(allowed))]]


def _windowed(random: np.random.Generator, image: Array, shape: tuple[int, ...]) -> Array:
    """Return a part of an image with zeros around it: often the middle, and any part else."""
    pad = [(max(n - m, 0) // 2, max(n - m + 1, 0) // 2) for n, m in zip(shape, image.shape, strict=True)]
    image = np.pad(image, pad)
    middle = random.random() < 0.7
    spare = [m - n for n, m in zip(shape, image.shape, strict=True)]
    y, x = (extra // 2 if middle else int(random.integers(extra + 1)) for extra in spare)
    return image[y : y + shape[0], x : x + shape[1]].copy()


def _tissue(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Random field of unit standard deviation with a spectrum between white noise's and that of natural images."""
    noise = random.standard_normal(shape, np.float32)
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    falloff = ((np.hypot(ky, kx) + 0.02) ** -random.uniform(0.3, 1.2)).astype(np.float32)
    field = np.asarray(fft.irfft2(np.asarray(fft.rfft2(noise)) * falloff, shape), np.float32)
    return field / field.std()


def _photograph(random: np.random.Generator, pictures: Pictures, shape: tuple[int, int]) -> Array:
    """Return a part of a photograph on a fine grid, with a contrast of its own, on a support with a rim."""
    step = random.uniform(*_STEPS)
    chosen = (pictures.photographs[index] for index in random.integers(len(pictures.photographs), size=_CROPS))
    image = max((_crop(random, _turned(random, each), shape, step) for each in chosen), key=_detail)
    if random.random() < 0.9:
        if random.random() < 0.5:
            black = random.uniform(0.2, 0.6)
            image = black + (1 - black) * image
        else:
            image = np.interp(image, np.linspace(0, 1, 5), random.uniform(0.1, 1, 5)).astype(np.float32)
    radius = _radius(random, image.shape)
    image /= 1 + np.exp(np.clip((radius - 0.92) * min(image.shape) / 2, -40, 40))
    if random.random() < 0.75:
        rim = np.exp(-(((radius - random.uniform(0.82, 0.92)) / random.uniform(0.01, 0.04)) ** 2))
        rim *= np.abs(1 + 0.3 * waves(random, image.shape, 6))
        np.maximum(image, random.uniform(0.6, 2.5) * rim, out=image)
    return image


def _crop(random: np.random.Generator, photograph: NDArray[np.uint16], shape: tuple[int, int], step: float) -> Array:
    """Return a part of a photograph ``step`` times as large as a shape, or as it has it."""
    step = min(step, *(edge / n for edge, n in zip(photograph.shape, shape, strict=True)))
    height, width = (_even(n * step) for n in shape)
    y, x = (int(random.integers(edge - n + 1)) for edge, n in zip(photograph.shape, (height, width), strict=True))
    return np.float32(1 / 65535) * photograph[y : y + height, x : x + width]


def _detail(image: Array) -> float:
    """How much an image changes within two lines, in the middle of its pixels."""
    return float(np.median(np.abs(image[2::2, ::2] - image[:-2:2, ::2])))


def _turned(random: np.random.Generator, image: NDArray[Any]) -> NDArray[Any]:
    """Return an image mirrored or transposed, or as it is."""
    rows, columns, transposed = random.random(3) < 0.5
    image = image[:: -1 if rows else 1, :: -1 if columns else 1]
    return image.T if transposed else image


def _radius(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Distance from the middle in units of a random ellipse's, which is bent a little."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    angle = random.uniform(0, math.pi)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    height, width = random.uniform(0.55, 0.98, 2).astype(np.float32)
    along, across = cos * x + sin * y[:, None], cos * y[:, None] - sin * x
    return np.hypot(along / width, across / height) + np.float32(0.02) * waves(random, shape, 4)


def waves(random: np.random.Generator, shape: tuple[int, ...], order: int) -> Array:
    """Smooth random field float32 [y, x] of unit standard deviation: up to ``order`` periods along each axis."""
    size = 2 * order + 1
    coefficients = random.standard_normal((2, size, size)).astype(np.float32)
    periods = np.arange(-order, order + 1)
    along_y, along_x = (np.exp(2j * math.pi * np.outer(np.arange(n) / n, periods)).astype(np.complex64) for n in shape)
    field = (along_y @ (coefficients[0] + 1j * coefficients[1]) @ along_x.T).real
    return (field / (field.std() + 1e-9)).astype(np.float32)


def _even(size: float, least: int = 0) -> int:
    """Return the even number next below a size, but at least another."""
    return max(int(size) // 2 * 2, least)


def cut_off(image: NDArray[np.complex64], shape: tuple[int, int]) -> NDArray[np.complex64]:
    """Return an image of fewer pixels by leaving out the outer k-space, at the same brightness."""
    kspace = fft.fftshift(np.asarray(fft.fft2(fft.ifftshift(image))))
    y, x = ((edge - n) // 2 for edge, n in zip(image.shape, shape, strict=True))
    kept = kspace[y : y + shape[0], x : x + shape[1]] * np.float32(math.prod(shape) / image.size)
    return np.asarray(fft.fftshift(np.asarray(fft.ifft2(fft.ifftshift(kept)))), np.complex64)
