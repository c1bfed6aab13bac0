"""Rewrite a module that computes with complex tensors into one that carries real and imaginary part in a last axis of two.

ONNX has no complex tensors, and its exporter knows few operations on them. The module is exported to a graph of ATen operations
first; running that graph by this interpreter, and exporting the run, gives a graph of real operations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter

from ..models import planar


@dataclass(frozen=True)
class Complex:
    """A complex tensor, as a real one [..., 2]."""

    parts: Tensor

    @property
    def rank(self) -> int:
        """Number of its axes."""
        return self.parts.dim() - 1


class PlanarModule(nn.Module):
    """Runs the graph of a module with real operations only; takes and returns real tensors.

    Parameters
    ----------
    graph
        Graph module of ATen operations.
    """

    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        self.graph_module = graph

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the module returns.

        Raises
        ------
        NotImplementedError
            An operation on complex tensors is not known here.
        """
        return _PlanarInterpreter(self.graph_module).run(*inputs)


class _PlanarInterpreter(Interpreter):
    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(getattr(target, "overloadpacket", target), "__name__", str(target))
        if name in _MAKERS:
            return _MAKERS[name](*args, **kwargs)
        if name == "_to_copy" and _is_complex(kwargs.get("dtype")) and not isinstance(args[0], Complex):
            return _from_real(args[0])
        if not any(isinstance(value, Complex) for value in _flat((args, tuple(kwargs.values())))):
            return super().call_function(target, args, kwargs)
        if name not in _OPERATIONS:
            raise NotImplementedError(f"the operation {target} on complex tensors cannot be exported to ONNX")
        return _OPERATIONS[name](*args, **kwargs)


def _flat(values: Any) -> list[Any]:
    if isinstance(values, list | tuple):
        return [item for value in values for item in _flat(value)]
    return [values]


def _is_complex(dtype: Any) -> bool:
    return isinstance(dtype, torch.dtype) and dtype.is_complex


def _from_real(x: Tensor) -> Complex:
    return Complex(torch.stack((x, torch.zeros_like(x)), dim=-1))


def _complex(real: Tensor, imaginary: Tensor) -> Complex:
    return Complex(torch.stack(torch.broadcast_tensors(real, imaginary), dim=-1))


def _view_as_complex(x: Tensor) -> Complex:
    return Complex(x)


def _any(x: Any, like: Complex) -> Complex:
    """Return a number, a real or a complex tensor as complex tensor."""
    if isinstance(x, Complex):
        return x
    if isinstance(x, Tensor):
        return _from_real(x.to(like.parts.dtype))
    value = complex(x)
    return Complex(torch.tensor([value.real, value.imag], dtype=like.parts.dtype, device=like.parts.device))


def _first(*values: Any) -> Complex:
    return next(value for value in values if isinstance(value, Complex))


def _aligned(a: Complex, b: Complex) -> tuple[Tensor, Tensor]:
    """Real tensors whose leading axes broadcast as those of the complex ones."""
    left, right = a.parts, b.parts
    while left.dim() < right.dim():
        left = left.unsqueeze(0)
    while right.dim() < left.dim():
        right = right.unsqueeze(0)
    return left, right


def _is_real(x: Any) -> bool:
    return not isinstance(x, Complex) and not isinstance(x, complex)


def _multiply(a: Any, b: Any) -> Complex:
    first = _first(a, b)
    if _is_real(a) or _is_real(b):
        other = b if isinstance(a, Complex) else a
        return Complex(first.parts * (other.unsqueeze(-1) if isinstance(other, Tensor) else other))
    return Complex(planar.multiply(*_aligned(_any(a, first), _any(b, first))))


def _divide(a: Any, b: Any) -> Complex:
    first = _first(a, b)
    if _is_real(b):
        return Complex(first.parts / (b.unsqueeze(-1) if isinstance(b, Tensor) else b))
    numerator, denominator = _aligned(_any(a, first), _any(b, first))
    return Complex(planar.multiply_conjugate(denominator, numerator) / denominator.square().sum(dim=-1, keepdim=True))


def _add(a: Any, b: Any, alpha: float = 1) -> Complex:
    left, right = _aligned(_any(a, _first(a, b)), _any(b, _first(a, b)))
    return Complex(left + alpha * right)


def _subtract(a: Any, b: Any, alpha: float = 1) -> Complex:
    return _add(a, b, -alpha)


def _conjugate(x: Complex) -> Complex:
    return Complex(torch.stack((x.parts[..., 0], -x.parts[..., 1]), dim=-1))


def _matmul(a: Any, b: Any) -> Complex:
    first = _first(a, b)
    left, right = _any(a, first).parts, _any(b, first).parts
    real, imaginary = left[..., 0], left[..., 1]
    other, turned = right[..., 0], right[..., 1]
    return Complex(torch.stack((real @ other - imaginary @ turned, real @ turned + imaginary @ other), dim=-1))


def _absolute(x: Complex) -> Tensor:
    return planar.magnitude(x.parts)


def _angle(x: Complex) -> Tensor:
    return torch.atan2(x.parts[..., 1], x.parts[..., 0])


def _exponential(x: Complex) -> Complex:
    size, turn = torch.exp(x.parts[..., 0]), x.parts[..., 1]
    return Complex(torch.stack((size * torch.cos(turn), size * torch.sin(turn)), dim=-1))


def _sign(x: Complex) -> Complex:
    return Complex(planar.ratio_or_zero(x.parts, _absolute(x).unsqueeze(-1).expand_as(x.parts)))


