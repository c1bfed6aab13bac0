"""GRAPPA on data that its model explains exactly, and on a simulated head."""

import pytest
import torch
from helpers import frame_kspace
from isocenter.models.fourier import ifft
from isocenter.models.grappa import grappa
from isocenter.simulate.scan import ScanProtocol


def pattern(size, acceleration, acs):
    lines = torch.zeros(size, dtype=torch.bool)
    lines[::acceleration] = True
    lines[size // 2 - acs // 2 : size // 2 + acs // 2] = True
    return lines


def test_lines_that_are_sums_of_their_neighbours_are_found_exactly():
    """Plane waves along ky: a line is a fixed linear combination of those beside it, in every coil."""
    random = torch.Generator().manual_seed(0)
    lines, modes = torch.arange(48.0), torch.tensor([0.3, 1.1, -0.7])
    waves = torch.exp(1j * modes[:, None] * lines)
    readout = torch.randn(3, 40, dtype=torch.complex64, generator=random)
    weights = torch.randn(4, 3, dtype=torch.complex64, generator=random)
    kspace = torch.einsum("cm,my,mx->cyx", weights, waves, readout)
    mask = pattern(48, 2, 12)
    filled = grappa(kspace * mask[:, None], mask, 1e-7)
    assert torch.equal(filled[:, mask], kspace[:, mask])
    assert (filled - kspace)[:, 2:-2].abs().max() < 0.02 * kspace.abs().max()


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_head_comes_close_to_the_truth(scale):
    kspace = scale * torch.from_numpy(frame_kspace(ScanProtocol(matrix=96, coils=8, oversampling=1), 0)[0])[:, 0]
    mask = pattern(96, 3, 20)
    truth, image, zero = (
        ifft(each, [1, 2]).norm(dim=0)
        for each in (kspace, grappa(kspace * mask[:, None], mask), kspace * mask[:, None])
    )
    assert (image - truth).norm() < 0.25 * (zero - truth).norm()


def test_too_few_calibration_lines_are_told():
    with pytest.raises(ValueError, match="4 calibration lines are too few"):
        grappa(torch.ones(2, 48, 16, dtype=torch.complex64), pattern(48, 6, 4))
