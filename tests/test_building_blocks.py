"""What the networks are made of, each against something independent."""

import numpy as np
import pytest
import torch
from isocenter.models.consistency import (
    ProximalStep,
    adjoint_model,
    cg_start,
    cg_step,
    data_gradient,
    forward_model,
    normal_model,
    replace_measured,
)
from isocenter.models.normalisation import InstanceNorm, standardise
from isocenter.models.padding import mirror, repeat_edge, to_multiple, wrap
from isocenter.models.sampling import calibration_mask, to_hybrid
from isocenter.models.svt import singular_value_threshold

AXES = [[-3, -2], [-3], [-2]]


def problem(frames=()):
    torch.manual_seed(4)
    image = torch.randn(2, *frames, 9, 8, 2, dtype=torch.float64)
    kspace = torch.randn(2, 3, *frames, 9, 8, 2, dtype=torch.float64)
    maps = torch.randn(2, 3, *([1] * len(frames)), 9, 8, 2, dtype=torch.float64)
    mask = (torch.rand(2, 1, *frames, 9, 1, 1, dtype=torch.float64) > 0.4).double()
    return image, kspace, maps, mask


@pytest.mark.parametrize("frames", [(), (4,)])
@pytest.mark.parametrize("axes", AXES)
def test_the_adjoint_is_the_adjoint(frames, axes):
    image, kspace, maps, _ = problem(frames)
    left = (forward_model(image, maps, axes) * kspace).sum()
    right = (image * adjoint_model(kspace, maps, axes)).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-9)


def test_the_data_gradient_is_the_gradient_of_the_misfit():
    image, kspace, maps, mask = problem()
    image.requires_grad_(True)
    misfit = 0.5 * (forward_model(image, maps, [-3, -2]) * mask - kspace * mask).square().sum()
    (expected,) = torch.autograd.grad(misfit, image)
    torch.testing.assert_close(data_gradient(image, kspace * mask, maps, mask, [-3, -2]), expected)


def test_the_proximal_step_solves_its_equations_and_can_start_anywhere():
    image, _, maps, mask = problem()
    weight = torch.tensor(0.3, dtype=torch.float64)
    target = normal_model(image, maps, mask, [-3]) + weight * image
    step = ProximalStep(80)
    for start in (None, torch.randn_like(image)):
        torch.testing.assert_close(step(target, maps, mask, [-3], weight, start), image, rtol=1e-6, atol=1e-6)


def test_conjugate_gradients_stay_where_they_have_converged():
    matrix = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    right = torch.tensor([[2.0, 1.0], [0.0, 0.0]])
    state = cg_start(torch.zeros_like(right), right)
    for _ in range(6):
        state = cg_step(state, state.direction @ matrix)
    torch.testing.assert_close(state.solution, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))


