"""Dynamic networks that JotlasNet's paper compares with, in the multi-coil form of its reference implementations."""

import torch
from torch import Tensor, nn

from ..cnn import ConvStack, soft_threshold
from ..consistency import data_gradient
from ..planar import from_channels, to_channels
from ..svt import singular_value_threshold
from .steps import GradientStep, prepare


def casorati_threshold(series: Tensor, threshold: Tensor) -> Tensor:
    """Shrink the singular values of the matrix of frames by pixels of [batch, frames, y, x, 2]."""
    columns = series.flatten(2, 3).transpose(1, 2)
    shrunk = singular_value_threshold(columns, threshold)
    return shrunk.transpose(1, 2).reshape(series.shape)


class IstaCell(nn.Module):
    """Gradient step, then soft thresholding in a learned domain."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.gradient: GradientStep = GradientStep()
        self.transform: ConvStack = ConvStack([2, chans, chans, chans], dims=3)
        self.inverse: ConvStack = ConvStack([chans, chans, chans, 2], dims=3)
        self.threshold: nn.Parameter = nn.Parameter(torch.tensor(0.0))

    def forward(self, image: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
        """Return the next series."""
        series = to_channels(self.gradient(image, kspace, maps, mask, axes))
        sparse = soft_threshold(self.transform(series), torch.relu(self.threshold))
        return from_channels(series + self.inverse(sparse))


class DynamicIstaNetPlus(nn.Module):
    """ISTA-Net+ (Zhang, Ghanem, CVPR 2018, eqs. 8 to 10) on series.

    Parameters
    ----------
    iterations, chans
        Phases, and features of each.
    """

    def __init__(self, iterations: int = 10, chans: int = 16) -> None:
        super().__init__()
        self.cells: nn.ModuleList = nn.ModuleList(IstaCell(chans) for _ in range(iterations))

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct a series [batch, frames, y, x, 2]; inputs as in ``prepare``."""
        measured, weights, maps, axes, image = prepare(kspace, mask, maps)
        for cell in self.cells:
            image = cell(image, measured, maps, weights, axes)
        return image


