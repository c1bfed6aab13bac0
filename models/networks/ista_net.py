"""ISTA-Net+: Zhang, Ghanem, "ISTA-Net: interpretable optimization-inspired deep network for image compressive sensing".

CVPR 2018, arXiv:1706.07929.

This is its form for MRI of real images, section 5.3. For complex series see ``dynamic``.
"""

import torch
from torch import Tensor, nn

from ..cnn import ConvStack, conv, soft_threshold
from ..consistency import data_gradient
from .steps import prepare


class IstaPhase(nn.Module):
    """Gradient step, then soft thresholding in a learned domain of the image's details (eqs. 8 to 12)."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.step: nn.Parameter = nn.Parameter(torch.tensor([0.5]))
        self.threshold: nn.Parameter = nn.Parameter(torch.tensor([0.01]))
        self.details: nn.Module = conv(1, chans)
        self.transform: ConvStack = ConvStack([chans, chans, chans])
        self.inverse: ConvStack = ConvStack([chans, chans, chans])
        self.merge: nn.Module = conv(chans, 1)

    def forward(self, image: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
        """Return the next real image [batch, y, x]."""
        complex_image = torch.stack((image, torch.zeros_like(image)), dim=-1)
        gradient = data_gradient(complex_image, kspace, maps, mask, axes)[..., 0]
        stepped = (image - self.step * gradient).unsqueeze(1)
        sparse = soft_threshold(self.transform(self.details(stepped)), self.threshold)
        return (stepped + self.merge(self.inverse(sparse)))[:, 0]


class IstaNetPlus(nn.Module):
    """ISTA-Net+ for real images.

    Parameters
    ----------
    phases
        Number of phases, each with its own weights.
    chans
        Features.
    """

    def __init__(self, phases: int = 9, chans: int = 32) -> None:
        super().__init__()
        self.phases: nn.ModuleList = nn.ModuleList(IstaPhase(chans) for _ in range(phases))

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct the real image [batch, y, x]; inputs as in ``prepare``."""
        measured, weights, maps, axes, zero_filled = prepare(kspace, mask, maps)
        image = zero_filled[..., 0]
        for phase in self.phases:
            image = phase(image, measured, maps, weights, axes)
        return image
