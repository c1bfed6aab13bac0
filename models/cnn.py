"""Convolutional regularisers that several methods share."""

from itertools import pairwise

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, *, dims: int = 2, bias: bool = False) -> nn.Module:
    """Return a convolution in 2 or 3 dimensions that keeps the size, zeros beyond the edge."""
    make = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return make(inputs, outputs, kernel, padding=kernel // 2, bias=bias)


class ConvStack(nn.Sequential):
    """Convolutions with ReLU between them and none after the last.

    Parameters
    ----------
    channels
        Channels of input, features, ..., output: one convolution between each two.
    kernel
        Edge of the kernels.
    dims
        2 for images [batch, channels, y, x], 3 for series [batch, channels, frames, y, x].
    bias
        Whether the convolutions have biases.
    slope
        Slope of the activation below zero; 0 is a ReLU.
    """

    def __init__(
        self, channels: list[int], kernel: int = 3, *, dims: int = 2, bias: bool = False, slope: float = 0.0
    ) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            if layers:
                layers.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
            layers.append(conv(inputs, outputs, kernel, dims=dims, bias=bias))
        super().__init__(*layers)


def soft_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    """Shrink ``x`` towards zero by ``threshold``, which broadcasts against it."""
    return torch.sign(x) * torch.relu(x.abs() - threshold)
