"""Padding that wraps around or repeats the edge, along one axis at a time, for any size."""

import torch
from torch import Tensor


def wrap(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Continue ``x`` periodically along an axis; ``before`` and ``after`` are at most its length."""
    length = x.shape[axis]
    index = torch.arange(before + length + after, device=x.device) - before
    index = torch.where(index < 0, index + length, index)
    return x.index_select(axis, torch.where(index >= length, index - length, index))


def repeat_edge(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Repeat the first and the last entry along an axis."""
    length = x.shape[axis]
    index = torch.arange(before + length + after, device=x.device) - before
    index = torch.where(index < 0, torch.zeros_like(index), index)
    return x.index_select(axis, torch.where(index >= length, torch.full_like(index, length - 1), index))


def to_multiple(size: int, multiple: int) -> tuple[int, int]:
    """Padding before and after that makes a size a multiple."""
    missing = -size % multiple
    return missing // 2, missing - missing // 2


def mirror(x: Tensor, axis: int, width: int) -> Tensor:
    """Mirror ``x`` at both ends of an axis, which must be longer than ``width``; the edge itself is not repeated."""
    last = x.shape[axis] - 1
    index = (torch.arange(x.shape[axis] + 2 * width, device=x.device) - width).abs()
    return x.index_select(axis, last - (last - index).abs())
