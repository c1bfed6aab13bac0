"""Layers of networks: convolutions, normalisations, pooling, resizing."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import UnknownOperationError
from .symbols import Graph, Length, Symbol
from .table import OPERATIONS, call, converted, operation, scalar, size


def _each(value: Any, count: int) -> list[Any]:
    """Return a setting for every spatial axis."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * count if len(values) == 1 else values


@operation("convolution", "conv1d", "conv2d", "conv3d")
def convolution(
    graph: Graph,
    x: Symbol,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *rest: Any,
) -> Symbol:
    """Convolution, or its transpose where ATen's general form says so."""
    kernel = graph.symbol(weight)
    axes = x.rank - 2
    is_transposed, output_padding, groups = (*rest, 1)[:3] if len(rest) >= 3 else (False, 0, *(rest or (1,)))
    if is_transposed:
        return transposed(graph, x, weight, bias, stride, padding, output_padding, groups, dilation)
    attributes: dict[str, Any] = {
        "strides": _each(stride, axes),
        "dilations": _each(dilation, axes),
        "group": groups,
    }
    if isinstance(padding, str):
        attributes["auto_pad"] = {"same": "SAME_UPPER", "valid": "VALID"}[padding]
    else:
        attributes["pads"] = _each(padding, axes) * 2
    return graph.add("Conv", [x, kernel, *([] if bias is None else [bias])], x.dtype, x.rank, **attributes)


