"""The one way down: what a module computes is what its ONNX graph, and its graph of real operations, compute at other shapes."""

import sys
from functools import cache
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from isocenter.bundle.manifest import TensorSpec
from isocenter.export import lowering
from isocenter.export.errors import UnknownOperationError
from isocenter.export.onnx_graph.symbols import Graph, Integer, Symbol
from isocenter.models import fourier, svt
from torch import nn

SHAPES = [(2, 3, 7, 10, 2), (1, 4, 12, 9, 2)]
KSPACE = TensorSpec(name="kspace", axes=("batch", "coils", "ky", "kx", "complex"))


class Several(nn.Module):
    """Returns what each of some functions makes of one tensor."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions
        self.conv = nn.Conv2d(3, 4, 3, padding=1, dilation=1)

    def forward(self, x):
        return tuple(function(x) for function in self.functions)


def manifest_of(outputs, inputs=(KSPACE,)):
    specs = [
        SimpleNamespace(name=f"out{index}", axes=[f"o{index}.{axis}" for axis in range(output.dim())], limits={})
        for index, output in enumerate(outputs)
    ]
    return Described(inputs, specs)


class Described(SimpleNamespace):
    """What a manifest says of inputs and outputs."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs=inputs, outputs=outputs)

    def model_copy(self, update):
        return Described(update["inputs"], self.outputs)


def random(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_onnx(model, *inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feed)]