def test_replaced_samples_are_those_that_were_measured():
    image, _, _, mask = problem()
    ones = torch.zeros(2, 1, 9, 8, 2, dtype=torch.float64)
    ones[..., 0] = 1
    measured = torch.randn(2, 1, 9, 8, 2, dtype=torch.float64) * mask
    result = forward_model(replace_measured(image, measured, ones, mask, [-3, -2]), ones, [-3, -2])
    torch.testing.assert_close(result * mask, measured)
    torch.testing.assert_close(result * (1 - mask), forward_model(image, ones, [-3, -2]) * (1 - mask))
    kept = replace_measured(image, measured, ones, mask, [-3, -2], noise=torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(kept, image)


def test_hybrid_space_transforms_the_complete_axes_once():
    _, kspace, _, mask = problem()
    hybrid, weights, axes = to_hybrid(kspace, mask)
    assert axes == [-3]
    values = torch.view_as_complex(kspace * mask).numpy()
    shifted = np.fft.ifft(np.fft.ifftshift(values, axes=-1), axis=-1, norm="ortho")
    expected = np.fft.fftshift(shifted, axes=-1)
    np.testing.assert_allclose(torch.view_as_complex(hybrid).numpy(), expected, atol=1e-12)
    assert torch.equal(weights, mask)


@pytest.mark.parametrize(
    ("sampled", "expected"),
    [
        # one line below the middle, three from it on: one on each side
        ("0100111100", "0000110000"),
        ("1111111111", "1111111111"),
        ("0000010000", "0000010000"),
        # of an odd number of lines, the start is rounded as in fastMRI
        ("00011110101", "00001111000"),
    ],
)
def test_calibration_lines_are_the_even_run_around_the_middle(sampled, expected):
    mask = torch.tensor([int(c) for c in sampled]).reshape(1, 1, 1, -1, 1)
    result = calibration_mask(mask).flatten().int().tolist()
    middle = len(sampled) // 2
    left = next((i for i in range(middle) if sampled[middle - 1 - i] == "0"), middle)
    right = next((i for i in range(len(sampled) - middle) if sampled[middle + i] == "0"), len(sampled) - middle)
    assert sum(result) == max(2 * min(left, right), 1)
    assert "".join(map(str, result)) == expected


@pytest.mark.parametrize("shape", [(3, 20, 12, 2), (3, 12, 20, 2)])
@pytest.mark.parametrize("kind", ["random", "decaying", "rank 3", "flat", "zero"])
@pytest.mark.parametrize("threshold", [0.004, 0.1, 0.6])
def test_singular_value_thresholding_equals_numpys_decomposition(shape, kind, threshold):
    torch.manual_seed(6)
    u, _, v = np.linalg.svd(torch.view_as_complex(torch.randn(shape)).numpy().astype(complex), full_matrices=False)
    count = u.shape[-1]
    spectrum = {
        "random": np.sort(np.random.default_rng(1).random(count))[::-1],
        "decaying": np.logspace(0, -6, count),
        "rank 3": (np.arange(count) < 3).astype(float),
        "flat": np.ones(count),
        "zero": np.zeros(count),
    }[kind]
    x = torch.view_as_real(torch.from_numpy((u * spectrum) @ v)).float()
    result = singular_value_threshold(x, torch.tensor(threshold))
    expected = (u * np.maximum(spectrum - threshold * spectrum[0], 0)) @ v
    assert np.abs(torch.view_as_complex(result).numpy() - expected).max() < 2e-6


@pytest.mark.parametrize("shape", [(2, 3, 17, 30), (2, 3, 5, 8, 9)])
def test_normalisation_equals_numpy(shape):
    x = torch.randn(shape) * 3 + 5
    values = x.double().numpy()
    axes = tuple(range(2, x.dim()))
    normalised, (standard, mean, deviation) = InstanceNorm()(x), standardise(x)
    centred = values - values.mean(axes, keepdims=True)
    np.testing.assert_allclose(normalised.numpy(), centred / np.sqrt(values.var(axes, keepdims=True) + 1e-5), atol=2e-6)
    np.testing.assert_allclose(standard.numpy(), centred / values.std(axes, ddof=1, keepdims=True), atol=2e-6)
    np.testing.assert_allclose((standard * deviation + mean).numpy(), values, rtol=1e-5)


def test_a_constant_channel_becomes_zero():
    assert not standardise(torch.full((1, 2, 5, 6), 3.0))[0].any()


def test_padding_equals_numpys():
    x = torch.randn(2, 5, 7)
    np.testing.assert_array_equal(wrap(x, 2, 2, 3).numpy(), np.pad(x.numpy(), ((0, 0), (0, 0), (2, 3)), "wrap"))
    np.testing.assert_array_equal(repeat_edge(x, 1, 1, 2).numpy(), np.pad(x.numpy(), ((0, 0), (1, 2), (0, 0)), "edge"))
    np.testing.assert_array_equal(mirror(x, 2, 3).numpy(), np.pad(x.numpy(), ((0, 0), (0, 0), (3, 3)), "reflect"))
    assert [to_multiple(size, 16) for size in (16, 17, 30)] == [(0, 0), (7, 8), (1, 1)]


SPECTRA = {
    "distinct": [3.0, 2.2, 1.5, 1.1, 0.4, 0.2],
    "equal": [3.0, 2.0, 2.0, 2.0, 0.3, 0.3],
    "zeros": [3.0, 2.0, 2.0, 0.0, 0.0, 0.0],
    "all but the largest shrink to nothing": [3.0, 0.1, 0.1, 0.0, 0.0, 0.0],
}


def matrices(spectrum, shape):
    """Complex [2, rows, columns, 2] in float64 with these singular values, the second of them twice as large."""
    random = np.random.default_rng(4)
    u, v = (np.linalg.qr(random.standard_normal((2, n, 6)) + 1j * random.standard_normal((2, n, 6)))[0] for n in shape)
    scaled = np.array(spectrum) * np.array([1.0, 2.0])[:, None, None]
    return torch.view_as_real(torch.from_numpy((u * scaled) @ v.conj().swapaxes(1, 2)))


def thresholded_in_numpy(x, threshold):
    u, s, v = np.linalg.svd(torch.view_as_complex(x.contiguous()).numpy(), full_matrices=False)
    return (u * np.maximum(s - threshold * s[..., :1], 0)[..., None, :]) @ v


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (6, 6)])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_the_gradient_of_singular_value_thresholding_equals_finite_differences(spectrum, shape):
    random = torch.Generator().manual_seed(1)
    x = matrices(spectrum, shape).requires_grad_()
    threshold = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(x.shape, dtype=torch.float64, generator=random)
    (singular_value_threshold(x, threshold) * weights).sum().backward()
    assert x.grad is not None
    assert threshold.grad is not None

    def value(moved, limit):
        return float((torch.view_as_real(torch.from_numpy(thresholded_in_numpy(moved, limit))) * weights).sum())

    step = 1e-5
    for _ in range(5):
        direction = torch.randn(x.shape, dtype=torch.float64, generator=random)
        ahead, behind = (value(x.detach() + sign * step * direction, 0.25) for sign in (1, -1))
        assert float((x.grad * direction).sum()) == pytest.approx((ahead - behind) / (2 * step), rel=1e-6, abs=1e-6)
    ahead, behind = (value(x.detach(), 0.25 + sign * step) for sign in (1, -1))
    assert float(threshold.grad) == pytest.approx((ahead - behind) / (2 * step), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_the_gradient_of_singular_value_thresholding_is_that_of_the_decomposition_where_that_has_one(shape):
    x = matrices(SPECTRA["distinct"], shape)
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def by_decomposition(y, limit):
        u, s, v = torch.linalg.svd(torch.view_as_complex(y), full_matrices=False)
        # the product does not depend on the phases of the vectors
        shrunk = torch.relu(s - limit * s[..., :1]).to(u.dtype)
        return torch.view_as_real((u * shrunk.unsqueeze(-2)) @ v)

    gradients = []
    for method in (by_decomposition, singular_value_threshold):
        y = x.clone().requires_grad_()
        limit = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
        gradients.append(torch.autograd.grad((method(y, limit) * weights).sum(), (y, limit)))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("threshold", [0.0, 1e-3, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["zero", "zero columns", "flat"])
def test_the_gradient_of_singular_value_thresholding_is_always_finite(kind, threshold):
    x = torch.zeros(3, 8, 5, 2)
    if kind != "zero":
        x[:, :5, :, 0] = torch.eye(5)
    if kind == "zero columns":
        x[:, :, 2:] = 0
    x.requires_grad_()
    limit = torch.tensor(threshold, requires_grad=True)
    singular_value_threshold(x, limit).square().sum().backward()
    assert x.grad is not None
    assert limit.grad is not None
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(limit.grad)


def test_singular_value_thresholding_is_compiled_as_it_is_computed():
    class Thresholds(torch.nn.Module):
        def forward(self, x: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
            return singular_value_threshold(x, limit)

    x, limit = matrices(SPECTRA["equal"], (9, 6)).float(), torch.tensor(0.2)
    compiled = torch.jit.script(Thresholds())
    torch.testing.assert_close(compiled(x, limit), singular_value_threshold(x, limit), rtol=0, atol=0)
