"""A variational network of spatio-temporal ridge regularisers that know the error level, for series such as cines of the heart.

What ``ridge_net`` does for slices, in x, y and time: from a temporally smooth least-squares fit and its error (``series_level``),
gradient steps of a regulariser of the whole series and least squares frame by frame take turns.
"""

import torch
from torch import Tensor, nn

from ..consistency import ProximalStep, adjoint_model, turn
from ..planar import ratio_or_zero
from ..sampling import to_hybrid
from ..series_level import SeriesLevel, SeriesStart
from ..series_ridge import SeriesRegulariser


class RidgeCine(nn.Module):
    """Alternate a gradient step of a spatio-temporal ridge regulariser with least squares.

    ``z = v - L^2 / c * grad R(v)``, then ``x = (A^H A + w)^-1 (A^H y + w z)`` with ``w = c (noise / L)^2``, then
    ``v = x + m (x - before)``, as in ``RidgeNet``. Neither scale nor phase of the data changes anything but scale and phase of
    the series.

    Parameters
    ----------
    iterations
        Number of iterations; each has its regulariser, curvature c, momentum m, and error level L.
    filters, size
        Of a regulariser.
    cg_iterations, start_iterations
        Steps of the conjugate gradients within an iteration, and of the first fit and its error.
    """

    def __init__(
        self, iterations: int = 6, filters: int = 48, size: int = 5, cg_iterations: int = 4, start_iterations: int = 6
    ) -> None:
        super().__init__()
        offsets = ((0, 0), (1, 1), (0, 1), (1, 0))
        self.start: SeriesLevel = SeriesLevel(start_iterations)
        self.solve: ProximalStep = ProximalStep(cg_iterations, 1e-9)
        self.regularisers: nn.ModuleList = nn.ModuleList(
            SeriesRegulariser(filters, size, offsets[index % 4]) for index in range(iterations)
        )
        self.curvature: nn.Parameter = nn.Parameter(torch.full((iterations,), 1.5))
        self.factor: nn.Parameter = nn.Parameter(torch.linspace(0.5, 0, iterations))
        self.detail: nn.Parameter = nn.Parameter(torch.zeros(iterations))
        self.momentum: nn.Parameter = nn.Parameter(torch.tensor([k / (k + 3) for k in range(iterations)]))

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct.

        Parameters
        ----------
        kspace
            float32 [batch, coils, frames, ky, kx, 2].
        mask
            [batch, 1, frames, ky, 1, 1], one where a line was measured and zero elsewhere.
        maps
            float32 [batch, coils, y, x, 2], coil maps of unit norm, the same for all frames.

        Returns
        -------
        Tensor
            float32 complex series [batch, frames, y, x, 2], of the scale of the data.
        """
        measured, lines, axes = to_hybrid(kspace, mask)
        # Fourier transforms along the last axis take half the time
        measured, lines, maps = turn(measured), turn(lines), turn(maps.unsqueeze(2))
        axes = [-5 - axis for axis in axes]
        start = self.start(kspace * mask, measured, lines, maps, axes)
        adjoint = ratio_or_zero(adjoint_model(measured, maps, axes), start.scale)
        return turn(self.refine(start, adjoint, maps, lines, axes) * start.scale)

    def refine(self, start: SeriesStart, adjoint: Tensor, maps: Tensor, lines: Tensor, axes: list[int]) -> Tensor:
        """Return the series float32 [batch, frames, x, y, 2] in units of ``start.scale``.

        Parameters
        ----------
        start
            Where to begin.
        adjoint
            float32 [batch, frames, x, y, 2], ``A^H y`` in these units.
        maps, lines, axes
            As of ``SeriesLevel``.
        """
        image, ahead = start.image, start.image
        for index, regulariser in enumerate(self.regularisers):
            error = start.noise_error + start.detail_error * self.detail[index].exp().square()
            level = (error.sqrt() * self.factor[index].exp()).clamp(1e-4, 1)
            curvature = self.curvature[index].exp()
            denoised = ahead - regulariser(ahead, level) / curvature
            weight = (start.noise.square() * curvature / level.square())[:, None, :, :, None]
            before = image
            image = self.solve.iterate(adjoint + weight * denoised, maps, lines, axes, weight, ahead)
            ahead = image + self.momentum[index] * (image - before)
        return image
