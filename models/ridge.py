"""Learned ridge regularisers: sums of potentials of filter responses, told how wrong the image is.

``R(x) = sum_c sum_p h_c(L_p) t_c(L_p)^2 phi(|w_c * x|_p / (t_c(L_p) L_p))``: zero-mean filters w_c on the complex image x, a
potential of the magnitude of their responses, so that the image's phase needs no handling, and heights h and thresholds t that
depend on the expected error L_p at a pixel (after Goujon et al., arXiv:2211.12461 and 2308.10542, where potentials are splines of
real images and depend on one noise level). The potential ``phi(r) = m sqrt(1 + r^2) + (1 - m) / 2 log(1 + r^2)`` lies between a
convex one (m = 1) and the logarithm (m = 0).
"""

import math

import torch
from torch import Tensor, nn

from .padding import repeat_edge

_LEVELS = 6
"""Error levels at which heights and thresholds are given; between them their logarithms are interpolated."""
_FIRST, _RATIO = 0.0015, 3.0
"""The first of these levels, and the ratio of neighbouring ones: 0.0015 to 0.36 of the image's brightness."""


class RidgeRegulariser(nn.Module):
    """The gradient of a ridge regulariser, times ``L^2``, from the responses at every second pixel of every second line.

    Filters overlap so far that a quarter of the responses says nearly as much as all of them.

    Parameters
    ----------
    filters
        Number of filters.
    size
        Their edge, odd.
    offset
        Which lines and which pixels: (0 or 1, 0 or 1).
    """

    def __init__(self, filters: int = 48, size: int = 9, offset: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.offset_y, self.offset_x = offset
        self.last: int = _LEVELS - 1
        self.first: float = math.log(_FIRST)
        self.ratio: float = math.log(_RATIO)
        self.filters: nn.Parameter = nn.Parameter(cosine_filters(filters, size))
        self.height: nn.Parameter = nn.Parameter(torch.full((filters, _LEVELS), -2.0))
        self.threshold: nn.Parameter = nn.Parameter(torch.zeros(filters, _LEVELS))
        self.mix: nn.Parameter = nn.Parameter(torch.zeros(filters))

    def forward(self, image: Tensor, level: Tensor) -> Tensor:
        """Return the gradient times the squared level, which is of the unit of the image.

        Parameters
        ----------
        image
            float32 [batch, y, x, 2].
        level
            float32 [batch, y, x], expected error L.

        Returns
        -------
        Tensor
            float32 [batch, y, x, 2].
        """
        filters = self.filters - self.filters.mean(dim=[2, 3], keepdim=True)
        edge = filters.shape[3] + 1
        # of blocks of 2 x 2 pixels, so that the stride of the convolution is one
        shift = [self.offset_x, 1 - self.offset_x, self.offset_y, 1 - self.offset_y]
        kernel = torch.nn.functional.pixel_unshuffle(torch.nn.functional.pad(filters, shift), 2)
        pad = edge // 4
        batch, rows, columns = image.shape[0], image.shape[1], image.shape[2]
        y, x = rows + rows % 2, columns + columns % 2
        image = torch.nn.functional.pad(image, [0, 0, 0, x - columns, 0, y - rows])
        level = repeat_edge(repeat_edge(level, 1, 0, y - rows), 2, 0, x - columns)
        planes = torch.nn.functional.pixel_unshuffle(image.movedim(-1, 1).reshape(batch * 2, 1, y, x), 2)
        responses = torch.nn.functional.conv2d(planes, kernel, padding=pad).unflatten(0, (batch, 2))
        height, threshold = self._potentials(level[:, self.offset_y :: 2, self.offset_x :: 2])
        weight = (1 + responses.square().sum(dim=1) * threshold).rsqrt()
        mix = torch.sigmoid(self.mix)[:, None, None]
        weight = height * weight * (mix + (1 - mix) * weight)
        shrunk = (responses * weight[:, None]).flatten(0, 1)
        result = torch.nn.functional.conv_transpose2d(shrunk, kernel, padding=pad)
        return torch.nn.functional.pixel_shuffle(result, 2).reshape(batch, 2, y, x)[..., :rows, :columns].movedim(1, -1)

    def _potentials(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return the heights, and one over the squared thresholds times level: [batch, filters, y, x]."""
        place = ((level.log() - self.first) / self.ratio).clamp(0, self.last)
        near = (1 - (place[..., None] - torch.arange(self.last + 1, device=level.device)).abs()).clamp_min(0)
        # one response stands for four
        height = 4 * (near @ self.height.T).exp().movedim(-1, 1)
        threshold = (near @ (-2 * self.threshold.T)).exp().movedim(-1, 1)
        return height, threshold / level.square()[:, None]


def cosine_filters(count: int, size: int) -> Tensor:
    """Products of the cosines of a discrete cosine transform of 7 x 7 pixels but the constant one, low frequencies first.

    Parameters
    ----------
    count
        Number of filters, at most 48.
    size
        Their edge, odd; they lie in the middle.

    Returns
    -------
    Tensor
        float32 [count, 1, size, size] of unit norm.
    """
    n = 7
    place = torch.arange(n) + 0.5
    waves = torch.stack([torch.cos(math.pi / n * place * order) for order in range(n)])
    waves = waves / waves.square().sum(dim=1, keepdim=True).sqrt()
    orders = sorted((y * y + x * x, y, x) for y in range(n) for x in range(n) if y or x)[:count]
    filters = torch.stack([torch.outer(waves[y], waves[x]) for _, y, x in orders])
    return torch.nn.functional.pad(filters, [(size - n) // 2] * 4)[:, None]
