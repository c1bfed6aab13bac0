"""Element by element, reductions, products of matrices, and new tensors."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import UnknownOperationError
from .symbols import ELEMENTS, Graph, Integer, Length, Symbol
from .table import OPERATIONS, call, converted, operation, promoted, scalar, size

_BINARY = {
    "mul": "Mul",
    "maximum": "Max",
    "minimum": "Min",
    "pow": "Pow",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_xor": "Xor",
}
_TO_BOOL = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor")
_UNARY = {
    "abs": "Abs",
    "neg": "Neg",
    "sqrt": "Sqrt",
    "exp": "Exp",
    "log": "Log",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "atan": "Atan",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "relu_": "Relu",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "reciprocal": "Reciprocal",
    "erf": "Erf",
}


def _binary(operator: str) -> Any:
    def write(graph: Graph, a: Any, b: Any) -> Symbol:
        if operator in ("And", "Or", "Xor"):
            left, right = (converted(graph, value, torch.bool) for value in (a, b))
        else:
            left, right = promoted(graph, a, b)
        if operator == "Equal" and left.dtype == torch.bool:
            left, right = (converted(graph, value, torch.int32) for value in (left, right))
        dtype = torch.bool if operator in _TO_BOOL else left.dtype
        return graph.add(operator, [left, right], dtype, max(left.rank, right.rank))

    return write


def _unary(operator: str) -> Any:
    def write(graph: Graph, x: Symbol) -> Symbol:
        return graph.add(operator, [x], x.dtype, x.rank)

    return write


OPERATIONS.update({name: _binary(operator) for name, operator in _BINARY.items()})
OPERATIONS.update({name: _unary(operator) for name, operator in _UNARY.items()})
OPERATIONS.update({"bitwise_and": OPERATIONS["logical_and"], "bitwise_or": OPERATIONS["logical_or"]})


@operation("add", "add_")
def add(graph: Graph, a: Any, b: Any, alpha: float = 1) -> Symbol:
    """``a + alpha b``."""
    left, right = promoted(graph, a, b if alpha == 1 else call("mul", graph, b, alpha))
    return graph.add("Add", [left, right], left.dtype, max(left.rank, right.rank))


@operation("sub", "sub_")
def sub(graph: Graph, a: Any, b: Any, alpha: float = 1) -> Symbol:
    """``a - alpha b``."""
    left, right = promoted(graph, a, b if alpha == 1 else call("mul", graph, b, alpha))
    return graph.add("Sub", [left, right], left.dtype, max(left.rank, right.rank))


@operation("rsub")
def rsub(graph: Graph, a: Any, b: Any, alpha: float = 1) -> Symbol:
    """``b - alpha a``."""
    return sub(graph, b, a, alpha)


@operation("div", "true_divide")
def div(graph: Graph, a: Any, b: Any, rounding_mode: str | None = None) -> Symbol:
    """``a / b``, also of whole numbers, rounded where that is asked for."""
    left, right = promoted(graph, a, b)
    if rounding_mode is None and not left.dtype.is_floating_point:
        left, right = (converted(graph, value, torch.float32) for value in (left, right))
    rank = max(left.rank, right.rank)
    if rounding_mode == "floor" and not left.dtype.is_floating_point:
        rest = graph.add("Mod", [left, right], left.dtype, rank)
        left, rounding_mode = graph.add("Sub", [left, rest], left.dtype, rank), None
    quotient = graph.add("Div", [left, right], left.dtype, rank)
    if rounding_mode == "floor":
        return graph.add("Floor", [quotient], quotient.dtype, rank)
    if rounding_mode == "trunc" and left.dtype.is_floating_point:
        return converted(graph, converted(graph, quotient, torch.int64), quotient.dtype)
    return quotient


@operation("floor_divide")
def floor_divide(graph: Graph, a: Any, b: Any) -> Symbol:
    """``a // b``."""
    return div(graph, a, b, "floor")


@operation("remainder")
def remainder(graph: Graph, a: Any, b: Any) -> Symbol:
    """``a % b`` with the sign of b."""
    left, right = promoted(graph, a, b)
    if not left.dtype.is_floating_point:
        return graph.add("Mod", [left, right], left.dtype, max(left.rank, right.rank))
    return sub(graph, left, call("mul", graph, div(graph, left, right, "floor"), right))


