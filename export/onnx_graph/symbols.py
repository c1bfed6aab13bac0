"""Tensors and lengths of an ONNX graph that is being written.

A ``Symbol`` stands for a tensor of which only dtype and number of axes are known, an ``Integer`` for a length. Computing with
them adds nodes to their ``Graph``. The same operation on the same inputs is written once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from ..errors import UnknownOperationError

OPSET = 18
IR_VERSION = 10
ELEMENTS = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}


@dataclass(frozen=True)
class Symbol:
    """A tensor of the graph.

    Parameters
    ----------
    graph
        It belongs to.
    name
        Of the value.
    dtype
        Real.
    rank
        Number of axes.
    """

    graph: "Graph" = field(repr=False, compare=False)
    name: str
    dtype: torch.dtype
    rank: int

    def dim(self) -> int:
        """Return the number of axes."""
        return self.rank


@dataclass(frozen=True)
class Integer:
    """A length, or what is computed from lengths: an int64 tensor of one entry.

    Parameters
    ----------
    symbol
        The tensor [1].
    """

    symbol: Symbol

    def _with(self, operator: str, other: "int | Integer", *, swapped: bool = False) -> "Integer":
        graph = self.symbol.graph
        left, right = self.symbol, graph.lengths([other])
        left, right = (right, left) if swapped else (left, right)
        return Integer(graph.add(operator, [left, right], torch.int64, 1))

    def __add__(self, other: "int | Integer") -> "Integer":
        return self._with("Add", other)

    __radd__ = __add__

    def __sub__(self, other: "int | Integer") -> "Integer":
        return self._with("Sub", other)

    def __rsub__(self, other: "int | Integer") -> "Integer":
        return self._with("Sub", other, swapped=True)

    def __mul__(self, other: "int | Integer") -> "Integer":
        return self._with("Mul", other)

    __rmul__ = __mul__

    def __mod__(self, other: "int | Integer") -> "Integer":
        return self._with("Mod", other)

    def __rmod__(self, other: "int | Integer") -> "Integer":
        return self._with("Mod", other, swapped=True)

    def __floordiv__(self, other: "int | Integer") -> "Integer":
        # ONNX divides towards zero, Python downwards
        return (self - self % other)._with("Div", other)

    def __truediv__(self, other: "int | Integer") -> "Ratio":
        return Ratio(self, other)

    def __neg__(self) -> "Integer":
        return 0 - self

    def __or__(self, mask: int) -> "Integer":
        """Set the lowest bits, as sizes are rounded up to a multiple less one."""
        if not isinstance(mask, int) or mask & (mask + 1):
            raise UnknownOperationError(f"{mask!r} as bits of a length")
        return self - self % (mask + 1) + mask

    def __and__(self, mask: int) -> "Integer":
        """Keep the lowest bits."""
        if not isinstance(mask, int) or mask & (mask + 1):
            raise UnknownOperationError(f"{mask!r} as bits of a length")
        return self % (mask + 1)

    def smallest(self, other: "int | Integer") -> "Integer":
        """Return the smaller one."""
        return self._with("Min", other)

    def largest(self, other: "int | Integer") -> "Integer":
        """Return the larger one."""
        return self._with("Max", other)


@dataclass(frozen=True)
class Ratio:
    """A length divided by another, before it is rounded."""

    numerator: Integer
    denominator: int | Integer

    def __floor__(self) -> Integer:
        return self.numerator // self.denominator

    def __ceil__(self) -> Integer:
        return -(-self.numerator // self.denominator)


Length = int | Integer


@dataclass
class _Scope:
    """Nodes of a graph or of the body of a loop, and the outputs of each by what it is."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    written: dict[tuple[Any, ...], list[str]] = field(default_factory=dict)


