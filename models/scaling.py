"""Scaling of the input: what k-space is divided by before a network, and its image multiplied by after it.

The scale counts as a constant where gradients go to the choice of the samples.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from .consistency import adjoint_model
from .fourier import ifft_planar
from .planar import magnitude, ratio_or_zero, root_sum_of_squares
from .sampling import calibration_mask, to_hybrid

Scaling = Literal["none", "kspace", "calibration", "zero-filled", "coil-images"]


def input_scale(kind: str, kspace: Tensor, mask: Tensor, maps: Tensor | None) -> Tensor:
    """Return what to divide each batch entry of k-space by, [batch].

    Parameters
    ----------
    kind
        ``none``: one. Otherwise the largest magnitude: ``kspace`` of the samples, ``calibration`` of those in the calibration
        lines, ``coil-images`` of the zero-filled coil images, ``zero-filled`` of the zero-filled image, which is combined
        with ``maps`` or, without, by the root of the sum of squares.
    kspace
        float32 [batch, coils, (frames,) ky, kx, 2].
    mask
        Broadcasts against ``kspace``.
    maps
        float32 [batch, coils, y, x, 2].
    """
    if kind == "none":
        return torch.ones_like(kspace[:, 0, 0, 0, 0].flatten())
    if kind == "kspace":
        values = magnitude(kspace)
    elif kind == "calibration":
        values = magnitude(kspace * calibration_mask(mask))
    else:
        hybrid, _, axes = to_hybrid(kspace, mask)
        if kind == "coil-images":
            values = magnitude(ifft_planar(hybrid, axes))
        elif maps is None:
            values = root_sum_of_squares(ifft_planar(hybrid, axes))
        else:
            values = magnitude(adjoint_model(hybrid, maps if maps.dim() == kspace.dim() else maps.unsqueeze(2), axes))
    return values.flatten(1).amax(dim=1)


def _divide(kspace: Tensor, scale: Tensor) -> Tensor:
    return ratio_or_zero(kspace, _beside(scale, kspace))


def _beside(scale: Tensor, x: Tensor) -> Tensor:
    """View [batch] so that it broadcasts against ``x`` [batch, ...]."""
    for _ in range(x.dim() - 1):
        scale = scale.unsqueeze(-1)
    return scale


class Scaled(nn.Module):
    """A network of k-space and mask, with its scaling.

    Parameters
    ----------
    network
        The network.
    kind
        As in ``input_scale``.
    """

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Return the network's image at the scale of the input."""
        scale = input_scale(self.kind, kspace.detach(), mask.detach(), None)
        image = self.network(_divide(kspace, scale), mask)
        return image * _beside(scale, image)


class ScaledWithMaps(nn.Module):
    """A network of k-space, mask and coil maps, with its scaling; see ``Scaled``."""

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Return the network's image at the scale of the input."""
        scale = input_scale(self.kind, kspace.detach(), mask.detach(), maps)
        image = self.network(_divide(kspace, scale), mask, maps)
        return image * _beside(scale, image)


class ScaledLogits(nn.Module):
    """A network of k-space alone, whose output has no scale, behind k-space with the largest magnitude one.

    Parameters
    ----------
    network
        The network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, kspace: Tensor) -> Tensor:
        """Return the network's logits."""
        return self.network(_divide(kspace, magnitude(kspace.detach()).flatten(1).amax(dim=1)))


def scaled(network: nn.Module, kind: Scaling, inputs: tuple[str, ...]) -> nn.Module:
    """Put the scaling around a network, where there is one.

    Raises
    ------
    ValueError
        A network of k-space alone has no mask, without which there is no such scaling.
    """
    if kind == "none":
        return network
    if inputs == ("kspace",):
        if kind != "kspace":
            raise ValueError(f"scaling {kind!r} needs a mask, which the network does not take; accepted is 'kspace'")
        return ScaledLogits(network)
    return ScaledWithMaps(network, kind) if "maps" in inputs else Scaled(network, kind)
