"""The one way down: a module is traced as it is written, and its graph is run again by rules that another runtime can follow.

1. ``torch.export`` traces the module to a graph of ATen operations with complex tensors, in which operations that have a
   substitution stay whole (``substitutions.py``).
2. An interpreter runs that graph. What is complex goes by the planar rules (``planar_pass.py``), what is real as it is. Given
   symbols of an ONNX graph it writes that graph (``onnx_graph``); given torch's tensors it computes, which ``torch.export`` can
   trace once more, for compilers that know no complex tensors.

Each operation is written once, and its shape is not looked for again: following lengths through a graph is what takes the time
of exporters.
"""

import logging
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from ..bundle.axes import fixed_length
from ..bundle.manifest import Manifest, TensorSpec
from .cases import Inputs
from .errors import UnknownOperationError
from .following import following
from .onnx_graph import arithmetic, layers, layout  # noqa: F401  (they fill the table of operations)
from .onnx_graph.symbols import Graph, Integer, Ratio, Symbol
from .onnx_graph.table import call
from .planar_pass import PlanarRules
from .planar_values import Complex
from .substitutions import Leaves, ThresholdByProducts

log: logging.Logger = logging.getLogger("isocenter.export")
_ASSERTIONS = frozenset(
    (
        "_assert_tensor_metadata",
        "_assert_scalar",
        "_assert_async",
        "sym_constrain_range_for_size",
        "sym_constrain_range",
    )
)


@dataclass(frozen=True)
class Traced:
    """A traced module.

    Parameters
    ----------
    program
        Its graph.
    one_entry
        Whether it takes one batch entry only.
    """

    program: ExportedProgram
    one_entry: bool = False


def trace(module: nn.Module, manifest: Manifest, inputs: Inputs) -> Traced:
    """Trace a module with every axis dynamic but those of a fixed length; nothing in the graph changes a tensor in place.

    A module that reads lengths from its data is traced for one batch entry, as these may differ from entry to entry.
    """
    try:
        return Traced(_traced(module, manifest, inputs))
    except Exception:  # the tracer raises what it likes, and what it raised first is raised again where nothing helps
        single = manifest.model_copy(update={"inputs": tuple(_of_one_entry(spec) for spec in manifest.inputs)})
        if single.inputs == manifest.inputs:
            raise
        entry = {name: tensor[:1] for name, tensor in inputs.items()}
        try:
            with following(module):
                return Traced(_traced(module, single, entry), one_entry=True)
        except Exception as second:
            log.debug("traced for one entry, it fails as well", exc_info=second)
        raise


def _of_one_entry(spec: TensorSpec) -> TensorSpec:
    return spec.model_copy(update={"axes": tuple("1" if axis == "batch" else axis for axis in spec.axes)})


def _traced(module: nn.Module, manifest: Manifest, inputs: Inputs) -> ExportedProgram:
    with Leaves(), torch.no_grad():
        program = torch.export.export(
            module, tuple(inputs[spec.name] for spec in manifest.inputs), dynamic_shapes=_dynamic(module, manifest)
        )
    if any(_changes_in_place(node) for node in program.graph.nodes):
        program = program.run_decompositions({})
    return program


def _dynamic(module: nn.Module, manifest: Manifest) -> Any:
    axes = tuple(
        {
            axis: torch.export.Dim.DYNAMIC
            for axis, name in enumerate(spec.axes)
            if fixed_length(name, spec.limits) is None
        }
        for spec in manifest.inputs
    )
    return (axes,) if isinstance(module, RealModule) else axes


