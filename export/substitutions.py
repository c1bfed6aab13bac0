"""What stands for an operation on its way down to another runtime, where it cannot be taken as it is written.

While a module is traced, these operations stay whole (``Leaves``). Then each is written by its own rule:

``centred``
    The centred Fourier transform. As it is written it asks whether a length is even, which would fix the answer for all lengths.
``keep_measured``
    To k-space, through the mask, and back. Along one axis the three are one matrix, ``F^H M F``.
``singular_value_threshold``
    ONNX has no decomposition of matrices. ``threshold_by_products`` needs matrix products only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..models import fourier, svt

NAMESPACE = "isocenter"
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""A polynomial whose iterates come near one from as low as 1e-8 in 14 steps; cubic steps then converge."""
_QUINTIC_STEPS = 15
_CUBIC_STEPS = 5
_ROOT_STEPS = 28
_SQUARINGS = 16


@torch.library.custom_op(f"{NAMESPACE}::centred", mutates_args=())
def _centred(x: Tensor, axes: list[int], inverse: bool) -> Tensor:
    return fourier.centred(x, axes, inverse)


@torch.library.custom_op(f"{NAMESPACE}::keep_measured", mutates_args=())
def _keep_measured(x: Tensor, mask: Tensor, axis: int) -> Tensor:
    return fourier.keep_measured(x, mask, [axis])


@torch.library.custom_op(f"{NAMESPACE}::singular_value_threshold", mutates_args=())
def _singular_value_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    return svt.singular_value_threshold(x, threshold)


@_centred.register_fake
def _like_transformed(x: Tensor, axes: list[int], inverse: bool) -> Tensor:
    del axes, inverse
    return torch.empty_like(x)


@_keep_measured.register_fake
def _like_kept(x: Tensor, mask: Tensor, axis: int) -> Tensor:
    del mask, axis
    return torch.empty_like(x)


@_singular_value_threshold.register_fake
def _like_thresholded(x: Tensor, threshold: Tensor) -> Tensor:
    del threshold
    return torch.empty_like(x)


class Leaves(TorchFunctionMode):
    """Inside this context, the operations that have a substitution are traced as one operation each."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, or the operation that stands for it."""
        del types
        leaf = _LEAVES.get(func)
        return (func if leaf is None else leaf)(*args, **(kwargs or {}))


def _keep_along_one_axis(x: Tensor, mask: Tensor, dims: list[int]) -> Tensor:
    axes = [dim for dim in dims if x.shape[dim] > 1]
    if len(axes) != 1 or mask.shape[-5 - axes[0]] != 1:
        return fourier.keep_measured.__wrapped__(x, mask, dims)  # pyright: ignore[reportFunctionMemberAccess]
    return _keep_measured(x, mask, axes[0])


