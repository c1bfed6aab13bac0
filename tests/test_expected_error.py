"""Ghosts and amplified noise that are to be expected of SENSE: how strong they are, and that images and client are told."""

import math

import pytest
import torch
from helpers import every, noise
from isocenter.bundle.manifest import Manifest, Provenance
from isocenter.export.classical import METHODS
from isocenter.flow.deferred import Deferred
from isocenter.gadgets.aliasing_check import ACCEPTED, aliasing_doubt
from isocenter.gadgets.kspace import block_of
from isocenter.models.coil_maps import espirit
from isocenter.models.expected_error import expected_error, local_errors
from isocenter.models.fourier import fft, ifft
from isocenter.service.provenance import amiss
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.training.files.folder import FileScans

PLANE = [-2, -1]
ITERATIONS, WEIGHT = 20, 0.005
SENSE = ACCEPTED["Sense"]


def ring(coils, lines, samples, blur=0.35):
    """Maps complex64 [coils, 1, y, x] of unit norm, of spots that lie along y."""
    at = torch.linspace(-0.5, 0.5, lines)[:, None] - torch.linspace(-0.45, 0.45, coils)[:, None, None]
    maps = torch.exp(-(at**2) / (2 * blur**2) + 2j * at).expand(coils, lines, samples)
    return (maps / maps.abs().square().sum(0).sqrt())[:, None].to(torch.complex64)


def measure(image, maps, mask, level=0.0):
    kspace = fft(maps * image, PLANE)
    return (kspace + level * noise(*kspace.shape, seed=1)) * mask[:, :, None]


def figures(kspace, mask, maps):
    return expected_error(kspace, mask, maps, ITERATIONS, WEIGHT)


class Dense:
    """The same problem along ky with matrices: the image of y is ``inverse A^H y``."""

    def __init__(self, maps, mask):
        lines = maps.shape[2]
        transform = fft(torch.eye(lines, dtype=torch.complex128), [0])[mask[0]]
        self.forward = torch.cat([transform * coil for coil in maps[:, 0, :, 0].to(torch.complex128)])
        self.normal = self.forward.mH @ self.forward
        self.inverse = torch.linalg.inv(self.normal + WEIGHT * torch.eye(lines))

    def image(self, kspace, mask):
        """Images [y, x] of complex64 [coils, 1, ky, kx]."""
        measured = ifft(kspace, [-1])[:, 0, mask[0]].flatten(0, 1).to(torch.complex128)
        return self.inverse @ self.forward.mH @ measured

    def ghosts(self, brightness):
        """Root mean square error [y] of images with a white spectrum and this brightness [y, x]."""
        lost = self.inverse @ self.normal - torch.eye(len(self.normal))
        return (lost.abs().square() @ brightness.square()).mean(1).sqrt()

    def noise(self):
        """Standard deviation [y] of the image for noise of one."""
        return (self.inverse @ self.forward.mH).abs().square().sum(1).sqrt()


def local(values):
    """Root mean square over 11 of [y, ...], fewer at the ends."""
    rows = range(len(values))
    return torch.stack([values[max(y - 5, 0) : y + 6].abs().square().mean(0) for y in rows]).sqrt()