class Graph:
    """Nodes and constants. Inside ``loop`` nodes go to the body, which sees everything that was written before."""

    def __init__(self) -> None:
        self._scopes = [_Scope()]
        self._constants: dict[tuple[Any, ...], tuple[str, TensorProto]] = {}
        self._names = 0
        self._shapes: dict[str, Sequence[int | str]] = {}
        self._lengths: dict[str, Integer] = {}

    def name(self) -> str:
        """Return a name that no other value has."""
        self._names += 1
        return f"v{self._names}"

    def add(self, operator: str, inputs: Sequence[Any], dtype: torch.dtype, rank: int, /, **attributes: Any) -> Symbol:
        """Write a node with one output.

        Parameters
        ----------
        operator
            Of ONNX.
        inputs
            Symbols, or what ``constant`` takes; None for an optional one that is left out.
        dtype, rank
            Of the output.
        attributes
            Of the node.
        """
        return self.add_many(operator, inputs, [(dtype, rank)], **attributes)[0]

    def add_many(
        self, operator: str, inputs: Sequence[Any], outputs: Sequence[tuple[torch.dtype, int]], /, **attributes: Any
    ) -> list[Symbol]:
        """Write a node with several outputs, given their dtypes and ranks."""
        names = ["" if value is None else self.symbol(value).name for value in inputs]
        key = (operator, *names, *sorted((name, str(value)) for name, value in attributes.items()), len(outputs))
        found = next((scope.written[key] for scope in self._scopes if key in scope.written), None)
        if found is None:
            found = [self.name() for _ in outputs]
            self._scopes[-1].nodes.append(helper.make_node(operator, names, found, **attributes))
            self._scopes[-1].written[key] = found
        return [Symbol(self, name, dtype, rank) for name, (dtype, rank) in zip(found, outputs, strict=True)]

    def symbol(self, value: Any) -> Symbol:
        """Return the symbol of a length, or a constant of anything that is no symbol."""
        if isinstance(value, Integer):
            return value.symbol
        return value if isinstance(value, Symbol) else self.constant(value)

    def constant(self, value: Any, dtype: torch.dtype | None = None) -> Symbol:
        """Return numbers, an array or a tensor as a constant of the graph."""
        tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)
        # a part of a complex tensor of one number is contiguous, and two numbers wide all the same
        tensor = tensor.to(dtype or tensor.dtype).cpu().clone(memory_format=torch.contiguous_format)
        if tensor.dtype not in ELEMENTS:
            raise UnknownOperationError(f"constants of {tensor.dtype}")
        # ONNX's own bytes: numpy has no bfloat16
        content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        key = (tensor.dtype, tuple(tensor.shape), content)
        if key not in self._constants:
            name = self.name()
            proto = helper.make_tensor(name, ELEMENTS[tensor.dtype], list(tensor.shape), content, raw=True)
            self._constants[key] = (name, proto)
        return Symbol(self, self._constants[key][0], tensor.dtype, tensor.dim())

    def know_shape(self, x: Symbol, shape: Sequence[int | str]) -> None:
        """Note what is known of a shape: lengths, or names that stand for the same length wherever they occur."""
        self._shapes.setdefault(x.name, shape)

    def size(self, x: Symbol, axis: int) -> Length:
        """Return the length of an axis: a number where it is known, and the same for axes that are known to be equally long."""
        place = axis % x.rank
        known = self._shapes.get(x.name, [""] * x.rank)[place]
        if isinstance(known, int):
            return known
        if known in self._lengths:
            return self._lengths[known]
        length = Integer(self.add("Shape", [x], torch.int64, 1, start=place, end=place + 1))
        # what is written in the body of a loop is not seen outside
        if known and len(self._scopes) == 1:
            self._lengths[known] = length
        return length

    def lengths(self, values: Sequence[Length]) -> Symbol:
        """Return lengths as one int64 tensor [number of them]."""
        if all(isinstance(value, int) for value in values):
            return self.constant(torch.tensor([int(value) for value in values], dtype=torch.int64))  # pyright: ignore[reportArgumentType]
        parts = [
            value.symbol if isinstance(value, Integer) else self.constant(torch.tensor([value])) for value in values
        ]
        return parts[0] if len(parts) == 1 else self.add("Concat", parts, torch.int64, 1, axis=0)

    def loop(self, steps: int, function: Callable[..., Sequence[Symbol]], state: Sequence[Symbol]) -> list[Symbol]:
        """Call a function this often, each time with what it returned before; its nodes are written once.

        Parameters
        ----------
        steps
            How often.
        function
            Takes and returns symbols, of the same dtypes and ranks.
        state
            What it takes first.
        """
        given = [Symbol(self, self.name(), value.dtype, value.rank) for value in state]
        self._scopes.append(_Scope())
        try:
            made = function(*given)
        finally:
            nodes = self._scopes.pop().nodes
        going, kept = self.name(), self.name()
        # what leaves a body must be made in it, once
        copies = [self.name() for _ in made]
        nodes += [helper.make_node("Identity", [x.name], [copy]) for x, copy in zip(made, copies, strict=True)]
        nodes.append(helper.make_node("Identity", [going], [kept]))
        inputs = [
            helper.make_tensor_value_info(self.name(), TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(value.name, ELEMENTS[value.dtype], None) for value in given),
        ]
        outputs = [
            helper.make_tensor_value_info(kept, TensorProto.BOOL, []),
            *(
                helper.make_tensor_value_info(name, ELEMENTS[x.dtype], None)
                for name, x in zip(copies, made, strict=True)
            ),
        ]
        body = helper.make_graph(nodes, "body", inputs, outputs)
        kinds = [(value.dtype, value.rank) for value in state]
        return self.add_many("Loop", [torch.tensor(steps), torch.tensor(True), *state], kinds, body=body)

    def model(
        self, inputs: Mapping[Symbol, Sequence[str | int]], outputs: Mapping[str, tuple[Symbol, Sequence[str | int]]]
    ) -> onnx.ModelProto:
        """Return the whole, with the axes of its inputs, and its outputs by name."""
        given = [
            helper.make_tensor_value_info(value.name, ELEMENTS[value.dtype], list(axes))
            for value, axes in inputs.items()
        ]
        made = [
            helper.make_tensor_value_info(name, ELEMENTS[value.dtype], list(axes))
            for name, (value, axes) in outputs.items()
        ]
        ends = [helper.make_node("Identity", [value.name], [name]) for name, (value, _) in outputs.items()]
        nodes = _needed([*self._scopes[0].nodes, *ends], set(outputs))
        used = {name for node in nodes for name in _names_in(node)}
        constants = [proto for name, proto in self._constants.values() if name in used]
        graph = helper.make_graph(nodes, "reconstruction", given, made, constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="isocenter"
        )


def _names_in(node: onnx.NodeProto) -> set[str]:
    """Names of the values that a node reads, in its body as well."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= _names_in(inner)
    return names


def _needed(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Leave out the nodes whose results nobody reads."""
    wanted = set(wanted)
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= _names_in(node)
            kept.append(node)
    return kept[::-1]
