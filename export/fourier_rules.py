"""Fourier transforms as products with matrices, which are made in the graph from the lengths that come."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from .planar_values import Complex, Compute

Norm = Literal["none", "ortho", "by length"]
_Kind = Literal["complex", "from real", "to real"]


@dataclass(frozen=True)
class _Transform:
    """One of torch.fft's functions: what it is between, whether it is an inverse, and along which axes it goes unless told."""

    kind: _Kind
    inverse: bool
    axes: Sequence[int] | None


_BETWEEN: dict[str, tuple[_Kind, bool]] = {
    "fft": ("complex", False),
    "ifft": ("complex", True),
    "rfft": ("from real", False),
    "irfft": ("to real", True),
}
TRANSFORMS: dict[str, _Transform] = {
    f"fft_{name}{suffix}": _Transform(*between, axes)
    for name, between in _BETWEEN.items()
    for suffix, axes in (("", (-1,)), ("2", (-2, -1)), ("n", None))
}
"""The functions by ATen's names."""
_LOW: dict[str, _Kind] = {"_fft_c2c": "complex", "_fft_r2c": "from real", "_fft_c2r": "to real"}
"""What torch makes of them when it takes them apart."""
NAMES = frozenset((*TRANSFORMS, *_LOW, "centred"))


@dataclass(frozen=True)
class Matrix:
    """Real and imaginary part [length before, length after] of a matrix."""

    real: Any
    imaginary: Any
    symmetric: bool = True


