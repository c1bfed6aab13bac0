"""A variational network of spatio-temporal ridge regularisers that know the error level, for series such as cines of the heart.

What ``ridge_net`` does for slices, in x, y and time: from a temporally smooth least-squares fit and its error (``series_level``),
gradient steps of a regulariser of the whole series and least squares frame by frame take turns.
"""

from torch import Tensor

from ..consistency import adjoint_model, turn
from ..planar import ratio_or_zero
from ..sampling import to_hybrid
from ..series_level import SeriesLevel
from ..series_ridge import SeriesRegulariser
from .ridge_steps import RidgeSteps


class RidgeCine(RidgeSteps):
    """The steps of a spatio-temporal ridge regulariser, from a smooth series (``series_level``).

    Neither scale nor phase of the data changes anything but scale and phase of
    the series.

    Parameters
    ----------
    iterations
        Number of iterations.
    filters, size
        Of a regulariser.
    cg_iterations, start_iterations
        Steps of the conjugate gradients within an iteration, and of the first fit and its error.
    """

    def __init__(
        self, iterations: int = 6, filters: int = 48, size: int = 5, cg_iterations: int = 4, start_iterations: int = 6
    ) -> None:
        super().__init__(
            lambda offset: SeriesRegulariser(filters, size, offset), iterations, cg_iterations, 1.5, (0.5, 0)
        )
        self.start: SeriesLevel = SeriesLevel(start_iterations)

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
        series = self.refine(
            start.image, adjoint, start.noise, start.noise_error, start.detail_error, maps, lines, axes
        )
        return turn(series * start.scale)