def _changes_in_place(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def to_onnx(traced: Traced, manifest: Manifest) -> ModelProto:
    """Write a traced module as an ONNX graph, whose axes have the names of the manifest.

    Raises
    ------
    UnknownOperationError
        It holds an operation that cannot be written.
    """
    try:
        return _written(traced, traced.program, manifest)
    except UnknownOperationError as error:
        # torch knows the operation by simpler ones
        try:
            return _written(traced, traced.program.run_decompositions(), manifest)
        except UnknownOperationError as second:
            raise second from error


def _written(traced: Traced, program: ExportedProgram, manifest: Manifest) -> ModelProto:
    graph = Graph()
    inputs = {
        Symbol(graph, spec.name, torch.float32, len(spec.axes)): _axes(spec, traced.one_entry)
        for spec in manifest.inputs
    }
    result = _OnnxInterpreter(_without_assertions(program), graph).run(*inputs)
    values = result if isinstance(result, tuple | list) else (result,)
    taken = {spec.name for spec in manifest.inputs}
    named = {
        f"{spec.name}_out" if spec.name in taken else spec.name: (graph.symbol(value), _axes(spec, traced.one_entry))
        for spec, value in zip(manifest.outputs, values, strict=True)
    }
    return graph.model(inputs, named)


def _axes(spec: TensorSpec, one_entry: bool) -> list[str | int]:
    return [1 if one_entry and name == "batch" else fixed_length(name, spec.limits) or name for name in spec.axes]


class RealModule(nn.Module):
    """A traced module that computes with real tensors and matrix products only.

    Parameters
    ----------
    traced
        The module.
    device
        Where it computes.
    """

    def __init__(self, traced: Traced, device: torch.device) -> None:
        super().__init__()
        self.traced: GraphModule = _without_assertions(traced.program)
        self.device = device

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the module returns."""

        def compute(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == "sym_size":
                return args[0].shape[args[1]]
            where = {"device": self.device} if name in _MAKERS else {}
            return getattr(torch.ops.aten, name)(*args, **kwargs, **where)

        def repeat(steps: int, function: Callable[..., Sequence[Any]], state: Sequence[Any]) -> Sequence[Any]:
            for _ in range(steps):
                state = function(*state)
            return state

        return _Lowered(self.traced, compute, ThresholdByProducts(compute, repeat)).run(*inputs)


_MAKERS = ("arange", "scalar_tensor", "eye", "zeros", "ones", "full")
"""Operations that make tensors of nothing."""


def _without_assertions(program: ExportedProgram) -> GraphModule:
    """Return the graph without what the tracer checks, and what only these checks need."""
    module: Any = program.module(check_guards=False)
    for node in reversed(module.graph.nodes):
        if _name(node.target) in _ASSERTIONS:
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _name(target: Any) -> str:
    """Return ATen's name of an operation."""
    return getattr(getattr(target, "overloadpacket", target), "__name__", str(target))


class _Lowered(Interpreter):
    """Runs a graph by the planar rules.

    Parameters
    ----------
    module
        The graph.
    compute
        Runs an operation of ATen on real tensors.
    threshold
        Stands for singular value thresholding.
    """

    def __init__(self, module: GraphModule, compute: Callable[..., Any], threshold: ThresholdByProducts) -> None:
        super().__init__(module)
        self._rules = PlanarRules(compute)
        self._threshold = threshold

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a weight."""
        return self._split(super().get_attr(target, args, kwargs))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run one operation."""
        name = _name(target)
        if name == "singular_value_threshold":
            return self._threshold(*args)
        if contains(args, Complex) or self._rules.makes_complex(name, args, kwargs):
            return self._rules.apply(name, args, {key: value for key, value in kwargs.items() if key not in _PLACES})
        return self._split(self.real(name, target, args, kwargs))

    def real(self, name: str, target: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation on real tensors, which is called ``name``."""
        del name
        return super().call_function(target, args, kwargs)

    def _split(self, value: Any) -> Any:
        return self._rules.as_complex(value) if isinstance(value, Tensor) and value.is_complex() else value


_PLACES = ("device", "layout", "pin_memory", "memory_format", "non_blocking", "copy", "implicit", "generator")
"""Arguments about memory."""


class _OnnxInterpreter(_Lowered):
    """Writes an ONNX graph.

    Parameters
    ----------
    module
        The graph of ATen's operations.
    graph
        The one to write.
    """

    def __init__(self, module: GraphModule, graph: Graph) -> None:
        def compute(name: str, *args: Any, **kwargs: Any) -> Any:
            return call(name, graph, *args, **kwargs)

        super().__init__(module, compute, ThresholdByProducts(compute, graph.loop))
        self._graph = graph
        self._parts = 0

    def run_node(self, n: Node) -> Any:
        """Write a node, and note what the tracer knows of its shape."""
        traced = n.meta.get("val")
        self._parts = len(traced) if isinstance(traced, list | tuple) else 0
        result = super().run_node(n)
        shape = getattr(traced, "shape", None)
        if shape is not None:
            for part in (result.real, result.imaginary) if isinstance(result, Complex) else (result,):
                if isinstance(part, Symbol) and part.rank == len(shape):
                    self._graph.know_shape(part, [size if isinstance(size, int) else str(size) for size in shape])
        return result

    def real(self, name: str, target: Any, args: Any, kwargs: Any) -> Any:
        """Write an operation; what is known already is computed."""
        if not contains((*args, *kwargs.values()), Symbol | Integer | Ratio):
            return super().real(name, target, args, kwargs)
        if any(
            getattr(module, spelling, None) is target for module in (operator, math) for spelling in (name, f"{name}_")
        ):
            return target(*args)
        if name == "split":
            kwargs = {**kwargs, "parts_made": self._parts}
        return call(name, self._graph, *args, **{key: value for key, value in kwargs.items() if key not in _PLACES})


def contains(values: Any, kind: Any) -> bool:
    """Whether something of a kind is among values, or in lists among them."""
    return any(
        contains(value, kind) if isinstance(value, list | tuple) else isinstance(value, kind) for value in values
    )