@operation("fmod")
def fmod(graph: Graph, a: Any, b: Any) -> Symbol:
    """``a % b`` with the sign of a."""
    left, right = promoted(graph, a, b)
    return graph.add("Mod", [left, right], left.dtype, max(left.rank, right.rank), fmod=1)


@operation("ne")
def ne(graph: Graph, a: Any, b: Any) -> Symbol:
    """``a != b``."""
    return logical_not(graph, call("eq", graph, a, b))


@operation("logical_not", "bitwise_not")
def logical_not(graph: Graph, x: Symbol) -> Symbol:
    """Whether x is zero."""
    return graph.add("Not", [converted(graph, x, torch.bool)], torch.bool, x.rank)


@operation("square")
def square(graph: Graph, x: Symbol) -> Symbol:
    """``x x``."""
    return call("mul", graph, x, x)


@operation("rsqrt")
def rsqrt(graph: Graph, x: Symbol) -> Symbol:
    """``1 / sqrt(x)``."""
    return call("reciprocal", graph, call("sqrt", graph, x))


@operation("log1p")
def log1p(graph: Graph, x: Symbol) -> Symbol:
    """``log(1 + x)``."""
    return call("log", graph, add(graph, x, 1))


@operation("atan2")
def atan2(graph: Graph, y: Symbol, x: Symbol) -> Symbol:
    """Angle of (x, y): twice that of half of it, which never leaves the range of the arc tangent."""
    radius = call("sqrt", graph, add(graph, square(graph, x), square(graph, y)))
    right = call("gt", graph, x, 0)
    # of y / (r + x) and (r - x) / y the one without cancellation
    ratio = call(
        "where",
        graph,
        right,
        _safe_ratio(graph, y, add(graph, radius, x)),
        _safe_ratio(graph, sub(graph, radius, x), y),
    )
    half = call("mul", graph, call("atan", graph, ratio), 2.0)
    on_axis = call("where", graph, call("lt", graph, x, 0), math.pi, 0.0)
    return call("where", graph, call("eq", graph, y, 0), on_axis, half)


def _safe_ratio(graph: Graph, a: Symbol, b: Symbol) -> Symbol:
    empty = call("eq", graph, b, 0)
    return call("where", graph, empty, 0.0, div(graph, a, call("where", graph, empty, 1.0, b)))


@operation("clamp", "clip", "clamp_")
def clamp(graph: Graph, x: Symbol, min: Any = None, max: Any = None) -> Symbol:  # noqa: A002  (ATen's names)
    """Limit x from both sides."""
    x = x if min is None else call("maximum", graph, x, min)
    return x if max is None else call("minimum", graph, x, max)


@operation("clamp_min", "clamp_min_")
def clamp_min(graph: Graph, x: Symbol, low: Any) -> Symbol:
    """Limit x from below."""
    return call("maximum", graph, x, low)


@operation("clamp_max")
def clamp_max(graph: Graph, x: Symbol, high: Any) -> Symbol:
    """Limit x from above."""
    return call("minimum", graph, x, high)


@operation("where")
def where(graph: Graph, condition: Symbol, a: Any, b: Any) -> Symbol:
    """``a`` where the condition holds, ``b`` elsewhere."""
    left, right = promoted(graph, a, b)
    rank = max(condition.rank, left.rank, right.rank)
    return graph.add("Where", [converted(graph, condition, torch.bool), left, right], left.dtype, rank)


@operation("masked_fill", "masked_fill_")
def masked_fill(graph: Graph, x: Symbol, mask: Symbol, value: Any) -> Symbol:
    """``value`` where the mask holds, x elsewhere."""
    return where(graph, mask, converted(graph, value, x.dtype), x)


@operation("leaky_relu", "leaky_relu_")
def leaky_relu(graph: Graph, x: Symbol, negative_slope: float = 0.01) -> Symbol:
    """x, and less of it below zero."""
    return graph.add("LeakyRelu", [x], x.dtype, x.rank, alpha=float(negative_slope))


