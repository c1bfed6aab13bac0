"""Means and instance normalisation that keep their digits on large images in every runtime.

ONNX Runtime adds the pixels of a channel one after the other in float32; over a few hundred thousand of them that costs
two digits. In exported graphs the mean is therefore taken along rows first and then over the rows.
"""

import torch
from torch import Tensor, nn

from . import fourier


def spatial_mean(x: Tensor) -> Tensor:
    """Mean over the last two axes of [..., y, x], kept as axes of length one."""
    if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
        return x.mean(dim=(-2, -1), keepdim=True)
    if fourier.is_gemm():
        return x.mean(dim=-1, keepdim=True).mean(dim=-2, keepdim=True)
    return x.mean(dim=(-2, -1), keepdim=True)


class InstanceNorm2d(nn.InstanceNorm2d):
    """``torch.nn.InstanceNorm2d`` without affine parameters, which exports to a graph that is as exact as eager mode."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in torch)
        """Normalise every channel of [batch, channels, y, x]."""
        if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return torch.nn.functional.instance_norm(input, eps=self.eps)
        if fourier.is_gemm():
            centred = input - spatial_mean(input)
            return centred * torch.rsqrt(spatial_mean(centred.square()) + self.eps)
        return torch.nn.functional.instance_norm(input, eps=self.eps)
