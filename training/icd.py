"""Reference masks for a sampler: iterative coordinate descent (Gautam et al., arXiv:2509.16846; SUNO)."""

from collections.abc import Callable

import torch
from torch import Tensor


def middle_lines(lines: int, base: int) -> Tensor:
    """Return bool [lines] with the ``base`` middle lines, where ``mnet.budget_mask`` puts them."""
    start = (lines - base + 1) // 2
    mask = torch.zeros(lines, dtype=torch.bool)
    mask[start : start + base] = True
    return mask


def variable_density(lines: int, base: int, budget: int, generator: torch.Generator) -> Tensor:
    """Draw a mask bool [lines]: the middle lines, and ``budget`` others with a density that falls off to the edge.

    The probability is that of SUNO: ``(1 - |k| / k_max)^4``.
    """
    middle = middle_lines(lines, base)
    position = (torch.arange(lines) - lines // 2).abs() / (lines / 2)
    density = torch.where(middle, 0.0, (1 - position).clamp_min(1e-3) ** 4)
    chosen = torch.multinomial(density, budget, generator=generator)
    return middle.scatter(0, chosen, True)


def descend(start: Tensor, fixed: Tensor, error: Callable[[Tensor], Tensor]) -> Tensor:
    """Move one line after the other to where the error is smallest, if that is smaller than before; one pass.

    Parameters
    ----------
    start
        bool [lines], the mask to start from.
    fixed
        bool [lines], lines that stay.
    error
        From masks bool [candidates, lines] to their errors [candidates].

    Returns
    -------
    Tensor
        bool [lines], as many lines as in ``start``.
    """
    mask = start.clone()
    best = float(error(mask[None])[0])
    for line in torch.nonzero(start & ~fixed).flatten().tolist():
        free = torch.nonzero(~mask).flatten()
        candidates = mask.repeat(len(free), 1)
        candidates[:, line] = False
        candidates[torch.arange(len(free)), free] = True
        errors = error(candidates)
        winner = int(errors.argmin())
        if float(errors[winner]) < best:
            best, mask = float(errors[winner]), candidates[winner]
    return mask
