"""Shapes and places: views, slices, gathering, joining, padding."""

import sys
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import UnknownOperationError
from .arithmetic import arange, shape_of
from .symbols import Graph, Integer, Length, Symbol
from .table import OPERATIONS, call, converted, operation, scalar, size

_END = sys.maxsize


@operation("sym_size")
def sym_size(graph: Graph, x: Symbol, axis: int) -> Length:
    """Return the length of an axis."""
    return size(graph, x, axis)


@operation("numel", "sym_numel")
def numel(graph: Graph, x: Symbol) -> Length:
    """Return the number of entries."""
    return Integer(graph.add("Unsqueeze", [graph.add("Size", [x], torch.int64, 0), graph.lengths([0])], torch.int64, 1))


@operation("sym_max")
def sym_max(graph: Graph, a: Length, b: Length) -> Integer:
    """Return the larger of two lengths."""
    return Integer(graph.lengths([a])).largest(b)


@operation("sym_min")
def sym_min(graph: Graph, a: Length, b: Length) -> Integer:
    """Return the smaller of two lengths."""
    return Integer(graph.lengths([a])).smallest(b)


@operation("item", "_local_scalar_dense")
def item(graph: Graph, x: Symbol) -> Integer:
    """Return an entry as a number that lengths are computed from."""
    if x.dtype.is_floating_point:
        raise UnknownOperationError("a number that is read from a tensor of fractions")
    return Integer(call("reshape", graph, converted(graph, x, torch.int64), [1]))


@operation("view", "reshape", "_unsafe_view", "_reshape_alias", "view_copy")
def reshape(graph: Graph, x: Symbol, shape: Sequence[Length]) -> Symbol:
    """Return x with other axes, in the same order of entries."""
    return graph.add("Reshape", [x, graph.lengths(list(shape))], x.dtype, len(shape), allowzero=1)


@operation("flatten")
def flatten(graph: Graph, x: Symbol, start_dim: int = 0, end_dim: int = -1) -> Symbol:
    """Make some axes one."""
    first, last = start_dim % max(x.rank, 1), end_dim % max(x.rank, 1)
    return reshape(
        graph,
        x,
        [
            *(size(graph, x, axis) for axis in range(first)),
            -1,
            *(size(graph, x, axis) for axis in range(last + 1, x.rank)),
        ],
    )


@operation("unflatten")
def unflatten(graph: Graph, x: Symbol, dim: int, sizes: Sequence[Length]) -> Symbol:
    """Make an axis several."""
    place = dim % x.rank
    lengths: list[Length] = [size(graph, x, axis) for axis in range(x.rank)]
    return reshape(graph, x, [*lengths[:place], *sizes, *lengths[place + 1 :]])


@operation("permute")
def permute(graph: Graph, x: Symbol, dims: Sequence[int]) -> Symbol:
    """Return x with its axes in this order."""
    places = [dim % x.rank for dim in dims]
    return x if places == list(range(x.rank)) else graph.add("Transpose", [x], x.dtype, x.rank, perm=places)


@operation("transpose", "swapaxes")
def transpose(graph: Graph, x: Symbol, first: int, second: int) -> Symbol:
    """Swap two axes."""
    places = list(range(x.rank))
    places[first], places[second] = places[second], places[first]
    return permute(graph, x, places)


@operation("t", "numpy_T", "mT", "adjoint")
def turned(graph: Graph, x: Symbol) -> Symbol:
    """Swap the last two axes."""
    return x if x.rank < 2 else transpose(graph, x, -2, -1)