@operation("elu")
def elu(graph: Graph, x: Symbol, alpha: float = 1.0) -> Symbol:
    """Exponential linear unit."""
    return graph.add("Elu", [x], x.dtype, x.rank, alpha=float(alpha))


@operation("silu", "silu_")
def silu(graph: Graph, x: Symbol) -> Symbol:
    """``x sigmoid(x)``."""
    return call("mul", graph, x, call("sigmoid", graph, x))


@operation("gelu")
def gelu(graph: Graph, x: Symbol, approximate: str = "none") -> Symbol:
    """Gaussian error linear unit."""
    if approximate == "tanh":
        cubic = add(graph, x, call("mul", graph, call("mul", graph, square(graph, x), x), 0.044715))
        bent = call("tanh", graph, call("mul", graph, cubic, math.sqrt(2 / math.pi)))
    else:
        bent = call("erf", graph, call("mul", graph, x, math.sqrt(0.5)))
    return call("mul", graph, call("mul", graph, x, 0.5), add(graph, bent, 1.0))


@operation("softplus")
def softplus(graph: Graph, x: Symbol, beta: float = 1, threshold: float = 20) -> Symbol:
    """``log(1 + exp(beta x)) / beta``."""
    scaled = call("mul", graph, x, beta)
    soft = div(graph, graph.add("Softplus", [scaled], x.dtype, x.rank), beta)
    return where(graph, call("gt", graph, scaled, threshold), x, soft)


@operation("softmax", "_softmax")
def softmax(graph: Graph, x: Symbol, dim: int, *_: Any, **__: Any) -> Symbol:
    """Exponentials that add up to one along an axis."""
    return graph.add("Softmax", [x], x.dtype, x.rank, axis=dim)


@operation("prelu", "_prelu_kernel")
def prelu(graph: Graph, x: Symbol, weight: Any) -> Symbol:
    """x, and a learned part of it below zero, by channel."""
    slope = graph.symbol(weight)
    if slope.rank == 1:
        slope = call("reshape", graph, slope, [-1, *[1] * (x.rank - 2)])
    return graph.add("PRelu", [x, slope], x.dtype, x.rank)


# Reductions. Several axes are taken one after the other, from the last: ONNX Runtime adds up all entries of a reduction in one
# float32, which costs digits over some hundred thousand of them.


