"""The noise level of a scan, from its k-space alone."""

import torch
from torch import Tensor

from .planar import magnitude, ratio_or_zero


def noise_level(kspace: Tensor, mask: Tensor) -> Tensor:
    """Estimate the standard deviation of the complex noise in a sample of k-space, of all coils in the mean square.

    1. Taken are the outermost eighth of the readout on either side, of the measured lines outside the central half of kz and ky;
       of all lines where none was measured there. Zeros count as not measured.
    2. The power of complex Gaussian noise is distributed exponentially. Of every coil the mean is taken, and again without what
       is above three times the mean, divided by what such a cut leaves of that distribution, until only noise is left.
    3. The mean over the coils that have samples, and the larger one of both sides, as one end of the readout may be filled with
       zeros.

    Of samples that are noise it is right to a few percent. Signal that reaches the edge of k-space counts as noise: bottles with
    sharp edges at a high SNR give twice the noise, a head of 96 x 96 pixels with hardly any noise ten times. It is a bound from
    above then, of the size of the details that end at the edge of k-space. It is too small where both ends of the readout were
    interpolated. It is that of the samples as they come: whitened to unit variance of the real and the imaginary part, they have
    ``sqrt(2)``.

    Parameters
    ----------
    kspace
        float32 [batch, coils, kz, ky, kx, 2].
    mask
        float32 [batch, kz, ky], one where a line was measured and zero elsewhere.

    Returns
    -------
    Tensor
        float32 [batch], in the unit of the samples; zero where there is no sample to tell it from.
    """
    scale = magnitude(kspace).flatten(1).amax(dim=1)
    lines = _outer_lines(mask)[:, None, :, :, None]
    count = (kspace.shape[4] + 7) // 8
    first = _variance(kspace[:, :, :, :, :count], lines, scale)
    last = _variance(kspace.flip(4)[:, :, :, :, :count], lines, scale)
    return torch.maximum(first, last).sqrt() * scale


def _outer_lines(mask: Tensor) -> Tensor:
    """Measured lines outside the central half of both axes; all that were measured where there is none."""
    kz = torch.arange(mask.shape[1], device=mask.device) - mask.shape[1] // 2
    ky = torch.arange(mask.shape[2], device=mask.device) - mask.shape[2] // 2
    outer = torch.logical_or((4 * kz.abs() > mask.shape[1])[:, None], (4 * ky.abs() > mask.shape[2])[None, :])
    lines = mask * outer.to(mask.dtype)
    found = lines.flatten(1).sum(dim=1)[:, None, None] > 0
    return torch.where(found, lines, mask)


def _variance(kspace: Tensor, lines: Tensor, scale: Tensor) -> Tensor:
    """Return the mean over the coils of the variance of the noise, over the square of ``scale``: [batch]."""
    clip = 3.0  # samples of more than so many times the mean are signal
    left = 0.842813  # mean of an exponential distribution of mean one that is cut there: 1 - c / (exp(c) - 1)
    power = ratio_or_zero(kspace, scale[:, None, None, None, None, None]).square().sum(dim=-1)
    measured = lines * (power > 0).to(power.dtype)
    mean = _mean(power, measured)
    for _ in range(8):
        mean = _mean(power, measured * (power < clip * mean).to(power.dtype)) / left
    alive = (measured.sum(dim=[2, 3, 4]) > 0).to(power.dtype)
    return (mean[:, :, 0, 0, 0] * alive).sum(dim=1) / alive.sum(dim=1).clamp_min(1)


def _mean(power: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean [batch, coils, 1, 1, 1] of all samples of a coil."""
    dims = [2, 3, 4]
    return (power * weights).sum(dim=dims, keepdim=True) / weights.sum(dim=dims, keepdim=True).clamp_min(1)