class FourierRules:
    """The rules for transforms.

    Parameters
    ----------
    compute
        Runs an operation on real tensors.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute

    def apply(self, name: str, x: Complex, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Write a transform; lengths that it is told to pad or cut to are those of its matrices."""
        if name == "centred":
            axes, inverse = args
            matrices = [
                self.matrix(self._length(x, axis), x.dtype, centred=True, inverse=inverse, norm="ortho")
                for axis in axes
            ]
            return self._along_all(matrices, x, axes)
        if name in _LOW:
            return self._low(name, x, *args)
        transform = TRANSFORMS[name]
        sizes, dims, norm = (*args, *(None, None, None)[len(args) :])
        sizes, dims = kwargs.get("n", kwargs.get("s", sizes)), kwargs.get("dim", dims)
        sizes = [sizes] if sizes is not None and not isinstance(sizes, list | tuple) else sizes
        dims = [dims] if isinstance(dims, int) else dims
        if dims is None:
            dims = range(-len(sizes), 0) if sizes is not None and transform.axes is None else transform.axes
        axes = [axis % x.rank for axis in (range(x.rank) if dims is None else dims)]
        scaled = kwargs.get("norm", norm) or "backward"
        own = "backward" if transform.inverse else "forward"
        plain: Norm = "ortho" if scaled == "ortho" else "by length" if scaled == own else "none"
        return self._transform(transform.kind, x, axes, sizes, inverse=transform.inverse, norm=plain)

    def _low(self, name: str, x: Complex, axes: Sequence[int], norm: int, last: Any) -> Any:
        plain: Norm = ("none", "ortho", "by length")[norm]
        kind = _LOW[name]
        if kind == "to real":
            return self._transform(kind, x, axes, [*[-1] * (len(axes) - 1), last], inverse=True, norm=plain)
        if kind == "from real" and last:
            return self._transform(kind, x, axes, None, inverse=False, norm=plain)
        return self._transform("complex", x, axes, None, inverse=kind == "complex" and not last, norm=plain)

    def _transform(
        self, kind: _Kind, x: Complex, axes: Sequence[int], sizes: Sequence[Any] | None, *, inverse: bool, norm: Norm
    ) -> Any:
        """Transform along axes, of which the last one is special where one side is real; -1 is a size that stays."""
        wanted = dict(zip(axes, [-1] * len(axes) if sizes is None else sizes, strict=True))
        *others, last = axes
        others = axes if kind == "complex" else others
        matrices = [
            self.matrix(self._length(x, axis), x.dtype, centred=False, inverse=inverse, norm=norm, size=wanted[axis])
            for axis in others
        ]
        if kind == "from real":
            matrix = self._from_real(x, last, wanted[last], norm)
            parts = (matrix.real, matrix.imaginary)
            x = Complex(*(self._product(part, matrix, x.real, last) for part in parts))
        x = self._along_all(matrices, x, others)
        return self._to_real(x, last, wanted[last], norm) if kind == "to real" else x

    def _length(self, x: Complex, axis: int) -> Any:
        return self._compute("sym_size", x.real, axis)

    def matrix(
        self, given: Any, dtype: torch.dtype, *, centred: bool, inverse: bool, norm: Norm, size: Any = -1
    ) -> Matrix:
        """Return the Fourier matrix for a length; for another ``size`` what is beyond it, or missing, counts as zero."""
        length = given if _stays(size) else size
        rows, columns = self._places(given), self._places(length)
        if centred:
            rows = columns = self._compute("sub", rows, self._whole(given // 2))
        weights = None if given is length or given == length else self._compute("lt", rows, self._whole(length))
        return self._made(rows, columns, length, inverse, norm, dtype, weights)

    def _from_real(self, x: Complex, axis: int, size: Any, norm: Norm) -> Matrix:
        """Return the matrix of the first half of the frequencies."""
        given = self._length(x, axis)
        length = given if _stays(size) else size
        rows, columns = self._places(given), self._places(length // 2 + 1)
        weights = None if given is length or given == length else self._compute("lt", rows, self._whole(length))
        return self._made(rows, columns, length, False, norm, x.dtype, weights, symmetric=False)

    def _to_real(self, x: Complex, axis: int, size: Any, norm: Norm) -> Any:
        """Return the real inverse: frequencies between zero and the highest one count twice, their other halves are missing."""
        compute = self._compute
        given = self._length(x, axis)
        length = (given - 1) * 2 if _stays(size) else size
        rows, columns = self._places(given), self._places(length)
        twice, whole = compute("mul", rows, 2), self._whole(length)
        below, at, first = compute("lt", twice, whole), compute("eq", twice, whole), compute("eq", rows, 0)
        below, at, first = (compute("to", each, torch.float64) for each in (below, at, first))
        weights = compute("sub", compute("add", compute("mul", below, 2), at), first)
        matrix = self._made(rows, columns, length, True, norm, x.dtype, weights, symmetric=False)
        cosine = self._product(matrix.real, matrix, x.real, axis)
        return compute("sub", cosine, self._product(matrix.imaginary, matrix, x.imaginary, axis))

    def _places(self, length: Any) -> Any:
        return self._compute("arange", length)

    def _whole(self, length: Any) -> Any:
        return self._compute("scalar_tensor", length, dtype=torch.int64)

    def _made(
        self,
        rows: Any,
        columns: Any,
        length: Any,
        inverse: bool,
        norm: Norm,
        dtype: torch.dtype,
        weights: Any = None,
        *,
        symmetric: bool = True,
    ) -> Matrix:
        """Return ``exp(-+ 2 pi i rows columns / length)``, whose rows may be weighted."""
        compute = self._compute
        # whole numbers, modulo the length, keep the digits of the angle
        product = compute("mul", compute("unsqueeze", rows, 1), compute("unsqueeze", columns, 0))
        turns = compute("remainder", product, self._whole(length))
        count = compute("scalar_tensor", length, dtype=torch.float64)
        angle = compute("mul", compute("div", compute("to", turns, torch.float64), count), 2 * math.pi)
        parts = compute("cos", angle), compute("sin", angle if inverse else compute("neg", angle))
        if norm != "none":
            factor = compute("rsqrt" if norm == "ortho" else "reciprocal", count)
            parts = tuple(compute("mul", part, factor) for part in parts)
        if weights is not None:
            column = compute("to", compute("unsqueeze", weights, 1), torch.float64)
            parts = tuple(compute("mul", part, column) for part in parts)
        return Matrix(*(compute("to", part, dtype) for part in parts), symmetric=symmetric and weights is None)

    def _along_all(self, matrices: Sequence[Matrix], x: Complex, axes: Sequence[int]) -> Complex:
        """Multiply the vectors along each axis with its matrix.

        All matrices are made before the first product, from lengths of the tensor that comes in: that these are the lengths of
        others is known, so that one matrix serves all transforms of a length, and nothing is known of what lies between.
        """
        for matrix, axis in zip(matrices, axes, strict=True):
            x = self.along(matrix, x, axis)
        return x

    def along(self, matrix: Matrix, x: Complex, axis: int) -> Complex:
        """Multiply a matrix with the vectors along an axis, counted from the front."""
        a = self._product(matrix.real, matrix, x.real, axis)
        b = self._product(matrix.imaginary, matrix, x.imaginary, axis)
        c = self._product(matrix.imaginary, matrix, x.real, axis)
        d = self._product(matrix.real, matrix, x.imaginary, axis)
        return Complex(self._compute("sub", a, b), self._compute("add", c, d))

    def _product(self, part: Any, matrix: Matrix, x: Any, axis: int) -> Any:
        compute = self._compute
        if axis == x.dim() - 1:
            return compute("matmul", x, part)
        if axis == x.dim() - 2 and matrix.symmetric:
            return compute("matmul", part, x)
        return compute("transpose", compute("matmul", compute("transpose", x, axis, -1), part), axis, -1)


def _stays(size: Any) -> bool:
    return isinstance(size, int) and size == -1
