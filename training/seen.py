"""What a network saw in training, counted as the service counts it in a scan: what its bundle was made for."""

from typing import Any

from torch import Tensor

from ..gadgets.domain import describe_sampling, rounded_acceleration
from .samples import Sample

Seen = dict[str, Any]
"""``coils``, ``matrix``, ``acs`` and ``acceleration``: the least and the most; ``sampling``: kinds of patterns, sorted."""


def seen_in(stack: Sample, mask: Tensor | None) -> Seen:
    """Describe the samples of a stack.

    Parameters
    ----------
    stack
        Its ``kspace`` is [samples, coils, (frames,) ky, kx, 2].
    mask
        What the network gets of it, [samples, 1, (frames,) ky, 1, 1]; None, or a mask of points, of which the service knows none:
        how they were undersampled is not described.
    """
    coils, *_, lines, samples, _ = stack["kspace"].shape[1:]
    seen: Seen = {"coils": [coils, coils], "matrix": [min(lines, samples), max(lines, samples)]}
    if mask is None or mask.shape[-2] > 1:
        return seen
    for each in (mask > 0).reshape(len(mask), -1, mask.shape[-3]).cpu():
        first = describe_sampling(each[0])
        acceleration = rounded_acceleration(each[:, None])
        own = {"acs": [first.acs, first.acs], "acceleration": [acceleration, acceleration], "sampling": [first.pattern]}
        seen = joined(seen, own)
    return seen


def joined(one: Seen, other: Seen) -> Seen:
    """Return what was seen in either."""
    result: Seen = {}
    for name in {**one, **other}:
        values = [*one.get(name, ()), *other.get(name, ())]
        result[name] = sorted(set(values)) if name == "sampling" else [min(values), max(values)]
    return result