def _mean(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Take the mean part by part: torch's own rule for complex tensors divides by a length that it fixes."""
    if not x.is_complex():
        return torch.mean(x, *args, **kwargs)
    return torch.complex(torch.mean(x.real, *args, **kwargs), torch.mean(x.imag, *args, **kwargs))


_LEAVES: dict[Any, Callable[..., Any]] = {
    torch.mean: _mean,
    Tensor.mean: _mean,
    fourier.centred: _centred,
    fourier.keep_measured: _keep_along_one_axis,
    svt.singular_value_threshold: _singular_value_threshold,
}

Compute = Callable[..., Any]
Repeat = Callable[[int, Callable[..., Sequence[Any]], Sequence[Any]], Sequence[Any]]
"""Call a function this often, each time with what it returned before."""
_Pair = tuple[Any, Any]


class ThresholdByProducts:
    """Singular value thresholding with matrix products only; see ``models.svt``.

    The projector on the singular values above the threshold t is the matrix sign of ``G - t²``, with the Gram matrix G; the
    inverse of the root of G on its range comes from the coupled Newton-Schulz iteration (Higham, "Functions of Matrices", SIAM
    2008, eqs. 5.20 and 6.35). All in float64.

    Parameters
    ----------
    compute
        Runs an operation of ATen on real tensors.
    repeat
        Repeats an iteration.
    """

    def __init__(self, compute: Compute, repeat: Repeat) -> None:
        self._compute = compute
        self._repeat = repeat

    def __call__(self, x: Any, threshold: Any) -> Any:
        """Return matrices [..., rows, columns, 2] like ``x``; ``threshold`` is relative to the largest singular value."""
        c = self._compute
        real, imaginary = c("select", x, -1, 0), c("select", x, -1, 1)
        exact = c("to", real, torch.float64), c("to", imaginary, torch.float64)
        adjoint = c("transpose", exact[0], -2, -1), c("neg", c("transpose", exact[1], -2, -1))
        gram = self._product(adjoint, exact)
        identity = c("eye", c("sym_size", x, x.dim() - 2), dtype=torch.float64)
        largest = self._largest_eigenvalue(gram, identity)
        gram = self._scaled(gram, self._ratio_or_zero(c("ones_like", largest), largest))
        limit = c("clamp", c("to", threshold, torch.float64), 0, 1)
        sign = self._sign((c("sub", gram[0], c("mul", c("square", limit), identity)), gram[1]))
        projector = c("mul", c("add", identity, sign[0]), 0.5), c("mul", sign[1], 0.5)
        kept = self._product(projector, gram)
        rest = c("sub", identity, projector[0])
        root = self._inverse_root((c("add", kept[0], rest), c("sub", kept[1], projector[1])), identity)
        damping = self._scaled(self._product(projector, root), limit)
        operator = tuple(c("to", c("sub", a, b), x.dtype) for a, b in zip(projector, damping, strict=True))
        return c("stack", self._product((real, imaginary), operator), -1)

    def _product(self, a: _Pair, b: _Pair) -> _Pair:
        c = self._compute
        return (
            c("sub", c("matmul", a[0], b[0]), c("matmul", a[1], b[1])),
            c("add", c("matmul", a[0], b[1]), c("matmul", a[1], b[0])),
        )

    def _scaled(self, a: _Pair, factor: Any) -> _Pair:
        return self._compute("mul", a[0], factor), self._compute("mul", a[1], factor)

    def _sum(self, *terms: tuple[float, _Pair]) -> _Pair:
        total = self._scaled(terms[0][1], terms[0][0])
        for factor, term in terms[1:]:
            total = tuple(
                self._compute("add", a, self._compute("mul", b, factor)) for a, b in zip(total, term, strict=True)
            )
        return total  # pyright: ignore[reportReturnType]

    def _ratio_or_zero(self, a: Any, b: Any) -> Any:
        c = self._compute
        empty = c("le", b, 0)
        return c("where", empty, c("zeros_like", b), c("div", a, c("where", empty, c("ones_like", b), b)))

    def _trace(self, a: _Pair, identity: Any) -> Any:
        """Return the trace as [..., 1, 1]."""
        return self._compute("sum", self._compute("mul", a[0], identity), [-2, -1], True)

    def _largest_eigenvalue(self, gram: _Pair, identity: Any) -> Any:
        """Return it as [..., 1, 1]: the mean eigenvalue, weighted by a power so high that only the largest ones count."""

        def step(real: Any, imaginary: Any) -> _Pair:
            trace = self._trace((real, imaginary), identity)
            power = self._scaled((real, imaginary), self._ratio_or_zero(self._compute("ones_like", trace), trace))
            return self._product(power, power)

        real, imaginary = self._repeat(_SQUARINGS, step, gram)
        power = real, imaginary
        weighted = self._trace(self._product(power, gram), identity)
        return self._ratio_or_zero(weighted, self._trace(power, identity))

    def _sign(self, a: _Pair) -> Sequence[Any]:
        """Sign of a Hermitian matrix whose eigenvalues lie in [-1, 1]."""
        first, third, fifth = _QUINTIC

        def quintic(*x: Any) -> _Pair:
            square = self._product(x, x)
            higher = self._sum((third, square), (fifth, self._product(square, square)))
            return self._sum((first, x), (1.0, self._product(higher, x)))

        def cubic(*x: Any) -> _Pair:
            return self._sum((1.5, x), (-0.5, self._product(self._product(x, x), x)))

        return self._repeat(_CUBIC_STEPS, cubic, self._repeat(_QUINTIC_STEPS, quintic, a))

    def _inverse_root(self, a: _Pair, identity: Any) -> _Pair:
        """Inverse square root of a Hermitian matrix whose eigenvalues lie in (0, 1]."""
        c = self._compute

        def step(*state: Any) -> Sequence[Any]:
            root, inverse = state[:2], state[2:]
            product = self._product(inverse, root)
            factor = c("sub", c("mul", identity, 1.5), c("mul", product[0], 0.5)), c("mul", product[1], -0.5)
            return *self._product(root, factor), *self._product(factor, inverse)

        start = c("add", c("zeros_like", a[0]), identity), c("zeros_like", a[1])
        _, _, real, imaginary = self._repeat(_ROOT_STEPS, step, (*a, *start))
        return real, imaginary
