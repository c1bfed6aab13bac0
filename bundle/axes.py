"""Sizes of tensors from the names of their axes."""

from collections.abc import Mapping

from .manifest import TensorSpec


def fixed_length(axis: str) -> int | None:
    """Length of an axis that is named by a number, or of the complex axis; None where it varies."""
    if axis == "complex":
        return 2
    return int(axis) if axis.isdecimal() else None


def shape_of(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    """Shape of an input for given lengths of its axes.

    Parameters
    ----------
    spec
        Names the axes, in order.
    sizes
        Lengths by name; axes that it does not name have length one.
    """
    return [fixed_length(axis) or sizes.get(axis, 1) for axis in spec.axes]
