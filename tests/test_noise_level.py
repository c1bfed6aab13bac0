"""The noise level that k-space tells, against the noise that was put in."""

import io
import math

import pytest
import torch
from helpers import frame_kspace
from isocenter.bundle.manifest import TensorSpec
from isocenter.export import lowering
from isocenter.models.noise_level import noise_level
from isocenter.simulate.scan import ScanProtocol
from test_lowering import lower, run_onnx
from torch import nn

SPECS = (
    TensorSpec(name="kspace", axes=("batch", "coils", "kz", "ky", "kx", "complex")),
    TensorSpec(name="mask", axes=("batch", "kz", "ky")),
)


class Level(nn.Module):
    def forward(self, kspace, mask):
        return noise_level(kspace, mask)


def noise(shape, level=1.0, seed=0):
    """Complex Gaussian noise [..., 2] of a standard deviation."""
    return level / math.sqrt(2) * torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed))


def lines(size, acceleration=4, middle=12):
    mask = torch.zeros(1, 1, size)
    mask[..., ::acceleration] = 1
    mask[..., size // 2 - middle // 2 : size // 2 + middle // 2] = 1
    return mask


@pytest.fixture(scope="module")
def head():
    """K-space [1, coils, 1, ky, kx, 2] without noise, its image's largest magnitude about one."""
    kspace = torch.from_numpy(frame_kspace(ScanProtocol(matrix=128, coils=6, oversampling=1), 0)[0])
    return torch.view_as_real(kspace / 12)[None]


@pytest.mark.parametrize("level", [0.02, 0.1])
@pytest.mark.parametrize("acceleration", [1, 4])
def test_the_noise_of_a_head_is_found(head, level, acceleration):
    mask = lines(128, acceleration)
    noisy = (head + noise(head.shape[:-1], level)) * mask[:, None, :, :, None, None]
    assert float(noise_level(noisy, mask)) == pytest.approx(level, rel=0.06)


@pytest.mark.parametrize("shape", [(1, 1, 1, 64, 128), (1, 32, 1, 20, 16), (1, 4, 8, 24, 32), (1, 8, 1, 128, 7)])
def test_noise_alone_is_found_at_all_sizes(shape):
    level = noise_level(noise(shape, 3.0), torch.ones(1, *shape[2:4]))
    assert float(level) == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_level_scales_with_the_samples_and_each_batch_entry_has_its_own(head, scale):
    mask = lines(128)
    noisy = torch.cat([head + noise(head.shape[:-1], 0.02), scale * (head + noise(head.shape[:-1], 0.05))])
    levels = noise_level(noisy, mask.expand(2, -1, -1))
    assert levels[1] == pytest.approx(scale * float(noise_level(noisy[1:] / scale, mask)), rel=1e-4)
    assert levels[0] == pytest.approx(float(noise_level(noisy[:1], mask)), rel=1e-5)


def test_zeros_are_not_measured(head):
    """Neither an end of the readout that was filled with zeros counts, nor a dead coil, nor what it leaves of a whole."""
    mask = lines(128)
    noisy = head + noise(head.shape[:-1], 0.05)
    noisy[..., :40, :] = 0
    noisy[:, 2] = 0
    assert float(noise_level(noisy, mask)) == pytest.approx(0.05, rel=0.06)
    assert float(noise_level(torch.zeros_like(head), mask)) == 0
    assert float(noise_level(noisy, torch.zeros_like(mask))) == 0


def test_the_mean_is_over_the_squares_of_the_coils():
    samples = torch.cat([noise((1, 1, 1, 96, 128), level, seed) for seed, level in enumerate((1.0, 2.0, 5.0))], dim=1)
    assert float(noise_level(samples, torch.ones(1, 1, 96))) == pytest.approx(math.sqrt(30 / 3), rel=0.05)


def test_central_lines_alone_are_enough():
    mask = torch.zeros(1, 1, 96)
    mask[..., 40:56] = 1
    samples = noise((1, 8, 1, 96, 96)) * mask[:, None, :, :, None, None]
    assert float(noise_level(samples, mask)) == pytest.approx(1, rel=0.05)


def test_torchscript_and_onnx_find_the_same():
    kspace = noise((2, 3, 2, 24, 30))
    mask = lines(24, 3, 6).expand(2, 2, 24).contiguous()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Level()), buffer)
    buffer.seek(0)
    script = torch.jit.load(buffer)
    traced, manifest = lower(Level(), kspace, mask, specs=SPECS)
    graph = lowering.to_onnx(traced, manifest)
    for shape in ((2, 3, 2, 24, 30), (1, 5, 1, 33, 17)):
        kspace = noise(shape, seed=1)
        mask = lines(shape[3], 3, 6).expand(shape[0], shape[2], shape[3]).contiguous()
        expected = noise_level(kspace, mask)
        assert torch.allclose(script(kspace, mask), expected, rtol=1e-5)
        assert torch.allclose(run_onnx(graph, kspace, mask)[0], expected, rtol=1e-5)
