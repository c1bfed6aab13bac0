"""Ridge regularisers and the error level that they are told, against energies, dense matrices and statistics."""

import numpy as np
import pytest
import torch
from isocenter.models.error_level import ErrorLevel
from isocenter.models.networks.ridge_net import RidgeNet
from isocenter.models.planar import box_mean
from isocenter.models.pseudo_random import random_phases
from isocenter.models.ridge import RidgeRegulariser, cosine_filters
from isocenter.models.sampling import to_hybrid
from isocenter.simulate.coils import random_coil_maps


def random(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def coil_maps(coils, y, x):
    maps = random_coil_maps(np.random.default_rng(1), coils, (y, x))
    return torch.from_numpy(maps / np.sqrt((np.abs(maps) ** 2).sum(0))).to(torch.complex64)


def lines(y, acceleration, calibration):
    mask = torch.zeros(y)
    mask[::acceleration] = 1
    mask[y // 2 - calibration // 2 : y // 2 + calibration // 2] = 1
    return mask


def scan(y=48, x=40, coils=4, acceleration=3, noise=0.02, seed=0):
    """K-space of a bright disc with a dark one in it: kspace, mask, maps as a network takes them, and the image."""
    rows, columns = np.mgrid[-1 : 1 : y * 1j, -1 : 1 : x * 1j]
    image = (np.hypot(rows, columns) < 0.8) - 0.5 * (np.hypot(rows - 0.2, columns) < 0.3) + 0j
    maps = coil_maps(coils, y, x)
    coil_images = maps * torch.from_numpy(image.astype(np.complex64))
    kspace = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(coil_images, dim=(1, 2)), norm="ortho"), dim=(1, 2))
    kspace = kspace + noise / np.sqrt(2) * torch.view_as_complex(random((coils, y, x, 2), seed))
    mask = lines(y, acceleration, 12).reshape(1, 1, y, 1, 1)
    planar = torch.view_as_real(kspace)[None] * mask
    return planar, mask, torch.view_as_real(maps)[None], image


def test_pseudo_random_numbers_are_white():
    field = torch.view_as_complex(random_phases(3, 128, 96, 1, torch.zeros(())))[0]
    assert torch.allclose(field.abs(), torch.ones(3, 128, 96), atol=1e-6)
    for other in (field.roll(1, 1), field.roll(1, 2), field.roll(32, 1), field.roll(1, 0), field.conj()):
        assert float((field * other.conj()).mean().abs()) < 4 / np.sqrt(field.numel())
    # the power spectrum of white noise is distributed exponentially: its mean and its standard deviation are one
    power = torch.fft.fft2(field, norm="ortho").abs().square()
    assert float(power.std()) == pytest.approx(1, abs=0.05)
    assert float(power.max()) < 20
    apart = torch.view_as_complex(random_phases(3, 128, 96, 2, torch.zeros(())))[0]
    assert float((field * apart.conj()).mean().abs()) < 4 / np.sqrt(field.numel())


def energy(regulariser, image, level):
    """R in float64, by loops over the filters, from the formula; its level is that of one batch entry, a number."""
    filters = (regulariser.filters - regulariser.filters.mean((2, 3), keepdim=True)).double()
    place = np.clip(np.log(level / 0.0015) / np.log(3), 0, 5)
    below = min(int(place), 4)
    total = torch.zeros((), dtype=torch.float64)
    edge = filters.shape[-1] // 2
    odd = [0, image.shape[1] % 2, 0, image.shape[0] % 2]
    padded = torch.nn.functional.pad(torch.nn.functional.pad(image.movedim(-1, 0), odd), [edge] * 4)
    for index, kernel in enumerate(filters[:, 0]):
        inner = torch.stack([(window * kernel).sum((-2, -1)) for window in _windows(padded, len(kernel))])
        response = inner.norm(dim=0)[regulariser.offset_y :: 2, regulariser.offset_x :: 2]
        height, threshold = (
            torch.exp((1 - (place - below)) * row[below] + (place - below) * row[below + 1]).double()
            for row in (regulariser.height[index], regulariser.threshold[index])
        )
        mix = torch.sigmoid(regulariser.mix[index]).double()
        r = response / (threshold * level)
        potential = mix * (1 + r**2).sqrt() + (1 - mix) / 2 * torch.log(1 + r**2)
        total = total + 4 * height * threshold**2 * potential.sum()
    return total


