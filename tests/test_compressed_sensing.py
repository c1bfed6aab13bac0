"""Compressed sensing against closed forms and against minimisers that were found another way, in float64."""

import numpy as np
import pytest
import torch
from isocenter.models.classical import Sense
from isocenter.models.compressed_sensing import TotalVariation, Wavelets
from isocenter.models.consistency import turn
from isocenter.models.fourier import fft, ifft_planar

METHODS = [TotalVariation, Wavelets]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def scan(image, coils=1, acceleration=1, noise=0.0):
    """Return k-space, mask and maps of images [batch, kz, y, x]."""
    maps = torch.ones(1, coils, *image.shape[1:], dtype=torch.complex64)
    if coils > 1:
        y, x = (torch.linspace(-1, 1, n) for n in image.shape[2:])
        phases = torch.arange(coils) * 2 * np.pi / coils
        maps = torch.exp(
            -0.5 * ((y[:, None] - phases.sin()[:, None, None]) ** 2 + (x - phases.cos()[:, None, None]) ** 2)
        )
        maps = (maps / maps.norm(dim=0)).to(torch.complex64)[None, :, None].expand(1, -1, *image.shape[1:])
    kspace = fft(maps * image[:, None], [2, 3, 4])
    kspace = kspace + noise * random(*kspace.shape, seed=5)
    mask = torch.zeros(image.shape[:3])
    mask[..., ::acceleration] = 1
    mask[..., image.shape[2] // 2 - 4 : image.shape[2] // 2 + 4] = 1
    kspace = kspace * mask[:, None, :, :, None]
    return torch.view_as_real(kspace), mask, torch.view_as_real(maps.contiguous())


def blocks(size=40):
    image = torch.zeros(1, 1, size, size, dtype=torch.complex64)
    image[..., 10:30, 12:28] = 1 + 0.5j
    return image


@pytest.mark.parametrize("make", METHODS)
def test_synthesis_is_the_adjoint_of_analysis(make):
    module = make()
    x = torch.view_as_real(random(2, 1, 7, 10))
    z = torch.randn_like(module.analyse(x))
    assert torch.isclose((module.analyse(x) * z).sum(), (x * module.synthesise(z)).sum(), rtol=1e-3)
    assert torch.allclose(module.gram(x), module.synthesise(module.analyse(x)), atol=1e-5)


def test_wavelets_see_no_parabola():
    """Daubechies' four taps have two vanishing moments: away from the seam of a periodic image, no detail of a ramp is left."""
    ramp = torch.arange(40.0)[:, None] + 2 * torch.arange(48.0)
    details = Wavelets(levels=2).analyse(torch.stack([ramp, -ramp], dim=-1)[None, None])[:, 1:]
    assert details[..., 10:, 10:, :].abs().max() < 1e-4
    assert details.abs().max() > 1


def minimiser(module, noisy, weight):
    """Minimise ``0.5 ||x - noisy||^2 + weight R(x)`` by projected gradients on its dual, Chambolle, JMIV 2004;20:89."""
    joint = isinstance(module, TotalVariation)
    step = 1 / 8 if joint else 1.0  # over the squared norm of the analysis
    dual = torch.zeros_like(module.analyse(noisy))
    for _ in range(600):
        dual = dual + step * module.analyse(noisy - module.synthesise(dual))
        length = dual.square().sum(dim=[1, -1] if joint else [-1], keepdim=True).sqrt()
        dual = dual * (weight / length.clamp_min(weight))
        if not joint:
            dual[:, 0] = 0
    return noisy - module.synthesise(dual)


def solved(module, image, weight):
    """Return what the solver makes of the full data of one coil with a given weight."""
    kspace, mask, maps = scan(image)
    hybrid, lines = ifft_planar(kspace, [-2]), mask[:, None, :, :, None, None]
    weights = torch.full((1, 1, 1, 1, 1), weight)
    return turn(module.solve(turn(hybrid), turn(maps), turn(lines), weights))


@pytest.mark.parametrize("make", METHODS)
def test_full_data_of_one_coil_is_denoised_to_the_minimiser(make):
    noisy = blocks(40)[..., 4:20, 4:20] + 0.1 * random(1, 1, 16, 16)
    image = solved(make(60, 4, penalty=2.0 if make is Wavelets else 0.5), noisy, 0.15)
    expected = minimiser(make(), torch.view_as_real(noisy).to(torch.float64), 0.15)
    assert (image - expected).norm() < 4e-3 * expected.norm()
    assert (torch.view_as_real(noisy) - expected).norm() > 0.05 * expected.norm()


@pytest.mark.parametrize("make", METHODS)
def test_every_slice_of_a_batch_has_the_strength_that_is_chosen_for_it(make):
    images = torch.cat([blocks(), blocks().transpose(2, 3)])
    kspace, mask, maps = scan(images, coils=4, acceleration=3, noise=0.05)
    both = make(strength=0.1)(kspace, mask, maps, torch.tensor([1.0, 3.0]))
    for index, strength in enumerate((0.1, 0.3)):
        alone = make(strength=strength)(kspace[index : index + 1], mask[:1], maps)[0]
        assert (both[index] - alone).abs().max() < 1e-5 * alone.abs().max()


def test_total_variation_moves_two_halves_towards_each_other():
    """Closed form: every pixel of a half of width n moves by weight / n, and its phase stays."""
    image = torch.zeros(1, 1, 12, 12, dtype=torch.complex64)
    image[..., 6:] = 2j
    result = torch.view_as_complex(solved(TotalVariation(200, 4, penalty=0.5), image, 1.2))
    expected = torch.full_like(image, 0.2j)
    expected[..., 6:] = 1.8j
    assert (result - expected).abs().max() < 1e-3


@pytest.mark.parametrize("make", METHODS)
def test_undersampled_data_is_reconstructed_better_than_by_sense(make):
    image = torch.cat([blocks(), blocks().transpose(2, 3)])
    inputs = scan(image, coils=4, acceleration=3, noise=0.05)

    def error(module):
        return float((torch.view_as_complex(module(*inputs)) - image).norm())

    assert error(make()) < 0.6 * error(Sense())


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_result_scales_with_the_samples_and_each_batch_entry_is_alone(make, scale):
    image = torch.cat([blocks(24), scale * blocks(24).transpose(2, 3)])
    kspace, mask, maps = scan(image, coils=3, acceleration=2)
    kspace[:1] += 0.02 * torch.view_as_real(random(*kspace.shape[:-1]))[:1] * mask[:1, None, :, :, None, None]
    together = make(5)(kspace, mask, maps)
    alone = make(5)(kspace[1:] / scale, mask[1:], maps)
    assert (together[1:] / scale - alone).abs().max() < 1e-3 * alone.abs().max()


@pytest.mark.parametrize("make", METHODS)
def test_nothing_stays_nothing(make):
    kspace, mask, maps = scan(blocks(24))
    assert not make()(torch.zeros_like(kspace), mask, maps).any()
    assert not make()(kspace, torch.zeros_like(mask), maps).any()
