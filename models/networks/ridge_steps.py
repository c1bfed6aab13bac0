"""What the networks of ridge regularisers unroll, of slices (``ridge_net``) and of series (``ridge_cine``)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..consistency import ProximalStep


class RidgeSteps(nn.Module):
    """Alternate a gradient step of a ridge regulariser with least squares.

    ``z = v - L^2 / c * grad R(v)``, then ``x = (A^H A + w)^-1 (A^H y + w z)`` with ``w = c (noise / L)^2``, then
    ``v = x + m (x - before)``. Each iteration has its regulariser, curvature c, momentum m, and error level L.

    Parameters
    ----------
    regulariser
        Makes the regulariser of an iteration, of responses at these lines and pixels: (0 or 1, 0 or 1).
    iterations
        Number of iterations.
    cg_iterations
        Steps of the conjugate gradients within an iteration.
    curvature
        Logarithm of every c before the training.
    factors
        Logarithms of what the error is multiplied by in the first and the last iteration, before the training.
    """

    def __init__(
        self,
        regulariser: Callable[[tuple[int, int]], nn.Module],
        iterations: int,
        cg_iterations: int,
        curvature: float,
        factors: tuple[float, float],
    ) -> None:
        super().__init__()
        offsets = ((0, 0), (1, 1), (0, 1), (1, 0))
        self.solve: ProximalStep = ProximalStep(cg_iterations, 1e-9)
        self.regularisers: nn.ModuleList = nn.ModuleList(regulariser(offsets[k % 4]) for k in range(iterations))
        self.curvature: nn.Parameter = nn.Parameter(torch.full((iterations,), curvature))
        self.factor: nn.Parameter = nn.Parameter(torch.linspace(*factors, iterations))
        self.detail: nn.Parameter = nn.Parameter(torch.zeros(iterations))
        self.momentum: nn.Parameter = nn.Parameter(torch.tensor([k / (k + 3) for k in range(iterations)]))

    def refine(
        self,
        image: Tensor,
        adjoint: Tensor,
        noise: Tensor,
        noise_error: Tensor,
        detail_error: Tensor,
        maps: Tensor,
        lines: Tensor,
        axes: list[int],
    ) -> Tensor:
        """Return the image in the units of the one to begin with.

        Parameters
        ----------
        image
            Where to begin, float32 [batch, y, x, 2] or [batch, frames, y, x, 2].
        adjoint
            ``A^H y``, of the same shape.
        noise
            float32 [batch, 1, 1], standard deviation of the complex noise of a sample.
        noise_error, detail_error
            float32 [batch, y, x], variances of the image to begin with, by noise and by missing detail.
        maps, lines, axes
            As ``ProximalStep`` takes them.
        """
        ahead = image
        for index, regulariser in enumerate(self.regularisers):
            error = noise_error + detail_error * self.detail[index].exp().square()
            level = (error.sqrt() * self.factor[index].exp()).clamp(1e-4, 1)
            curvature = self.curvature[index].exp()
            denoised = ahead - regulariser(ahead, level) / curvature
            weight = (noise.square() * curvature / level.square())[..., None]
            if image.dim() > weight.dim():
                weight = weight.unsqueeze(1)  # the same for all frames
            before = image
            image = self.solve(adjoint + weight * denoised, maps, lines, axes, weight, ahead)
            ahead = image + self.momentum[index] * (image - before)
        return image
