"""Losses beyond those of one line."""

import torch
from torch import Tensor

_BLOCK = 16
"""Edge in pixels of the blocks whose errors count alike."""
_OBJECT = 0.02
"""Mean square of a block, relative to the brightness, from which it belongs to the object."""
_FLOOR = 1e-8
_SHARED = 0.1
"""Part of the image's mean error that is added to a block's, so that no block is perfected for its own sake."""


def log_error(squares: Tensor, power: Tensor) -> Tensor:
    """Return the logarithm of the error: with it hard and easy scans, and dark and bright parts of them, count alike.

    The mean of ``0.5 ln(e / b)`` and of ``0.5 ln((e_k + 0.1 e) / b)`` over all blocks k of 16 x 16 pixels of the object, with the
    mean squared errors e of the image and e_k of a block. Relative to the error of any other reconstruction the gradient would be
    the same.

    Parameters
    ----------
    squares
        float32 [images, y, x], the squared error.
    power
        float32 [images, y, x], the squared magnitude of the truth. Its brightness b is its second moment over its mean, to which
        air adds nothing.

    Returns
    -------
    Tensor
        float32 [images], in nepers: 1 less is an error that is smaller by 8.7 dB.
    """
    bright = (power.square().sum((1, 2)) / power.sum((1, 2)).clamp_min(_FLOOR)).clamp_min(_FLOOR)[:, None, None]
    squares = squares / bright
    whole = squares.mean((1, 2))
    error, signal = (_block_means(each) for each in (squares, power / bright))
    inside = (signal > _OBJECT).to(error.dtype)
    local = (error + _SHARED * whole.detach()[:, None, None] + _FLOOR).log()
    local = (local * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
    return (whole + _FLOOR).log() / 4 + local / 4


def _block_means(x: Tensor) -> Tensor:
    # blocks at the end may be smaller
    return torch.nn.functional.avg_pool2d(x[:, None], _BLOCK, ceil_mode=True)[:, 0]
