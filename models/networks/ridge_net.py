"""A variational network of ridge regularisers that know the error level, with SENSE's data consistency.

Unrolled as in Hammernik et al., MRM 2018;79:3055, whose fields of experts are ridge functions too; new are the error level as an
input of the potentials, potentials of complex magnitudes, and data consistency by conjugate gradients (Aggarwal et al., IEEE TMI
2019;38:394) with a weight for every pixel.
"""

from torch import Tensor, nn

from ..consistency import adjoint_model
from ..error_level import ErrorLevel, SenseStart
from ..error_map import ErrorMap
from ..planar import ratio_or_zero
from ..ridge import RidgeRegulariser
from ..sampling import to_hybrid
from .ridge_steps import RidgeSteps


class RidgeNet(RidgeSteps):
    """The steps of a ridge regulariser, from a SENSE image (``error_level``).

    Neither scale nor phase of the data changes anything but scale and phase of the image.

    Parameters
    ----------
    iterations
        Number of iterations.
    filters, size
        Of a regulariser.
    cg_iterations, start_iterations
        Steps of the conjugate gradients within an iteration, and of the SENSE image and its error.
    """

    def __init__(
        self, iterations: int = 10, filters: int = 48, size: int = 9, cg_iterations: int = 5, start_iterations: int = 20
    ) -> None:
        super().__init__(
            lambda offset: RidgeRegulariser(filters, size, offset), iterations, cg_iterations, 2.5, (1, 0.3)
        )
        self.start: ErrorLevel = ErrorLevel(start_iterations)

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct.

        Parameters
        ----------
        kspace
            float32 [batch, coils, ky, kx, 2].
        mask
            [batch, 1, ky, 1, 1], one where a line was measured and zero elsewhere.
        maps
            float32 [batch, coils, y, x, 2], coil maps of unit norm.

        Returns
        -------
        Tensor
            float32 complex image [batch, y, x, 2], of the scale of the data.
        """
        image, start = self.unroll(kspace, mask, maps)
        return image * start.scale

    def unroll(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> tuple[Tensor, SenseStart]:
        """Return the image [batch, y, x, 2] in units of the scale, and the SENSE image that it began with."""
        measured, lines, axes = to_hybrid(kspace, mask)
        start = self.start(kspace * lines, measured, lines, maps, axes)
        adjoint = ratio_or_zero(adjoint_model(measured, maps, axes), start.scale)
        image = self.refine(start.image, adjoint, start.noise, start.noise_error, start.detail_error, maps, lines, axes)
        return image, start


class RidgeNetWithError(nn.Module):
    """A ridge network that also returns how far its magnitudes are likely to be off.

    Both come from one pass: the error of the SENSE image, which the map is made of, is computed for the regularisers anyway.

    Parameters
    ----------
    network
        The network.
    error
        Calibrated for its weights.
    """

    def __init__(self, network: RidgeNet, error: ErrorMap) -> None:
        super().__init__()
        self.network: RidgeNet = network
        self.error: ErrorMap = error

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image as ``RidgeNet`` does, and the error's standard deviation, float32 [batch, y, x], in its units."""
        image, start = self.network.unroll(kspace, mask, maps)
        return image * start.scale, self.error(image, start) * start.scale[..., 0]
