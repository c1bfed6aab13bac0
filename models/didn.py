"""DIDN: Yu, Park, Jeong, "Deep iterative down-up CNN for image denoising", CVPR Workshops 2019.

MNet-MoDL uses it as its denoiser (arXiv:2509.16846).
"""

import torch
from torch import Tensor, nn

from .padding import to_multiple


class _Residual(nn.Module):
    """``x + f(x)`` where f is one or more convolutions, each followed by a PReLU."""

    def __init__(self, chans: int, convolutions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(convolutions):
            layers += [nn.Conv2d(chans, chans, 3, padding=1), nn.PReLU()]
        self.layers: nn.Sequential = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _down(chans: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(chans, 2 * chans, 3, stride=2, padding=1), nn.PReLU())


def _up(chans: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(chans, 2 * chans, 1), nn.PixelShuffle(2))


class DownUpBlock(nn.Module):
    """Two levels down and up again, with skips.

    Parameters
    ----------
    chans
        Channels of input and output.
    """

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.fine: _Residual = _Residual(chans, 2)
        self.down_middle: nn.Sequential = _down(chans)
        self.middle: _Residual = _Residual(2 * chans, 1)
        self.down_coarse: nn.Sequential = _down(2 * chans)
        self.coarse: _Residual = _Residual(4 * chans, 1)
        self.up_middle: nn.Sequential = _up(4 * chans)
        self.merge_middle: nn.Conv2d = nn.Conv2d(4 * chans, 2 * chans, 1)
        self.refine_middle: _Residual = _Residual(2 * chans, 1)
        self.up_fine: nn.Sequential = _up(2 * chans)
        self.merge_fine: nn.Conv2d = nn.Conv2d(2 * chans, chans, 1)
        self.refine_fine: _Residual = _Residual(chans, 2)
        self.output: nn.Conv2d = nn.Conv2d(chans, chans, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, chans, y, x], whose edges are multiples of 4."""
        fine = self.fine(x)
        middle = self.middle(self.down_middle(fine))
        coarse = self.up_middle(self.coarse(self.down_coarse(middle)))
        middle = self.refine_middle(self.merge_middle(torch.cat([coarse, middle], dim=1)))
        fine = self.refine_fine(self.merge_fine(torch.cat([self.up_fine(middle), fine], dim=1)))
        return x + self.output(fine)


class Didn(nn.Module):
    """The denoiser, for complex images; pads with zeros to a multiple of 8.

    Parameters
    ----------
    chans
        Channels of the first level.
    blocks
        Number of down-up blocks.
    """

    def __init__(self, chans: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.input: nn.Sequential = nn.Sequential(nn.Conv2d(2, chans, 3, padding=1), nn.PReLU())
        self.down: nn.Sequential = nn.Sequential(nn.Conv2d(chans, chans, 3, stride=2, padding=1), nn.PReLU())
        self.blocks: nn.ModuleList = nn.ModuleList(DownUpBlock(chans) for _ in range(blocks))
        self.merge: nn.Sequential = nn.Sequential(nn.Conv2d(chans * blocks, chans, 1), nn.PReLU())
        self.refine: _Residual = _Residual(chans, 1)
        self.output: nn.Sequential = nn.Sequential(nn.PixelShuffle(2), nn.Conv2d(chans // 4, 2, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """Return images [batch, y, x, 2] for the same."""
        channels = image.movedim(-1, 1)
        y, x = channels.shape[-2], channels.shape[-1]
        top, bottom = to_multiple(y, 8)
        left, right = to_multiple(x, 8)
        padded = torch.nn.functional.pad(channels, (left, right, top, bottom))
        features = self.down(self.input(padded))
        stages: list[Tensor] = []
        for block in self.blocks:
            features = block(features)
            stages.append(features)
        features = self.refine(self.merge(torch.cat(stages, dim=1)))
        restored = padded + self.output(features)
        return restored[..., top : top + y, left : left + x].movedim(1, -1)