def axes_of(x: Symbol, dim: Any) -> list[int]:
    """Return the axes that an argument names, from the last to the first; None and [] are all."""
    chosen = range(x.rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return sorted({axis % x.rank for axis in chosen}, reverse=True)


def _reduced(operator: str) -> Any:
    def write(graph: Graph, x: Symbol, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Symbol:
        if dtype is not None:
            x = converted(graph, x, dtype)
        elif operator == "ReduceSum" and not x.dtype.is_floating_point:
            x = converted(graph, x, torch.int64)
        for axis in axes_of(x, dim):
            x = graph.add(
                operator, [x, graph.lengths([axis])], x.dtype, x.rank if keepdim else x.rank - 1, keepdims=int(keepdim)
            )
        return x

    return write


for _name, _operator in {
    "sum": "ReduceSum",
    "mean": "ReduceMean",
    "amax": "ReduceMax",
    "amin": "ReduceMin",
    "prod": "ReduceProd",
}.items():
    OPERATIONS[_name] = _reduced(_operator)


def _largest_or_smallest(along: str, of_two: str, place: str) -> Any:
    """ATen's ``max`` and ``min``: of everything, of two tensors, or values and places along an axis."""

    def write(graph: Graph, x: Symbol, other: Any = None, keepdim: bool = False) -> Any:
        if other is None:
            return call(along, graph, x)
        if isinstance(other, int):
            return [call(along, graph, x, other, keepdim), call(place, graph, x, other, keepdim)]
        return call(of_two, graph, x, other)

    return write


OPERATIONS["max"] = _largest_or_smallest("amax", "maximum", "argmax")
OPERATIONS["min"] = _largest_or_smallest("amin", "minimum", "argmin")


@operation("any")
def any_of(graph: Graph, x: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    """Whether any entry is not zero."""
    ones = converted(graph, converted(graph, x, torch.bool), torch.int32)
    return converted(graph, call("amax", graph, ones, dim, keepdim), torch.bool)


@operation("all")
def all_of(graph: Graph, x: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    """Whether no entry is zero."""
    ones = converted(graph, converted(graph, x, torch.bool), torch.int32)
    return converted(graph, call("amin", graph, ones, dim, keepdim), torch.bool)


def _extreme(operator: str) -> Any:
    def write(graph: Graph, x: Symbol, dim: int | None = None, keepdim: bool = False) -> Symbol:
        if dim is None:
            x, dim = call("reshape", graph, x, [-1]), 0
        x = converted(graph, x, torch.int32) if x.dtype in (torch.bool, torch.int8, torch.uint8) else x
        rank = x.rank if keepdim else x.rank - 1
        return graph.add(operator, [x], torch.int64, rank, axis=dim, keepdims=int(keepdim))

    return write


OPERATIONS.update({"argmax": _extreme("ArgMax"), "argmin": _extreme("ArgMin")})


@operation("linalg_vector_norm", "norm")
def vector_norm(graph: Graph, x: Symbol, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Symbol:  # noqa: A002
    """Norm along axes."""
    if ord == 2:
        return call("sqrt", graph, call("sum", graph, square(graph, x), dim, keepdim))
    if ord == 1:
        return call("sum", graph, call("abs", graph, x), dim, keepdim)
    if ord == math.inf:
        return call("amax", graph, call("abs", graph, x), dim, keepdim)
    raise UnknownOperationError(f"the norm of order {ord}")


@operation("var")
def var(graph: Graph, x: Symbol, dim: Any = None, correction: Any = 1, keepdim: bool = False, **_: Any) -> Symbol:
    """Variance along axes, divided by the number of entries less ``correction``."""
    if isinstance(correction, bool):
        correction = int(correction)
    centred = sub(graph, x, call("mean", graph, x, dim, True))
    total = call("sum", graph, square(graph, centred), dim, keepdim)
    count: Length = 1
    for axis in axes_of(x, dim):
        count = size(graph, x, axis) * count
    return div(
        graph, total, converted(graph, scalar(graph, count - (1 if correction is None else correction)), x.dtype)
    )


@operation("std")
def std(graph: Graph, x: Symbol, dim: Any = None, correction: Any = 1, keepdim: bool = False, **_: Any) -> Symbol:
    """Root of ``var``."""
    return call("sqrt", graph, var(graph, x, dim, correction, keepdim))


@operation("cumsum")
def cumsum(graph: Graph, x: Symbol, dim: int, dtype: Any = None) -> Symbol:
    """Sums of the entries so far."""
    wanted = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    return graph.add("CumSum", [converted(graph, x, wanted), graph.constant(torch.tensor(dim))], wanted, x.rank)


# Products


@operation("matmul", "mm", "bmm", "mv", "dot")
def matmul(graph: Graph, a: Any, b: Any) -> Symbol:
    """Product of matrices, broadcast over the axes in front."""
    left, right = promoted(graph, a, b)
    rank = max(left.rank, right.rank, 2) - (left.rank == 1) - (right.rank == 1)
    return graph.add("MatMul", [left, right], left.dtype, rank)


@operation("linear")
def linear(graph: Graph, x: Symbol, weight: Any, bias: Any = None) -> Symbol:
    """``x W^T + b``."""
    product = matmul(graph, x, call("transpose", graph, graph.symbol(weight), 0, 1))
    return product if bias is None else add(graph, product, bias)


@operation("addmm")
def addmm(graph: Graph, start: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Symbol:
    """``beta start + alpha a b``."""
    return add(graph, call("mul", graph, start, beta), matmul(graph, a, b), alpha)


@operation("baddbmm")
def baddbmm(graph: Graph, start: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Symbol:
    """``beta start + alpha a b``."""
    return addmm(graph, start, a, b, beta, alpha)


@operation("einsum")
def einsum(graph: Graph, equation: str, operands: Sequence[Any], path: Any = None) -> Symbol:
    """Einstein's sum."""
    del path
    given = [graph.symbol(value) for value in operands]
    rank = len(equation.split("->")[1].replace(" ", "")) if "->" in equation else None
    if rank is None or "." in equation:
        raise UnknownOperationError(f"einsum of {equation!r}, whose result is not written out")
    return graph.add("Einsum", given, given[0].dtype, rank, equation=equation.replace(" ", ""))


# New tensors


@operation("to", "_to_copy", "type_as")
def to(graph: Graph, x: Symbol, dtype: Any = None, *_: Any, **options: Any) -> Symbol:
    """Return x in another dtype."""
    wanted = options.get("dtype", dtype)
    if isinstance(wanted, Symbol):
        wanted = wanted.dtype
    return converted(graph, x, wanted) if isinstance(wanted, torch.dtype) else x


@operation("full", "new_full")
def full(graph: Graph, *args: Any, dtype: Any = None, **_: Any) -> Symbol:
    """A number, everywhere."""
    like, lengths, value = args if isinstance(args[0], Symbol) else (None, *args)
    wanted = dtype or (like.dtype if like is not None else torch.as_tensor(value).dtype)
    return expand_to(graph, converted(graph, value, wanted), lengths)


def expand_to(graph: Graph, value: Symbol, lengths: Sequence[Length]) -> Symbol:
    """Repeat a tensor of one entry."""
    if not lengths:
        return value
    return graph.add("Expand", [value, graph.lengths(lengths)], value.dtype, len(lengths))


def _filled(value: float) -> Any:
    def write(graph: Graph, *args: Any, dtype: Any = None, **_: Any) -> Symbol:
        like, lengths = args[:2] if isinstance(args[0], Symbol) else (None, args[0])
        wanted = dtype or (like.dtype if like is not None else torch.get_default_dtype())
        return expand_to(graph, graph.constant(torch.tensor(value, dtype=wanted)), lengths)

    return write


OPERATIONS.update({name: _filled(0) for name in ("zeros", "new_zeros", "empty", "new_empty")})
OPERATIONS.update({name: _filled(1) for name in ("ones", "new_ones")})


@operation("full_like")
def full_like(graph: Graph, x: Symbol, value: Any, dtype: Any = None, **_: Any) -> Symbol:
    """A number, everywhere, in the shape of x."""
    constant = converted(graph, value, dtype or x.dtype)
    return constant if x.rank == 0 else graph.add("Expand", [constant, shape_of(graph, x)], constant.dtype, x.rank)


@operation("zeros_like", "empty_like")
def zeros_like(graph: Graph, x: Symbol, dtype: Any = None, **_: Any) -> Symbol:
    """Zeros in the shape of x."""
    return full_like(graph, x, 0, dtype)


@operation("ones_like")
def ones_like(graph: Graph, x: Symbol, dtype: Any = None, **_: Any) -> Symbol:
    """Ones in the shape of x."""
    return full_like(graph, x, 1, dtype)


def shape_of(graph: Graph, x: Symbol) -> Symbol:
    """All lengths of a tensor, int64 [rank]."""
    return graph.add("Shape", [x], torch.int64, 1)


@operation("scalar_tensor")
def scalar_tensor(graph: Graph, value: Any, dtype: Any = None, **_: Any) -> Symbol:
    """A number as a tensor."""
    number = scalar(graph, value) if isinstance(value, Integer) else graph.constant(torch.tensor(value))
    return converted(graph, number, dtype or number.dtype)


@operation("arange")
def arange(graph: Graph, *args: Any, dtype: Any = None, **_: Any) -> Symbol:
    """Numbers from ``start`` up to ``end``, which is not among them."""
    start, end, step = {1: (0, *args, 1), 2: (*args, 1)}.get(len(args), args)
    if any(isinstance(value, float) for value in args):
        raise UnknownOperationError("arange of fractions")
    numbers = graph.add("Range", [scalar(graph, value) for value in (start, end, step)], torch.int64, 1)
    return converted(graph, numbers, dtype or torch.int64)


@operation("eye")
def eye(graph: Graph, rows: Length, columns: Length | None = None, dtype: Any = None, **_: Any) -> Symbol:
    """Identity matrix."""
    wanted = dtype or torch.get_default_dtype()
    shape = zeros = expand_to(
        graph, graph.constant(torch.tensor(0, dtype=wanted)), [rows, rows if columns is None else columns]
    )
    return graph.add("EyeLike", [zeros], wanted, shape.rank, dtype=ELEMENTS[wanted])
