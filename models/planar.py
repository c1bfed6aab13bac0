"""Complex arithmetic on real tensors with a trailing dimension of 2 (real, imaginary), which every runtime can carry."""

import torch
from torch import Tensor


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a * b`` for [..., 2] tensors."""
    return torch.stack(
        (a[..., 0] * b[..., 0] - a[..., 1] * b[..., 1], a[..., 0] * b[..., 1] + a[..., 1] * b[..., 0]), dim=-1
    )


def multiply_conjugate(a: Tensor, b: Tensor) -> Tensor:
    """Return ``conj(a) * b`` for [..., 2] tensors."""
    return torch.stack(
        (a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1], a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]), dim=-1
    )


def coil_expand(image: Tensor, maps: Tensor) -> Tensor:
    """Images [batch, z, y, x, 2] seen through coil maps [batch, coils, z, y, x, 2]."""
    return multiply(maps, image.unsqueeze(1))


def coil_reduce(images: Tensor, maps: Tensor) -> Tensor:
    """Coil images combined by the adjoint of ``coil_expand``: [batch, z, y, x, 2]."""
    return multiply_conjugate(maps, images).sum(dim=1)
