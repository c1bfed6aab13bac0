"""How far from float64 a computation in float32 may be, found in float64, so that it is the same on every machine.

A network is run in float64 with the result of each operation rounded to float32, up or down at random: Monte Carlo arithmetic
(Parker, "Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic", UCLA CSD-970002, 1997). How much its image
moves is what its depth, its sizes and its conditioning make of roundings of 2^-24: a division by a small sum or a threshold next
to the data are in it, where a bound by the number of operations would not see them. It does not depend on how a processor adds
up, which is what differs between machines.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..bundle.folder import relative_error

EPSILON = 2.0**-24
"""Largest relative error of rounding to float32."""
MARGIN = 3.0
"""How much worse another processor's or runtime's order of adding up may be than chance has it."""
_DRAWS = 2


class RandomRounding(TorchDispatchMode):
    """Inside this context, what operations compute in float64 has the values of float32, which are up or down by chance.

    What float32 can hold stays as it is: data that are moved, masks, whole numbers.

    Parameters
    ----------
    seed
        Of the chances.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._chance = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and round what it returns if that is no view of something older."""
        del types
        # code that runs in here may be told another precision than there is, and this must not be
        with torch._C.DisableTorchFunction():
            return self._rounded(func, args, kwargs or {})

    def _rounded(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        for output, declared in zip(outputs, func._schema.returns, strict=False):
            is_new = declared.alias_info is None or declared.alias_info.is_write
            if is_new and isinstance(output, Tensor) and output.dtype in (torch.float64, torch.complex128):
                output.copy_(self._round(output))
        return result

    def _round(self, x: Tensor) -> Tensor:
        if x.is_complex():
            return torch.view_as_complex(self._round(torch.view_as_real(x.resolve_conj())))
        # at most half a step of float32, which moves no number that it can hold
        shift = (torch.rand(x.shape, generator=self._chance) - 0.5).mul_(EPSILON).to(x.dtype)
        return shift.mul_(x).add_(x).to(torch.float32).to(x.dtype)


def accepted_deviation(run: Callable[[], dict[str, Tensor]], exact: dict[str, Tensor], longest: int) -> float:
    """Return by how much a runtime in float32 may deviate from a module in float64, relative to the output's maximum.

    Parameters
    ----------
    run
        Computes the module's outputs in float64.
    exact
        What it returns.
    longest
        Length of the longest axis. An operation is one rounding in ``run``, and sums of that many terms in a runtime, whose
        Fourier transforms are matrix products; their roundings add up as their number's root.

    Returns
    -------
    float
        ``MARGIN`` times the root of ``longest`` times the largest deviation in a few runs with random rounding, or times that
        of a single rounding where it is more; infinite where rounding leaves something else than numbers.
    """
    worst = EPSILON
    for seed in range(_DRAWS):
        with RandomRounding(seed):
            rounded = run()
        worst = max(worst, relative_error(rounded, exact))
    return MARGIN * math.sqrt(longest) * worst
