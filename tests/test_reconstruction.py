"""Whole pipelines over the wire against numpy in float64, the truth of simulated scans, BART, and a real scanner's data."""

import shutil
import subprocess

import ismrmrd
import numpy as np
import pytest
import torch
from helpers import collect
from isocenter.gadgets import load
from isocenter.gadgets import series as module
from isocenter.gadgets.estimate_coil_maps import calibration_region
from isocenter.gadgets.kspace import Kspace
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.files import MrdFile
from isocenter.wire.items import Image
from test_coil_maps import _read_cfl, _write_cfl


class Recorded:
    """A scan in a file."""

    def __init__(self, path):
        file = MrdFile(path)
        self.header, self.items = file.header, list(file.items())


def psnr(image, truth):
    """In dB, after the one scale that fits best."""
    image = image * (image * truth).sum() / (image * image).sum()
    return 20 * np.log10(truth.max() / np.sqrt(np.mean((image - truth) ** 2)))


def inverse(kspace):
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes), norm="ortho"), axes)


@pytest.mark.parametrize("config", ["rss.xml", "default.xml"])
@pytest.mark.parametrize("matrix", [64, 45])
def test_a_fully_sampled_scan_equals_numpy_in_float64(service, config, matrix):
    scan = simulate(ScanProtocol(matrix=matrix, coils=5, oversampling=1, noise_scan=False))
    (image,) = service.replay(scan, config).images
    kspace = np.stack([item.data for item in scan.items], axis=1).astype(np.complex128)
    expected = np.sqrt((np.abs(inverse(kspace)) ** 2).sum(0))
    assert np.abs(image.data[0, 0] - expected).max() <= 1e-5 * expected.max()
    assert image.data.dtype == np.float32


def test_the_default_pipeline_numbers_images_as_gadgetron(service):
    scan = simulate(ScanProtocol(matrix=24, coils=2, slices=3, frames=2, frame_counter="repetition", noise_scan=False))
    images = service.replay(scan, "default.xml").images
    assert [(i.image_series_index, i.image_index, i.slice, i.repetition) for i in images] == [
        (0, 1, 0, 0),
        (0, 2, 1, 0),
        (0, 3, 2, 0),
        (0, 4, 0, 1),
        (0, 5, 1, 1),
        (0, 6, 2, 1),
    ]
    assert {i.image_type for i in images} == {ismrmrd.IMTYPE_MAGNITUDE}


@pytest.mark.parametrize(
    ("change", "least", "ghosts"),
    [
        ({}, 32, False),
        ({"acceleration": 2}, 32, False),
        ({"acceleration": 3}, 30, False),
        ({"acceleration": 3, "calibration": "separate"}, 29, False),
        ({"acceleration": 3, "sampling": "variable-density", "acs": 16, "matrix": 96}, 26, True),
        ({"acceleration": 2, "partial_fourier": 0.75}, 26, True),
        ({"acceleration": 2, "asymmetric_echo": 0.75}, 26, False),
        ({"acceleration": 2, "phase_oversampling": 1.5}, 32, False),
        ({"acceleration": 2, "averages": 2}, 32, False),
        ({"acceleration": 2, "reverse_every_second": True}, 32, False),
        ({"acceleration": 2, "extra_readouts": True, "waveforms": True}, 32, False),
        ({"acceleration": 2, "slices": 2, "orientation": "oblique"}, 32, False),
        ({"acceleration": 2, "partitions": 8}, 28, False),
        ({"phantom": "heart", "acceleration": 2, "frames": 2}, 30, False),
        ({"phantom": "heart", "acceleration": 2, "frames": 4, "calibration": "interleaved", "matrix": 96}, 30, True),
    ],
    ids=str,
)
def test_sense_comes_close_to_the_truth(service, change, least, ghosts):
    scan = simulate(ScanProtocol(**{"matrix": 64, "coils": 12, "noise": 0.3, **change}))
    result = service.replay(scan, "sense.xml")
    corrected = [text for text in result.texts if "phase correction data" in text]
    assert len(corrected) == bool(change.get("extra_readouts"))
    told = [text for text in result.texts if "ghosts of up to" in text]
    assert bool(told) == ghosts
    blurred = [text for text in result.texts if "k-space was measured to" in text]
    assert len(blurred) == len({"partial_fourier", "asymmetric_echo"} & change.keys())
    assert sorted(result.texts) == sorted(corrected + told + blurred)
    truth = scan.truth.reshape(-1, *scan.truth.shape[-2:])
    planes = {(i.phase, i.slice, z): plane for i in result.images for z, plane in enumerate(i.data[0])}
    ordered = [planes[key] for key in sorted(planes)]
    assert len(ordered) == len(truth)
    assert min(psnr(plane, true) for plane, true in zip(ordered, truth, strict=True)) > least


