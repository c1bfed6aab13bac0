"""How wrong a SENSE image is, pixel by pixel, as the data themselves tell: by noise, and by what was not measured.

A regulariser has to know it: where the coils resolve the aliases poorly it may rely on the data less than elsewhere. Both parts
come from solving the same problem once more for made-up data, as in the pseudo replica method for g-factors (Robson et al.,
MRM 2008;60:895), with one replica that is averaged over neighbouring pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .consistency import ProximalStep, adjoint_model, energy, forward_model
from .noise_level import noise_level
from .planar import box_mean, magnitude, ratio_or_zero
from .pseudo_random import random_phases


class SenseStart(NamedTuple):
    """A SENSE image and how wrong it is, in units of ``scale``.

    Attributes
    ----------
    image
        float32 [batch, y, x, 2].
    scale
        float32 [batch, 1, 1, 1], brightness of the image: root of its fourth moment over its second, so that air adds nothing.
    noise
        float32 [batch, 1, 1], standard deviation of the complex noise of a sample, model errors of the coil maps included.
    noise_error
        float32 [batch, y, x], variance of the image by noise; at least that of a sample.
    detail_error
        float32 [batch, y, x], mean squared error of detail as strong as the image's own.
    """

    image: Tensor
    scale: Tensor
    noise: Tensor
    noise_error: Tensor
    detail_error: Tensor


class ErrorLevel(nn.Module):
    """SENSE with hardly any regularisation, and its error.

    Parameters
    ----------
    iterations
        Steps of the conjugate gradients.
    weight
        Of the Tikhonov term, relative to maps of unit norm.
    window
        Edge in pixels of the neighbourhood that an error is the mean of.
    detail
        Edge in pixels of the mean that detail is what differs from.
    """

    def __init__(self, iterations: int = 20, weight: float = 1e-3, window: int = 11, detail: int = 5) -> None:
        super().__init__()
        self.weight = weight
        self.window = window
        self.detail = detail
        # beyond a relative residual of 3e-6, rounding would grow where the data say nothing
        self.step: ProximalStep = ProximalStep(iterations, 1e-11)

    def forward(self, kspace: Tensor, measured: Tensor, mask: Tensor, maps: Tensor, axes: list[int]) -> SenseStart:
        """Return the image and its error.

        Parameters
        ----------
        kspace
            float32 [batch, coils, ky, kx, 2], as measured.
        measured, mask, axes
            What ``sampling.to_hybrid`` makes of it: k-space along ``axes`` only, and the mask [batch, 1, ky, 1, 1].
        maps
            float32 [batch, coils, y, x, 2], coil maps of unit norm.
        """
        image = self.solve(adjoint_model(measured, maps, axes), maps, mask, axes)
        scale = brightness(image)
        unit = ratio_or_zero(image, scale)

        noise = random_phases(maps.shape[1], maps.shape[2], maps.shape[3], 1, maps) * mask
        replica = self.solve(adjoint_model(noise, maps, axes), maps, mask, axes)
        left = measured - forward_model(image, maps, axes) * mask
        left_of_noise = noise - forward_model(replica, maps, axes) * mask
        outside = noise_level(kspace[:, :, None], mask[:, 0, :, 0, 0][:, None])
        level = ratio_or_zero(noise_of_residual(left, left_of_noise, noise, outside)[:, None, None], scale[..., 0])

        fine = (unit - box_mean(unit, self.detail)).square().sum(dim=-1, keepdim=True)
        phases = random_phases(1, maps.shape[2], maps.shape[3], 2, maps)[:, 0]
        detail = box_mean(fine, self.detail).sqrt() * phases
        seen = adjoint_model(forward_model(detail, maps, axes) * mask, maps, axes)
        lost = self.solve(seen, maps, mask, axes) - detail
        noise_error = box_mean(replica.square().sum(dim=-1, keepdim=True), self.window)[..., 0] * level.square()
        detail_error = box_mean(lost.square().sum(dim=-1, keepdim=True), self.window)[..., 0]
        return SenseStart(unit, scale, level, torch.maximum(noise_error, level.square()), detail_error)

    def solve(self, target: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
        """Return x of ``(A^H A + weight) x = target``, the target of norm one for the conjugate gradients."""
        norm = energy(target).sqrt()
        weight = torch.full_like(target[:1, :1, :1, :1], self.weight)
        return self.step(ratio_or_zero(target, norm), maps, mask, axes, weight) * norm


def noise_of_residual(left: Tensor, left_of_noise: Tensor, noise: Tensor, outside: Tensor) -> Tensor:
    """Return the standard deviation [batch] of the noise of a sample, model errors of the coil maps included.

    A fit leaves less of the noise than there is; how much less, made-up noise tells. A single coil leaves next to nothing.

    Parameters
    ----------
    left, left_of_noise
        float32 [batch, ...], what the fit leaves of the measured samples, and of made-up ones.
    noise
        float32 [1 or batch, ...], these: noise of unit variance.
    outside
        float32 [batch], a bound from above (``noise_level``), taken where the fit leaves too little to tell.
    """
    told = (energy(left_of_noise) > 0.01 * energy(noise)).flatten()
    variance = ratio_or_zero(energy(left), energy(left_of_noise)).flatten()
    return torch.where(told, torch.minimum(variance.sqrt(), outside), outside)


def brightness(image: Tensor) -> Tensor:
    """Root of the fourth moment over the second of magnitudes: [batch, 1, 1, 1]."""
    largest = magnitude(image).flatten(1).amax(dim=1)[:, None, None, None]
    power = ratio_or_zero(image, largest).square().sum(dim=-1, keepdim=True)
    dims = [1, 2, 3]
    fourth, second = power.square().sum(dim=dims, keepdim=True), power.sum(dim=dims, keepdim=True)
    return ratio_or_zero(fourth, second).sqrt() * largest
