"""Complex arithmetic on real tensors with a trailing dimension of 2 (real, imaginary), which every runtime can carry."""

import torch
from torch import Tensor


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a * b`` for [..., 2] tensors."""
    return torch.view_as_real(as_complex(a) * as_complex(b))


def multiply_conjugate(a: Tensor, b: Tensor) -> Tensor:
    """Return ``conj(a) * b`` for [..., 2] tensors."""
    return torch.view_as_real(as_complex(a).conj() * as_complex(b))


def as_complex(x: Tensor) -> Tensor:
    """View [..., 2] as a complex tensor, where its memory allows that."""
    return torch.view_as_complex(x.contiguous())


def coil_expand(image: Tensor, maps: Tensor) -> Tensor:
    """Images [batch, ..., 2] seen through coil maps that broadcast against [batch, coils, ..., 2]."""
    return multiply(maps, image.unsqueeze(1))


def coil_reduce(images: Tensor, maps: Tensor) -> Tensor:
    """Coil images [batch, coils, ..., 2] combined by the adjoint of ``coil_expand``: [batch, ..., 2]."""
    return multiply_conjugate(maps, images).sum(dim=1)


def root_sum_of_squares(images: Tensor) -> Tensor:
    """Magnitude [batch, ...] of coil images [batch, coils, ..., 2]."""
    # coils first: a sum over two neighbours in memory is slow
    return images.square().sum(dim=1).sum(dim=-1).sqrt()


def magnitude(image: Tensor) -> Tensor:
    """Magnitude [...] of [..., 2]."""
    return image.square().sum(dim=-1).sqrt()


def box_mean(x: Tensor, edge: int) -> Tensor:
    """Mean of [batch, y, x, channels] over blocks of edge x edge pixels, edge odd; less where they reach outside."""
    pooled = torch.nn.functional.avg_pool2d(
        x.movedim(-1, 1), edge, stride=1, padding=edge // 2, count_include_pad=False
    )
    return pooled.movedim(1, -1)


def center_crop(x: Tensor, size: tuple[int, int] | None, axes: tuple[int, int] = (-2, -1)) -> Tensor:
    """Cut the middle out of two axes, so that pixel ``n // 2`` of n becomes pixel ``m // 2`` of m; None, or less: all of it."""
    for axis, wanted in zip(axes, size or (), strict=False):
        have = x.shape[axis]
        if wanted < have:
            x = x.narrow(axis, have // 2 - wanted // 2, wanted)
    return x


def to_channels(image: Tensor) -> Tensor:
    """Move the complex dimension of [batch, ..., 2] next to the batch: [batch, 2, ...], for convolutions."""
    return image.movedim(-1, 1)


def from_channels(channels: Tensor) -> Tensor:
    """Undo ``to_channels``."""
    return channels.movedim(1, -1)


def ratio_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return ``numerator / denominator``, zero where the denominator is zero (or far below every signal)."""
    empty = denominator.abs() <= 1e-30
    return torch.where(
        empty, torch.zeros_like(numerator), numerator / torch.where(empty, torch.ones_like(denominator), denominator)
    )