@pytest.mark.parametrize(("coils", "acceleration"), [(4, 2), (4, 3), (6, 4), (3, 3), (3, 4), (1, 2)])
class TestAgainstMatrices:
    """An image of random phases, which has a white spectrum; alike along x, so that positions are averaged."""

    def problem(self, coils, acceleration, level=0.0):
        maps, mask = ring(coils, 96, 12), every(96, acceleration)
        phases = torch.exp(2j * math.pi * torch.rand(96, 12, generator=torch.Generator().manual_seed(3)))
        kspace = measure(phases, maps, mask, level)
        return local_errors(kspace, mask, maps, 60, WEIGHT), Dense(maps, mask), kspace, mask

    def test_ghosts(self, coils, acceleration):
        errors, dense, kspace, mask = self.problem(coils, acceleration)
        expected = local(dense.ghosts(local(dense.image(kspace, mask))))
        found = errors.ghosts[:, 0].square().mean(0).sqrt()
        assert torch.allclose(found.double(), expected, rtol=0.3, atol=0.005)
        assert float(found.square().mean().sqrt()) == pytest.approx(float(expected.square().mean().sqrt()), rel=0.1)

    def test_noise(self, coils, acceleration):
        level = 10.0
        errors, dense, _, mask = self.problem(coils, acceleration, level)
        expected = (local(dense.noise()).square() - 1 / mask.double().mean()).clamp_min(0).sqrt()
        found = errors.noise[:, 0].square().mean(0).sqrt() / level
        assert torch.allclose(found.double(), expected, rtol=0.3, atol=0.8)
        assert float(found.square().mean().sqrt()) == pytest.approx(
            float(expected.square().mean().sqrt()), rel=0.2, abs=0.3
        )


class TestWhatIsToBeExpected:
    """Of a smooth object with noise."""

    def object(self, lines=96, samples=80):
        y, x = torch.arange(lines)[:, None] - lines // 2, torch.arange(samples) - samples // 2
        return (((y / 40.0) ** 2 + (x / 34.0) ** 2) < 1).to(torch.complex64) * (1 + (y % 9 < 4))

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_the_unit_does_not_matter(self, scale):
        maps, mask = ring(4, 96, 80), every(96, 4, 12)
        kspace = measure(self.object(), maps, mask, 0.02)
        assert figures(scale * kspace, mask, maps) == pytest.approx(figures(kspace, mask, maps), rel=0.01)
        assert figures(kspace, mask, maps).ghosts > SENSE

    @pytest.mark.parametrize("coils", [1, 2, 8])
    @pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
    def test_nothing_where_all_was_measured_however_much_noise(self, coils, level):
        maps = ring(coils, 96, 80)
        assert max(figures(measure(self.object(), maps, every(96), level), every(96), maps)) < 0.01

    def test_ghosts_of_one_coil(self):
        """Half of what aliases onto a pixel is that of another one."""
        maps, mask = ring(1, 96, 80), every(96, 2)
        assert figures(measure(self.object(), maps, mask), mask, maps).ghosts > 0.3

    def test_no_signal_and_no_maps(self):
        maps, mask = ring(4, 96, 80), every(96, 4)
        empty = torch.zeros(4, 1, 96, 80, dtype=torch.complex64)
        assert figures(empty, mask, maps) == (0, 0)
        assert figures(measure(self.object(), maps, mask), mask, empty) == (0, 0)

    def test_more_coils_leave_fewer_ghosts_and_less_noise(self):
        mask = every(96, 3)
        several = [ring(coils, 96, 80, 0.6 / coils) for coils in (2, 3, 8)]
        found = [figures(measure(self.object(), maps, mask, 0.1), mask, maps) for maps in several]
        assert found[0].ghosts > 2 * found[1].ghosts > 4 * found[2].ghosts

    def test_resolution_that_was_not_asked_for_is_no_ghost(self):
        maps, mask = ring(4, 96, 80), every(96)
        mask[:, :24] = mask[:, 73:] = False
        assert figures(measure(self.object(), maps, mask), mask, maps).ghosts < SENSE / 2

    def test_volumes(self):
        """Undersampled along both phase encodings."""
        maps = ring(4, 48, 40).expand(4, 12, 48, 40) * torch.linspace(-1, 1, 12).mul(1j).exp()[:, None, None]
        image = torch.exp(-(((torch.arange(12) - 6.0) / 4) ** 2))[:, None, None] * self.object()[24:72, 20:60]
        kspace = fft(maps * image, [-3, *PLANE])
        alike, sparse = torch.ones(12, 48, dtype=torch.bool), torch.zeros(12, 48, dtype=torch.bool)
        sparse[::2, ::4] = True
        assert figures(kspace * alike[..., None], alike, maps).ghosts < 0.01
        assert figures(kspace * sparse[..., None], sparse, maps).ghosts > 2 * SENSE


