"""JotlasNet: Zhang et al., "JotlasNet: joint tensor low-rank and attention-based sparse unrolling network", MRI 2025."""

import torch
from torch import Tensor, nn

from ..cnn import ConvStack, soft_threshold
from ..planar import from_channels, to_channels
from ..svt import singular_value_threshold
from .steps import GradientStep, prepare


class TensorLowRank(nn.Module):
    """Soft thresholding of the singular values of every frame, in a learned domain.

    Parameters
    ----------
    chans
        Features of the transforms.
    """

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.transform: ConvStack = ConvStack([2, chans, chans, 2], dims=3)
        self.inverse: ConvStack = ConvStack([2, chans, chans, 2], dims=3)
        self.threshold: nn.Parameter = nn.Parameter(torch.tensor(-2.0))

    def forward(self, series: Tensor, weight: Tensor) -> Tensor:
        """Return [batch, 2, frames, y, x]; ``weight`` is that of the low-rank part in the sum."""
        frames = from_channels(self.transform(series))
        shrunk = singular_value_threshold(frames, torch.sigmoid(self.threshold) / weight)
        return series + self.inverse(to_channels(shrunk))


class AttentionSparse(nn.Module):
    """Soft thresholding in a learned domain; every channel's threshold follows from the mean magnitudes of all.

    Parameters
    ----------
    chans
        Features of the transforms.
    """

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.transform: ConvStack = ConvStack([2, chans, chans, chans], dims=3)
        self.inverse: ConvStack = ConvStack([chans, chans, chans, 2], dims=3)
        self.attention: nn.Sequential = nn.Sequential(
            nn.Linear(chans, chans), nn.ReLU(), nn.Linear(chans, chans), nn.Sigmoid()
        )

    def forward(self, series: Tensor, weight: Tensor) -> Tensor:
        """Return [batch, 2, frames, y, x]; ``weight`` is that of the sparse part in the sum."""
        features = self.transform(series)
        level = features.abs().mean(dim=-1).mean(dim=-1).mean(dim=-1)
        threshold = level * self.attention(level) / weight
        return series + self.inverse(soft_threshold(features, threshold[:, :, None, None, None]))


class JotlasCell(nn.Module):
    """Gradient step, both priors side by side (composite splitting), and a Nesterov step."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.gradient: GradientStep = GradientStep()
        self.low_rank: TensorLowRank = TensorLowRank(chans)
        self.sparse: AttentionSparse = AttentionSparse(chans)
        self.weights: nn.Parameter = nn.Parameter(torch.tensor([0.5, 0.5]))
        self.momentum: nn.Parameter = nn.Parameter(torch.tensor(-2.0))

    def forward(
        self, image: Tensor, before: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the image that the next cell starts from, and the one that its momentum refers to."""
        series = to_channels(self.gradient(image, kspace, maps, mask, axes))
        weights = torch.softmax(self.weights, dim=0)
        combined = weights[0] * self.low_rank(series, weights[0]) + weights[1] * self.sparse(series, weights[1])
        current = from_channels(combined)
        return current + torch.sigmoid(self.momentum) * (current - before), current


class JotlasNet(nn.Module):
    """Joint tensor low-rank and attention-based sparse unrolling network.

    Parameters
    ----------
    iterations
        Number of cells, each with its own weights.
    chans
        Features of the transforms.
    """

    def __init__(self, iterations: int = 15, chans: int = 16) -> None:
        super().__init__()
        self.cells: nn.ModuleList = nn.ModuleList(JotlasCell(chans) for _ in range(iterations))

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct a series.

        Parameters
        ----------
        kspace
            float32 [batch, coils, frames, ky, kx, 2], largest magnitude one.
        mask
            Broadcasts against ``kspace``.
        maps
            float32 [batch, coils, y, x, 2].

        Returns
        -------
        Tensor
            float32 complex series [batch, frames, y, x, 2].
        """
        measured, weights, maps, axes, image = prepare(kspace, mask, maps)
        before = image
        for cell in self.cells:
            image, before = cell(image, before, measured, maps, weights, axes)
        return image