@operation("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(
    graph: Graph,
    x: Symbol,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Symbol:
    """Transposed convolution."""
    axes = x.rank - 2
    return graph.add(
        "ConvTranspose",
        [x, weight, *([] if bias is None else [bias])],
        x.dtype,
        x.rank,
        strides=_each(stride, axes),
        pads=_each(padding, axes) * 2,
        output_padding=_each(output_padding, axes),
        dilations=_each(dilation, axes),
        group=groups,
    )


@operation("batch_norm")
def batch_norm(graph: Graph, x: Symbol, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any) -> Symbol:
    """Normalise channels by what training has found: one factor and one offset each."""
    epsilon = float(rest[2]) if len(rest) == 4 else float(rest[-1])
    if isinstance(mean, torch.Tensor) and isinstance(variance, torch.Tensor):
        factor = torch.rsqrt(variance.double() + epsilon)
        factor = factor if weight is None else factor * weight.double()
        offset = -mean.double() * factor
        offset = offset if bias is None else offset + bias.double()
        shape = [-1, *[1] * (x.rank - 2)]
        scaled = call("mul", graph, x, factor.to(x.dtype).reshape(shape))
        return call("add", graph, scaled, offset.to(x.dtype).reshape(shape))
    raise UnknownOperationError("batch normalisation by the batch itself")


OPERATIONS["_native_batch_norm_legit_no_training"] = lambda *args: [batch_norm(*args)]


@operation("instance_norm")
def instance_norm(graph: Graph, x: Symbol, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any) -> Symbol:
    """Normalise every channel of every batch entry by itself."""
    uses_input, _, epsilon = rest[:3]
    if not uses_input:
        return batch_norm(graph, x, weight, bias, mean, variance, False, 0.0, epsilon, False)
    axes = list(range(2, x.rank))
    return _affine(graph, _normalised(graph, x, axes, epsilon), weight, bias, [-1, *[1] * len(axes)])


@operation("layer_norm")
def layer_norm(
    graph: Graph, x: Symbol, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Symbol:
    """Normalise over the last axes."""
    axes = list(range(x.rank - len(shape), x.rank))
    return _affine(graph, _normalised(graph, x, axes, eps), weight, bias, list(shape))


@operation("group_norm")
def group_norm(
    graph: Graph, x: Symbol, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Symbol:
    """Normalise groups of channels."""
    grouped = call("reshape", graph, x, [size(graph, x, 0), groups, -1])
    normal = _normalised(graph, grouped, [2], eps)
    whole = graph.add("Reshape", [normal, graph.add("Shape", [x], torch.int64, 1)], x.dtype, x.rank)
    return _affine(graph, whole, weight, bias, [-1, *[1] * (x.rank - 2)])


def _normalised(graph: Graph, x: Symbol, axes: list[int], epsilon: float) -> Symbol:
    centred = call("sub", graph, x, call("mean", graph, x, axes, True))
    variance = call("mean", graph, call("square", graph, centred), axes, True)
    return call("mul", graph, centred, call("rsqrt", graph, call("add", graph, variance, epsilon)))


def _affine(graph: Graph, x: Symbol, weight: Any, bias: Any, shape: list[int]) -> Symbol:
    if weight is not None:
        x = call("mul", graph, x, call("reshape", graph, graph.symbol(weight), shape))
    if bias is not None:
        x = call("add", graph, x, call("reshape", graph, graph.symbol(bias), shape))
    return x


def _pool(operator: str) -> Any:
    def write(
        graph: Graph,
        x: Symbol,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: Any = False,
        count_include_pad: bool = True,
        divisor: Any = None,
    ) -> Symbol:
        axes = x.rank - 2
        if operator == "AveragePool" and divisor is not None:
            raise UnknownOperationError("average pooling with a divisor of its own")
        attributes: dict[str, Any] = {"count_include_pad": int(count_include_pad)} if operator == "AveragePool" else {}
        return graph.add(
            operator,
            [x],
            x.dtype,
            x.rank,
            kernel_shape=_each(kernel, axes),
            strides=_each(stride or kernel, axes),
            pads=_each(padding, axes) * 2,
            ceil_mode=int(ceil_mode),
            **attributes,
        )

    return write


def _max_pool(
    graph: Graph, x: Symbol, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Symbol:
    if set(_each(dilation, 1)) != {1}:
        raise UnknownOperationError("maximum pooling with gaps")
    return _pool("MaxPool")(graph, x, kernel, stride, padding, ceil_mode)


OPERATIONS.update({f"avg_pool{axes}d": _pool("AveragePool") for axes in (1, 2, 3)})
OPERATIONS.update({f"max_pool{axes}d": _max_pool for axes in (1, 2, 3)})


@operation("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
def adaptive_avg_pool(graph: Graph, x: Symbol, lengths: Any) -> Symbol:
    """Average over everything."""
    if any(length != 1 for length in _each(lengths, 1)):
        raise UnknownOperationError("adaptive pooling to more than one entry")
    return call("mean", graph, x, list(range(2, x.rank)), True)


@operation("pixel_shuffle")
def pixel_shuffle(graph: Graph, x: Symbol, factor: int) -> Symbol:
    """Turn channels into pixels."""
    return graph.add("DepthToSpace", [x], x.dtype, x.rank, blocksize=factor, mode="CRD")


@operation("pixel_unshuffle")
def pixel_unshuffle(graph: Graph, x: Symbol, factor: int) -> Symbol:
    """Turn pixels into channels."""
    batch, channels, y, x_ = (size(graph, x, axis) for axis in range(4))
    parts = call("reshape", graph, x, [batch, channels, y // factor, factor, x_ // factor, factor])
    parts = call("permute", graph, parts, [0, 1, 3, 5, 2, 4])
    return call("reshape", graph, parts, [batch, channels * factor**2, y // factor, x_ // factor])


def _resize(mode: str) -> Any:
    def write(graph: Graph, x: Symbol, lengths: Any, *rest: Any) -> Symbol:
        align = bool(rest[0]) if mode == "linear" else False
        factors = next((value for value in rest[::-1] if isinstance(value, list | tuple)), None)
        if lengths is None and factors is None:
            raise UnknownOperationError("resizing without a size")
        wanted: list[Length] = [size(graph, x, axis) for axis in range(2)]
        if lengths is not None:
            wanted += list(lengths)
        else:
            wanted += [_times(graph, size(graph, x, axis + 2), factor) for axis, factor in enumerate(factors or ())]
        places = "asymmetric" if mode == "nearest" else "align_corners" if align else "pytorch_half_pixel"
        return graph.add(
            "Resize",
            [x, None, None, graph.lengths(wanted)],
            x.dtype,
            x.rank,
            mode=mode,
            coordinate_transformation_mode=places,
            nearest_mode="floor",
        )

    return write


def _times(graph: Graph, length: Length, factor: float) -> Any:
    if float(factor).is_integer():
        return length * int(factor)
    exact = call("mul", graph, converted(graph, scalar(graph, length), torch.float64), factor)
    floor = converted(graph, call("floor", graph, exact), torch.int64)
    return call("item", graph, floor)


OPERATIONS.update({f"upsample_nearest{axes}d": _resize("nearest") for axes in (1, 2, 3)})
OPERATIONS.update(
    {name: _resize("linear") for name in ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")}
)


@operation("scaled_dot_product_attention")
def attention(
    graph: Graph,
    query: Symbol,
    key: Symbol,
    value: Symbol,
    mask: Any = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Symbol:
    """``softmax(q k^T s + m) v``."""
    if is_causal or dropout:
        raise UnknownOperationError("attention that is causal or drops out")
    if scale is None:
        width = converted(graph, scalar(graph, size(graph, query, -1)), query.dtype)
        weights = call(
            "div",
            graph,
            call("matmul", graph, query, call("transpose", graph, key, -2, -1)),
            call("sqrt", graph, width),
        )
    else:
        weights = call("mul", graph, call("matmul", graph, query, call("transpose", graph, key, -2, -1)), scale)
    if mask is not None:
        symbol = graph.symbol(mask)
        weights = (
            call("where", graph, symbol, weights, -math.inf)
            if symbol.dtype == torch.bool
            else call("add", graph, weights, symbol)
        )
    return call("matmul", graph, call("softmax", graph, weights, -1), value)
