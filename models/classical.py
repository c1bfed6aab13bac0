"""Classical reconstructions as modules with the inputs and outputs of a network, so that they are exported like one.

Inputs are real float32 tensors with a trailing dimension of 2:

- ``kspace`` [batch, coils, kz, ky, kx, 2], zero where nothing was measured;
- ``mask`` [batch, kz, ky], one where a line was measured and zero elsewhere;
- ``maps`` [batch, coils, kz, ky, kx, 2], coil sensitivity maps in image space;
- ``regularization`` [batch], what the method's own weight is multiplied by; without it, one.

A 2-D scan has ``kz = 1``; slices, or anything else that is independent, go along ``batch``.
"""

import torch
from torch import Tensor, nn

from .consistency import ProximalStep, adjoint_model
from .fourier import ifft_planar, ifft_uncentred
from .planar import as_complex, coil_reduce, root_sum_of_squares


class RootSumOfSquares(nn.Module):
    """Root of the sum of squares of the coil images (Roemer et al., MRM 1990;16:192)."""

    def forward(self, kspace: Tensor) -> Tensor:
        """Return magnitude images [batch, kz, ky, kx]."""
        # a shift of k-space changes no magnitude, and that of the image is left to the end, when there is one coil
        images = torch.view_as_real(ifft_uncentred(as_complex(kspace), [-3, -2, -1]))
        return torch.fft.fftshift(root_sum_of_squares(images), dim=[-3, -2, -1])


class CoilCombine(nn.Module):
    """Coil images combined with the conjugate coil maps (Roemer et al., MRM 1990;16:192, eq. 28)."""

    def forward(self, kspace: Tensor, maps: Tensor) -> Tensor:
        """Return complex images [batch, kz, ky, kx, 2]."""
        return coil_reduce(ifft_planar(kspace, [-4, -3, -2]), maps)


class Sense(nn.Module):
    """Iterative SENSE with Tikhonov regularisation (Pruessmann et al., MRM 2001;46:638).

    Solves ``(E^H E + regularization) x = E^H y`` by conjugate gradients, where ``E`` weights by the coil maps, transforms
    to k-space and keeps the measured lines. The readout is measured completely, so its transform is done once, in front.

    Parameters
    ----------
    iterations
        Number of conjugate gradient steps; the graph has exactly these.
    regularization
        Weight of the Tikhonov term. Coil maps of unit norm bound the eigenvalues of ``E^H E`` by one.
    """

    def __init__(self, iterations: int = 20, regularization: float = 0.005) -> None:
        super().__init__()
        self.regularization = regularization
        self.solve: ProximalStep = ProximalStep(iterations)

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor, regularization: Tensor | None = None) -> Tensor:
        """Return complex images [batch, kz, ky, kx, 2]."""
        lines = mask[:, None, :, :, None, None]
        measured = ifft_planar(kspace, [-2]) * lines
        axes = [-4, -3]
        weight = torch.full_like(kspace[:1, 0, :1, :1, :1], self.regularization)
        if regularization is not None:
            weight = weight * regularization[:, None, None, None, None]
        return self.solve(adjoint_model(measured, maps, axes), maps, lines, axes, weight)
