"""What the dynamic networks have in common: inputs [batch, coils, frames, ky, kx, 2], and the gradient step."""

from torch import Tensor, nn

import torch

from ..consistency import adjoint_model, data_gradient
from ..sampling import to_hybrid


def series_inputs(kspace: Tensor, mask: Tensor, maps: Tensor) -> tuple[Tensor, Tensor, Tensor, list[int], Tensor]:
    """Prepare a series.

    Parameters
    ----------
    kspace
        float32 [batch, coils, frames, ky, kx, 2].
    mask
        Broadcasts against ``kspace``.
    maps
        float32 [batch, coils, y, x, 2], the same for all frames.

    Returns
    -------
    tuple
        Hybrid k-space, mask as weights, maps [batch, coils, 1, y, x, 2], undersampled axes, and the zero-filled series
        [batch, frames, y, x, 2].
    """
    measured, weights, axes = to_hybrid(kspace, mask)
    maps = maps.unsqueeze(2)
    return measured, weights, maps, axes, adjoint_model(measured, maps, axes)


class GradientStep(nn.Module):
    """``x - max(step, 0) A^H (A x - y)`` with a learned step."""

    def __init__(self, step: float = 0.1) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step))

    def forward(self, image: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
        """Return an image like ``image``."""
        return image - torch.relu(self.step) * data_gradient(image, kspace, maps, mask, axes)
