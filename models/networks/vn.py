"""Variational network: Hammernik et al., "Learning a variational network for reconstruction of accelerated MRI data".

Magnetic Resonance in Medicine 2018;79:3055.
"""

from typing import cast

import torch
from torch import Tensor, nn

from ..consistency import data_gradient
from ..padding import mirror
from .steps import prepare

_PADDING = 11


class RadialBasis(nn.Module):
    """Activation of every channel: a sum of Gaussians at fixed places, with learned weights (eq. 11).

    Parameters
    ----------
    chans
        Number of channels.
    nodes
        Number of Gaussians between -1 and 1; their standard deviation is the distance between two.
    """

    def __init__(self, chans: int, nodes: int) -> None:
        super().__init__()
        self.nodes = nodes
        self.spacing: float = 2 / (nodes - 1)
        start = 0.04 * torch.linspace(-1, 1, nodes)
        self.weight: nn.Parameter = nn.Parameter(start.repeat(chans, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, chans, y, x] like ``x``."""
        result = torch.zeros_like(x)
        for node in range(self.nodes):
            distance = (x - (node * self.spacing - 1)) / self.spacing
            result = result + self.weight[:, node, None, None] * torch.exp(-0.5 * distance.square())
        return result


class VnStage(nn.Module):
    """Gradient step on the data term and on the learned fields of experts (eq. 7)."""

    def __init__(self, filters: int, kernel: int, nodes: int) -> None:
        super().__init__()
        self.filters = filters
        self.padding = _PADDING
        weights = torch.randn(filters, 2, kernel, kernel)
        weights = weights - weights.mean(dim=(1, 2, 3), keepdim=True)
        self.kernels: nn.Parameter = nn.Parameter(
            weights / torch.linalg.vector_norm(weights, dim=(1, 2, 3), keepdim=True)
        )
        self.activation: RadialBasis = RadialBasis(filters, nodes)
        self.weight: nn.Parameter = nn.Parameter(torch.tensor(1.0))

    @torch.no_grad()
    def project(self) -> None:
        """Bring kernels and weight back to where training keeps them: zero mean and a norm of at most one, and not below zero."""
        self.kernels.sub_(self.kernels.mean(dim=(1, 2, 3), keepdim=True))
        self.kernels.div_(torch.linalg.vector_norm(self.kernels, dim=(1, 2, 3), keepdim=True).clamp_min(1))
        self.weight.clamp_(min=0)

    def forward(self, image: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
        """Return the next image."""
        half = self.kernels.shape[-1] // 2
        edge = self.padding
        padded = mirror(mirror(image.movedim(-1, 1), 2, edge), 3, edge)
        responses = self.activation(torch.nn.functional.conv2d(padded, self.kernels, padding=half))
        experts = torch.nn.functional.conv_transpose2d(responses, self.kernels, padding=half)
        experts = experts[..., edge : edge + image.shape[1], edge : edge + image.shape[2]]
        gradient = data_gradient(image, kspace, maps, mask, axes)
        return image - experts.movedim(1, -1) / self.filters - self.weight * gradient


class VariationalNetwork(nn.Module):
    """Variational network of gradient steps on fields of experts.

    Beyond its edges the image is mirrored without repeating the edge.

    Parameters
    ----------
    stages
        Number of steps, each with its own weights.
    filters, kernel
        Number and size of the filters; each has a real and an imaginary part.
    nodes
        Gaussians of every activation.
    """

    def __init__(self, stages: int = 10, filters: int = 48, kernel: int = 11, nodes: int = 31) -> None:
        super().__init__()
        self.stages: nn.ModuleList = nn.ModuleList(VnStage(filters, kernel, nodes) for _ in range(stages))

    def project(self) -> None:
        """Bring the parameters back to their sets, as the training of the paper does after every step."""
        for stage in self.stages:
            cast(VnStage, stage).project()

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct the complex image [batch, y, x, 2]; inputs as in ``prepare``, scaled to a zero-filled maximum of one."""
        measured, weights, maps, axes, image = prepare(kspace, mask, maps)
        for stage in self.stages:
            image = stage(image, measured, maps, weights, axes)
        return image
