"""The operations of torch on real tensors, by the names that ATen has for them, as they are written to an ONNX graph."""

from collections.abc import Callable
from typing import Any

import torch

from ..errors import UnknownOperationError
from .symbols import ELEMENTS, Graph, Integer, Length, Symbol

OPERATIONS: dict[str, Callable[..., Any]] = {}
"""What an operation does to a graph. Arguments are those of ATen's, with the graph first."""


def operation(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into the table."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return enter


def call(name: str, graph: Graph, *args: Any, **kwargs: Any) -> Any:
    """Write an operation to a graph.

    Raises
    ------
    UnknownOperationError
        It is not in the table, or not with these arguments.
    """
    if name not in OPERATIONS:
        raise UnknownOperationError(f"the operation {name}")
    first, *rest = args
    # weights may be computed with before anything that comes in is
    return OPERATIONS[name](graph, graph.constant(first) if isinstance(first, torch.Tensor) else first, *rest, **kwargs)


def converted(graph: Graph, value: Any, dtype: torch.dtype) -> Symbol:
    """Return a symbol, a tensor or a number as a symbol of this dtype."""
    if not isinstance(value, Symbol | Integer):
        return graph.constant(value, dtype)
    symbol = graph.symbol(value)
    return symbol if symbol.dtype == dtype else graph.add("Cast", [symbol], dtype, symbol.rank, to=ELEMENTS[dtype])


def promoted(graph: Graph, *values: Any) -> list[Symbol]:
    """Return two operands in the dtype that torch would compute in."""
    left, right = (_example(value) for value in values)
    dtype = torch.result_type(left, right)
    return [converted(graph, value, dtype) for value in values]


def _example(value: Any) -> Any:
    if isinstance(value, Symbol):
        return torch.empty([1] * value.rank, dtype=value.dtype, device="meta")
    return 1 if isinstance(value, Integer) else value


def scalar(graph: Graph, value: Length) -> Symbol:
    """Return a length as a tensor without axes."""
    if isinstance(value, int):
        return graph.constant(torch.tensor(value))
    return graph.add("Squeeze", [value.symbol], torch.int64, 0)


def size(graph: Graph, x: Symbol, axis: int) -> Length:
    """Return the length of an axis."""
    return graph.size(x, axis)