def _windows(planes, size):
    """The windows [y, x, size, size] of each plane."""
    return (plane.unfold(0, size, 1).unfold(1, size, 1) for plane in planes)


@pytest.mark.parametrize(("offset", "shape"), [((0, 0), (12, 10)), ((1, 0), (11, 13))])
def test_the_regulariser_returns_the_gradient_of_its_energy(offset, shape):
    regulariser = RidgeRegulariser(5, 9, offset)
    with torch.no_grad():
        for index, parameter in enumerate(regulariser.parameters()):
            parameter += 0.3 * random(parameter.shape, index)
    image, level = random((*shape, 2), 7) * 0.1, 0.05
    wanted = image.double().requires_grad_()
    energy(regulariser, wanted, level).backward()
    found = regulariser(image[None], torch.full((1, *shape), level))[0].detach()
    assert wanted.grad is not None
    assert torch.allclose(found.double(), wanted.grad * level**2, atol=1e-6 * float(found.abs().max()), rtol=2e-5)


def test_cosine_filters_are_orthonormal_and_have_no_mean():
    filters = cosine_filters(48, 9).flatten(1)
    assert torch.allclose(filters @ filters.T, torch.eye(48), atol=1e-5)
    assert float(filters.sum(1).abs().max()) < 1e-5


def test_noise_and_its_amplification_are_found():
    kspace, mask, maps, _ = scan(acceleration=4, noise=0.02)
    measured, weights, axes = to_hybrid(kspace, mask)
    start = ErrorLevel(40)(kspace, measured, weights, maps, axes)
    assert float(start.noise * start.scale[..., 0]) == pytest.approx(0.02, rel=0.1)
    # the variance of every pixel by a dense matrix, a column of the image at a time
    coils = torch.view_as_complex(maps)[0].numpy()
    y = coils.shape[1]
    fourier = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(np.eye(y), axes=0), axis=0, norm="ortho"), axes=0)
    fourier = fourier[mask.flatten().numpy() > 0]
    variance = np.empty(coils.shape[1:])
    for x in range(coils.shape[2]):
        encoding = np.concatenate([fourier * coil[:, x] for coil in coils])
        inverse = np.linalg.solve(encoding.conj().T @ encoding + 1e-3 * np.eye(y), encoding.conj().T)
        variance[:, x] = (np.abs(inverse) ** 2).sum(1)
    wanted = box_mean(torch.from_numpy(variance)[None, ..., None], 11)[0, ..., 0].numpy()
    found = (start.noise_error / start.noise.square())[0].numpy()
    assert wanted.max() > 2 * wanted.min()
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.8
    assert np.median(found / wanted) == pytest.approx(1, rel=0.15)


def test_where_lines_are_missing_detail_is_lost():
    kspace, mask, maps, _ = scan(acceleration=1, noise=1e-4)
    whole = torch.ones_like(mask)
    levels = []
    for weights in (whole, lines(48, 48, 12).reshape(mask.shape)):
        measured, used, axes = to_hybrid(kspace, weights)
        levels.append(float(ErrorLevel()(kspace * weights, measured, used, maps, axes).detail_error.mean()))
    assert levels[1] > 20 * levels[0]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return RidgeNet(2, filters=8).eval()


@pytest.mark.parametrize("factor", [1e-6, 1e6, 1j])
def test_scale_and_phase_come_through(network, factor):
    kspace, mask, maps, _ = scan()
    with torch.no_grad():
        image = torch.view_as_complex(network(kspace, mask, maps))
        turned = torch.view_as_real(torch.view_as_complex(kspace) * factor).contiguous()
        again = torch.view_as_complex(network(turned, mask, maps))
    assert torch.allclose(again, image * factor, rtol=1e-3, atol=1e-4 * float(image.abs().max()) * abs(factor))


@pytest.mark.parametrize(
    "shape", [{"y": 47, "x": 33}, {"coils": 1, "acceleration": 1}, {"coils": 1, "acceleration": 3}]
)
def test_odd_sizes_and_single_coils_stay_finite(network, shape):
    kspace, mask, maps, image = scan(**shape)
    with torch.no_grad():
        found = network(kspace, mask, maps)
        assert torch.isfinite(found).all()
        assert not network(torch.zeros_like(kspace), mask, maps).any()
    if shape.get("acceleration") == 1:
        error = torch.view_as_complex(found)[0].numpy() - image
        assert np.sqrt((np.abs(error) ** 2).mean()) < 0.05
