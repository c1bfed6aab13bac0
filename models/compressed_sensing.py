"""Compressed sensing with total variation, with the inputs of the other classical reconstructions (see ``classical``)."""

import torch
from torch import Tensor, nn

from .consistency import adjoint_model, normal_model
from .fourier import ifft_planar
from .planar import magnitude, ratio_or_zero


class TotalVariation(nn.Module):
    """Least squares with a penalty on the in-plane total variation of the complex image (Block et al., MRM 2007;57:1086).

    Minimises ``0.5 ||A x - y||^2 + r m TV(x)``, where m is the largest magnitude of ``A^H y``, by FISTA; its proximal step is
    solved by the dual method of Beck and Teboulle (IEEE TIP 2009;18:2419), which starts where it ended before.

    Parameters
    ----------
    iterations
        Number of FISTA steps.
    inner_iterations
        Steps of each proximal problem.
    regularization
        r.
    """

    def __init__(self, iterations: int = 60, inner_iterations: int = 5, regularization: float = 0.002) -> None:
        super().__init__()
        self.iterations = iterations
        self.inner_iterations = inner_iterations
        self.regularization = regularization

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Return complex images [batch, kz, ky, kx, 2]."""
        axes = [-4, -3]
        lines = mask[:, None, :, :, None, None]
        measured = ifft_planar(kspace, [-2]) * lines
        adjoint = adjoint_model(measured, maps, axes)
        scale = magnitude(adjoint).flatten(1).amax(dim=1)[:, None, None, None, None]
        adjoint = ratio_or_zero(adjoint, scale)
        image, leading = adjoint, adjoint
        dual_y, dual_x = torch.zeros_like(image), torch.zeros_like(image)
        momentum = 1.0
        for _ in range(self.iterations):
            residual = normal_model(leading, maps, lines, axes) - adjoint
            before = image
            image, dual_y, dual_x = self.denoise(leading - residual, dual_y, dual_x)
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            leading = image + (momentum - 1) / following * (image - before)
            momentum = following
        return image * scale

    def denoise(self, image: Tensor, dual_y: Tensor, dual_x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Minimise ``0.5 ||x - image||^2 + r TV(x)``; return x and the dual variables."""
        weight = self.regularization
        for _ in range(self.inner_iterations):
            step_y, step_x = differences(image - weight * divergence(dual_y, dual_x))
            # 8 bounds the squared norm of the differences
            dual_y, dual_x = dual_y + step_y / (8 * weight), dual_x + step_x / (8 * weight)
            length = (dual_y.square() + dual_x.square()).sum(dim=-1, keepdim=True).sqrt().clamp_min(1)
            dual_y, dual_x = dual_y / length, dual_x / length
        return image - weight * divergence(dual_y, dual_x), dual_y, dual_x


def differences(image: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours along y and x of [..., y, x, 2], zero at the last ones."""
    along_y = torch.zeros_like(image)
    along_x = torch.zeros_like(image)
    along_y[..., :-1, :, :] = image[..., 1:, :, :] - image[..., :-1, :, :]
    along_x[..., :-1, :] = image[..., 1:, :] - image[..., :-1, :]
    return along_y, along_x


def divergence(along_y: Tensor, along_x: Tensor) -> Tensor:
    """Adjoint of ``differences``."""
    result = torch.zeros_like(along_y)
    result[..., 1:, :, :] += along_y[..., :-1, :, :]
    result[..., :-1, :, :] -= along_y[..., :-1, :, :]
    result[..., 1:, :] += along_x[..., :-1, :]
    result[..., :-1, :] -= along_x[..., :-1, :]
    return result
