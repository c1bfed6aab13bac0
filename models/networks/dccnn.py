"""DC-CNN: Schlemper et al., "A deep cascade of convolutional neural networks for dynamic MR image reconstruction", TMI 2018.

Also its multi-coil relative VS-Net: Duan et al., "VS-Net: variable splitting network for accelerated parallel MRI
reconstruction", MICCAI 2019.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..cnn import ConvStack
from ..consistency import replace_measured
from ..planar import from_channels, to_channels
from .steps import prepare


class DcCnn(nn.Module):
    """Cascade of residual CNNs, after each of which the measured samples take the place of the predicted ones (eq. 8).

    Parameters
    ----------
    cascades
        Number of CNNs, each with its own weights (n_c).
    layers
        Convolutions of each (n_d).
    chans
        Features.
    dims
        2 for slices, 3 for series.
    bias
        Whether the convolutions have biases.
    """

    def __init__(
        self, cascades: int = 5, layers: int = 5, chans: int = 64, dims: Literal[2, 3] = 2, bias: bool = True
    ) -> None:
        super().__init__()
        self.cascades: nn.ModuleList = nn.ModuleList(
            ConvStack([2, *[chans] * (layers - 1), 2], dims=dims, bias=bias) for _ in range(cascades)
        )

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct the complex image [batch, (frames,) y, x, 2]; inputs as in ``prepare``."""
        measured, weights, maps, axes, image = prepare(kspace, mask, maps)
        for cnn in self.cascades:
            denoised = image + from_channels(cnn(to_channels(image)))
            image = replace_measured(denoised, measured, maps, weights, axes)
        return image


class VsNetStage(nn.Module):
    """Denoiser and data consistency of the same image side by side, then their weighted average (eqs. 7 to 9)."""

    def __init__(self, chans: int, layers: int) -> None:
        super().__init__()
        self.cnn: ConvStack = ConvStack([2, *[chans] * (layers - 1), 2], bias=True)
        self.noise: nn.Parameter = nn.Parameter(torch.tensor([0.1]))
        self.balance: nn.Parameter = nn.Parameter(torch.tensor([0.1]))

    def forward(self, image: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
        """Return the next image."""
        denoised = image + from_channels(self.cnn(to_channels(image)))
        consistent = replace_measured(image, kspace, maps, mask, axes, self.noise)
        return self.balance * denoised + (1 - self.balance) * consistent


class VsNet(nn.Module):
    """Variable splitting network.

    Parameters
    ----------
    stages
        Number of stages, each with its own weights.
    chans, layers
        Features and convolutions of the denoisers.
    """

    def __init__(self, stages: int = 5, chans: int = 64, layers: int = 5) -> None:
        super().__init__()
        self.stages: nn.ModuleList = nn.ModuleList(VsNetStage(chans, layers) for _ in range(stages))

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct the complex image [batch, y, x, 2]; inputs as in ``prepare``."""
        measured, weights, maps, axes, image = prepare(kspace, mask, maps)
        for stage in self.stages:
            image = stage(image, measured, maps, weights, axes)
        return image
