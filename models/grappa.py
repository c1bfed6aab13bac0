"""GRAPPA, to compare with: missing lines of every coil from their measured neighbours (Griswold et al., MRM 2002;47:1202)."""

import torch
from torch import Tensor

_NEIGHBOURS = (4, 3, 2)
"""How many measured lines a missing one is made of: as many of these as the calibration lines have room for."""
_REACH = 2
"""Samples to either side along the readout."""


def grappa(kspace: Tensor, lines: Tensor, regularization: float = 1e-4) -> Tensor:
    """Fill in the missing lines of a plane, whatever their pattern; one kernel for every set of distances to the neighbours.

    Parameters
    ----------
    kspace
        complex64 [coils, ky, kx].
    lines
        bool [ky], the measured lines; the run of them around the middle calibrates.
    regularization
        Weight of the Tikhonov term, over the mean square of the calibration's source samples.

    Returns
    -------
    Tensor
        complex64 [coils, ky, kx]; measured lines are as they were.

    Raises
    ------
    ValueError
        There are too few calibration lines for any two neighbours.
    """
    measured = torch.nonzero(lines).flatten().tolist()
    first, last = _central_run(lines)
    result = kspace * lines[:, None]
    kernels: dict[tuple[int, ...], Tensor] = {}
    padded = torch.nn.functional.pad(result, (_REACH, _REACH))
    for line in torch.nonzero(~lines).flatten().tolist():
        offsets = _offsets(line, measured, last - first)
        if offsets not in kernels:
            low, high = first - min(*offsets, 0), last - max(*offsets, 0)
            sources = torch.cat([_sources(padded, target, offsets) for target in range(low, high)])
            targets = result[:, low:high].permute(1, 2, 0).flatten(0, 1)
            gram = sources.mH @ sources
            weight = regularization * gram.diagonal().real.mean().clamp_min(1e-30)
            kernels[offsets] = torch.linalg.solve(
                gram + weight * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), sources.mH @ targets
            )
        result[:, line] = (_sources(padded, line, offsets) @ kernels[offsets]).T
    return result


def _central_run(lines: Tensor) -> tuple[int, int]:
    """First line of the run around the middle, and the one after its last."""
    middle = len(lines) // 2
    below = int(torch.cumprod(lines[:middle].flip(0).int(), 0).sum())
    above = int(torch.cumprod(lines[middle:].int(), 0).sum())
    return middle - below, middle + above


def _offsets(line: int, measured: list[int], room: int) -> tuple[int, ...]:
    """Distances to the nearest measured lines, as many as leave at least two positions within the calibration lines."""
    nearest = sorted((other - line for other in measured), key=abs)
    for count in _NEIGHBOURS:
        offsets = tuple(sorted(nearest[:count]))
        if len(offsets) == count and max(*offsets, 0) - min(*offsets, 0) < room - 1:
            return offsets
    raise ValueError(f"{room} calibration lines are too few for GRAPPA between lines that lie so far apart")


def _sources(padded: Tensor, line: int, offsets: tuple[int, ...]) -> Tensor:
    """Samples [kx, coils * neighbours * (2 reach + 1)] around every sample of a line."""
    rows = padded[:, [line + offset for offset in offsets]].unfold(2, 2 * _REACH + 1, 1)
    return rows.permute(2, 0, 1, 3).flatten(1)