class TestOnMeasuredHeads:
    @pytest.fixture(params=["brain_8ch_230x180_full", "head_16ch_96x96_full"])
    def head(self, request, shared_data, tmp_path):
        (tmp_path / "scan.h5").symlink_to(shared_data / f"{request.param}.h5")
        return FileScans(tmp_path).scan(0).kspace[:, None]

    def doubt(self, head, acceleration, bundle="sense"):
        lines, samples = head.shape[2:]
        middle = (
            slice(None),
            slice(None),
            slice(lines // 2 - 12, lines // 2 + 12),
            slice(samples // 2 - 12, samples // 2 + 12),
        )
        mask = every(lines, acceleration, 24)
        block = block_of((head * mask[:, :, None])[:, None], mask[None])
        block.coil_maps = Deferred.known(espirit(head[middle], (1, lines, samples)))
        return aliasing_doubt(block, manifest_of(bundle))

    def test_it_depends_on_the_acceleration_and_on_the_coils(self, head):
        assert self.doubt(head, 2) == self.doubt(head, 3) == ""
        assert "% of the brightest signal are to be expected (accepted: 6 % each)" in self.doubt(
            head[:: len(head) // 2], 4
        )
        part = "of which this method leaves a part (accepted: 10 % each)"
        assert part in self.doubt(head[:: len(head) // 2], 6, "tv")
        assert self.doubt(head[:: len(head) // 2], 6, "jsense") == ""


def manifest_of(bundle):
    method = METHODS[bundle]
    return Manifest(
        name="some-name",
        version="1",
        network=method.make.__name__,
        configuration=method.configuration,
        inputs=method.inputs,
        outputs=(method.output,),
        provenance=Provenance(source="", licence="", fingerprint=""),
        intended_use="",
    )


def test_it_is_known_of_sense_and_of_compressed_sensing():
    """Whatever the bundle is called."""
    assert {name for name in METHODS if manifest_of(name).network in ACCEPTED} == {"sense", "tv", "l1-wavelet"}


def test_a_stronger_regularisation_leaves_less_noise_and_more_ghosts():
    maps, mask = ring(4, 96, 80), every(96, 3, 12)
    kspace = measure(TestWhatIsToBeExpected().object(), maps, mask, 0.2)
    weak, strong = (expected_error(kspace, mask, maps, ITERATIONS, weight) for weight in (WEIGHT, 20 * WEIGHT))
    assert strong.noise < 0.7 * weak.noise
    assert strong.ghosts > 1.5 * weak.ghosts


def test_images_and_client_are_told(service):
    """By a classical method, also where it stands in for a network that was not made for so few coils."""

    def problems(acceleration, config, **options):
        scan = simulate(ScanProtocol(matrix=96, coils=3, acceleration=acceleration, acs=16))
        outcome = service.replay(scan, config, **options)
        (image,) = outcome.images
        told = [text for text in outcome.texts if "ghosts of up to" in text]
        return image.meta.get("IsocenterAliasing", ""), told, image.meta

    assert problems(2, "sense")[:2] == ("", [])
    network = '{"parameters": {"bundle": "modl-brain"}}'
    for config, options in {"sense": {}, "network.xml": {"parameters": network}}.items():
        mark, told, meta = problems(6, config, **options)
        assert ("IsocenterFallback" in meta) == (config != "sense")
        assert "the coils are too few, or too alike, for the lines that were left out" in mark
        assert meta["IsocenterBundle"] == ("sense" if config == "sense" else "tv")
        assert meta["IsocenterComplete"] == "yes"
        assert "Aliasing" in amiss(meta)
        assert len(told) == 1
        assert mark in told[0]
    assert problems(6, "rss")[:2] == ("", [])
