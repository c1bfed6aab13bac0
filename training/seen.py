"""What a network saw in training, counted as the service counts it in a scan: what its bundle was made for."""

from typing import Any

from ..gadgets.domain import describe_sampling, rounded_acceleration
from .samples import Sample

Seen = dict[str, Any]
"""``coils``, ``matrix``, ``acs`` and ``acceleration``: the least and the most; ``sampling``: kinds of patterns, sorted."""


def seen_in(stack: Sample) -> Seen:
    """Describe the samples of a stack.

    How they were undersampled is left open for masks of points, of which the service knows none, and where the network chooses
    lines itself.

    Parameters
    ----------
    stack
        ``kspace`` [samples, coils, (frames,) ky, kx, 2] and ``mask`` [samples, 1, (frames,) ky, 1, 1], where it has them.
    """
    if "kspace" not in stack:  # LOUPE takes images, and has no bundle
        return {}
    coils, *_, lines, samples, _ = stack["kspace"].shape[1:]
    seen: Seen = {"coils": [coils, coils], "matrix": [min(lines, samples), max(lines, samples)]}
    mask = stack.get("mask")
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
