"""What float32 costs, found in float64: the same everywhere, above what float32 costs here, below what mistakes cost."""

import copy
import math

import pytest
import torch
from isocenter.bundle.folder import relative_error
from isocenter.export.cases import make_case
from isocenter.export.network import network_specs
from isocenter.export.options import ExportOptions
from isocenter.export.rounding import EPSILON, MARGIN, RandomRounding, accepted_deviation
from isocenter.models.fourier import fft, ifft
from isocenter.models.networks.registry import NETWORKS
from isocenter.models.scaling import scaled
from test_networks import SMALL

SIZES = {"batch": 1, "coils": 3, "frames": 4, "ky": 40, "kx": 36}


def accepted(compute, *inputs):
    """Deviation from ``compute`` in float64 that is accepted, and what it returns."""
    exact = {"image": compute(*inputs)}
    longest = max(size for tensor in inputs for size in tensor.shape)
    return accepted_deviation(lambda: {"image": compute(*inputs)}, exact, longest), exact


def test_what_float32_can_hold_is_not_touched():
    mask = torch.rand(5, 7, dtype=torch.float64) > 0.5
    data = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)).double()
    with RandomRounding(1):
        moved = torch.cat([data.flip(0), (data * mask)[:, :3].contiguous(), mask.double().sum(1, keepdim=True)], dim=1)
        product = data * data
    assert torch.equal(
        moved, torch.cat([data.flip(0), (data * mask)[:, :3], mask.double().sum(1, keepdim=True)], dim=1)
    )
    assert torch.equal(product, product.float().double())
    error = (product / data.square() - 1).abs().max()
    assert EPSILON / 4 < error < 2 * EPSILON


def test_views_and_operations_in_place_are_rounded_where_they_are():
    x = torch.ones(4, 2, dtype=torch.float64)
    with RandomRounding(1):
        x[:, 0].div_(3)
        pair = torch.view_as_complex(x).conj()
    assert torch.equal(x, x.float().double())
    assert (x[:, 0] * 3 - 1).abs().max() < 4 * EPSILON
    assert torch.equal(pair.resolve_conj().real, x[:, 0])


def test_what_is_accepted_is_the_same_each_time_and_follows_conditioning_and_size():
    x = torch.randn(30, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain, _ = accepted(lambda x: x * 1.1, x)
    lossy, _ = accepted(lambda x: (x * 1.1 + 1000) - 1000, x)
    assert plain == accepted(lambda x: x * 1.1, x)[0]
    assert plain == pytest.approx(MARGIN * math.sqrt(30) * EPSILON, rel=0.5)
    assert 50 * plain < lossy < 1000 * plain
    assert accepted(lambda x: x * 1.0, torch.ones(4, 4, dtype=x.dtype))[0] == MARGIN * 2 * EPSILON


@pytest.mark.parametrize("name", ["dccnn", "e2e-varnet", "deep-jsense", "crnn-mri", "pd-net"])
def test_float32_is_accepted(name):
    torch.manual_seed(7)
    network = NETWORKS[name]
    module = scaled(network.build(**SMALL[name]).eval(), network.scaling, network.inputs)
    inputs = make_case(network_specs(network, ExportOptions())[0], SIZES)
    with torch.inference_mode():
        image = module(*inputs.values())
        limit, exact = accepted(copy.deepcopy(module).double(), *(tensor.double() for tensor in inputs.values()))
    assert relative_error({"image": image}, exact) < 0.5 * limit < 5e-5


def tf32(x):
    """Keep the ten bits of mantissa that a GPU multiplies with."""
    bits = torch.view_as_real(x.to(torch.complex64)).contiguous().view(torch.int32)
    return torch.view_as_complex(((bits + 0x1000) & ~0x1FFF).view(torch.float32)).to(x.dtype)


@pytest.mark.parametrize(
    "mistaken",
    [
        lambda x: fft(tf32(ifft(x, [0, 1]) * 0.7), [0, 1]),
        lambda x: fft(ifft(x, [0, 1]) * 0.7, [0, 1]) * math.sqrt(40 / 39),
        lambda x: fft(ifft(x, [0, 1]) * 0.7, [0]),
        lambda x: fft(ifft(x, [0, 1]) * torch.tensor(0.7, dtype=torch.bfloat16).item(), [0, 1]),
    ],
    ids=["TF32", "a length that was frozen", "an axis left out", "a weight in half precision"],
)
def test_mistakes_are_not(mistaken):
    x = torch.randn(40, 48, generator=torch.Generator().manual_seed(1), dtype=torch.complex128)
    limit, exact = accepted(lambda x: fft(ifft(x, [0, 1]) * 0.7, [0, 1]), x)
    assert relative_error({"image": fft(ifft(x.to(torch.complex64), [0, 1]) * 0.7, [0, 1])}, exact) < 0.2 * limit
    assert relative_error({"image": mistaken(x)}, exact) > 3 * limit
