"""Classical reconstructions as modules with the inputs and outputs of a network, so that they are exported like one.

Inputs are real float32 tensors with a trailing dimension of 2:

- ``kspace`` [batch, coils, kz, ky, kx, 2], zero where nothing was measured;
- ``mask`` [batch, kz, ky], one where a line was measured and zero elsewhere;
- ``maps`` [batch, coils, kz, ky, kx, 2], coil sensitivity maps in image space.

A 2-D scan has ``kz = 1``; slices, or anything else that is independent, go along ``batch``.
"""

import torch
from torch import Tensor, nn

from .fourier import fft_planar, ifft_planar
from .planar import coil_expand, coil_reduce


class RootSumOfSquares(nn.Module):
    """Root of the sum of squares of the coil images (Roemer et al., MRM 1990;16:192)."""

    def forward(self, kspace: Tensor) -> Tensor:
        """Return magnitude images [batch, kz, ky, kx]."""
        images = ifft_planar(kspace, [-4, -3, -2])
        return (images[..., 0].square() + images[..., 1].square()).sum(dim=1).sqrt()


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
        self.iterations = iterations
        self.regularization = regularization

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Return complex images [batch, kz, ky, kx, 2]."""
        lines = mask[:, None, :, :, None, None]
        measured = ifft_planar(kspace, [-2]) * lines
        residual = coil_reduce(ifft_planar(measured, [-4, -3]), maps)
        image = torch.zeros_like(residual)
        direction = residual
        energy = _energy(residual)
        for _ in range(self.iterations):
            product = self.normal(direction, lines, maps)
            step = _safe_ratio(energy, (direction * product).sum(dim=(1, 2, 3, 4)))
            image = image + step * direction
            residual = residual - step * product
            energy_next = _energy(residual)
            direction = residual + _safe_ratio(energy_next, energy) * direction
            energy = energy_next
        return image

    def normal(self, image: Tensor, lines: Tensor, maps: Tensor) -> Tensor:
        """Apply ``E^H E + regularization`` in the space where the readout is transformed already."""
        kspace = fft_planar(coil_expand(image, maps), [-4, -3]) * lines
        return coil_reduce(ifft_planar(kspace, [-4, -3]), maps) + self.regularization * image


def _energy(x: Tensor) -> Tensor:
    return x.square().sum(dim=(1, 2, 3, 4))


def _safe_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Per-batch ratio [batch, 1, 1, 1, 1]; zero once the iteration has converged exactly, where it would be 0/0."""
    converged = denominator <= 1e-30
    divisor = torch.where(converged, torch.ones_like(denominator), denominator)
    ratio = torch.where(converged, torch.zeros_like(numerator), numerator / divisor)
    return ratio[:, None, None, None, None]
