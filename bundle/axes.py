"""Sizes of tensors from the names of their axes."""

from collections.abc import Mapping, Sequence

from .manifest import TensorSpec


def fixed_length(axis: str, limits: Mapping[str, tuple[int, int]] | None = None) -> int | None:
    """Length of an axis that is named by a number, has one only by its limits, or is the complex one; None where it varies."""
    if axis == "complex":
        return 2
    if axis.isdecimal():
        return int(axis)
    least, most = (limits or {}).get(axis, (0, 1))
    return least if least == most else None


def fixed_lengths(specs: Sequence[TensorSpec]) -> dict[str, int]:
    """Lengths, by name, of the axes that have only one."""
    return {
        axis: length
        for spec in specs
        for axis in spec.axes
        if axis in spec.limits and (length := fixed_length(axis, spec.limits)) is not None
    }


def shape_of(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    """Shape of an input for given lengths of its axes.

    Parameters
    ----------
    spec
        Names the axes, in order.
    sizes
        Lengths by name; axes that it does not name have length one.
    """
    return [fixed_length(axis, spec.limits) or sizes.get(axis, 1) for axis in spec.axes]
