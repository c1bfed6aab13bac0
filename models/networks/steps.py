"""What the networks with coil maps have in common: their inputs, and the gradient step."""

import torch
from torch import Tensor, nn

from ..consistency import adjoint_model, data_gradient
from ..sampling import to_hybrid


def prepare(kspace: Tensor, mask: Tensor, maps: Tensor) -> tuple[Tensor, Tensor, Tensor, list[int], Tensor]:
    """Bring the inputs of slices or series into the form that all steps work on.

    Parameters
    ----------
    kspace
        float32 [batch, coils, ky, kx, 2] or, of a series, [batch, coils, frames, ky, kx, 2].
    mask
        Broadcasts against ``kspace``.
    maps
        float32 [batch, coils, y, x, 2] of unit norm, the same for all frames. Data of one coil have maps of ones.

    Returns
    -------
    tuple
        Hybrid k-space, mask as weights, maps that broadcast against it, the undersampled axes, and the zero-filled image
        [batch, (frames,) y, x, 2].
    """
    measured, weights, axes = to_hybrid(kspace, mask)
    if maps.dim() < kspace.dim():
        maps = maps.unsqueeze(2)
    return measured, weights, maps, axes, adjoint_model(measured, maps, axes)


class GradientStep(nn.Module):
    """``x - max(step, 0) A^H (A x - y)`` with a learned step."""

    def __init__(self, step: float = 0.1) -> None:
        super().__init__()
        self.step: nn.Parameter = nn.Parameter(torch.tensor(step))

    def forward(self, image: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
        """Return an image like ``image``."""
        return image - torch.relu(self.step) * data_gradient(image, kspace, maps, mask, axes)