def _power(x: Complex, exponent: Any) -> Complex:
    if exponent != 2:
        raise NotImplementedError(f"the power {exponent} of complex tensors cannot be exported to ONNX")
    return _multiply(x, x)


def _vector_norm(x: Complex, order: float = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    return torch.linalg.vector_norm(_absolute(x), order, dim, keepdim)


def _dim(dim: int) -> int:
    """Axis of the real tensor."""
    return dim if dim >= 0 else dim - 1


def _dims(x: Complex, dim: Any) -> list[int]:
    chosen = range(x.rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return [_dim(axis) for axis in chosen]


def _along(function: Callable[..., Tensor]) -> Callable[..., Complex]:
    """Operation whose second argument is an axis."""

    def apply(x: Complex, dim: int = 0, *args: Any, **kwargs: Any) -> Complex:
        return Complex(function(x.parts, _dim(dim), *args, **kwargs))

    return apply


def _reduced(function: Callable[..., Tensor]) -> Callable[..., Complex]:
    def apply(x: Complex, dim: Any = None, keepdim: bool = False, **_: Any) -> Complex:
        return Complex(function(x.parts, _dims(x, dim), keepdim))

    return apply


def _same(x: Complex, *_: Any, **__: Any) -> Complex:
    return x


def _view(x: Complex, shape: Sequence[Any]) -> Complex:
    return Complex(x.parts.reshape([*shape, 2]))


def _expand(x: Complex, shape: Sequence[Any], **_: Any) -> Complex:
    return Complex(x.parts.expand([*shape, 2]))


def _permute(x: Complex, dims: Sequence[int]) -> Complex:
    return Complex(x.parts.permute([*(dim % x.rank for dim in dims), x.rank]))


def _transpose(x: Complex, first: int, second: int) -> Complex:
    return Complex(x.parts.transpose(_dim(first), _dim(second)))


def _joined(function: Callable[..., Tensor]) -> Callable[..., Complex]:
    def apply(tensors: Sequence[Any], dim: int = 0) -> Complex:
        first = _first(*tensors)
        return Complex(function([_any(x, first).parts for x in tensors], _dim(dim)))

    return apply


def _slice(x: Complex, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Complex:
    return Complex(torch.ops.aten.slice.Tensor(x.parts, _dim(dim), start, end, step))


def _squeeze(x: Complex, dim: Any = None) -> Complex:
    return Complex(x.parts.squeeze(tuple(_dims(x, dim))))


def _pad(x: Complex, pad: Sequence[Any], value: float = 0) -> Complex:
    return Complex(torch.nn.functional.pad(x.parts, [0, 0, *pad], value=value))


def _repeat(x: Complex, times: Sequence[Any]) -> Complex:
    return Complex(x.parts.repeat([*times, 1]))


def _flip(x: Complex, dims: Sequence[int]) -> Complex:
    return Complex(x.parts.flip([_dim(dim) for dim in dims]))


def _where(condition: Tensor, a: Any, b: Any) -> Complex:
    left, right = _aligned(_any(a, _first(a, b)), _any(b, _first(a, b)))
    return Complex(torch.where(condition.unsqueeze(-1), left, right))


def _filled(value: float) -> Callable[..., Complex]:
    def apply(x: Complex, *_: Any, **__: Any) -> Complex:
        return _from_real(torch.full_like(x.parts[..., 0], value))

    return apply


def _view_as_real(x: Complex) -> Tensor:
    return x.parts


def _size(x: Complex, dim: int) -> Any:
    return x.parts.shape[_dim(dim)]


_MAKERS: dict[str, Callable[..., Any]] = {"view_as_complex": _view_as_complex, "complex": _complex}

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "view_as_real": _view_as_real,
    "sym_size": _size,
    "real": lambda x: x.parts[..., 0],
    "imag": lambda x: x.parts[..., 1],
    "abs": _absolute,
    "angle": _angle,
    "linalg_vector_norm": _vector_norm,
    "mul": _multiply,
    "div": _divide,
    "add": _add,
    "sub": _subtract,
    "rsub": lambda a, b, alpha=1: _subtract(b, a, alpha),
    "neg": lambda x: Complex(-x.parts),
    "pow": _power,
    "square": lambda x: _multiply(x, x),
    "reciprocal": lambda x: _divide(1 + 0j, x),
    "exp": _exponential,
    "sgn": _sign,
    "mm": _matmul,
    "bmm": _matmul,
    "matmul": _matmul,
    "sum": _reduced(torch.sum),
    "mean": _reduced(torch.mean),
    "_conj": _conjugate,
    "conj": _conjugate,
    "conj_physical": _conjugate,
    "_conj_physical": _conjugate,
    **dict.fromkeys(
        ("resolve_conj", "resolve_neg", "clone", "contiguous", "alias", "detach", "_to_copy", "lift"), _same
    ),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "_reshape_alias"), _view),
    "expand": _expand,
    "permute": _permute,
    "transpose": _transpose,
    "unsqueeze": _along(torch.unsqueeze),
    "select": _along(torch.select),
    "narrow": _along(torch.narrow),
    "index_select": _along(torch.index_select),
    "slice": _slice,
    "squeeze": _squeeze,
    "cat": _joined(torch.cat),
    "stack": _joined(torch.stack),
    "constant_pad_nd": _pad,
    "repeat": _repeat,
    "flip": _flip,
    "where": _where,
    "full_like": lambda x, value, **_: _filled(value)(x),
    "zeros_like": _filled(0.0),
    "ones_like": _filled(1.0),
}
