"""Learned ridge regularisers of series: as those of slices (``ridge``), with filters in space and time.

A filter sees five neighbouring frames and what a frame differs by from the mean over all of them. How strongly a response is
shrunk depends on its magnitude, and on its mean square over all frames: where nothing ever moves, a single large response is
noise or an alias, and it is shrunk like its neighbours in time.
"""

import math

import torch
from torch import Tensor, nn

from .padding import repeat_edge
from .ridge import RidgeRegulariser

_TAPS = 5
"""Neighbouring frames that a filter sees, odd."""


class SeriesRegulariser(RidgeRegulariser):
    """The gradient of a ridge regulariser of series, times ``L^2``, from responses at every second pixel of every second line.

    Parameters
    ----------
    filters
        Number of filters.
    size
        Their edge in pixels, odd.
    offset
        Which lines and which pixels: (0 or 1, 0 or 1).
    """

    def __init__(self, filters: int = 48, size: int = 5, offset: tuple[int, int] = (0, 0)) -> None:
        super().__init__(filters, 9, offset)
        self.taps: int = _TAPS
        self.filters = nn.Parameter(series_filters(filters, size))
        self.share: nn.Parameter = nn.Parameter(torch.zeros(filters))

    def forward(self, image: Tensor, level: Tensor) -> Tensor:
        """Return the gradient times the squared level, which is of the unit of the series.

        Parameters
        ----------
        image
            float32 [batch, frames, y, x, 2].
        level
            float32 [batch, y, x], expected error L.

        Returns
        -------
        Tensor
            float32 [batch, frames, y, x, 2].
        """
        batch, frames, rows, columns = image.shape[0], image.shape[1], image.shape[2], image.shape[3]
        kernel = self._kernel()
        pad = kernel.shape[3] // 2
        y, x = rows + rows % 2, columns + columns % 2
        image = torch.nn.functional.pad(image, [0, 0, 0, x - columns, 0, y - rows])
        level = repeat_edge(repeat_edge(level, 1, 0, y - rows), 2, 0, x - columns)
        planes = torch.nn.functional.pixel_unshuffle(image.movedim(-1, 2).reshape(batch * frames * 2, 1, y, x), 2)
        seen = _neighbours(planes.unflatten(0, (batch, frames, 2)), self.taps).flatten(0, 2)
        responses = torch.nn.functional.conv2d(seen, kernel, padding=pad).unflatten(0, (batch, frames, 2))
        height, threshold = self._potentials(level[:, self.offset_y :: 2, self.offset_x :: 2])
        energy = responses.square().sum(dim=2)
        share = torch.sigmoid(self.share)[:, None, None]
        energy = energy + share * (energy.mean(dim=1, keepdim=True) - energy)
        weight = (1 + energy * threshold[:, None]).rsqrt()
        mix = torch.sigmoid(self.mix)[:, None, None]
        weight = height[:, None] * weight * (mix + (1 - mix) * weight)
        shrunk = (responses * weight[:, :, None]).flatten(0, 2)
        result = torch.nn.functional.conv_transpose2d(shrunk, kernel, padding=pad).unflatten(0, (batch, frames, 2))
        planes = torch.nn.functional.pixel_shuffle(_neighbours_adjoint(result, self.taps).flatten(0, 2), 2)
        return planes[:, 0, :rows, :columns].unflatten(0, (batch, frames, 2)).movedim(2, -1)

    def _kernel(self) -> Tensor:
        """Filters as they see blocks of 2 x 2 pixels: [filters, (taps + 1) * 4, rows, columns]."""
        still, moving = self.filters[:, :-1], self.filters[:, -1:]
        filters = torch.cat([still - still.mean(dim=[1, 2, 3], keepdim=True), moving], dim=1)
        shift = [self.offset_x, 1 - self.offset_x, self.offset_y, 1 - self.offset_y]
        return torch.nn.functional.pixel_unshuffle(torch.nn.functional.pad(filters, shift), 2)


def _neighbours(planes: Tensor, taps: int) -> Tensor:
    """Put the neighbours in time, and the difference from the mean, beside each frame: [batch, frames, complex, channels, y, x].

    Before the first frame and after the last one, these are repeated.
    """
    frames = planes.shape[1]
    longer = repeat_edge(planes, 1, taps // 2, taps // 2)
    seen = [longer[:, tap : tap + frames] for tap in range(taps)]
    seen.append(planes - planes.mean(dim=1, keepdim=True))
    return torch.cat(seen, dim=3)


def _neighbours_adjoint(seen: Tensor, taps: int) -> Tensor:
    """Adjoint of ``_neighbours``."""
    frames, count = seen.shape[1], seen.shape[3] // (taps + 1)
    reach = taps // 2
    edge = torch.zeros_like(seen[:, :1, :, :count]).repeat(1, 2 * reach, 1, 1, 1, 1)
    longer = torch.cat([seen[:, :, :, :count], edge], dim=1)
    for tap in range(1, taps):
        part = seen[:, :, :, tap * count : (tap + 1) * count]
        longer = longer + torch.cat([edge[:, :tap], part, edge[:, tap:]], dim=1)
    first = longer[:, : reach + 1].sum(dim=1, keepdim=True)
    last = longer[:, frames + reach - 1 :].sum(dim=1, keepdim=True)
    result = torch.cat([first, longer[:, reach + 1 : frames + reach - 1], last], dim=1)
    moving = seen[:, :, :, taps * count :]
    return result + moving - moving.mean(dim=1, keepdim=True)


def series_filters(count: int, size: int) -> Tensor:
    """Products of cosines along time, y and x: changes in time first, then differences from the mean, then detail.

    Parameters
    ----------
    count
        Number of filters, at most 56.
    size
        Their edge, odd.

    Returns
    -------
    Tensor
        float32 [count, 6, size, size] of unit norm.
    """
    plane = sorted((y * y + x * x, y, x) for y in range(size) for x in range(size))
    places = [(order, y, x) for order in range(1, _TAPS) for _, y, x in plane[:6]]
    places += [(_TAPS, y, x) for _, y, x in plane[:8]]
    places += [(0, y, x) for _, y, x in plane[1:25]]
    filters = torch.zeros(count, _TAPS + 1, size, size)
    along, across = _cosines(_TAPS), _cosines(size)
    for index, (order, y, x) in enumerate(places[:count]):
        spatial = torch.outer(across[y], across[x])
        if order == _TAPS:
            filters[index, _TAPS] = spatial
        else:
            filters[index, :_TAPS] = along[order][:, None, None] * spatial
    return filters


def _cosines(n: int) -> Tensor:
    """The discrete cosine transform of n samples, rows of unit norm."""
    place = torch.arange(n) + 0.5
    waves = torch.stack([torch.cos(math.pi / n * place * order) for order in range(n)])
    return waves / waves.square().sum(dim=1, keepdim=True).sqrt()
