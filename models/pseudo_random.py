"""Numbers that look random and are the same in every runtime, on every machine and at every call."""

import math

import torch
from torch import Tensor


def random_phases(coils: int, lines: int, samples: int, seed: int, like: Tensor) -> Tensor:
    """Complex numbers of magnitude one, whose phases are as good as independent: white noise of unit variance.

    They are made by squaring an index again and again modulo a prime, in integers, so that no rounding can change them.

    Parameters
    ----------
    coils, lines, samples
        Shape of the field.
    seed
        Fields of different seeds have nothing to do with each other.
    like
        The device is taken from it.

    Returns
    -------
    Tensor
        float32 [1, coils, lines, samples, 2].
    """
    prime = 1048573  # the largest below 2**20: products of two remainders are exact in int64
    coil = torch.arange(coils, device=like.device).reshape(-1, 1, 1)
    line = torch.arange(lines, device=like.device).reshape(-1, 1)
    sample = torch.arange(samples, device=like.device)
    state = (coil * 7919 + line * 104729 + sample * 31337 + line * sample * 613 + seed * 15485863) % prime
    for constant in (348671, 719281, 96137):
        state = (state * state + state * constant + constant) % prime
    phase = state.to(torch.float32) * (2 * math.pi / prime)
    return torch.stack((phase.cos(), phase.sin()), dim=-1)[None]
