"""Fully sampled scans, which training and evaluation undersample: what one is, and those that are made up."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..models.fourier import fft, ifft
from ..simulate.anatomy import random_slice
from ..simulate.cine import random_series
from ..simulate.coils import random_coil_maps
from ..simulate.textured_cine import random_textured_series
from ..simulate.textures import Pictures, random_textured_image
from .recipe import MadeUpData, SimulatedData, SimulatedSeries, TextureData, TextureSeries

_MARGIN = 8
"""Samples of k-space beyond the matrix on each side where coil maps act on an image; they reach about as far."""


@dataclass(frozen=True)
class FullScan:
    """A fully sampled slice or series.

    Attributes
    ----------
    kspace
        complex64 [coils, (frames,) ky, kx], as measured.
    clean
        The same without noise, where it is known.
    maps
        complex64 [coils, y, x], the true coil maps, where they are known.
    measured
        bool [ky], the lines that were measured; the others are padding and hold zeros. None: all of them.
    matrix
        Pixels along y and x of the image that a reader gets, cut out of the middle; None: all of them.
    name
        Where it comes from, such as a file and its slice.
    volume
        The file whose slices are judged together; empty where it is a volume of its own.
    """

    kspace: Tensor
    clean: Tensor | None = None
    maps: Tensor | None = None
    measured: Tensor | None = None
    matrix: tuple[int, int] | None = None
    name: str = ""
    volume: str = ""


def simulated_scan(data: SimulatedData | SimulatedSeries, seed: int, split: Literal["train", "test"]) -> FullScan:
    """Make up a slice or series, seen by a random coil array, with noise.

    Object and coils are drawn on a grid twice as fine, so that k-space is cut off where the matrix ends, as in a scan.
    """
    random = np.random.default_rng(seed)
    shape = _shape(random, data)
    fine = (2 * shape[0], 2 * shape[1])
    if isinstance(data, SimulatedData):
        image = torch.from_numpy(random_slice(random, fine, split))
    else:
        frames = int(random.integers(data.frames[0], data.frames[1] + 1))
        image = torch.from_numpy(random_series(random, fine, frames))
    maps, clean = _measure(random, data, image, shape)
    return FullScan(_with_noise(random, data, clean / 2), clean / 2, maps[:, ::2, ::2])


def textured_scan(data: TextureData, pictures: Pictures, seed: int) -> FullScan:
    """Make up a slice or series from photographs or a head, seen by a random coil array, with noise; its maps are not kept.

    Image and coils are drawn on a grid that is finer by as much of k-space as the coils move.
    """
    random = np.random.default_rng(seed)
    shape = _shape(random, data)
    fine = (shape[0] + 2 * _MARGIN, shape[1] + 2 * _MARGIN)
    if isinstance(data, TextureSeries):
        frames = int(random.integers(data.frames[0], data.frames[1] + 1))
        image = torch.from_numpy(random_textured_series(random, pictures, fine, frames))
    else:
        image = torch.from_numpy(random_textured_image(random, pictures, fine))
    _, clean = _measure(random, data, image, shape)
    return FullScan(_with_noise(random, data, clean), clean)


def _shape(random: np.random.Generator, data: MadeUpData) -> tuple[int, int]:
    """Draw an even number of lines and of samples."""
    low, high = data.matrix
    y, x = (2 * int(random.integers(low // 2, high // 2 + 1)) for _ in range(2))
    return y, x


def _measure(
    random: np.random.Generator,
    data: MadeUpData,
    image: Tensor,
    shape: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Return the maps of a random coil array on an image's grid, and the middle of the k-space that it sees."""
    coils = int(random.integers(data.coils[0], data.coils[1] + 1))
    fine = image.shape[-2], image.shape[-1]
    maps = torch.from_numpy(random_coil_maps(random, coils, fine))
    kspace = fft(beside(maps, image) * image, [-2, -1])
    y, x = ((grid - n) // 2 for grid, n in zip(fine, shape, strict=True))
    return maps, kspace[..., y : y + shape[0], x : x + shape[1]]


def _with_noise(random: np.random.Generator, data: MadeUpData, clean: Tensor) -> Tensor:
    level = math.exp(random.uniform(*np.log(data.noise))) * float(ifft(clean, [-2, -1]).abs().max())
    noise = random.standard_normal((2, *clean.shape), np.float32) * level / math.sqrt(2)
    return clean + torch.complex(*torch.from_numpy(noise))


def beside(maps: Tensor, image: Tensor) -> Tensor:
    """View maps [coils, y, x] so that they broadcast against an image [(frames,) y, x]."""
    return maps.unsqueeze(1) if image.dim() == 3 else maps


def with_frames(kspace: Tensor) -> Tensor:
    """View k-space [coils, (frames,) ky, kx] with frames; a slice has one."""
    return kspace if kspace.dim() == 4 else kspace[:, None]
