"""Scan-adaptive sampling: MNet predicts from a few central lines which others to measure (arXiv:2509.16846).

Its baseline is LOUPE: Bahadir et al., "Deep-learning-based optimization of the under-sampling pattern in MRI", IEEE TCI 2020.
"""

import torch
from torch import Tensor, nn

from ..fourier import fft2c, ifft2c
from ..normalisation import InstanceNorm
from ..planar import magnitude, to_channels
from ..unet import Unet


class StraightThrough(torch.autograd.Function):
    """One where the input is above one half; gradients pass through unchanged."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:  # noqa: ARG004
        """Return zeros and ones like ``x``."""
        return (x > 0.5).to(x.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        """Return the gradient as it came."""
        return gradients[0]


def budget_mask(logits: Tensor, budget: int, base: int) -> Tensor:
    """Measure the ``base`` middle lines, and of the others the ``budget`` likeliest.

    Parameters
    ----------
    logits
        float32 [batch, lines - base]; the lines below the middle first.
    budget
        Number of lines to choose.
    base
        Number of middle lines.

    Returns
    -------
    Tensor
        [batch, lines] of zeros and ones.
    """
    chosen = torch.zeros_like(logits).scatter(1, logits.topk(budget, dim=1).indices, 1.0)
    start = (logits.shape[1] + 1) // 2
    middle = torch.ones_like(logits[:, :1]).expand(-1, base)
    return torch.cat((chosen[:, :start], middle, chosen[:, start:]), dim=1)


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), InstanceNorm(), nn.ReLU()]
    return nn.Sequential(*layers)


class MNet(nn.Module):
    """Predicts for every line outside the middle how much it is worth to measure.

    The size of the input is fixed by ``features``: that of the last level, pooled and flattened.

    Parameters
    ----------
    chans
        Channels of the first level; they double from level to level.
    lines
        Number of lines to decide on.
    features
        Length of the vector that the convolutions end in; 2048 for 320 x 320.
    """

    def __init__(self, chans: int = 128, lines: int = 304, features: int = 2048) -> None:
        super().__init__()
        self.lines = lines
        widths = [2, *(chans * 2**level for level in range(5))]
        self.widest: int = widths[-1]
        self.levels: nn.ModuleList = nn.ModuleList(_double_conv(widths[i], widths[i + 1]) for i in range(5))
        sizes = [features, 1420, 792, 478, lines]
        head: list[nn.Module] = []
        for index in range(4):
            head += [nn.Linear(sizes[index], sizes[index + 1]), nn.LeakyReLU(0.01)]
        self.head: nn.Sequential = nn.Sequential(*head[:-1])

    def features_of(self, ky: int, kx: int) -> int:
        """Return the length of the vector that the convolutions end in for a size; four poolings by three and one by two."""
        return self.widest * (ky // 3**4 // 2) * (kx // 3**4 // 2)

    def forward(self, kspace: Tensor) -> Tensor:
        """Return logits [batch, lines] for k-space [batch, coils, ky, kx, 2] that is zero but for the middle lines."""
        features = to_channels(kspace.mean(dim=1))
        for index, level in enumerate(self.levels):
            if index > 0:
                features = torch.nn.functional.max_pool2d(features, 3)
            features = level(features)
        return self.head(torch.nn.functional.avg_pool2d(features, 2).flatten(1))


class Loupe(nn.Module):
    """Learns one pattern for all scans: probabilities of samples, and the U-Net that reconstructs from them.

    Parameters
    ----------
    shape
        Samples along ky and kx.
    sparsity
        Fraction of samples to measure.
    chans, pools
        Of the U-Net.
    slope
        Steepness of the probabilities' sigmoid.
    """

    def __init__(
        self,
        shape: tuple[int, int] = (256, 256),
        sparsity: float = 0.25,
        chans: int = 64,
        pools: int = 4,
        slope: float = 5.0,
    ) -> None:
        super().__init__()
        self.sparsity = sparsity
        self.slope = slope
        start = torch.rand(shape[0], shape[1]) * 0.98 + 0.01
        self.logits: nn.Parameter = nn.Parameter(torch.log(start / (1 - start)) / slope)
        self.unet: Unet = Unet(2, 1, chans, pools)

    def probabilities(self) -> Tensor:
        """Return the probability of every sample [ky, kx]; their mean is the sparsity (section III-A)."""
        raw = torch.sigmoid(self.slope * self.logits)
        ratio = self.sparsity / raw.mean()
        complement = (1 - self.sparsity) / (1 - raw.mean())
        return torch.where(ratio <= 1, raw * ratio, 1 - (1 - raw) * complement)

    def mask(self) -> Tensor:
        """Return the samples to measure [ky, kx]: in training a relaxed random draw, otherwise the likeliest ones."""
        probabilities = self.probabilities()
        if self.training:
            return torch.sigmoid(12 * (probabilities - torch.rand_like(probabilities)))
        count = int(self.sparsity * probabilities.numel() + 0.5)
        chosen = probabilities.flatten().topk(count).indices
        return torch.zeros_like(probabilities).flatten().scatter(0, chosen, 1.0).reshape(probabilities.shape)

    def forward(self, image: Tensor) -> Tensor:
        """Return the reconstruction [batch, y, x] of a fully sampled image [batch, y, x, 2] after undersampling."""
        zero_filled = ifft2c(fft2c(image) * self.mask()[None, ..., None])
        return self.unet(to_channels(zero_filled))[:, 0] + magnitude(zero_filled)
