import numpy as np
import torch
from isocenter.export.cases import make_case
from isocenter.export.classical import METHODS
from isocenter.models.classical import CoilCombine, RootSumOfSquares, Sense
from isocenter.models.fourier import fft2c, ifft2c
from isocenter.models.jsense import JSense, grow, shrink
from isocenter.models.planar import coil_expand, coil_reduce, multiply


def case(name, *sizes):
    return list(
        make_case(METHODS[name].inputs, dict(zip(("batch", "coils", "kz", "ky", "kx"), sizes, strict=True))).values()
    )


def complex_(x):
    return torch.view_as_complex(x.contiguous()).numpy().astype(np.complex128)


def inverse(x, axes):
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def test_root_sum_of_squares_is_numpys():
    (kspace,) = case("rss", 2, 3, 4, 10, 9)
    expected = np.sqrt((np.abs(inverse(complex_(kspace), (2, 3, 4))) ** 2).sum(1))
    assert np.abs(RootSumOfSquares()(kspace).numpy() - expected).max() < 1e-6 * expected.max() * 10


def test_coil_combination_is_numpys():
    kspace, maps = case("combine", 1, 3, 1, 10, 9)
    expected = (complex_(maps).conj() * inverse(complex_(kspace), (2, 3, 4))).sum(1)
    assert np.abs(complex_(CoilCombine()(kspace, maps)) - expected).max() < 1e-5 * np.abs(expected).max()


def test_coil_reduce_is_the_adjoint_of_coil_expand():
    _, maps = case("combine", 1, 3, 2, 6, 5)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 2, 6, 5, 2, generator=generator)
    coils = torch.randn(1, 3, 2, 6, 5, 2, generator=generator)
    assert torch.isclose((coil_expand(image, maps) * coils).sum(), (image * coil_reduce(coils, maps)).sum(), rtol=1e-4)


def test_planar_product():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
    assert multiply(a, b).tolist() == [5.0, 5.0]


def test_sense_solves_the_normal_equations():
    """Against the dense matrix in float64."""
    kspace, mask, maps, _ = case("sense", 1, 3, 1, 8, 6)
    regularization = 0.05
    result = complex_(Sense(60, regularization)(kspace, mask, maps))[0, 0]
    k, m, s = complex_(kspace)[0, :, 0], mask[0, 0].numpy(), complex_(maps)[0, :, 0]
    y, x = m.size, k.shape[-1]
    pixels = np.eye(y * x).reshape(-1, y, x)
    fields = s[None] * pixels[:, None]
    axes = (2, 3)
    encoded = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(fields, axes), axes=axes, norm="ortho"), axes) * m[:, None]
    matrix = encoded.reshape(y * x, -1).T
    normal = matrix.conj().T @ matrix + regularization * np.eye(y * x)
    expected = np.linalg.solve(normal, matrix.conj().T @ (k * m[:, None]).ravel()).reshape(y, x)
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()
    chosen = complex_(Sense(60, regularization / 4)(kspace, mask, maps, torch.tensor([4.0])))[0, 0]
    assert np.abs(chosen - expected).max() < 1e-5 * np.abs(expected).max()


def test_sense_is_finite_where_nothing_is_left_to_solve():
    kspace, mask, maps, _ = case("sense", 2, 3, 1, 8, 6)
    assert torch.isfinite(Sense()(torch.zeros_like(kspace), mask, maps)).all()
    assert torch.isfinite(Sense()(kspace, torch.ones_like(mask), maps)).all()
    assert torch.isfinite(Sense()(kspace, torch.zeros_like(mask), maps)).all()
    assert torch.isfinite(Sense()(kspace[:, :1], mask, torch.ones_like(maps[:, :1]))).all()


def test_sense_treats_every_entry_of_a_batch_alone():
    kspace, mask, maps, _ = case("sense", 2, 3, 1, 8, 6)
    together = Sense()(kspace, mask, maps)
    alone = Sense()(kspace[1:], mask[1:], maps[1:])
    assert (together[1:] - alone).abs().max() < 1e-5 * alone.abs().max()


def convolved_scan(lines, samples, kernel, coils=4):
    """K-space [1, coils, ky, kx, 2] of a random smooth object, each coil a convolution with a random small kernel."""
    generator = torch.Generator().manual_seed(2)
    y, x = lines + kernel - 1, samples + kernel - 1
    decay = 1 / (1 + 0.3 * torch.hypot(*torch.meshgrid(*(torch.arange(n) - n // 2.0 for n in (y, x)), indexing="ij")))
    image = ifft2c(torch.randn(1, y, x, 2, generator=generator) * decay[..., None])
    taps = 0.2 * torch.randn(1, coils, kernel, kernel, 2, generator=generator)
    taps[..., kernel // 2, kernel // 2, :] += torch.randn(1, coils, 2, generator=generator)
    return shrink(fft2c(coil_expand(image, ifft2c(grow(taps, y, x)))), lines, samples)


def lines_of(kspace, spacing, acs):
    index = torch.arange(kspace.shape[2]) - kspace.shape[2] // 2
    return ((index % spacing == 0) | ((index >= -acs // 2) & (index < acs // 2)))[None, None, :, None, None].float()


def test_jsense_comes_closer_to_data_that_its_model_explains_with_every_step():
    kspace = convolved_scan(48, 40, 3)
    truth = ifft2c(kspace).square().sum(-1).sum(1).sqrt()

    @torch.no_grad()
    def error(unrolls, mask):
        image = JSense(unrolls, 20, 40, (3, 3), 1e-6, 1e-5)(kspace * mask, mask)
        return float((image - truth).norm() / truth.norm())

    full, half = lines_of(kspace, 1, 16), lines_of(kspace, 2, 16)
    assert error(10, full) < error(2, full) < 0.5 * error(0, full)
    assert error(10, half) < error(2, half) < error(0, half)


@torch.no_grad()
def test_jsense_keeps_the_scale_of_its_input():
    kspace = convolved_scan(32, 24, 3)
    mask = lines_of(kspace, 2, 12)
    image = JSense(kernel=(3, 3))(kspace * mask, mask)
    assert torch.allclose(JSense(kernel=(3, 3))(1e4 * kspace * mask, mask), 1e4 * image, rtol=1e-3, atol=1e-3)
    assert torch.count_nonzero(JSense()(torch.zeros(1, 3, 32, 24, 2), mask)) == 0
