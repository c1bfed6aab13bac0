"""MoDL: Aggarwal, Mani, Jacob, "MoDL: model-based deep learning architecture for inverse problems", IEEE TMI 2019;38:394."""

from typing import Literal

import torch
from torch import Tensor, nn

from ..cnn import conv
from ..consistency import ProximalStep, adjoint_model
from ..didn import Didn
from ..sampling import to_hybrid
from ..unet import NormUnet

BATCH_NORM_EPS = 1e-3
"""TensorFlow's default, which the published weights need: their running variances are as small as 1e-4."""


class ResidualCnn(nn.Module):
    """Residual denoiser of convolutions 3x3, with batch normalisation after every one, and ReLU between (Fig. 2).

    Parameters
    ----------
    chans
        Channels of the features.
    layers
        Number of convolutions.
    bias
        Whether the convolutions have biases.
    eps
        Of the batch normalisation; None: without it.
    """

    def __init__(
        self, chans: int = 64, layers: int = 5, *, bias: bool = False, eps: float | None = BATCH_NORM_EPS
    ) -> None:
        super().__init__()
        widths = [2, *[chans] * (layers - 1), 2]
        blocks: list[nn.Module] = []
        for index in range(layers):
            blocks.append(conv(widths[index], widths[index + 1], bias=bias))
            if eps is not None:
                blocks.append(nn.BatchNorm2d(widths[index + 1], eps=eps))
            if index < layers - 1:
                blocks.append(nn.ReLU())
        self.layers: nn.Sequential = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> Tensor:
        """Return images [batch, y, x, 2] for the same."""
        return image + self.layers(image.movedim(-1, 1)).movedim(1, -1)


def make_denoiser(kind: str, chans: int | None, bias: bool, eps: float | None) -> nn.Module:
    """Return the denoiser of a MoDL variant; images [batch, y, x, 2] to images."""
    if kind == "cnn":
        return ResidualCnn(chans or 64, bias=bias, eps=eps)
    if kind == "unet":
        return NormUnet(chans or 32, 3)
    if kind == "didn":
        return Didn(chans or 64)
    raise ValueError(f"denoiser {kind!r} is not known; there are 'cnn', 'unet' and 'didn'")


class Modl(nn.Module):
    """Alternate a denoiser and a least squares problem, with the same weights in every iteration (eqs. 7 and 8).

    ``x = (A^H A + w)^-1 (A^H y + w D(x))``, from ``x = A^H y``.

    Parameters
    ----------
    iterations
        Number of unrolled iterations.
    cg_iterations, cg_tolerance
        Steps of the conjugate gradients, and the squared residual at which they end.
    denoiser
        ``cnn`` (the paper's), ``unet``, or ``didn`` (scan-adaptive sampling, arXiv:2509.16846).
    chans
        Features of the denoiser; default that of its paper.
    weight
        Initial weight w of the denoised image.
    learn_weight
        Whether it is trained.
    warm_start
        Whether the conjugate gradients begin at the denoised image instead of zero.
    bias, eps
        Of the convolutions and the batch normalisation of ``cnn``; ``eps`` None: without batch normalisation.
    """

    def __init__(
        self,
        iterations: int = 10,
        cg_iterations: int = 10,
        cg_tolerance: float = 1e-10,
        denoiser: Literal["cnn", "unet", "didn"] = "cnn",
        chans: int | None = None,
        weight: float = 0.05,
        learn_weight: bool = True,
        warm_start: bool = False,
        bias: bool = False,
        eps: float | None = BATCH_NORM_EPS,
    ) -> None:
        super().__init__()
        self.iterations = iterations
        self.warm_start = warm_start
        self.denoiser: nn.Module = make_denoiser(denoiser, chans, bias, eps)
        self.consistency: ProximalStep = ProximalStep(cg_iterations, cg_tolerance)
        self.weight: nn.Parameter = nn.Parameter(torch.tensor(weight), requires_grad=learn_weight)

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct.

        Parameters
        ----------
        kspace
            float32 [batch, coils, ky, kx, 2].
        mask
            Broadcasts against ``kspace``.
        maps
            float32 [batch, coils, y, x, 2], coil maps of unit norm.

        Returns
        -------
        Tensor
            float32 complex image [batch, y, x, 2].
        """
        measured, weights, axes = to_hybrid(kspace, mask)
        return self.solve(adjoint_model(measured, maps, axes), weights, maps, axes)

    def solve(self, adjoint: Tensor, mask: Tensor, maps: Tensor, axes: list[int]) -> Tensor:
        """Reconstruct from ``A^H y`` [batch, y, x, 2] alone."""
        image = adjoint
        for _ in range(self.iterations):
            denoised = self.denoiser(image)
            target = adjoint + self.weight * denoised
            image = self.consistency(target, maps, mask, axes, self.weight, denoised if self.warm_start else None)
        return image
