"""How much of a scan its coil maps cannot explain, from the middle of its k-space.

Measured are lines of k-space ``y = M F S x``: whatever the image ``x`` is, the coils see it through the maps ``S``. What no image
explains is left because the maps are wrong: of an object that is larger than the field of view two parts lie at one pixel, which
each have maps of their own, and one that has moved is not where its calibration lines saw it.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from .consistency import ProximalStep, adjoint_model, forward_model
from .fourier import ifft
from .noise_level import noise_level

_BAND = (8, 32, 32)
"""Samples along kz, ky and kx that are looked at: those with most of the signal."""
_GRID = 2
"""Pixels of the image for each of these samples, so that it has what the maps move into them."""
_FINE_GRID = 4
"""The same where rows at the ends of the field of view count."""
_ITERATIONS, _WEIGHT = 20, 1e-3
"""Of the SENSE image; fewer leave up to 6 % of it that maps could explain."""
_FEW_ITERATIONS = 8
"""Where maps are only compared: in all of 144 comparisons, with 5 as with 20 the same ones explained clearly more."""
_AXES = [-4, -3, -2]


def map_misfit(kspace: Tensor, mask: Tensor, maps: Tensor, accepted: float = 0.0) -> tuple[float, int]:
    """Return what is left of the middle of k-space after the image that explains it best.

    1. A SENSE image of the middle of k-space, of low resolution but of the whole field of view.
    2. What it leaves of the measured samples, windowed against ringing, as images of the coils.
    3. Of their root of the sum of squares what is above all that noise makes (Laurent and Massart, Ann. Stat. 2000;28:1302, lemma
       1: of a sum of as many exponential variables as there are coils, in as many pixels as there are samples).

    Parameters
    ----------
    kspace
        complex64 [coils, kz, ky, kx], zero where nothing was measured.
    mask
        bool [kz, ky], the lines that were measured.
    maps
        complex64 [coils, z, y, x], of unit norm.
    accepted
        What is returned as 0 where even with its noise no more is left: that saves the search for the noise.

    Returns
    -------
    float
        The largest magnitude that is left, relative to the largest one of the image, as far as it is above the noise: 0 to 1.
    int
        The row of ``maps`` that it lies in.
    """
    coils, *shape = kspace.shape
    if coils == 1:
        return 0.0, 0  # the map of one coil explains everything
    band = [min(size, most) for size, most in zip(shape, _BAND, strict=True)]
    grid = [min(size, _GRID * part) for size, part in zip(shape, band, strict=True)]
    lines = _middle(mask[None, :, :, None].expand(-1, -1, -1, shape[2]).to(torch.float32), band, grid)
    window = _middle(_window(band)[None], band, grid)
    measured = torch.view_as_real(_middle(kspace, band, grid))[None]
    coarse = torch.view_as_real(_coarse(maps, grid))[None]
    predicted = _explained(measured, lines, coarse, _ITERATIONS)
    density = float((window * lines).sum() / window.sum())
    seen = _power(predicted, window)
    left = _power((measured - predicted * lines[None, ..., None]) / density, window)
    largest = max(float(seen.max()), float(left.max()))
    if float(left.max()) <= accepted**2 * largest:
        return 0.0, 0
    noise = float(noise_level(torch.view_as_real(kspace)[None], mask[None].to(torch.float32)))
    several = coils + math.sqrt(2 * coils * math.log(math.prod(band))) + math.log(math.prod(band))
    bound = several * (noise / density) ** 2 * float((window * lines).square().mean())
    above = (left - bound).clamp_min(0)
    row = int(above.amax(dim=(0, 2)).argmax())
    pixel = (row - grid[1] // 2) * shape[1] // grid[1] + shape[1] // 2
    return math.sqrt(float(above.max()) / largest), pixel


def misfit_energy(kspace: Tensor, mask: Tensor, maps: Tensor) -> float:
    """Energy of calibration data that maps leave unexplained, noise included, relative to all of it; to compare maps by.

    Parameters
    ----------
    kspace
        complex64 [coils, kz, ky, kx], the middle of k-space.
    mask
        bool [kz, ky], the lines of it that were measured.
    maps
        complex64 [coils, z, y, x], of unit norm, at the pixels ``compared_pixels`` of each axis.
    """
    band, grid = list(kspace.shape[1:]), list(maps.shape[1:])
    lines = _middle(mask[None, :, :, None].expand(-1, -1, -1, band[2]).to(torch.float32), band, grid)
    measured = torch.view_as_real(_middle(kspace, band, grid))[None]
    predicted = _explained(measured, lines, torch.view_as_real(maps.contiguous())[None], _FEW_ITERATIONS)
    left = measured - predicted * lines[None, ..., None]
    return float(left.square().sum() / measured.square().sum().clamp_min(1e-30))


def compared_pixels(size: int, samples: int) -> Tensor:
    """Pixels of an axis at which maps are compared: for so many samples along it, four times as many."""
    return _nearest(size, min(size, _FINE_GRID * samples))


def _explained(measured: Tensor, lines: Tensor, maps: Tensor, iterations: int) -> Tensor:
    """K-space [1, coils, kz, ky, kx, 2] of the SENSE image of measured lines [1, kz, ky, kx]."""
    weight = torch.full((1, 1, 1, 1, 1), _WEIGHT, device=measured.device)
    target = adjoint_model(measured, maps, _AXES)
    image = ProximalStep(iterations)(target, maps, lines[None, ..., None], _AXES, weight)
    return forward_model(image, maps, _AXES)


def _middle(x: Tensor, band: list[int], grid: list[int]) -> Tensor:
    """Cut the middle out of [..., kz, ky, kx], and pad it with zeros to a grid."""
    for axis, (part, full) in enumerate(zip(band, grid, strict=True), start=x.dim() - 3):
        x = x.narrow(axis, x.shape[axis] // 2 - part // 2, part)
        before = full // 2 - part // 2
        x = pad(x.movedim(axis, -1), (before, full - part - before)).movedim(-1, axis)
    return x


def _window(band: list[int]) -> Tensor:
    """Hann window [kz, ky, kx]."""
    z, y, x = (torch.hann_window(n + 2, periodic=False)[1:-1] for n in band)
    return z[:, None, None] * y[:, None] * x


def _coarse(maps: Tensor, grid: list[int]) -> Tensor:
    """Take the maps of the pixels that are nearest to those of a coarser grid."""
    for axis, size in enumerate(grid, start=1):
        maps = maps.index_select(axis, _nearest(maps.shape[axis], size).to(maps.device))
    return maps


def _nearest(full: int, size: int) -> Tensor:
    """Pixels of an axis that are nearest to those of a coarser grid."""
    pixels = ((torch.arange(size) - size // 2) * full / size).round().long() + full // 2
    return pixels.clamp(0, full - 1)


def _power(kspace: Tensor, window: Tensor) -> Tensor:
    """Sum of squares [z, y, x] of the coil images of windowed k-space [1, coils, kz, ky, kx, 2]."""
    return ifft(torch.view_as_complex(kspace * window[None, ..., None]), [-3, -2, -1]).abs().square().sum(dim=(0, 1))