def test_interleaved_frames_are_reconstructed_with_maps_from_their_mean(engine):
    protocol = ScanProtocol(
        matrix=96, coils=12, noise=0.3, phantom="heart", acceleration=2, frames=4, calibration="interleaved"
    )
    scan = simulate(protocol)
    steps = [
        (load("accumulate"), {"frames": "phase"}),
        (load("prewhiten"), {}),
        (load("remove_oversampling"), {}),
        (load("estimate_coil_maps"), {}),
        (load("reconstruct"), {"bundle": "sense"}),
        (load("extract"), {}),
    ]
    out, _ = collect(steps, scan, engine=engine)
    images = [item for item in out if isinstance(item, Image)]
    assert [image.phase for image in images] == [0, 1, 2, 3]
    assert min(psnr(image.data[0, 0], truth) for image, truth in zip(images, scan.truth[:, 0], strict=True)) > 28


@pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")
def test_sense_is_as_good_as_barts(engine, tmp_path):
    """Same data, same calibration, same regularisation: within 1 dB of ``bart pics``."""
    scan = simulate(ScanProtocol(matrix=128, coils=8, acceleration=4, noise=0.5))
    front = [(load(name), {}) for name in ("accumulate", "prewhiten", "remove_oversampling", "estimate_coil_maps")]
    (kspace,) = [item for item in collect(front, scan)[0] if isinstance(item, Kspace)]
    ours = next(load("reconstruct")(iter([kspace]), collect([], scan, engine=engine)[1], bundle="sense"))
    _write_cfl(tmp_path / "kspace", kspace.data[:, 0].numpy().transpose(3, 2, 1, 0))
    commands = ("ecalib -m1 -r24 kspace maps", "pics -l2 -r 0.005 -i 30 kspace maps image")
    for command in commands:
        subprocess.run(["bart", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    theirs = np.abs(_read_cfl(tmp_path / "image").squeeze().T)
    truth = scan.truth[0, 0]
    assert abs(psnr(np.abs(ours.data[0, 0]), truth) - psnr(theirs, truth)) < 1
    assert calibration_region(kspace, 24)[0].shape == (8, 1, 24, 24)


class TestBadBlocks:
    """A block that cannot be reconstructed costs only itself, whatever goes wrong with it, and wherever."""

    @pytest.fixture
    def reconstruct(self, engine, monkeypatch):
        """Reconstruct five slices, of which some function fails on the third; return the images' slices, and the scan."""
        simulated = simulate(ScanProtocol(matrix=24, coils=2, slices=5, noise_scan=False))

        def run(module, name, place, fallback=""):
            function = getattr(module, name)

            def fail(*arguments, **options):
                kspace = next(value for value in map(place, arguments) if isinstance(value, Kspace))
                if int(kspace.central_headers[0].idx.slice) == 2:
                    raise RuntimeError("a text of its own")
                return function(*arguments, **options)

            monkeypatch.setattr(module, name, fail)
            steps = [(load("accumulate"), {}), (load("reconstruct"), {"bundle": "rss", "fallback": fallback})]
            out, scan = collect(steps, simulated, engine=engine)
            return [item.slice for item in out if isinstance(item, Image)], scan

        return run

    @pytest.mark.parametrize("fallback", ["", "sense"])
    @pytest.mark.parametrize("name", ["misfits", "arrange_inputs", "image_header", "image_meta", "_finite_volume"])
    def test_it_costs_only_itself(self, reconstruct, name, fallback):
        slices, scan = reconstruct(module, name, lambda value: getattr(value, "kspace", value), fallback)
        assert sorted(slices) == [0, 1, 3, 4]
        (problem,) = scan.problem_messages()
        assert problem.startswith("there is no image of slice 2")
        assert "a text of its own" not in problem


class TestRealScan:
    """Two water bottles, 3 T, R = 3; see the header of the file."""

    @pytest.fixture
    def bottles(self, shared_data):
        return Recorded(shared_data / "skyra_bottles_r3.h5")

    def test_every_acquisition_is_accounted_for(self, bottles):
        front = [(load("accumulate"), {})]
        out, scan = collect(front, bottles)
        (kspace,) = [item for item in out if isinstance(item, Kspace)]
        calibration = kspace.calibration.abs().sum(dim=(0, 3))[0] > 0
        assert len(bottles.items) == 69
        assert sum(isinstance(item, ismrmrd.Acquisition) for item in out) == 1
        assert int(kspace.mask.sum()) == 68
        assert int(calibration.sum()) == 48
        assert not scan.problems
        rows = torch.nonzero(kspace.mask[0, 0]).ravel()
        assert (int(rows[0]), int(rows[-1])) == (18, 123)

    def test_no_aliasing_is_left(self, service, bottles):
        """Undersampled lines alone show ghosts between and over the bottles; SENSE leaves the background empty."""
        (image,) = service.replay(bottles, "sense.xml").images
        pixels = image.data[0, 0]
        assert pixels.shape == (144, 192)
        background = np.concatenate([pixels[:12].ravel(), pixels[118:].ravel()])
        inside = pixels[40:90, 30:70]
        assert background.max() < 0.12 * np.median(inside)
        bottle = pixels[45:85, 30:80]
        assert bottle.std() / bottle.mean() < 0.2

    def test_the_noise_scan_is_used(self, bottles):
        front = [(load(name), {}) for name in ("accumulate", "prewhiten")]
        (kspace,) = [item for item in collect(front, bottles)[0] if isinstance(item, Kspace)]
        edge = kspace.data[:, 0, 0, 18, :40].reshape(14, -1)
        assert 0.7 < float(torch.view_as_real(edge).std()) < 2.0

    def test_geometry_is_that_of_the_headers(self, service, bottles):
        (image,) = service.replay(bottles, "sense.xml").images
        assert np.allclose(image.read_dir, [-1, 0, 0], atol=1e-6)
        assert np.allclose(image.phase_dir, [0, 1, 0], atol=1e-6)
        assert np.allclose(image.position, [20.048, 66.570, 0], atol=1e-3)
        assert np.allclose(image.field_of_view, [280, 210, 8])
        assert image.patient_table_position[2] == -1760012.0
        assert image.meta["IsocenterBundle"] == "sense"

    @pytest.mark.parametrize(("name", "coils"), [("phantom_8ch_full", 8), ("brain_4ch_full", 4)])
    def test_fully_sampled_measurements_equal_numpy(self, service, shared_data, name, coils):
        recorded = Recorded(shared_data / f"{name}.h5")
        (image,) = service.replay(recorded, "rss.xml").images
        kspace = np.zeros((coils, 256, 256), np.complex128)
        for item in recorded.items:
            kspace[:, item.idx.kspace_encode_step_1] = item.data
        expected = np.sqrt((np.abs(inverse(kspace)) ** 2).sum(0))
        assert np.abs(image.data[0, 0] - expected).max() <= 1e-5 * expected.max()
