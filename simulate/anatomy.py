"""Random brain slices from the MNI152 template: deformed, with random contrast, skull, scalp, lesions, texture and phase.

The template (Fonov et al., NeuroImage 2011;54:313) comes with nilearn (extra ``train``). It is an average of 152 heads and
therefore blurred; tissue boundaries are made crisp again before contrasts are drawn.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..wire import extras

Array = NDArray[np.float32]
TISSUES = ("grey matter", "white matter", "csf", "skull", "scalp")
HELD_OUT_MM = (8.0, 24.0)
"""Height of the transverse slab, through basal ganglia and ventricles, that is kept for evaluation."""
_GRID = 512
"""Pixels along an edge of the slices whose k-space is computed."""


@dataclass(frozen=True)
class Template:
    """Tissue fractions float32 [tissue, z, y, x] on 1 mm voxels, and the height of slice 0 in mm (MNI)."""

    tissues: Array
    bottom: float


@cache
def load_template() -> Template:
    """Read the template and put a skull and a scalp around it.

    Raises
    ------
    MissingExtraError
        nilearn is not installed.
    """
    datasets = extras.load("nilearn.datasets", "the brain of the MNI152 template")

    images = [
        load(resolution=1)
        for load in (
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_template,
        )
    ]
    grey, white, t1 = (np.asarray(image.dataobj, np.float32).transpose(2, 1, 0) for image in images)
    brain = np.asarray(ndimage.binary_closing(t1 > 0.05, iterations=3), np.bool_)
    distance = np.asarray(ndimage.distance_transform_edt(np.logical_not(brain)), np.float32)
    shells = [_band(distance, low, high) for low, high in ((-1, 2.5), (2.5, 7.5), (7.5, 13))]
    csf = np.clip(_crisp(brain) - grey - white, 0, 1) + shells[0] * (distance > 0)
    tissues = np.stack([_crisp(grey), _crisp(white), np.clip(csf, 0, 1), shells[1], shells[2]])
    return Template(tissues.astype(np.float32), float(images[0].affine[2, 3]))


def _crisp(fraction: Any) -> Array:
    """Steepen the boundary of a blurred tissue fraction around one half."""
    return (1 / (1 + np.exp(-12 * (np.asarray(fraction, np.float32) - 0.5)))).astype(np.float32)


def _band(distance: Array, low: float, high: float) -> Array:
    """One where a distance lies between two values, with edges one voxel wide."""
    return (np.clip(distance - low, 0, 1) * np.clip(high - distance, 0, 1)).astype(np.float32)


def random_slice(
    random: np.random.Generator, shape: tuple[int, int], split: Literal["train", "test"] = "train"
) -> NDArray[np.complex64]:
    """Return a random complex slice, magnitude up to about one.

    Parameters
    ----------
    random
        Source of everything that is random.
    shape
        Pixels along y and x.
    split
        ``test``: transverse slices of the held-out slab only; ``train``: any orientation, but none of these.

    Returns
    -------
    ndarray
        complex64 [y, x].
    """
    template = load_template()
    coordinates = _random_plane(random, shape, template, split)
    tissues = np.stack([ndimage.map_coordinates(volume, coordinates, order=1) for volume in template.tissues])
    intensities = _random_contrast(random)
    image = np.tensordot(intensities, tissues, 1)
    body = np.clip(tissues.sum(0), 0, 1)
    image += _random_lesions(random, shape) * tissues[:2].sum(0)
    image *= 1 + 0.15 * smooth_field(random, shape, 3) * body
    image *= 1 + random.uniform(0, 0.2) * random_texture(random, shape)
    image = np.maximum(image, 0)
    return (image / max(np.percentile(image, 99.5), 1e-6) * np.exp(1j * random_phase(random, shape))).astype(
        np.complex64
    )


def template_kspace(kx: NDArray[np.float64], ky: NDArray[np.float64], z: float) -> NDArray[np.complex128]:
    """Continuous Fourier transform [ky, kx] of a held-out slice on [-1, 1] x [-1, 1]; ``z`` chooses the slice.

    Parameters
    ----------
    kx, ky
        Frequencies in cycles per unit length.
    z
        Height relative to that of the head, between -1 and 1.
    """
    image = random_slice(np.random.default_rng(round(1000 * (z + 2))), (_GRID, _GRID), "test")
    place = (np.arange(_GRID) - _GRID // 2) * 2 / _GRID
    rows, columns = (np.exp(-2j * np.pi * np.outer(k, place)) for k in (ky, kx))
    return (rows @ image @ columns.T * (2 / _GRID) ** 2).astype(np.complex128)


def _random_plane(
    random: np.random.Generator, shape: tuple[int, int], template: Template, split: str
) -> NDArray[np.float64]:
    """Voxel coordinates [3 (z, y, x), y, x] of a plane that is tilted, scaled, shifted and bent a little."""
    depth = np.array(template.tissues.shape[1:])
    orientation = (
        "transverse" if split == "test" else random.choice(["transverse", "coronal", "sagittal"], p=[0.6, 0.2, 0.2])
    )
    span = 240.0 / random.uniform(0.95, 1.3)
    v, u = (np.linspace(-0.5, 0.5, n) * span * random.uniform(0.93, 1.07) for n in shape)
    v, u = np.meshgrid(v, u, indexing="ij")
    bend = [random.uniform(0, 4) * smooth_field(random, shape, 4) for _ in range(2)]
    v, u = v + bend[0], u + bend[1]
    tilt = random.normal(0, 0.03 if split == "test" else 0.1, 3)
    angle = tilt[2] + math.pi / 2 * random.integers(4)
    v, u = math.cos(angle) * v - math.sin(angle) * u, math.sin(angle) * v + math.cos(angle) * u
    out = tilt[0] * v + tilt[1] * u
    middle = depth / 2 - 0.5 + np.array([0, -2, 0]) + random.normal(0, 4, 3)
    if orientation == "transverse":
        middle[0] = _height(random, split) - template.bottom
        return np.stack([middle[0] + out, middle[1] - v, middle[2] + u])
    if orientation == "coronal":
        middle[1] += random.uniform(-55, 55)
        return np.stack([middle[0] - v, middle[1] + out, middle[2] + u])
    middle[2] += random.uniform(-50, 50)
    return np.stack([middle[0] - v, middle[1] + u, middle[2] + out])


def _height(random: np.random.Generator, split: str) -> float:
    """Height of a transverse slice in mm, inside the held-out slab or clear of it."""
    low, high = HELD_OUT_MM
    if split == "test":
        return random.uniform(low + 2, high - 2)
    return random.uniform(-45, low - 4) if random.random() < 0.5 else random.uniform(high + 4, 65)


def _random_contrast(random: np.random.Generator) -> Array:
    """Intensity of every tissue: T1-, T2- or proton-density-like, FLAIR, or anything."""
    kinds = np.array(
        [
            [0.60, 1.00, 0.15, 0.05, 0.95],
            [0.60, 0.40, 1.00, 0.06, 0.55],
            [1.00, 0.80, 0.90, 0.10, 0.80],
            [0.90, 0.65, 0.10, 0.05, 0.60],
            random.uniform(0.05, 1, 5),
        ]
    )
    return (kinds[random.integers(5)] * random.uniform(0.8, 1.2, 5)).astype(np.float32)


def _random_lesions(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Up to a dozen small spots, brighter or darker."""
    y, x = np.indices(shape) / np.array(shape).max()
    total = np.zeros(shape)
    for _ in range(random.integers(0, 13)):
        center, radius = random.uniform(0.2, 0.8, 2), 10 ** random.uniform(-2.3, -1.4, 2)
        distance = np.hypot((y - center[0]) / radius[0], (x - center[1]) / radius[1])
        total += random.uniform(-0.5, 0.8) * np.clip(1.5 - distance, 0, 1)
    return total


def smooth_field(random: np.random.Generator, shape: tuple[int, int], nodes: int) -> NDArray[np.float64]:
    """Smooth random field between about -1 and 1, from a coarse grid of nodes."""
    grid = random.uniform(-1, 1, (nodes + 3, nodes + 3))
    y, x = (np.linspace(1, nodes + 1, n) for n in shape)
    return ndimage.map_coordinates(grid, np.meshgrid(y, x, indexing="ij"), order=3, mode="nearest")


def random_texture(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Random field of unit standard deviation, whose spectrum lies between that of white noise and that of natural images.

    The template is smooth within a tissue; scans are not. Networks that never see texture take it for noise.
    """
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    falloff = np.maximum(np.hypot(ky, kx), 1 / max(shape)) ** -random.uniform(0, 1.2)
    field = np.fft.irfft2(np.fft.rfft2(random.standard_normal(shape)) * falloff, shape)
    return (field - field.mean()) / field.std()


def random_phase(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Phase in radians: an offset, a slope, and a smooth field of up to one turn."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    slope = random.normal(0, 1.0, 2)
    return (
        random.uniform(-np.pi, np.pi)
        + slope[0] * y
        + slope[1] * x
        + random.uniform(0, 3) * smooth_field(random, shape, 2)
    )
