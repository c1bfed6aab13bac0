"""Unrolled primal-dual methods: Cheng et al., "Model learning: primal dual networks for fast MR imaging", MICCAI 2019.

From one to the next, more is learned (arXiv:1908.02426): PDHG-CSNet the proximal operator of the image, CP-Net also that of
the data, PD-Net the whole updates. Dual variables are k-space [batch, coils, ky, kx, 2]; networks see every coil by itself.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..cnn import ConvStack
from ..consistency import adjoint_model, forward_model
from ..planar import from_channels, to_channels


def _network(parts: int, chans: int, layers: int) -> ConvStack:
    """CNN from several complex images to one."""
    return ConvStack([2 * parts, *[chans] * (layers - 1), 2], bias=True)


def _coils_to_batch(parts: list[Tensor]) -> Tensor:
    """Channels [batch x coils, 2 parts, ky, kx] of several k-spaces [batch, coils, ky, kx, 2]."""
    return torch.cat([part.flatten(0, 1).movedim(-1, 1) for part in parts], dim=1)


class DualProximal(nn.Module):
    """The proximal operator of the squared misfit: ``(d + s (A p - y)) / (1 + s)`` (eq. 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.step: nn.Parameter = nn.Parameter(torch.tensor(0.5))

    def forward(self, dual: Tensor, predicted: Tensor, measured: Tensor) -> Tensor:
        """Return the next dual variable."""
        return (dual + self.step * (predicted - measured)) / (1 + self.step)


class DualNetwork(nn.Module):
    """A network instead of the proximal operator, which is given the step's result, or everything that it is made from."""

    def __init__(self, chans: int, layers: int, relaxed: bool) -> None:
        super().__init__()
        self.relaxed = relaxed
        self.step: nn.Parameter = nn.Parameter(torch.tensor(0.5), requires_grad=not relaxed)
        self.network: ConvStack = _network(3 if relaxed else 2, chans, layers)

    def forward(self, dual: Tensor, predicted: Tensor, measured: Tensor) -> Tensor:
        """Return the next dual variable."""
        if self.relaxed:
            return dual + self._refine([dual, predicted, measured])
        stepped = dual + self.step * predicted
        return stepped + self._refine([stepped, measured])

    def _refine(self, parts: list[Tensor]) -> Tensor:
        """Apply the network to the coils one by one."""
        return self.network(_coils_to_batch(parts)).movedim(1, -1).reshape(parts[0].shape)


class PrimalNetwork(nn.Module):
    """A network as proximal operator of the image: of ``p - t A^H d``, or given both."""

    def __init__(self, chans: int, layers: int, relaxed: bool) -> None:
        super().__init__()
        self.relaxed = relaxed
        self.step: nn.Parameter = nn.Parameter(torch.tensor(0.5), requires_grad=not relaxed)
        self.network: ConvStack = _network(2 if relaxed else 1, chans, layers)

    def forward(self, image: Tensor, back: Tensor) -> Tensor:
        """Return the next image; ``back`` is ``A^H d``."""
        if self.relaxed:
            both = torch.cat((to_channels(image), to_channels(back)), dim=1)
            return image + from_channels(self.network(both))
        stepped = image - self.step * back
        return stepped + from_channels(self.network(to_channels(stepped)))


class PrimalDualNet(nn.Module):
    """An unrolled primal-dual method.

    Parameters
    ----------
    learned
        ``primal`` (PDHG-CSNet), ``both`` (CP-Net) or ``updates`` (PD-Net).
    iterations
        Number of unrolled iterations, each with its own weights.
    chans, layers
        Features and convolutions of the networks.
    """

    def __init__(
        self,
        learned: Literal["primal", "both", "updates"] = "updates",
        iterations: int = 10,
        chans: int = 32,
        layers: int = 3,
    ) -> None:
        super().__init__()
        relaxed = learned == "updates"
        self.primal: nn.ModuleList = nn.ModuleList(PrimalNetwork(chans, layers, relaxed) for _ in range(iterations))
        self.dual: nn.ModuleList = nn.ModuleList(
            DualProximal() if learned == "primal" else DualNetwork(chans, layers, relaxed) for _ in range(iterations)
        )
        self.overrelaxation: nn.Parameter = nn.Parameter(torch.ones(iterations))

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct the complex image [batch, y, x, 2] from zero; inputs as in ``prepare``."""
        axes = [-3, -2]
        mask = mask.to(kspace.dtype)
        measured = kspace * mask
        dual = torch.zeros_like(measured)
        image = torch.zeros_like(adjoint_model(measured, maps, axes))
        leading = image
        for index, (update_dual, update_primal) in enumerate(zip(self.dual, self.primal)):  # noqa: B905  (TorchScript)
            dual = update_dual(dual, forward_model(leading, maps, axes) * mask, measured)
            before = image
            image = update_primal(image, adjoint_model(dual * mask, maps, axes))
            leading = image + self.overrelaxation[index] * (image - before)
        return image
