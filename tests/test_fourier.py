import numpy as np
import pytest
import torch
from isocenter.models import fourier

LENGTHS = [1, 2, 7, 16, 37, 45, 218, 372, 640, 641]


def exact(x, axes, inverse):
    transform = np.fft.ifftn if inverse else np.fft.fftn
    return np.fft.fftshift(transform(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex64, generator=generator)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("inverse", [False, True])
def test_one_transform_agrees_with_float64(n, inverse):
    x = random(3, n, 5)
    transform = fourier.ifft_planar if inverse else fourier.fft_planar
    ours = torch.view_as_complex(transform(torch.view_as_real(x), [-3]).contiguous()).numpy()
    reference = exact(x.numpy().astype(np.complex128), (1,), inverse)
    assert np.abs(ours - reference).max() <= 2e-6 * np.abs(reference).max()


@pytest.mark.parametrize("shape", [(2, 12, 10), (1, 9, 15)])
def test_two_axes(shape):
    x = random(*shape)
    kspace = fourier.fft2c(torch.view_as_real(x))
    back = torch.view_as_complex(fourier.ifft2c(kspace).contiguous())
    assert np.abs(torch.view_as_complex(kspace.contiguous()).numpy() - exact(x.numpy(), (1, 2), False)).max() < 1e-5
    assert (back - x).abs().max() < 1e-5


def test_the_inverse_is_the_adjoint():
    x, y = torch.view_as_real(random(2, 9, 14, seed=1)), torch.view_as_real(random(2, 9, 14, seed=2))
    left, right = (fourier.fft2c(x) * y).sum(), (x * fourier.ifft2c(y)).sum()
    assert torch.isclose(left, right, rtol=1e-4)


def test_scripted_equals_eager():
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return fourier.ifft_planar(x, [-3, -2])

    x = torch.view_as_real(random(2, 7, 6))
    assert torch.equal(torch.jit.script(Module())(x), Module()(x))


def test_complex_transforms_are_those_of_numpy():
    x = random(3, 10, 9)
    assert np.abs(fourier.fft(x, [0, 2]).numpy() - exact(x.numpy(), (0, 2), False)).max() < 1e-5
    assert np.abs(fourier.ifft(x, [-1]).numpy() - exact(x.numpy(), (-1,), True)).max() < 1e-5