class SlrCell(nn.Module):
    """Gradient step on data and low-rank terms, soft thresholding in a learned domain, low-rank and multiplier updates."""

    def __init__(self, chans: int, low_rank: bool) -> None:
        super().__init__()
        self.use_low_rank = low_rank
        self.gradient: GradientStep = GradientStep()
        self.coupling: nn.Parameter = nn.Parameter(torch.tensor(0.1))
        self.transform: ConvStack = ConvStack([2, chans, chans, chans], dims=3)
        self.inverse: ConvStack = ConvStack([chans, chans, chans, 2], dims=3)
        self.threshold: nn.Parameter = nn.Parameter(torch.tensor(0.1))
        self.rank_threshold: nn.Parameter = nn.Parameter(torch.tensor(-2.0))
        self.multiplier_step: nn.Parameter = nn.Parameter(torch.tensor(0.01))

    def forward(
        self,
        image: Tensor,
        low_rank: Tensor,
        multiplier: Tensor,
        kspace: Tensor,
        maps: Tensor,
        mask: Tensor,
        axes: list[int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next series, its low-rank part and the multiplier."""
        stepped = self.gradient(image, kspace, maps, mask, axes)
        if self.use_low_rank:
            stepped = stepped + torch.relu(self.coupling) * (image + multiplier - low_rank)
        series = to_channels(stepped)
        image = from_channels(series + self.inverse(soft_threshold(self.transform(series), self.threshold)))
        if self.use_low_rank:
            low_rank = casorati_threshold(image, torch.sigmoid(self.rank_threshold))
            multiplier = multiplier + torch.relu(self.multiplier_step) * (image - low_rank)
        return image, low_rank, multiplier


class SlrNet(nn.Module):
    """SLR-Net: learned low-rank plus sparse (Ke et al., IEEE TMI 2021;40:3698).

    The sign of the coupling to the low-rank part is that of the reference implementation. With published weights it is zero
    in every cell; ``low_rank=False`` then gives the same without the decompositions.

    Parameters
    ----------
    iterations, chans
        Cells, and features of each.
    low_rank
        Whether the low-rank part is computed.
    """

    def __init__(self, iterations: int = 10, chans: int = 16, low_rank: bool = True) -> None:
        super().__init__()
        self.cells: nn.ModuleList = nn.ModuleList(SlrCell(chans, low_rank) for _ in range(iterations))

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct a series [batch, frames, y, x, 2]; inputs as in ``prepare``."""
        measured, weights, maps, axes, image = prepare(kspace, mask, maps)
        low_rank, multiplier = torch.zeros_like(image), torch.zeros_like(image)
        for cell in self.cells:
            image, low_rank, multiplier = cell(image, low_rank, multiplier, measured, maps, weights, axes)
        return image


class LsCell(nn.Module):
    """Low-rank part by singular values, sparse part by a network that sees both, then a step towards the data."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.rank_threshold: nn.Parameter = nn.Parameter(torch.tensor(-2.0))
        self.sparse: ConvStack = ConvStack([4, chans, chans, 2], dims=3, slope=0.3)
        self.step: nn.Parameter = nn.Parameter(torch.tensor(1.0))

    def forward(
        self, image: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of both parts, and the same after the step towards the data."""
        low_rank = casorati_threshold(image, torch.sigmoid(self.rank_threshold))
        parts = torch.stack([low_rank[..., 0], image[..., 0], low_rank[..., 1], image[..., 1]], dim=1)
        total = low_rank + from_channels(self.sparse(parts))
        return total, total - torch.relu(self.step) * data_gradient(total, kspace, maps, mask, axes)


class LsNet(nn.Module):
    """L+S-Net: low-rank plus sparse (Huang et al., MRM 2021;86:3321). The result is the sum of the last cell's parts.

    Parameters
    ----------
    iterations, chans
        Cells, and features of each.
    """

    def __init__(self, iterations: int = 10, chans: int = 32) -> None:
        super().__init__()
        self.cells: nn.ModuleList = nn.ModuleList(LsCell(chans) for _ in range(iterations))
        # the step of the last cell does not reach the result
        last = self.cells[-1]
        assert isinstance(last, LsCell)
        last.step.requires_grad_(False)

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct a series [batch, frames, y, x, 2]; inputs as in ``prepare``."""
        measured, weights, maps, axes, image = prepare(kspace, mask, maps)
        total = image
        for cell in self.cells:
            total, image = cell(image, measured, maps, weights, axes)
        return total


class T2lrCell(nn.Module):
    """Gradient step, then soft thresholding of every frame's singular values in a learned domain."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.gradient: GradientStep = GradientStep()
        self.transform: ConvStack = ConvStack([2, chans, chans, 2], dims=3)
        self.inverse: ConvStack = ConvStack([2, chans, chans, 2], dims=3)
        self.threshold: nn.Parameter = nn.Parameter(torch.tensor(-2.0))

    def forward(self, image: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
        """Return the next series."""
        series = to_channels(self.gradient(image, kspace, maps, mask, axes))
        shrunk = singular_value_threshold(from_channels(self.transform(series)), torch.sigmoid(self.threshold))
        return from_channels(series + self.inverse(to_channels(shrunk)))


class T2lrNet(nn.Module):
    """T2LR-Net: tensor low-rank in a learned transform domain (Zhang et al., Comput. Biol. Med. 2024;170:108034).

    Parameters
    ----------
    iterations, chans
        Cells, and features of each.
    """

    def __init__(self, iterations: int = 15, chans: int = 16) -> None:
        super().__init__()
        self.cells: nn.ModuleList = nn.ModuleList(T2lrCell(chans) for _ in range(iterations))

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct a series [batch, frames, y, x, 2]; inputs as in ``prepare``."""
        measured, weights, maps, axes, image = prepare(kspace, mask, maps)
        for cell in self.cells:
            image = cell(image, measured, maps, weights, axes)
        return image
