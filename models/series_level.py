"""A first fit of a series and how wrong it is, as the data themselves tell (``error_level`` does this for a slice).

The fit is smooth in time: frames that are undersampled in turns complete one another where nothing moves. Its error comes from
fitting made-up data: noise, and random detail and changes from frame to frame that are as strong as those of the series itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .consistency import adjoint_model, cg_start, cg_step, energy, forward_model, normal_model
from .error_level import brightness
from .noise_level import noise_level
from .planar import box_mean, ratio_or_zero
from .pseudo_random import random_phases


class SeriesStart(NamedTuple):
    """A series and how wrong it is, in units of ``scale``.

    Attributes
    ----------
    image
        float32 [batch, frames, y, x, 2].
    scale
        float32 [batch, 1, 1, 1, 1], brightness of the mean over time.
    noise
        float32 [batch, 1, 1], standard deviation of the complex noise of a sample, and of what maps and fit leave unexplained.
    noise_error
        float32 [batch, y, x], variance of a frame by noise; at least that of a sample over the number of frames.
    detail_error
        float32 [batch, y, x], mean squared error of detail and changes as strong as the series' own.
    """

    image: Tensor
    scale: Tensor
    noise: Tensor
    noise_error: Tensor
    detail_error: Tensor


class SeriesLevel(nn.Module):
    """Least squares with a Tikhonov term on the differences of neighbouring frames, and its error.

    Parameters
    ----------
    iterations
        Steps of the conjugate gradients.
    smoothness
        Weight of the differences, relative to maps of unit norm.
    weight
        Of a Tikhonov term on the frames themselves.
    window
        Edge in pixels of the neighbourhood that an error is the mean of.
    tried
        Frames, at most, that errors are told from.
    """

    def __init__(
        self, iterations: int = 6, smoothness: float = 0.5, weight: float = 1e-3, window: int = 7, tried: int = 16
    ) -> None:
        super().__init__()
        self.iterations = iterations
        self.smoothness = smoothness
        self.weight = weight
        self.window = window
        self.tried = tried

    def forward(self, kspace: Tensor, measured: Tensor, mask: Tensor, maps: Tensor, axes: list[int]) -> SeriesStart:
        """Return the series and its error.

        Parameters
        ----------
        kspace
            float32 [batch, coils, frames, ky, kx, 2], zero where nothing was measured.
        measured, mask, axes
            What ``sampling.to_hybrid`` makes of it, with x before y: [batch, coils, frames, x, y, 2] and
            [batch, 1, frames, 1, ky, 1].
        maps
            float32 [batch, coils, 1, x, y, 2], of unit norm.
        """
        average = ratio_or_zero(measured.sum(dim=2, keepdim=True), mask.sum(dim=2, keepdim=True).clamp_min(1))
        still = adjoint_model(average, maps, axes)
        scale = brightness(still[:, 0])[:, None]
        still = still.expand(-1, measured.shape[2], -1, -1, -1)
        image = ratio_or_zero(self.solve(adjoint_model(measured, maps, axes), still, maps, mask, axes), scale)

        mask, measured = mask[:, :, : self.tried], ratio_or_zero(measured[:, :, : self.tried], scale[:, None])
        part = image[:, : self.tried]
        coils, frames, x, y = maps.shape[1], mask.shape[2], maps.shape[3], maps.shape[4]
        noise = random_phases(coils * frames, x, y, 1, maps).unflatten(1, (coils, frames)) * mask
        replica = self.solve(adjoint_model(noise, maps, axes), torch.zeros_like(part), maps, mask, axes)
        left = energy(measured - forward_model(part, maps, axes) * mask)
        left_of_noise = energy(noise - forward_model(replica, maps, axes) * mask)
        told = left_of_noise > 0.01 * energy(noise)
        outside = ratio_or_zero(_noise(kspace), scale[:, 0, 0, 0, 0])
        inside = ratio_or_zero(left, left_of_noise).sqrt()[:, 0, 0, 0, 0, 0]
        level = torch.where(told[:, 0, 0, 0, 0, 0], torch.minimum(inside, 2 * outside), outside)[:, None, None]

        by_noise = level.square() * self._mean(replica)
        changes = self._mean(_deviations(image)) - level.square() * self._mean(_deviations(replica))
        mean = image.mean(dim=1)
        fine = self._mean((mean - box_mean(mean, 5))[:, None])
        still = fine.sqrt()[:, None, :, :, None] * random_phases(1, x, y, 3, maps)
        made_up = still + changes.clamp_min(0).sqrt()[:, None, :, :, None] * random_phases(frames, x, y, 2, maps)
        seen = adjoint_model(forward_model(made_up, maps, axes) * mask, maps, axes)
        lost = self.solve(seen, torch.zeros_like(part), maps, mask, axes) - made_up
        floor = level.square() / measured.shape[2]
        return SeriesStart(image, scale, level, torch.maximum(by_noise, floor), self._mean(lost))

    def solve(self, target: Tensor, start: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
        """Return x of ``(A^H A + smoothness D^H D + weight) x = target``, from where to start; D takes differences in time."""
        norm = energy(target).sqrt()
        target, start = ratio_or_zero(target, norm), ratio_or_zero(start, norm)
        state = cg_start(start, target - self._normal(start, maps, mask, axes))
        for _ in range(self.iterations):
            state = cg_step(state, self._normal(state.direction, maps, mask, axes), 1e-9)
        return state.solution * norm

    def _normal(self, image: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
        changes = _differences(image)
        none = torch.zeros_like(image[:, :1])
        smooth = torch.cat([none, changes], dim=1) - torch.cat([changes, none], dim=1)
        return normal_model(image, maps, mask, axes) + self.smoothness * smooth + self.weight * image

    def _mean(self, series: Tensor) -> Tensor:
        """Mean squared magnitude over frames and neighbouring pixels of [batch, frames, x, y, 2]."""
        return box_mean(series.square().sum(dim=-1).mean(dim=1)[..., None], self.window)[..., 0]


def _differences(series: Tensor) -> Tensor:
    """Differences of neighbouring frames of [batch, frames, ...]."""
    return series[:, 1:] - series[:, :-1]


def _deviations(series: Tensor) -> Tensor:
    """Differences from the mean over the frames of [batch, frames, ...]."""
    return series - series.mean(dim=1, keepdim=True)


def _noise(kspace: Tensor) -> Tensor:
    """Noise level [batch] of k-space [batch, coils, frames, ky, kx, 2], in the mean square over the frames."""
    frames = kspace.transpose(1, 2).flatten(0, 1)
    lines = (frames.abs().sum(dim=[1, 3, 4]) > 0).to(kspace.dtype)
    levels = noise_level(frames[:, :, None], lines[:, None])
    return levels.square().unflatten(0, (kspace.shape[0], kspace.shape[2])).mean(dim=1).sqrt()
