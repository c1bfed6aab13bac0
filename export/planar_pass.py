"""The rules by which a graph with complex tensors becomes one of real tensors and matrix products.

A complex tensor is carried as its real and its imaginary part. Fourier transforms become products with the Fourier matrices,
into which the centring is folded: ONNX Runtime's own transform loses three digits on lengths that are no power of two and has no
GPU kernel, while matrix products run everywhere. The matrices are made in the graph, from the lengths that come.

The rules do not know what they compute with. ``compute(name, *args)`` runs one operation of ATen on real tensors: on torch's
own, or on the symbols of an ONNX graph.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from .errors import UnknownOperationError
from .fourier_rules import NAMES as TRANSFORMS
from .fourier_rules import FourierRules
from .planar_values import Complex, Compute


class PlanarRules:
    """The rules, by the names that ATen has for the operations.

    Parameters
    ----------
    compute
        Runs an operation on real tensors.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._fourier = FourierRules(compute)

    def makes_complex(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Whether an operation on real tensors computes with complex ones."""
        if name in ("view_as_complex", "complex", "polar", "keep_measured") or name in TRANSFORMS:
            return True
        if any(isinstance(value, complex) for value in args):
            return True
        kinds = [*args, *kwargs.values()] if name in ("to", "_to_copy", "zeros", "ones", "full", "zeros_like") else []
        return any(isinstance(kind, torch.dtype) and kind.is_complex for kind in kinds)

    def apply(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run an operation of which an argument or the result is complex.

        Raises
        ------
        UnknownOperationError
            There is no rule for it.
        """
        if name in TRANSFORMS:
            return self._fourier.apply(name, self.as_complex(args[0]), args[1:], kwargs)
        if name in _PARTWISE:
            return self._partwise(name, args, kwargs)
        rule = getattr(self, f"op_{name.strip('_')}", None)
        if rule is None:
            raise UnknownOperationError(f"the operation {name} on complex tensors")
        return rule(*args, **kwargs)

    def _partwise(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run a linear operation on both parts; what is real has no imaginary part."""

        def part(value: Any, which: str) -> Any:
            if isinstance(value, list | tuple):
                return [part(each, which) for each in value]
            return getattr(value, which) if isinstance(value, Complex) else value

        if name in ("pad", "constant_pad_nd") and (kwargs.get("value") or any(args[3 if name == "pad" else 2 :])):
            raise UnknownOperationError("padding of complex tensors with a number")
        if name in ("cat", "stack"):
            args = [[self.as_complex(value) for value in args[0]], *args[1:]]
        elif name in ("copy", "slice_scatter", "select_scatter"):
            args = [self.as_complex(args[0]), self.as_complex(args[1]), *args[2:]]
        real, imaginary = (self._compute(name, *part(args, which), **kwargs) for which in ("real", "imaginary"))
        if isinstance(real, list | tuple):
            return [Complex(*pair) for pair in zip(real, imaginary, strict=True)]
        return Complex(real, imaginary)

    def as_complex(self, x: Any) -> Complex:
        """Return a number, a real or a complex tensor as a complex tensor."""
        if isinstance(x, Complex):
            return x
        if isinstance(x, torch.Tensor) and x.is_complex():
            return Complex(x.real.contiguous(), x.imag.contiguous())
        if isinstance(x, int | float | complex):
            value = complex(x)
            return Complex(torch.tensor(value.real), torch.tensor(value.imag))
        return Complex(x, self._compute("zeros_like", x))

    # Into complex tensors and out of them

    def op_view_as_complex(self, x: Any) -> Complex:
        return Complex(self._compute("select", x, -1, 0), self._compute("select", x, -1, 1))

    def op_view_as_real(self, x: Complex) -> Any:
        return self._compute("stack", [x.real, x.imaginary], -1)

    def op_complex(self, real: Any, imaginary: Any) -> Complex:
        return Complex(self._compute("add", real, self._compute("zeros_like", imaginary)), imaginary)

    def op_polar(self, size: Any, turn: Any) -> Complex:
        cosine, sine = self._compute("cos", turn), self._compute("sin", turn)
        return Complex(self._compute("mul", size, cosine), self._compute("mul", size, sine))

    def op_real(self, x: Any) -> Any:
        return x.real if isinstance(x, Complex) else x

    def op_imag(self, x: Complex) -> Any:
        return x.imaginary

    def op_to(self, x: Any, *args: Any, **kwargs: Any) -> Complex:
        """Change the precision, or become complex."""
        parts = {torch.complex64: torch.float32, torch.complex128: torch.float64, torch.complex32: torch.float16}
        wanted = next((parts[kind] for kind in (*args, *kwargs.values()) if kind in parts), None)
        given = self.as_complex(x)
        if wanted is None:
            return given
        return Complex(*(self._compute("to", part, wanted) for part in (given.real, given.imaginary)))

    op_to_copy = op_to

    def op_zeros(self, shape: Sequence[Any], **_: Any) -> Complex:
        return Complex(self._compute("zeros", shape), self._compute("zeros", shape))

    def op_ones(self, shape: Sequence[Any], **_: Any) -> Complex:
        return Complex(self._compute("ones", shape), self._compute("zeros", shape))

    def op_full(self, shape: Sequence[Any], value: Any, **_: Any) -> Complex:
        return Complex(*(self._compute("full", shape, part) for part in (complex(value).real, complex(value).imag)))

    def op_zeros_like(self, x: Any, **_: Any) -> Complex:
        return self.op_full_like(x, 0)

    def op_ones_like(self, x: Any, **_: Any) -> Complex:
        return self.op_full_like(x, 1)

    def op_full_like(self, x: Any, value: Any, **_: Any) -> Complex:
        like = x.real if isinstance(x, Complex) else x
        return Complex(*(self._compute("full_like", like, part) for part in (complex(value).real, complex(value).imag)))

    # Arithmetic

    def op_mul(self, a: Any, b: Any) -> Complex:
        mul = self._times
        if not _is_complex(a) or not _is_complex(b):
            x, factor = (a, b) if _is_complex(a) else (b, a)
            x = self.as_complex(x)
            return Complex(mul(x.real, factor), mul(x.imaginary, factor))
        a, b = self.as_complex(a), self.as_complex(b)
        return Complex(
            self._compute("sub", mul(a.real, b.real), mul(a.imaginary, b.imaginary)),
            self._compute("add", mul(a.real, b.imaginary), mul(a.imaginary, b.real)),
        )

    def op_div(self, a: Any, b: Any) -> Complex:
        if not _is_complex(b):
            return Complex(*(self._compute("div", part, b) for part in (a.real, a.imaginary)))
        b = self.as_complex(b)
        product, squared = self.op_mul(a, self.op_conj(b)), self._squared(b)
        return Complex(*(self._compute("div", part, squared) for part in (product.real, product.imaginary)))

    def op_add(self, a: Any, b: Any, alpha: float = 1) -> Complex:
        if not _is_complex(b):
            a = self.as_complex(a)
            return Complex(self._compute("add", a.real, b, alpha=alpha), a.imaginary)
        if not _is_complex(a):
            b = self.as_complex(b)
            return Complex(self._compute("add", self._times(b.real, alpha), a), self._times(b.imaginary, alpha))
        a, b = self.as_complex(a), self.as_complex(b)
        return Complex(
            self._compute("add", a.real, b.real, alpha=alpha),
            self._compute("add", a.imaginary, b.imaginary, alpha=alpha),
        )

    def op_sub(self, a: Any, b: Any, alpha: float = 1) -> Complex:
        return self.op_add(a, b, -alpha)

    def op_rsub(self, a: Any, b: Any, alpha: float = 1) -> Complex:
        return self.op_add(b, a, -alpha)

    def op_conj(self, x: Complex) -> Complex:
        return Complex(x.real, self._compute("neg", x.imaginary))

    op_conj_physical = op_conj

    def op_square(self, x: Complex) -> Complex:
        return self.op_mul(x, x)

    def op_reciprocal(self, x: Complex) -> Complex:
        return self.op_div(1, x)

    def op_pow(self, x: Complex, exponent: Any) -> Complex:
        if exponent != 2:
            raise UnknownOperationError(f"the power {exponent} of complex tensors")
        return self.op_mul(x, x)

    def op_exp(self, x: Complex) -> Complex:
        return self.op_polar(self._compute("exp", x.real), x.imaginary)

    def op_abs(self, x: Complex) -> Any:
        return self._compute("sqrt", self._squared(x))

    def op_angle(self, x: Complex) -> Any:
        return self._compute("atan2", x.imaginary, x.real)

    def op_sgn(self, x: Complex) -> Complex:
        size = self.op_abs(x)
        empty = self._compute("eq", size, 0)
        safe = self._compute("add", size, self._compute("to", empty, x.dtype))
        return Complex(self._compute("div", x.real, safe), self._compute("div", x.imaginary, safe))

    def op_eq(self, a: Any, b: Any) -> Any:
        a, b = self.as_complex(a), self.as_complex(b)
        return self._compute(
            "logical_and", self._compute("eq", a.real, b.real), self._compute("eq", a.imaginary, b.imaginary)
        )

    def op_where(self, condition: Any, a: Any, b: Any) -> Complex:
        a, b = self.as_complex(a), self.as_complex(b)
        return Complex(
            self._compute("where", condition, a.real, b.real),
            self._compute("where", condition, a.imaginary, b.imaginary),
        )

    def op_matmul(self, a: Any, b: Any) -> Complex:
        if not _is_complex(a):
            return Complex(*(self._compute("matmul", a, part) for part in (b.real, b.imaginary)))
        if not _is_complex(b):
            return Complex(*(self._compute("matmul", part, b) for part in (a.real, a.imaginary)))
        product = self._compute
        return Complex(
            product("sub", product("matmul", a.real, b.real), product("matmul", a.imaginary, b.imaginary)),
            product("add", product("matmul", a.real, b.imaginary), product("matmul", a.imaginary, b.real)),
        )

    op_mm = op_bmm = op_mv = op_matmul

    def op_einsum(self, equation: str, operands: Sequence[Any], *_: Any) -> Complex:
        if len(operands) != 2:
            raise UnknownOperationError(f"einsum of {len(operands)} complex tensors")
        left, right = (self.as_complex(value) for value in operands)

        def product(a: Any, b: Any) -> Any:
            return self._compute("einsum", equation, [a, b])

        return Complex(
            self._compute("sub", product(left.real, right.real), product(left.imaginary, right.imaginary)),
            self._compute("add", product(left.real, right.imaginary), product(left.imaginary, right.real)),
        )

    def op_adjoint(self, x: Complex) -> Complex:
        return self.op_conj(self.apply("transpose", (x, -2, -1), {}))

    op_mH = op_adjoint  # noqa: N815  (ATen's name)

    def op_linalg_vector_norm(self, x: Complex, *args: Any, **kwargs: Any) -> Any:
        return self._compute("linalg_vector_norm", self.op_abs(x), *args, **kwargs)

    def op_sym_size(self, x: Complex, dim: int) -> Any:
        return self._compute("sym_size", x.real, dim)

    def op_masked_fill(self, x: Complex, mask: Any, value: Any) -> Complex:
        return self.op_where(mask, value, x)

    def _times(self, a: Any, b: Any) -> Any:
        return self._compute("mul", a, b)

    def _squared(self, x: Complex) -> Any:
        return self._compute("add", self._times(x.real, x.real), self._times(x.imaginary, x.imaginary))

    # Fourier transforms

    def op_keep_measured(self, x: Any, mask: Any, axis: int) -> Any:
        """Multiply real [..., y, x, 2] with ``K = F^H M F`` along one in-plane axis; the mask has length one along the other.

        ``F = C + iT`` is symmetric, so ``K = (CMC + TMT) + i (CMT - TMC)``; it is Hermitian. It is made once a mask.
        """
        compute, matmul = self._compute, partial(self._compute, "matmul")
        data = self.op_view_as_complex(x)
        along_rows = axis % x.dim() == data.rank - 1
        length = compute("sym_size", x, axis % x.dim())
        matrix = self._fourier.matrix(length, data.dtype, centred=True, inverse=False, norm="ortho")
        c, t = matrix.real, matrix.imaginary
        lines = compute("select", mask, -1, 0)
        lines = compute("transpose", lines, -2, -1) if along_rows else lines
        masked_c, masked_t = self._times(lines, c), self._times(lines, t)
        real = compute("add", matmul(c, masked_c), matmul(t, masked_t))
        imaginary = compute("sub", matmul(c, masked_t), matmul(t, masked_c))
        if along_rows:
            result = self.op_matmul(data, Complex(real, compute("neg", imaginary)))
        else:
            result = self.op_matmul(Complex(real, imaginary), data)
        return self.op_view_as_real(result)


def _is_complex(x: Any) -> bool:
    return isinstance(x, Complex | complex) or (isinstance(x, torch.Tensor) and x.is_complex())


_PARTWISE = frozenset(
    (
        *("neg", "sum", "mean", "clone", "contiguous", "alias", "detach", "resolve_conj", "resolve_neg", "lift"),
        *("lift_fresh_copy", "dropout", "view", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "unflatten"),
        *("expand", "expand_as", "broadcast_to", "permute", "transpose", "t", "mT", "movedim", "unsqueeze", "squeeze"),
        *("select", "slice", "narrow", "index_select", "index", "cat", "stack", "split", "split_with_sizes", "chunk"),
        *("roll", "flip", "repeat", "pad", "constant_pad_nd", "fft_fftshift", "fft_ifftshift"),
        *("copy", "slice_scatter", "select_scatter"),
    )
)
"""Operations that are linear with real coefficients, and real in everything else."""
