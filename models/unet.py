"""The U-Net of fastMRI (Zbontar et al., arXiv:1811.08839, section 5.2), and its use on complex images in E2E-VarNet.

Parameters have the names that fastMRI's checkpoints use.
"""

import torch
from torch import Tensor, nn

from .normalisation import InstanceNorm, standardise
from .padding import to_multiple


class ConvBlock(nn.Module):
    """Twice: convolution 3x3, instance normalisation, leaky ReLU, dropout of channels."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.layers: nn.Sequential = nn.Sequential(
            *self._half(inputs, outputs, dropout), *self._half(outputs, outputs, dropout)
        )

    @staticmethod
    def _half(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            InstanceNorm(),
            nn.LeakyReLU(0.2),
            nn.Dropout2d(dropout),
        ]

    def forward(self, image: Tensor) -> Tensor:
        """Return [batch, outputs, y, x]."""
        return self.layers(image)


class TransposeConvBlock(nn.Module):
    """Transposed convolution 2x2 with stride 2, instance normalisation, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers: nn.Sequential = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False), InstanceNorm(), nn.LeakyReLU(0.2)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return [batch, outputs, 2 y, 2 x]."""
        return self.layers(image)


class Unet(nn.Module):
    """U-Net with average pooling.

    Parameters
    ----------
    in_chans, out_chans
        Channels of input and output.
    chans
        Channels of the first level; they double from level to level.
    num_pool_layers
        Number of times that the image is halved.
    drop_prob
        Probability of dropping a channel in training.
    """

    def __init__(
        self, in_chans: int, out_chans: int, chans: int = 32, num_pool_layers: int = 4, drop_prob: float = 0.0
    ) -> None:
        super().__init__()
        widths = [chans * 2**level for level in range(num_pool_layers + 1)]
        self.down_sample_layers: nn.ModuleList = nn.ModuleList(
            ConvBlock(inputs, outputs, drop_prob)
            for inputs, outputs in zip([in_chans, *widths], widths[:-1], strict=False)
        )
        self.conv: ConvBlock = ConvBlock(widths[-2], widths[-1], drop_prob)
        up = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up_transpose_conv: nn.ModuleList = nn.ModuleList(
            TransposeConvBlock(inputs, outputs) for inputs, outputs in up
        )
        blocks: list[nn.Module] = [ConvBlock(inputs, outputs, drop_prob) for inputs, outputs in up]
        blocks[-1] = nn.Sequential(blocks[-1], nn.Conv2d(chans, out_chans, 1))
        self.up_conv: nn.ModuleList = nn.ModuleList(blocks)

    def forward(self, image: Tensor) -> Tensor:
        """Return [batch, out_chans, y, x] for [batch, in_chans, y, x] of any size that survives the pooling."""
        skips: list[Tensor] = []
        for layer in self.down_sample_layers:
            image = layer(image)
            skips.append(image)
            image = torch.nn.functional.avg_pool2d(image, 2, stride=2)
        image = self.conv(image)
        for transpose, block in zip(self.up_transpose_conv, self.up_conv):  # noqa: B905  (TorchScript has no strict)
            skip = skips.pop()
            image = _reflect_to(transpose(image), skip)
            image = block(torch.cat([image, skip], dim=1))
        return image


def _reflect_to(image: Tensor, like: Tensor) -> Tensor:
    """Add the row or column that halving an odd size has lost, by reflection."""
    for axis in (-2, -1):
        index = torch.arange(like.shape[axis], device=image.device)
        last = image.shape[axis] - 1
        image = image.index_select(axis, last - (last - index).abs())
    return image


class NormUnet(nn.Module):
    """U-Net on complex images, normalised to zero mean and unit standard deviation per real and imaginary part.

    The image is padded with zeros to a multiple of 16, which suits up to four levels (Sriram et al., MICCAI 2020, section 3.1).

    Parameters
    ----------
    chans, num_pools
        Of the U-Net.
    drop_prob
        Probability of dropping a channel in training.
    """

    def __init__(self, chans: int, num_pools: int, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.unet: Unet = Unet(2, 2, chans, num_pools, drop_prob)

    def forward(self, image: Tensor) -> Tensor:
        """Return images [batch, y, x, 2] for the same."""
        channels, mean, deviation = standardise(image.movedim(-1, 1))
        y, x = channels.shape[-2], channels.shape[-1]
        top, bottom = to_multiple(y, 16)
        left, right = to_multiple(x, 16)
        padded = torch.nn.functional.pad(channels, (left, right, top, bottom))
        restored = self.unet(padded)[..., top : top + y, left : left + x] * deviation + mean
        return restored.movedim(1, -1)