def lower(module, *inputs, specs=(KSPACE,)):
    """Trace a module at these inputs; return the program and its description."""
    with torch.no_grad():
        outputs = module(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    manifest = manifest_of(outputs, specs)
    return lowering.trace(module, manifest, dict(zip((spec.name for spec in specs), inputs, strict=True))), manifest


def as_complex(x):
    return torch.view_as_complex(x)


def real(z):
    return torch.view_as_real(z.resolve_conj().contiguous())


WEIGHT, BIAS = random((4, 3, 3, 3), 1), random((4,), 2)
ONE = torch.ones(1, 1, 1, 1, dtype=torch.complex64) * (1 + 0.1j)
FACTOR = torch.complex(random((10,), 3), random((10,), 4))
CHANNELS = {"channels": lambda x: x.flatten(0, 1)[..., 0].unsqueeze(1).expand(-1, 3, -1, -1)}


def image(x):
    """Images [batch, 3, y, x] of any number of coils."""
    return torch.cat([x[:, :1, ..., 0], x[:, 1:2, ..., 1], x[:, 2:3, ..., 0] * x[:, :1, ..., 1]], dim=1)


OPERATIONS = {
    "arithmetic": {
        "add": lambda x: x + 2 * x,
        "sub with a factor": lambda x: torch.sub(x, x.square(), alpha=3),
        "number first": lambda x: 1 - x / 3,
        "division": lambda x: x / (x.abs() + 1),
        "power": lambda x: (x.abs() + 0.5) ** 1.5,
        "rsqrt": lambda x: torch.rsqrt(x.abs() + 1),
        "functions": lambda x: torch.exp(-x.square()) * torch.sin(x) + torch.cos(x) * torch.tanh(x) + torch.sigmoid(x),
        "logarithm": lambda x: torch.log1p(x.abs()) + torch.log(x.abs() + 1),
        "angle of two": lambda x: torch.atan2(x[..., 0], x[..., 1]),
        "remainder": lambda x: torch.remainder(x * 5, 3.0),
        "division of whole numbers": lambda x: torch.div((x * 10).to(torch.int64), -3, rounding_mode="floor").float(),
        "rounding": lambda x: (
            x.floor() + x.ceil() + x.round() + torch.sign(x) + torch.div(x, 0.3, rounding_mode="trunc")
        ),
        "clamp": lambda x: x.clamp(-0.5, 0.7) + x.clamp_min(0.1) + torch.clamp_max(x, 0.2),
        "comparison": lambda x: torch.where((x > 0) & (x <= 1) | (x != x), x, -x) + (x == 0).float(),
        "fill": lambda x: x.masked_fill(x < 0, 3.0),
        "nonlinear": lambda x: F.relu(x) + F.leaky_relu(x, 0.2) + F.elu(x) + F.silu(x) + F.gelu(x) + F.softplus(x),
        "softmax": lambda x: x.softmax(2),
        "whole numbers become fractions": lambda x: x * torch.arange(2),
    },
    "reductions": {
        "sum": lambda x: x.sum((1, 3)),
        "mean": lambda x: x.mean((-3, -2), keepdim=True),
        "largest": lambda x: x.amax((1, 2)) - x.amin((1, 2)),
        "everything": lambda x: x.sum().reshape(1) + x.mean(),
        "norm": lambda x: torch.linalg.vector_norm(x, dim=(2, 3)) + torch.linalg.vector_norm(x, ord=1, dim=(2, 3)),
        "deviation": lambda x: x.std((2, 3)) + x.var((2, 3), correction=0),
        "running sum": lambda x: x.cumsum(2),
        "place of the largest": lambda x: x.argmax(2).float() + x.argmin(3, keepdim=True).float().sum(2),
        "any and all": lambda x: (x > 1).any(2).float() + (x > -1).all(2).float(),
    },
    "layout": {
        "axes": lambda x: x.permute(0, 4, 1, 3, 2).transpose(1, 2).movedim(-1, 1),
        "view": lambda x: x.reshape(x.shape[0] * x.shape[1], -1, 2).unflatten(0, (x.shape[0], -1)),
        "flat": lambda x: x.flatten(1, 2).unsqueeze(1).squeeze(1),
        "parts": lambda x: x[:, 1:, ..., ::2, :][:, :, -3:],
        "one": lambda x: x[:, 0] + x.select(1, -1),
        "by index": lambda x: x.index_select(2, torch.arange(4) + 1) + x[:, :, torch.tensor([1, 0, 2, 3])],
        "joined": lambda x: torch.cat((x, x.flip(3)), 2),
        "stacked": lambda x: torch.stack((x, 2 * x), 1),
        "rolled": lambda x: (
            x.roll((1, -2), (2, 3)) + torch.fft.fftshift(x, dim=(2, 3)) + torch.fft.ifftshift(x, dim=(2,))
        ),
        "padded": lambda x: F.pad(x, (0, 0, 1, 2, 3, 0)),
        "cut": lambda x: F.pad(x, (0, 0, -1, -2)),
        "reflected": lambda x: (
            F.pad(x[..., 0], (2, 1, 1, 2), mode="reflect") + F.pad(x[..., 1], (2, 1, 1, 2), mode="replicate")
        ),
        "repeated": lambda x: x.repeat(1, 2, 1, 1, 1) + x[:, :1].expand(-1, 2 * x.shape[1], -1, -1, -1),
        "chunks": lambda x: torch.chunk(x, 2, 3)[1] * 2,
        "split": lambda x: torch.split(x, [2, x.shape[2] - 2], 2)[1],
        "padded between transposes": lambda x: F.pad(
            x[:, 0].movedim(-1, 1).square(), (0, x.shape[3] % 2, 0, x.shape[2] % 2)
        ).movedim(1, -1),
        "padded to blocks": lambda x: F.pixel_shuffle(
            F.conv2d(
                F.pixel_unshuffle(
                    F.pad(x[:, 0], [0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2])
                    .movedim(-1, 1)
                    .reshape(x.shape[0] * 2, 1, x.shape[2] + x.shape[2] % 2, x.shape[3] + x.shape[3] % 2),
                    2,
                ),
                WEIGHT[:, :1].expand(4, 4, 3, 3),
                padding=1,
            ),
            2,
        ),
        "longer of two": lambda x: F.pad(x, (0, 0, 0, torch.sym_max(x.shape[2], x.shape[3]) - x.shape[3])),
        "to a multiple": lambda x: F.pad(
            x, (0, 0, 0, -x.shape[3] % 4, 0, ((x.shape[2] - 1) // 8 + 1) * 8 - x.shape[2])
        ),
        "made": lambda x: x + torch.zeros(x.shape[3], 1) + torch.ones_like(x) + torch.full((x.shape[2], 1, 1), 0.5),
        "identity": lambda x: x[..., 0] @ torch.eye(x.shape[3]) + torch.arange(x.shape[3]),
        "written in place": lambda x: _written(x),
    },
    "layers": {
        "convolution": lambda x: F.conv2d(image(x), WEIGHT, BIAS, stride=2, padding=1),
        "transposed": lambda x: F.conv_transpose2d(
            image(x), WEIGHT.transpose(0, 1), BIAS, stride=2, padding=1, output_padding=1
        ),
        "same": lambda x: F.conv2d(image(x), WEIGHT, padding="same"),
        "instance": lambda x: F.instance_norm(image(x), weight=BIAS[:3], bias=BIAS[1:]),
        "group": lambda x: F.group_norm(torch.cat((image(x), image(x)), 1), 2),
        "layer": lambda x: F.layer_norm(x, (2,), weight=BIAS[:2]),
        "batch": lambda x: F.batch_norm(image(x), BIAS[:3], BIAS[1:].abs() + 0.1, BIAS[:3], BIAS[1:]),
        "pooling": lambda x: F.avg_pool2d(image(x), 2) + F.max_pool2d(image(x), 2, stride=2),
        "global pooling": lambda x: F.adaptive_avg_pool2d(image(x), 1),
        "nearest": lambda x: F.interpolate(image(x), scale_factor=2),
        "bilinear": lambda x: F.interpolate(image(x), size=(9, 11), mode="bilinear", align_corners=False),
        "linear": lambda x: F.linear(x, WEIGHT[0, 0, :2, :2], BIAS[:2]),
        "pixels": lambda x: F.pixel_shuffle(torch.cat([image(x)] * 4, 1), 2),
        "attention": lambda x: F.scaled_dot_product_attention(x[..., 0], x[..., 1], x[..., 0]),
        "einsum": lambda x: torch.einsum("bcyxr,bcyxr->bcy", x, x),
    },
    "complex": {
        "product": lambda x: real(as_complex(x) * as_complex(x).conj() * 2),
        "with a constant": lambda x: real(as_complex(x)[..., :9] * FACTOR[:9] + 1j),
        "quotient": lambda x: real(as_complex(x) / (as_complex(x).abs() + 1) + as_complex(x) / (as_complex(x) + 5)),
        "difference": lambda x: real(as_complex(x) - as_complex(x).conj() + x[..., 0] - 1),
        "parts": lambda x: as_complex(x).real + as_complex(x).imag * 2,
        "size and angle": lambda x: as_complex(x).abs() + as_complex(x).angle(),
        "polar": lambda x: real(torch.polar(x[..., 0].abs(), x[..., 1]) + torch.complex(x[..., 0], x[..., 1])),
        "exponential": lambda x: real(torch.exp(as_complex(x)) + torch.exp(1j * x[..., 0])),
        "sign": lambda x: real(as_complex(x).sgn()),
        "matrices": lambda x: real(as_complex(x) @ as_complex(x).mH),
        "sums": lambda x: real(as_complex(x).sum(1) + as_complex(x).sum(2).sum(1, keepdim=True)),
        "norm": lambda x: torch.linalg.vector_norm(as_complex(x), dim=1),
        "moved": lambda x: real(torch.cat((as_complex(x), as_complex(x).roll(1, 2)), 1).transpose(1, 2).flatten(0, 1)),
        "chosen": lambda x: real(torch.where(x[..., 0] > 0, as_complex(x), torch.zeros_like(as_complex(x)))),
        "einsum": lambda x: real(torch.einsum("bcyx,bcyx->byx", as_complex(x).conj(), as_complex(x))),
        "dtype": lambda x: real(x[..., 0].to(torch.complex64) * as_complex(x)),
        "padded": lambda x: real(F.pad(as_complex(x), (1, 2))),
        "mean": lambda x: real(as_complex(x).mean(1) + as_complex(x).mean((1, 2)).unsqueeze(1) + as_complex(x).mean()),
        "one number": lambda x: real(as_complex(x) * ONE),
    },
    "transforms": {
        "forward": lambda x: real(torch.fft.fft2(as_complex(x))),
        "orthonormal": lambda x: real(torch.fft.ifftn(as_complex(x), dim=(1, -1), norm="ortho")),
        "inverse": lambda x: real(torch.fft.ifft(as_complex(x), dim=2)),
        "of real numbers": lambda x: real(torch.fft.fft(x[..., 0], norm="forward")),
        "between shifts": lambda x: real(
            torch.fft.fftshift(
                torch.fft.fftn(torch.fft.ifftshift(as_complex(x), dim=(-2, -1)), dim=(-2, -1)), dim=(-2, -1)
            )
        ),
        "centred": lambda x: fourier.fft2c(x) + fourier.ifft_planar(x, [-3]),
        "kept along y": lambda x: fourier.keep_measured(x, (x[:, :1, :, :1, :1] > 0).float(), [-3]),
        "kept along x": lambda x: fourier.keep_measured(x, (x[:, :1, :1, :, :1] > 0).float(), [-2]),
        "kept along both": lambda x: fourier.keep_measured(x, (x[:, :1, :, :, :1] > 0).float(), [-3, -2]),
        "uncentred": lambda x: real(fourier.ifft_uncentred(as_complex(x), [-1, -2])),
        "half of the frequencies": lambda x: real(torch.fft.rfft2(x[..., 0], norm="ortho")),
        "half of them along another axis": lambda x: real(torch.fft.rfft(x[..., 0], dim=1)),
        "half of them in all axes": lambda x: real(torch.fft.rfftn(x[..., 0], dim=(2, 3, 1), norm="forward")),
        "real inverse": lambda x: torch.fft.irfft2(as_complex(x), norm="ortho"),
        "real inverse of a length": lambda x: torch.fft.irfft2(as_complex(x), s=(x.shape[2], 2 * x.shape[3] - 1)),
        "real inverse of few": lambda x: torch.fft.irfftn(as_complex(x), s=(5, 4), dim=(3, 2), norm="forward"),
        "there and back": lambda x: torch.fft.irfft2(torch.fft.rfft2(x[..., 0]) * 2, s=x.shape[2:4]),
        "cut": lambda x: real(torch.fft.fft(as_complex(x), n=5, dim=2)),
        "padded": lambda x: real(torch.fft.ifftn(as_complex(x), s=(13, x.shape[3] + 3), norm="ortho")),
        "half of padded ones": lambda x: real(torch.fft.rfft(x[..., 0], n=x.shape[3] + 5)),
    },
}


def _written(x):
    result = torch.zeros_like(x)
    result[:, :, 1:] = x[:, :, :-1]
    result[..., 0] += 1
    return result


@cache
def traced(group):
    """The module of a group's operations, its program and its description; tracing takes seconds."""
    module = Several(list(OPERATIONS[group].values()))
    return module, *lower(module, random(SHAPES[0]))


@pytest.mark.parametrize("group", OPERATIONS)
def test_an_onnx_graph_computes_what_torch_does_at_another_shape(group):
    functions = OPERATIONS[group]
    module, program, manifest = traced(group)
    model = lowering.to_onnx(program, manifest)
    wrong = {}
    for shape in SHAPES:
        x = random(shape, 5)
        for name, found, expected in zip(functions, run_onnx(model, x), module(x), strict=True):
            same = found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
            if not same:
                wrong[f"{name} at {shape}"] = (found.shape, expected.shape)
    assert not wrong


@pytest.mark.parametrize("group", ["complex", pytest.param("transforms", marks=pytest.mark.long)])
def test_the_graph_of_real_operations_computes_what_torch_does(group):
    functions = OPERATIONS[group]
    module, program, manifest = traced(group)
    lowered = lowering.RealModule(program, torch.device("cpu"))
    x = random(SHAPES[1], 5)
    for name, found, expected in zip(functions, lowered(x), module(x), strict=True):
        assert not found.is_complex(), name
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=name)
    if group == "complex":
        return  # its constants are complex
    again = lowering.trace(lowered, manifest, {"kspace": random(SHAPES[0])})
    assert not any(
        isinstance(value, torch.Tensor) and value.is_complex()
        for value in (node.meta.get("val") for node in again.program.graph.nodes)
    )


class Centred(nn.Module):
    def forward(self, x):
        return fourier.ifft_planar(x, [-3])


@pytest.fixture(scope="module")
def centred():
    return lowering.to_onnx(*lower(Centred(), random(SHAPES[0])))


@pytest.mark.parametrize("n", [2, 7, 16, 37, 45, 218, 372, 640, 641])
def test_a_transform_by_products_is_that_of_float64_at_every_length(n, centred):
    x = random((1, 2, n, 3, 2), n)
    values = as_complex(x).numpy().astype(np.complex128)
    shifted = np.fft.ifft(np.fft.ifftshift(values, 2), axis=2, norm="ortho")
    expected = np.fft.fftshift(shifted, 2)
    found = as_complex(run_onnx(centred, x)[0]).numpy()
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


class Threshold(nn.Module):
    def forward(self, x, limit):
        return svt.singular_value_threshold(x, limit)


MATRICES = (
    TensorSpec(name="matrices", axes=("batch", "rows", "columns", "complex")),
    TensorSpec(name="limit", axes=("1",)),
)


@pytest.fixture(scope="module")
def threshold():
    program, manifest = lower(Threshold(), random((2, 9, 5, 2)), torch.tensor([0.3]), specs=MATRICES)
    return program, lowering.to_onnx(program, manifest)


@pytest.mark.parametrize("kind", ["random", "decaying", "rank 3", "flat", "zero"])
@pytest.mark.parametrize("limit", [0.0, 0.05, 0.5, 1.0])
def test_thresholding_by_products_is_that_of_numpys_decomposition(kind, limit, threshold):
    values = as_complex(random((3, 12, 6, 2), 6)).numpy().astype(complex)
    u, _, v = np.linalg.svd(values, full_matrices=False)
    spectrum = {
        "random": np.sort(np.random.default_rng(1).random(6))[::-1],
        "decaying": np.logspace(0, -6, 6),
        "rank 3": (np.arange(6) < 3).astype(float),
        "flat": np.ones(6),
        "zero": np.zeros(6),
    }[kind]
    x = torch.view_as_real(torch.from_numpy((u * spectrum) @ v)).float()
    expected = (u * np.maximum(spectrum - limit * spectrum[0], 0)) @ v
    program, model = threshold
    inputs = x, torch.tensor([limit])
    for found in (run_onnx(model, *inputs)[0], lowering.RealModule(program, torch.device("cpu"))(*inputs)):
        assert np.abs(as_complex(found.contiguous()).numpy() - expected).max() < 4e-6


class CentreLines(nn.Module):
    """Cuts where the data say, as programs do that look for calibration lines."""

    def forward(self, x):
        line = (x[0, 0, :, 0, 0] > 0).to(torch.int8)
        width = int(torch.argmin(line)) + 1
        start = x.shape[2] // 2 - width // 2
        kept = torch.zeros_like(x)
        kept[:, :, start : start + width] = x[:, :, start : start + width]
        return kept


def test_lengths_may_depend_on_the_data(monkeypatch):
    monkeypatch.setitem(sys.modules, f"{__name__}.again", sys.modules[__name__])  # as some packages do
    x = random((2, 3, 16, 10, 2)).abs()
    x[0, 0, 5:] *= -1
    model = lowering.to_onnx(*lower(CentreLines(), x))
    for width in (1, 4, 9):
        other = random((1, 3, 20, 6, 2), width).abs()
        other[0, 0, width:] *= -1
        torch.testing.assert_close(run_onnx(model, other)[0], CentreLines()(other))


class Sorted(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x[..., 0])[1] + as_complex(x).log().real.sum()


def test_what_cannot_be_written_is_named():
    program, manifest = lower(Sorted(), random((2, 3, 7, 10, 2)))
    with pytest.raises(UnknownOperationError, match=r"svd|log"):
        lowering.to_onnx(program, manifest)


def test_what_is_computed_twice_is_written_once_and_what_nobody_reads_not_at_all():
    graph = Graph()
    x = Symbol(graph, "x", torch.float32, 2)
    first, second = (graph.add("Mul", [x, 2.0], torch.float32, 2) for _ in range(2))
    assert first == second
    graph.add("Exp", [x], torch.float32, 2)
    model = graph.model({x: ["rows", 3]}, {"y": (graph.add("Add", [first, second], torch.float32, 2), ["rows", 3])})
    assert [node.op_type for node in model.graph.node] == ["Mul", "Add", "Identity"]


class Repeated(nn.Module):
    """Goes to k-space and back several times, as unrolled networks and conjugate gradients do."""

    def __init__(self, dims):
        super().__init__()
        self.dims = dims

    def forward(self, kspace, mask):
        for _ in range(3):
            kspace = fourier.fft_planar(kspace, [-3, -2])
            kspace = fourier.keep_measured(kspace, mask, self.dims)
            kspace = fourier.ifft_planar(kspace, [-3, -2])
        return kspace


@pytest.mark.parametrize(("dims", "lines", "matrices"), [([-3, -2], "kx", 4), ([-3], "1", 2)])
def test_the_fourier_matrices_of_a_length_are_made_once(dims, lines, matrices):
    mask = TensorSpec(name="mask", axes=("batch", "1", "ky", lines, "1"))
    inputs = random(SHAPES[0]), (random((2, 1, 7, 10 if lines == "kx" else 1, 1), 1) > 0).float()
    program, manifest = lower(Repeated(dims), *inputs, specs=(KSPACE, mask))
    model = lowering.to_onnx(program, manifest)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Cos") == matrices  # centred, and around a mask along two axes from the first sample on
    assert operators.count("MatMul") == (4 if lines == "1" else 0) + 3 * (4 * 4 + (4 if lines == "1" else 16))
    torch.testing.assert_close(run_onnx(model, *inputs)[0], Repeated(dims)(*inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("a", [-7, -1, 0, 5, 12])
def test_lengths_are_computed_as_python_does(a):
    graph = Graph()
    x = Symbol(graph, "x", torch.int64, 1)
    n = Integer(x)
    made = [
        n + 3,
        3 - n,
        n * 2,
        -n,
        n % 4,
        n // 4,
        (n + 1) // -3,
        17 % (n + 20),
        n.smallest(2),
        n.largest(2),
        n | 15,
        n & 7,
    ]
    outputs = {f"y{place}": (value.symbol, [1]) for place, value in enumerate(made)}
    found = [int(value) for value in run_onnx(graph.model({x: [1]}, outputs), torch.tensor([a]))]
    assert found == [
        a + 3,
        3 - a,
        a * 2,
        -a,
        a % 4,
        a // 4,
        (a + 1) // -3,
        17 % (a + 20),
        min(a, 2),
        max(a, 2),
        a | 15,
        a & 7,
    ]
