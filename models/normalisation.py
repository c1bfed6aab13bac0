"""Means and instance normalisation that keep their digits on large images in every runtime.

ONNX Runtime adds the pixels of a channel one after the other in float32; over a few hundred thousand of them that costs
two digits. In exported graphs the mean is therefore taken along one axis after the other.
"""

import torch
from torch import Tensor, nn

from . import fourier
from .planar import ratio_or_zero


def channel_mean(x: Tensor) -> Tensor:
    """Mean of every channel of [batch, channels, ...], kept broadcastable."""
    if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
        return _mean_at_once(x)
    if not fourier.is_gemm():
        return _mean_at_once(x)
    for axis in range(2, x.dim()):
        x = x.mean(dim=axis, keepdim=True)
    return x


def _mean_at_once(x: Tensor) -> Tensor:
    axes = [axis for axis in range(2, x.dim())]  # noqa: C416  (TorchScript knows no list(range))
    return x.mean(dim=axes, keepdim=True)


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
        if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return torch.nn.functional.instance_norm(x, eps=self.eps)
        if not fourier.is_gemm():
            return torch.nn.functional.instance_norm(x, eps=self.eps)
        centred = x - channel_mean(x)
        return centred * torch.rsqrt(channel_mean(centred.square()) + self.eps)
