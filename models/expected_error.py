"""How wrong a SENSE image is to be expected, from the scan alone: ghosts of what was not measured, and amplified noise.

With too few coils, or coils that are too alike, for the acceleration, what aliases onto one pixel cannot be told apart: part of
it stays where it does not belong, and noise grows. How much follows from mask and coil maps, by solving the same problem for
made-up images and made-up noise, as in the pseudo replica method (Robson et al., MRM 2008;60:895).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .consistency import ProximalStep, adjoint_model, energy, forward_model
from .error_level import noise_of_residual
from .fourier import fft_planar, ifft, ifft_planar
from .noise_level import noise_level
from .planar import box_mean, magnitude, ratio_or_zero
from .pseudo_random import random_phases

_POSITIONS = 12
"""Positions along the readout that are looked at; the problem falls apart into as many as there are."""
_WINDOW = 11
"""Edge in pixels of the neighbourhood that an error is the root mean square of."""
_OF_NOISE = 0.1
"""Least energy of a line, relative to that of its noise: what is left without the noise may be nothing by chance."""
_AXES = [-3, -2]


class ExpectedError(NamedTuple):
    """Largest root mean square error of a neighbourhood, relative to the brightest pixel.

    Attributes
    ----------
    ghosts
        What the measured lines do not tell of the image.
    noise
        Noise beyond that of coils which tell all aliases apart.
    """

    ghosts: float
    noise: float


class LocalErrors(NamedTuple):
    """Errors at some positions along the readout, in the unit of the image.

    Attributes
    ----------
    brightest
        float32 [], the largest magnitude of the image.
    ghosts, noise
        float32 [positions, z, y], as in ``ExpectedError``: the root mean square of every neighbourhood.
    """

    brightest: Tensor
    ghosts: Tensor
    noise: Tensor


def expected_error(kspace: Tensor, mask: Tensor, maps: Tensor, iterations: int, weight: float) -> ExpectedError:
    """Predict how wrong the SENSE image of a scan is.

    Parameters
    ----------
    kspace, mask, maps, iterations, weight
        As ``local_errors`` has them.
    """
    errors = local_errors(kspace, mask, maps, iterations, weight)
    ghosts, noise = (float(ratio_or_zero(error.max(), errors.brightest)) for error in (errors.ghosts, errors.noise))
    return ExpectedError(ghosts, noise)


def local_errors(kspace: Tensor, mask: Tensor, maps: Tensor, iterations: int, weight: float) -> LocalErrors:
    """Predict how wrong a SENSE image is, at some positions along the readout.

    1. The image, and that of noise.
    2. A made-up image, as bright as the one of the scan in every neighbourhood, and with its spectrum along the phase encodings,
       but with random phases. What does not come back of it are ghosts.
    3. The noise of a sample is what the fit leaves of it (as in ``error_level``).

    Parameters
    ----------
    kspace
        complex64 [coils, kz, ky, kx], zero where nothing was measured.
    mask
        bool [kz, ky], the lines that were measured, at least one.
    maps
        complex64 [coils, z, y, x], of unit norm.
    iterations, weight
        Of the bundle that makes the image: conjugate gradient steps, and the Tikhonov term.
    """
    lines = mask.to(torch.float32)[None, None, None, :, :, None]
    measured, coils = _positions(ifft(kspace, [-1])), _positions(maps)
    noise = random_phases(kspace.shape[0], measured.shape[2], mask.numel(), 1, maps).reshape(measured.shape) * lines
    both = torch.cat((measured, noise))
    targets = adjoint_model(both, coils, _AXES)
    images = _solve(targets, coils, lines, iterations, weight)
    left = both - forward_model(images, coils, _AXES) * lines
    alone = torch.view_as_real(kspace[:, None, mask])[None]  # the lines that were measured: there are fewer of them
    outside = noise_level(alone, torch.ones(alone.shape[:1] + alone.shape[2:4], device=kspace.device))
    level = noise_of_residual(left[:1], left[1:], noise, outside)
    made_up = _local(images[:1]) * _with_spectrum(measured, lines, level, images[:1])
    seen = adjoint_model(forward_model(made_up, coils, _AXES) * lines, coils, _AXES)
    inside = coils.square().sum(dim=(1, -1))[..., None]
    lost = _solve(seen, coils, lines, iterations, weight) - made_up * inside
    unfolded = targets[1:] / lines.mean()
    amplified = (_local(images[1:]).square() - _local(unfolded).square()).clamp_min(0).sqrt()
    return LocalErrors(magnitude(images[0]).max(), _local(lost)[0, ..., 0], level * amplified[0, ..., 0])


def _positions(x: Tensor) -> Tensor:
    """Take evenly spread positions of complex [coils, z, y, x]: [1, coils, positions, z, y, 2]."""
    count = min(_POSITIONS, x.shape[3])
    chosen = ((torch.arange(count, device=x.device) + 0.5) * x.shape[3] / count).long()
    return torch.view_as_real(x.index_select(3, chosen).movedim(3, 1).contiguous())[None]


def _solve(target: Tensor, maps: Tensor, lines: Tensor, iterations: int, weight: float) -> Tensor:
    """Images [batch, positions, z, y, 2]; the target of norm one for the conjugate gradients."""
    norm = energy(target).sqrt()
    weights = torch.full_like(target[:1, :1, :1, :1, :1], weight)
    return ProximalStep(iterations)(ratio_or_zero(target, norm), maps, lines, _AXES, weights) * norm


def _local(image: Tensor) -> Tensor:
    """Root mean square [batch, positions, z, y, 1] of the magnitude [batch, positions, z, y, 2] over a neighbourhood."""
    power = image.square().sum(dim=-1, keepdim=True)
    return box_mean(power.flatten(0, 1), _WINDOW).reshape(power.shape).sqrt()


def _with_spectrum(measured: Tensor, lines: Tensor, level: Tensor, image: Tensor) -> Tensor:
    """Random values [1, positions, z, y, 2] of unit variance with the spectrum along the phase encodings that was measured.

    Of lines that were not measured, the energy is interpolated, over the distance from the middle of k-space. Farther out than
    all that were, by more than the largest gap between these, there is none: the image is not meant to have that resolution.
    """
    mask = lines[0, 0, 0, :, :, 0] > 0
    spectrum = measured.square().sum(dim=(0, 1, 2, -1))
    noise = level.square() * measured.shape[1] * measured.shape[2]
    spectrum = (spectrum - noise).clamp_min(1e-12 * float(spectrum.max())).maximum(_OF_NOISE * noise)
    z, y = ((torch.arange(n, device=mask.device) - n // 2) / n for n in mask.shape)
    distance = (z[:, None].square() + y.square()).sqrt()
    order = distance[mask].argsort()
    at, value = distance[mask][order], spectrum[mask][order].log()
    reach = at[-1] + torch.diff(at, prepend=at[:1]).max()
    after = torch.searchsorted(at, distance).clamp(1, max(len(at) - 1, 1))
    before = after - 1
    after = after.clamp(max=len(at) - 1)
    part = ratio_or_zero(distance - at[before], at[after] - at[before]).clamp(0, 1)
    interpolated = torch.lerp(value[before], value[after], part).exp() * (distance <= reach)
    colour = (interpolated / interpolated.mean()).sqrt()[..., None]
    white = random_phases(1, image.shape[1], mask.numel(), 2, image).reshape(image.shape)
    return ifft_planar(fft_planar(white, _AXES) * colour, _AXES)
