"""Complex tensors as two real ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Compute = Callable[..., Any]
"""Runs an operation of ATen, given by name, on real tensors."""


@dataclass(frozen=True)
class Complex:
    """A complex tensor.

    Parameters
    ----------
    real, imaginary
        Real tensors of one shape, or of shapes that broadcast.
    """

    real: Any
    imaginary: Any

    @property
    def rank(self) -> int:
        """Number of its axes."""
        return max(self.real.dim(), self.imaginary.dim())

    @property
    def dtype(self) -> torch.dtype:
        """Of its parts."""
        return self.real.dtype
