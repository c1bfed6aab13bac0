"""Sampling masks: where k-space was measured, which axes are complete, where the calibration lines are.

A mask is a real or boolean tensor that broadcasts against k-space [..., ky, kx, 2]; along an axis that is sampled
completely its length may be 1. Every transform along such an axis commutes with the mask, so networks do it once, in front.
"""

import torch
from torch import Tensor

from .fourier import ifft_planar


def split_axes(mask: Tensor) -> tuple[list[int], list[int]]:
    """Return the in-plane axes (negative, of [..., ky, kx, 2]) that are complete, and those that are undersampled."""
    complete: list[int] = []
    undersampled: list[int] = []
    for axis in (-3, -2):
        if mask.shape[axis] == 1:
            complete.append(axis)
        else:
            undersampled.append(axis)
    return complete, undersampled


def to_hybrid(kspace: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Apply the mask and transform to image space along the axes that are sampled completely.

    Parameters
    ----------
    kspace
        float32 [..., ky, kx, 2].
    mask
        Broadcasts against ``kspace``.

    Returns
    -------
    tuple
        Hybrid k-space like ``kspace``, the mask in the dtype of k-space, and the axes that are still in k-space.
    """
    complete, undersampled = split_axes(mask)
    weights = mask.to(kspace.dtype)
    return ifft_planar(kspace * weights, complete), weights, undersampled


def calibration_mask(mask: Tensor, lines: int = 0) -> Tensor:
    """Keep the fully sampled lines around the middle of k-space, as many on the left as on the right.

    Along each undersampled axis of length n these are ``c = 2 min(left, right)`` lines (at least one) from
    ``(n - c + 1) // 2``, where left and right count the sampled lines from ``n // 2`` outwards (Sriram et al., MICCAI 2020,
    section 3.2 and its reference code).

    Parameters
    ----------
    mask
        [batch, 1, ky, kx, 1], one of ky and kx may be 1.
    lines
        Number of calibration lines where it is known; 0: find them.

    Returns
    -------
    Tensor
        Like ``mask``, one on the calibration lines.
    """
    weights = mask.to(torch.float32)
    result = torch.ones_like(weights)
    for axis, other in ((-3, -2), (-2, -3)):
        if weights.shape[axis] > 1:
            line = weights.narrow(other, weights.shape[other] // 2, 1)
            result = result * _central_run(line, axis, lines)
    return result


def _central_run(line: Tensor, axis: int, lines: int) -> Tensor:
    """One on the run of ones around the middle of ``line``, whose other in-plane axis has length one."""
    size = line.shape[axis]
    gaps = 1 - line
    left = (gaps.narrow(axis, 0, size // 2).flip(axis).cumsum(axis) == 0).sum(axis, keepdim=True)
    right = (gaps.narrow(axis, size // 2, size - size // 2).cumsum(axis) == 0).sum(axis, keepdim=True)
    width = (2 * torch.minimum(left, right)).clamp_min(1)
    if lines > 0:
        width = torch.full_like(width, lines)
    start = torch.div(size - width + 1, 2, rounding_mode="floor")
    shape = [1] * line.dim()
    shape[axis] = size
    index = torch.arange(size, device=line.device).reshape(shape)
    return torch.logical_and(index >= start, index < start + width).to(line.dtype)