def moved_axes(rank: int, source: Any, destination: Any) -> list[int]:
    """Return the order of axes once some have moved."""
    sources = [axis % rank for axis in ([source] if isinstance(source, int) else source)]
    targets = [axis % rank for axis in ([destination] if isinstance(destination, int) else destination)]
    rest = [axis for axis in range(rank) if axis not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        rest.insert(target, axis)
    return rest


@operation("movedim", "moveaxis")
def movedim(graph: Graph, x: Symbol, source: Any, destination: Any) -> Symbol:
    """Move axes to other places."""
    return permute(graph, x, moved_axes(x.rank, source, destination))


@operation("unsqueeze")
def unsqueeze(graph: Graph, x: Symbol, dim: int) -> Symbol:
    """Add an axis of length one."""
    return graph.add("Unsqueeze", [x, graph.lengths([dim % (x.rank + 1)])], x.dtype, x.rank + 1)


@operation("squeeze")
def squeeze(graph: Graph, x: Symbol, dim: Any = None) -> Symbol:
    """Take axes of length one away."""
    if dim is None:
        raise UnknownOperationError("squeeze of whichever axes have length one")
    axes = sorted({axis % x.rank for axis in ([dim] if isinstance(dim, int) else dim)})
    return graph.add("Squeeze", [x, graph.lengths(axes)], x.dtype, x.rank - len(axes))


@operation("expand", "broadcast_to")
def expand(graph: Graph, x: Symbol, lengths: Sequence[Length], **_: Any) -> Symbol:
    """Repeat axes of length one."""
    # ONNX has no -1 here; a one leaves the axis as it is
    wanted = [1 if isinstance(length, int) and length == -1 else length for length in lengths]
    return graph.add("Expand", [x, graph.lengths(wanted)], x.dtype, len(wanted))


@operation("expand_as")
def expand_as(graph: Graph, x: Symbol, other: Symbol) -> Symbol:
    """Repeat axes of length one as another tensor has them."""
    return graph.add("Expand", [x, shape_of(graph, other)], x.dtype, other.rank)


@operation("repeat")
def repeat(graph: Graph, x: Symbol, times: Sequence[Length]) -> Symbol:
    """Repeat the whole along axes."""
    for _ in range(len(times) - x.rank):
        x = unsqueeze(graph, x, 0)
    return graph.add("Tile", [x, graph.lengths(list(times))], x.dtype, x.rank)


@operation(
    "contiguous",
    "clone",
    "detach",
    "alias",
    "lift_fresh_copy",
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "resolve_conj",
    "resolve_neg",
    "native_dropout",
    "lift",
)
def same(graph: Graph, x: Any, *_: Any, **__: Any) -> Any:
    """Return x itself: nothing here has a place in memory, or is trained."""
    del graph
    return x


@operation("slice")
def slice_of(graph: Graph, x: Symbol, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Symbol:
    """Return a part along an axis."""
    first, last = 0 if start is None else start, _END if end is None else end
    if isinstance(first, int) and first == 0 and isinstance(last, int) and last == _END and step == 1:
        return x
    given = [graph.lengths([value]) for value in (first, last, dim % x.rank, step)]
    return graph.add("Slice", [x, *given], x.dtype, x.rank)


@operation("narrow")
def narrow(graph: Graph, x: Symbol, dim: int, start: Length, length: Length) -> Symbol:
    """Return some entries along an axis."""
    return slice_of(graph, x, dim, start, start + length)


@operation("select")
def select(graph: Graph, x: Symbol, dim: int, index: Length) -> Symbol:
    """Return one entry along an axis, without the axis."""
    place = scalar(graph, index)
    return graph.add("Gather", [x, place], x.dtype, x.rank - 1, axis=dim % x.rank)


@operation("index_select")
def index_select(graph: Graph, x: Symbol, dim: int, index: Symbol) -> Symbol:
    """Return entries along an axis by their places."""
    return graph.add("Gather", [x, index], x.dtype, x.rank, axis=dim % x.rank)


@operation("gather")
def gather(graph: Graph, x: Symbol, dim: int, index: Symbol, **_: Any) -> Symbol:
    """Return entries by their places along one axis, each by itself."""
    return graph.add("GatherElements", [x, index], x.dtype, x.rank, axis=dim % x.rank)


@operation("index")
def index_by(graph: Graph, x: Symbol, indices: Sequence[Any]) -> Symbol:
    """Return entries by tensors of places; along one axis, or along the first ones."""
    named = [axis for axis, index in enumerate(indices) if index is not None]
    if any(graph.symbol(indices[axis]).dtype == torch.bool for axis in named):
        raise UnknownOperationError("entries chosen by a mask, whose number nobody knows")
    if len(named) == 1:
        places = graph.symbol(indices[named[0]])
        return graph.add("Gather", [x, places], x.dtype, x.rank - 1 + places.rank, axis=named[0])
    if named != list(range(len(named))):
        raise UnknownOperationError("entries chosen by places along axes that are not the first ones")
    places = [graph.symbol(indices[axis]) for axis in named]
    rank = max(place.rank for place in places)
    shape = shape_of(graph, _broadcast_sum(graph, places))
    columns = [unsqueeze(graph, graph.add("Expand", [place, shape], torch.int64, rank), rank) for place in places]
    together = graph.add("Concat", columns, torch.int64, rank + 1, axis=rank)
    return graph.add("GatherND", [x, together], x.dtype, rank + x.rank - len(named))


def _broadcast_sum(graph: Graph, values: Sequence[Symbol]) -> Symbol:
    total = values[0]
    for value in values[1:]:
        total = call("add", graph, total, value)
    return total


@operation("cat", "concat")
def cat(graph: Graph, tensors: Sequence[Any], dim: int = 0) -> Symbol:
    """Join tensors along an axis."""
    symbols = [graph.symbol(value) for value in tensors]
    return graph.add("Concat", symbols, symbols[0].dtype, symbols[0].rank, axis=dim % symbols[0].rank)


@operation("stack")
def stack(graph: Graph, tensors: Sequence[Any], dim: int = 0) -> Symbol:
    """Join tensors along a new axis."""
    symbols = [graph.symbol(value) for value in tensors]
    place = dim % (symbols[0].rank + 1)
    return cat(graph, [unsqueeze(graph, value, place) for value in symbols], place)


@operation("split", "split_with_sizes")
def split(graph: Graph, x: Symbol, sizes: Any, dim: int = 0, parts_made: int = 0) -> list[Symbol]:
    """Cut into parts of these lengths along an axis, or of one length, if it is known how many that are."""
    if not isinstance(sizes, list | tuple):
        if not parts_made:
            raise UnknownOperationError("split into parts whose number depends on the size")
        return [slice_of(graph, x, dim, sizes * part, sizes * (part + 1)) for part in range(parts_made)]
    parts, start = [], 0
    for length in sizes:
        parts.append(narrow(graph, x, dim, start, length))
        start = start + length
    return parts


@operation("chunk")
def chunk(graph: Graph, x: Symbol, chunks: int, dim: int = 0) -> list[Symbol]:
    """Cut into this number of parts along an axis, the last of which may be shorter."""
    length = -(-size(graph, x, dim) // chunks)
    return [slice_of(graph, x, dim, length * part, length * (part + 1)) for part in range(chunks)]


@operation("flip")
def flip(graph: Graph, x: Symbol, dims: Sequence[int]) -> Symbol:
    """Turn axes round."""
    for dim in dims:
        x = graph.add("Slice", [x, *map(graph.lengths, ([-1], [-_END], [dim % x.rank], [-1]))], x.dtype, x.rank)
    return x


def _rotate(graph: Graph, x: Symbol, axis: int, start: Length) -> Symbol:
    """Begin with entry ``start`` along an axis."""
    return cat(graph, [slice_of(graph, x, axis, start), slice_of(graph, x, axis, 0, start)], axis)


@operation("roll")
def roll(graph: Graph, x: Symbol, shifts: Any, dims: Any = ()) -> Symbol:
    """Move entries along axes, what leaves at one end comes in at the other."""
    distances = shifts if isinstance(shifts, list | tuple) else [shifts]
    axes = dims if isinstance(dims, list | tuple) else [dims]
    if not axes:
        flat = roll(graph, reshape(graph, x, [-1]), distances, [0])
        return graph.add("Reshape", [flat, shape_of(graph, x)], x.dtype, x.rank)
    for shift, axis in zip(distances, axes, strict=True):
        x = _rotate(graph, x, axis, -shift % size(graph, x, axis))
    return x


@operation("fft_fftshift")
def fftshift(graph: Graph, x: Symbol, dim: Any = None) -> Symbol:
    """Put the first entry into the middle."""
    for axis in _shifted_axes(x, dim):
        x = _rotate(graph, x, axis, (size(graph, x, axis) + 1) // 2)
    return x


@operation("fft_ifftshift")
def ifftshift(graph: Graph, x: Symbol, dim: Any = None) -> Symbol:
    """Put the middle first."""
    for axis in _shifted_axes(x, dim):
        x = _rotate(graph, x, axis, size(graph, x, axis) // 2)
    return x


def _shifted_axes(x: Symbol, dim: Any) -> list[int]:
    chosen = range(x.rank) if dim is None else [dim] if isinstance(dim, int) else dim
    return [axis % x.rank for axis in chosen]


@operation("constant_pad_nd")
def constant_pad(graph: Graph, x: Symbol, padding: Sequence[Length], value: float = 0) -> Symbol:
    """Pad the last axes with a number; negative padding cuts."""
    return pad(graph, x, padding, "constant", value)


@operation("pad")
def pad(
    graph: Graph, x: Symbol, padding: Sequence[Length], mode: str = "constant", value: float | None = None
) -> Symbol:
    """Pad the last axes; lengths are in pairs, the last axis first."""
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in modes:
        raise UnknownOperationError(f"padding of mode {mode!r}")
    before, after = list(padding[::2])[::-1], list(padding[1::2])[::-1]
    # of all axes: where only some are named, ONNX Runtime 1.31 reads lengths that are not there when it moves transposes
    others = [0] * (x.rank - len(before))
    lengths = graph.lengths([*others, *before, *others, *after])
    number = converted(graph, 0 if value is None else value, x.dtype)
    return graph.add("Pad", [x, lengths, number], x.dtype, x.rank, mode=modes[mode])


OPERATIONS.update(
    {
        f"{kind}_pad{axes}d": (lambda graph, x, padding, mode=mode: pad(graph, x, padding, mode))
        for axes in (1, 2, 3)
        for kind, mode in (("reflection", "reflect"), ("replication", "replicate"))
    }
)


@operation("copy", "copy_")
def copy(graph: Graph, x: Symbol, source: Any, *_: Any) -> Symbol:
    """Return the source in dtype and shape of x."""
    return graph.add("Expand", [converted(graph, source, x.dtype), shape_of(graph, x)], x.dtype, x.rank)


@operation("slice_scatter")
def slice_scatter(
    graph: Graph, x: Symbol, source: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Symbol:
    """Return x with a part along an axis replaced."""
    places = slice_of(graph, arange(graph, size(graph, x, dim)), 0, start, end, step)
    part = slice_of(graph, x, dim, start, end, step)
    order = [dim % x.rank, *(axis for axis in range(x.rank) if axis != dim % x.rank)]
    back = [order.index(axis) for axis in range(x.rank)]
    updates = permute(graph, copy(graph, part, source), order)
    written = graph.add("ScatterND", [permute(graph, x, order), unsqueeze(graph, places, 1), updates], x.dtype, x.rank)
    return permute(graph, written, back)


@operation("select_scatter")
def select_scatter(graph: Graph, x: Symbol, source: Any, dim: int, index: Length) -> Symbol:
    """Return x with one entry along an axis replaced."""
    start = index if isinstance(index, int) and index >= 0 else index + size(graph, x, dim)
    return slice_scatter(graph, x, unsqueeze(graph, graph.symbol(source), dim), dim, start, start + 1)
