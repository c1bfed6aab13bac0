"""Coil maps that do not explain what was measured: by how much, where, and that images and client are told."""

import math

import pytest
import torch
from helpers import every, noise
from isocenter.gadgets.maps_check import ACCEPTED
from isocenter.models.coil_maps import espirit
from isocenter.models.fourier import fft, ifft
from isocenter.models.map_misfit import map_misfit
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.training.files.folder import FileScans

PLANE = [-2, -1]


def blob(lines, samples, row):
    """A smooth spot, complex64 [y, x]."""
    y, x = torch.arange(lines)[:, None] - row, torch.arange(samples) - samples // 2
    return torch.exp(-(y**2 + x**2) / 200).to(torch.complex64)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_part_with_another_map_is_what_is_left(part, scale):
    """Of ``a + part * b``, with an angle ``t`` between them, ``a`` explains ``1 + part cos(t)`` and leaves ``part sin(t)``."""
    angle, row = 1.0, 90
    spot = scale * blob(120, 100, row)
    coils = torch.stack([spot * (1 + part * math.cos(angle)), spot * part * math.sin(angle)])
    maps = torch.tensor([1.0, 0.0], dtype=torch.complex64)[:, None, None, None].expand(2, 1, 120, 100)
    misfit, where = map_misfit(fft(coils, PLANE)[:, None], every(120), maps)
    expected = part * math.sin(angle) / (1 + part * math.cos(angle))
    assert misfit == pytest.approx(expected, rel=0.02, abs=2e-3)
    assert not part or abs(where - row) <= 2


@pytest.mark.parametrize("coils", [1, 2, 8, 32])
@pytest.mark.parametrize("acceleration", [1, 4])
def test_noise_needs_no_maps(coils, acceleration):
    mask = every(96, acceleration, 24)
    kspace = noise(coils, 1, 96, 80) * mask[:, :, None]
    maps = espirit(kspace[:, :, 36:60, 28:52], (1, 96, 80))
    assert map_misfit(kspace, mask, maps)[0] < 0.01


def test_one_coil_and_no_signal_leave_nothing():
    kspace = fft(blob(64, 64, 32)[None, None], PLANE)
    maps = torch.ones(2, 1, 64, 64, dtype=torch.complex64) / 2**0.5
    assert map_misfit(kspace, every(64), torch.zeros_like(maps[:1])) == (0.0, 0)
    assert map_misfit(torch.zeros(2, 1, 64, 64, dtype=torch.complex64), every(64), maps)[0] == 0


def test_maps_without_signal_explain_nothing():
    kspace = fft(blob(64, 64, 32).expand(2, 1, 64, 64).clone(), PLANE)
    assert map_misfit(kspace, every(64), torch.zeros_like(kspace))[0] == pytest.approx(1, abs=0.01)


def test_volumes_are_looked_at_in_all_their_partitions():
    """The other part lies in one half of them alone."""
    spot = blob(48, 40, 24)
    along = torch.exp(-((torch.arange(16) - 11.0) ** 2) / 8)
    first, second = spot.expand(16, 48, 40), spot * along[:, None, None]
    coils = torch.stack([first, 0.4 * second, torch.zeros_like(first)])
    maps = torch.zeros(3, 16, 48, 40, dtype=torch.complex64)
    maps[0] = 1
    mask = torch.ones(16, 48, dtype=torch.bool)
    kspace = fft(coils, [-3, *PLANE])
    assert 0.2 < map_misfit(kspace, mask, maps)[0] < 0.4
    kspace[1] = 0
    assert map_misfit(kspace, mask, maps)[0] < 0.02


class TestOnMeasuredHeads:
    """Folding an image by a period makes what a smaller field of view would have measured."""

    @pytest.fixture(params=["brain_8ch_230x180_full", "head_16ch_96x96_full"])
    def head(self, request, shared_data, tmp_path):
        (tmp_path / "scan.h5").symlink_to(shared_data / f"{request.param}.h5")
        return FileScans(tmp_path).scan(0).kspace

    def misfit(self, kspace, acceleration=4, calibration=None):
        lines, samples = kspace.shape[1:]
        mask = every(lines, acceleration, 24 if calibration is None else 0)
        middle = (slice(None), slice(lines // 2 - 12, lines // 2 + 12), slice(samples // 2 - 12, samples // 2 + 12))
        maps = espirit((kspace if calibration is None else calibration)[middle][:, None], (1, lines, samples))
        return map_misfit(kspace[:, None] * mask[:, :, None], mask, maps)[0]

    def folded(self, kspace, part):
        image = ifft(kspace, PLANE)
        rows = (image.abs().square().sum(0).sqrt() > 0.1 * image.abs().max()).any(1).nonzero()
        period = int(part * int(rows.max() - rows.min()))
        small = torch.zeros(len(image), period, image.shape[2], dtype=image.dtype)
        for row in range(image.shape[1]):
            small[:, row % period] += image[:, row]
        return fft(small, PLANE)

    def test_an_object_that_fits_is_explained(self, head):
        level = float(head.abs().mean())
        assert self.misfit(head) < ACCEPTED / 2
        assert self.misfit(self.folded(head, 1.1)) < ACCEPTED
        assert self.misfit(head + 3 * level * noise(*head.shape)) < ACCEPTED

    def test_one_that_is_larger_than_the_field_of_view_is_not(self, head):
        assert self.misfit(self.folded(head, 0.8)) > 2 * ACCEPTED
        assert self.misfit(self.folded(head, 0.7)) > 2 * ACCEPTED

    def test_nor_is_one_that_moved_after_its_calibration(self, head):
        moved = fft(torch.roll(ifft(head, PLANE), head.shape[1] // 12, 1), PLANE)
        assert self.misfit(head, 3, calibration=head) < ACCEPTED
        assert self.misfit(head, 3, calibration=moved) > ACCEPTED


def test_images_and_client_are_told(service):
    """By a bundle that takes maps; one that takes none has nothing to tell."""

    def problems(part, config):
        scan = simulate(ScanProtocol(matrix=96, acceleration=2, acs=16, phase_oversampling=part))
        outcome = service.replay(scan, config)
        (image,) = outcome.images
        told = [text for text in outcome.texts if "coil maps" in text]
        return image.meta.get("IsocenterMaps", ""), told, image.meta["IsocenterComplete"]

    assert problems(1.0, "sense") == ("", [], "yes")
    mark, told, complete = problems(0.6, "sense")
    assert "% of the brightest signal unexplained (accepted: 5 %), most around row " in mark
    assert complete == "yes"
    assert len(told) == 1
    assert mark in told[0]
    assert problems(0.6, "rss")[:2] == ("", [])


@pytest.mark.parametrize(("lines", "marked"), [(6, True), (8, False)])
def test_maps_of_few_calibration_lines_are_told(service, lines, marked):
    scan = simulate(ScanProtocol(matrix=96, coils=8, acceleration=3, acs=lines, noise=0.3))
    result = service.replay(scan, "sense.xml")
    (image,) = result.images
    assert ("calibration lines (needed: 8 and more)" in image.meta.get("IsocenterMaps", "")) == marked
    assert any("needed: 8 and more" in text for text in result.texts) == marked
