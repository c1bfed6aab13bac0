"""Means, standardisation and instance normalisation of channels."""

import torch
from torch import Tensor, nn

from .planar import ratio_or_zero


def channel_mean(x: Tensor) -> Tensor:
    """Mean of every channel of [batch, channels, ...], kept broadcastable."""
    return x.mean(dim=_pixel_axes(x), keepdim=True)


def _pixel_axes(x: Tensor) -> list[int]:
    """Axes of [batch, channels, ...] along which the pixels of a channel lie."""
    return [axis for axis in range(2, x.dim())]  # noqa: C416  (TorchScript knows no list(range))


def standardise(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return every channel of [batch, channels, ...] with mean zero and standard deviation one, its mean and its deviation.

    The variance is divided by the number of pixels less one. A constant channel becomes zero.
    """
    mean = channel_mean(x)
    centred = x - mean
    pixels = torch.ones_like(x[:1, :1]).sum()
    deviation = (channel_mean(centred.square()) * (pixels / (pixels - 1))).sqrt()
    return ratio_or_zero(centred, deviation), mean, deviation


class InstanceNorm(nn.Module):
    """Instance normalisation without parameters, in any number of dimensions.

    Parameters
    ----------
    eps
        Added to the variance.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every channel of [batch, channels, ...]."""
        if x.is_cuda and not x.requires_grad:
            # the kernel of a card has one block a channel, which leaves most of the card idle
            variance, mean = torch.var_mean(x, dim=_pixel_axes(x), correction=0, keepdim=True)
            return (x - mean) * torch.rsqrt(variance + self.eps)
        return torch.nn.functional.instance_norm(x, eps=self.eps)
