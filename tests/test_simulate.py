import math
import re

import h5py
import ismrmrd
import numpy as np
import pytest
from isocenter.simulate import sampling
from isocenter.simulate.coils import coil_coefficients, coil_maps
from isocenter.simulate.errors import SimulationError
from isocenter.simulate.phantoms import PHANTOMS, Ellipsoid, brain, slice_kspace, volume_kspace
from isocenter.simulate.scan import ScanProtocol, _coil_kspace, simulate, truth_path
from isocenter.wire.files import MrdFile
from isocenter.wire.header import parse_encodings, parse_header


def raster(phantom, n, z=0.0, supersample=8):
    """Numerical image of a plane by counting subpixels."""
    fine = (np.arange(n * supersample) + 0.5) / (n * supersample) * 2 - 1
    x, y = fine[None, :], fine[:, None]
    image = np.zeros((n * supersample,) * 2)
    for part in phantom:
        dx, dy = x - part.center[0], y - part.center[1]
        c, s = math.cos(part.angle), math.sin(part.angle)
        u, v, w = (
            (c * dx + s * dy) / part.axes[0],
            (c * dy - s * dx) / part.axes[1],
            (z - part.center[2]) / part.axes[2],
        )
        image += part.intensity * (u**2 + v**2 + w**2 < 1)
    return fine, image


@pytest.mark.parametrize("name", PHANTOMS)
def test_kspace_of_a_plane_is_its_fourier_integral(name):
    phantom, z = PHANTOMS[name](0.3), 0.1
    fine, image = raster(phantom, 128, z)
    k = np.array([-3.0, -0.5, 0.0, 0.25, 2.0])
    basis = np.exp(-2j * np.pi * k[:, None] * fine) * (fine[1] - fine[0])
    numeric = basis @ image @ basis.T
    exact = slice_kspace(phantom, k, k, z)
    assert np.abs(exact - numeric).max() < 2e-3 * np.abs(exact).max()


def test_kspace_of_an_ellipsoid_is_the_integral_over_its_sections():
    part = (Ellipsoid(1.3, (0.1, -0.2, 0.15), (0.4, 0.3, 0.5), 0.5),)
    kx, ky, kz = np.array([0.0, 0.7, -2.0]), np.array([0.0, 1.5]), np.array([0.0, -1.0, 0.4])
    z = np.linspace(-0.4, 0.7, 4001)
    planes = np.stack([slice_kspace(part, kx, ky, height) for height in z])
    numeric = np.tensordot(np.exp(-2j * np.pi * kz[:, None] * z) * (z[1] - z[0]), planes, axes=1)
    exact = volume_kspace(part, kx, ky, kz)
    assert np.abs(exact - numeric).max() < 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("oversampling", [1, 2])
def test_coil_kspace_is_the_transform_of_map_times_object(oversampling):
    protocol = ScanProtocol(matrix=32, coils=3, oversampling=oversampling, phantom="shepp-logan")
    fine, image = raster(PHANTOMS["shepp-logan"](0), 128)
    periods = (4.0, 4.0)
    weighted = coil_maps(coil_coefficients(3, periods), fine, fine, periods) * image
    kx = (np.arange(protocol.samples) - protocol.samples // 2) / (2 * oversampling)
    ky = (np.arange(32) - 16) / 2
    step = fine[1] - fine[0]
    numeric = np.exp(-2j * np.pi * ky[:, None] * fine) @ weighted @ np.exp(-2j * np.pi * kx[:, None] * fine).T * step**2
    scale = (2 / 32) ** 2 * math.sqrt(protocol.lines * protocol.samples)
    exact = _coil_kspace(protocol, PHANTOMS["shepp-logan"](0), 0.0)[:, 0] * scale
    assert np.abs(exact - numeric).max() < 2e-3 * np.abs(numeric).max()


def test_brain_has_detail():
    assert len(brain()) > 80


def test_sampling_patterns():
    assert sampling.acs_lines(16, 4).nonzero()[0].tolist() == [6, 7, 8, 9]
    assert sampling.partial_fourier(8, 0.75).tolist() == [False] * 2 + [True] * 6
    equispaced = ScanProtocol(matrix=9, acceleration=3, acs=0)
    assert equispaced.imaging_lines(0).nonzero()[0].tolist() == [1, 4, 7]
    random = ScanProtocol(matrix=128, acceleration=4, acs=16, sampling="variable-density")
    assert random.imaging_lines(0).sum() == 32
    assert random.imaging_lines(0)[56:72].all()
    with pytest.raises(sampling.SamplingError, match="leaves 8 of 64 lines, fewer than the 24"):
        ScanProtocol(matrix=64, acceleration=8, acs=24, sampling="variable-density").imaging_lines(0)


def test_calibration_lines_that_a_file_lacks_are_refused_and_not_added(tmp_path):
    mask = np.arange(64) % 4 == 0
    mask[28:36] = True
    np.save(tmp_path / "mask.npy", mask)
    fields = {"matrix": 64, "acceleration": 4, "sampling": str(tmp_path / "mask.npy")}
    with pytest.raises(sampling.SamplingError, match="the mask lacks 6 of the 16 lines of the calibration region"):
        ScanProtocol(acs=16, **fields).imaging_lines(0)
    for more in ({"acs": 8}, {"acs": 16, "calibration": "separate"}, {"acs": 16, "calibration": "none"}):
        assert ScanProtocol(**fields, **more).imaging_lines(0).tolist() == mask.tolist()


def test_noise_has_the_covariance_of_the_noise_scan():
    """Noise readouts are sampled more slowly and through a narrower filter; both enter their level."""
    quiet, noisy = (simulate(ScanProtocol(matrix=64, coils=4, noise=level, seed=5)) for level in (0.0, 2.0))
    difference = [b.data - a.data for a, b in zip(quiet.items[1:], noisy.items[1:], strict=True)]
    scan = np.cov(np.concatenate(difference, axis=1))
    noise = np.cov(noisy.items[0].data)
    assert np.abs(noise / (5 / 10 * 0.793) - scan).max() < 0.1 * np.abs(scan).max()


def test_a_saved_scan_reads_back_the_same(tmp_path):
    scan = simulate(
        ScanProtocol(matrix=24, coils=2, slices=2, acceleration=2, acs=8, waveforms=True, extra_readouts=True)
    )
    scan.save(tmp_path / "scan.h5")
    file = MrdFile(tmp_path / "scan.h5")
    items = list(file.items())
    assert parse_encodings(parse_header(file.header)) == parse_encodings(parse_header(scan.header))
    assert [type(item) for item in items].count(type(scan.items[0])) == file.acquisition_count
    saved = [item for item in scan.items if type(item) is type(scan.items[0])]
    assert [item for item in items if type(item) is type(scan.items[0])] == saved
    with h5py.File(truth_path(tmp_path / "scan.h5")) as truth:
        assert truth["image"].shape == (1, 2, 24, 24)


def pixel_sums(scan):
    """Root-sum-of-squares of one slice's lines by a Fourier sum at each pixel, the geometry as the header states it."""
    encoding = parse_encodings(parse_header(scan.header))[0]
    size, fov = encoding.encoded_matrix, encoding.encoded_fov
    rows = np.array([item.idx.kspace_encode_step_1 for item in scan.items]) - scan.items[0].idx.user[5]
    columns = np.arange(size[0]) - size[0] // 2
    data = np.stack([item.data for item in scan.items])
    image = np.zeros((encoding.recon_matrix[1], encoding.recon_matrix[0]))
    for j in range(image.shape[0]):
        for i in range(image.shape[1]):
            y = (j - image.shape[0] // 2) * encoding.recon_fov[1] / image.shape[0]
            x = (i - image.shape[1] // 2) * encoding.recon_fov[0] / image.shape[1]
            if not (-fov[0] / 2 <= x < fov[0] / 2 and -fov[1] / 2 <= y < fov[1] / 2):
                continue
            wave = np.exp(2j * np.pi * (rows[:, None] * y / fov[1] + columns * x / fov[0]))
            image[j, i] = np.sqrt((np.abs(np.einsum("rcx,rx->c", data, wave)) ** 2).sum())
    return image / math.sqrt(size[0] * size[1])


@pytest.mark.parametrize("matrix", [15, 16])
@pytest.mark.parametrize("oversampling", [1, 2])
@pytest.mark.parametrize("phase_oversampling", [0.75, 1.0, 1.2, 1.5])
def test_the_truth_is_a_fourier_sum_at_each_pixel(matrix, oversampling, phase_oversampling):
    protocol = ScanProtocol(
        phantom="heart",
        matrix=matrix,
        coils=2,
        oversampling=oversampling,
        phase_oversampling=phase_oversampling,
        noise=0,
        noise_scan=False,
    )
    scan = simulate(protocol)
    assert np.abs(scan.truth[0, 0] - pixel_sums(scan)).max() < 1e-5 * scan.truth.max()


@pytest.mark.parametrize(
    ("recon_matrix", "recon_fov"),
    [((24, 31), (0, 0)), ((16, 12), (240, 180)), ((9, 21), (135, 320)), ((20, 20), (180, 300))],
)
def test_the_truth_of_another_field_of_view_is_a_fourier_sum_at_each_pixel(recon_matrix, recon_fov):
    protocol = ScanProtocol(
        matrix=16, coils=2, recon_matrix=recon_matrix, recon_fov=recon_fov, noise=0, noise_scan=False
    )
    scan = simulate(protocol)
    assert scan.truth.shape[2:] == recon_matrix[::-1]
    assert np.abs(scan.truth[0, 0] - pixel_sums(scan)).max() < 1e-5 * scan.truth.max()


def test_an_oversampled_slab_shows_the_planes_of_one_that_is_not():
    flat, thick = (
        simulate(
            ScanProtocol(
                matrix=16, coils=2, partitions=8, partition_oversampling=more, slice_thickness=30, noise_scan=False
            )
        )
        for more in (1.0, 1.5)
    )
    assert thick.items[-1].idx.kspace_encode_step_2 == 11
    assert thick.truth.shape == flat.truth.shape == (1, 8, 16, 16)
    assert np.linalg.norm(thick.truth - flat.truth) < 0.2 * np.linalg.norm(flat.truth)


def test_dynamics_are_numbered_by_their_counters():
    protocol = ScanProtocol(
        phantom="heart", matrix=16, coils=1, frames=2, repeats=2, contrasts=2, sets=2, slices=2, noise_scan=False
    )
    scan = simulate(protocol)
    names = ("repetition", "phase", "set", "contrast", "slice")
    measured = {tuple(getattr(item.idx, name) for name in names) for item in scan.items}
    assert len(measured) == len(scan.images) == 32
    assert {tuple(image.counters[name] for name in names) for image in scan.images} == measured
    images = {tuple(image.counters[name] for name in names): image.data for image in scan.images}
    assert np.allclose(images[0, 0, 0, 1, 0], 0.5 * images[0, 0, 0, 0, 0])
    assert np.allclose(images[0, 0, 1, 0, 0], images[0, 0, 0, 0, 0], atol=1e-6)
    assert not np.allclose(images[1, 0, 0, 0, 0], images[0, 0, 0, 0, 0], rtol=0.05)
    assert scan.truth.shape == (16, 2, 16, 16)


def test_the_measurement_is_named_as_a_gadgetron_takes_it_apart():
    header = parse_header(simulate(ScanProtocol(matrix=8, coils=1)).header)
    assert re.fullmatch("([^_]+)_([^_]+)_([^_]+)_([^_]+)", header.measurementInformation.measurementID)


def test_slices_lie_off_the_isocentre_and_the_patient_feet_first():
    scan = simulate(
        ScanProtocol(
            matrix=8,
            coils=1,
            slices=2,
            orientation="flipped",
            offset=(5, -3, 20),
            patient_position="FFS",
            noise_scan=False,
        )
    )
    assert {item.idx.slice: list(item.position) for item in scan.items} == {0: [5, -3, 23], 1: [5, -3, 17]}
    for item in scan.items:
        assert np.allclose(np.cross(item.read_dir, item.phase_dir), item.slice_dir)
    assert "FFS" in scan.header


def test_geometry_of_slices():
    scan = simulate(ScanProtocol(matrix=16, coils=1, slices=3, orientation="coronal", noise_scan=False))
    positions = {item.idx.slice: list(item.position) for item in scan.items}
    assert positions == {0: [0, -6, 0], 1: [0, 0, 0], 2: [0, 6, 0]}
    assert np.allclose(np.cross(scan.items[0].read_dir, scan.items[0].phase_dir), scan.items[0].slice_dir)


def test_a_wrong_protocol_is_refused():
    with pytest.raises(SimulationError, match="phantom 'foot' is not known"):
        ScanProtocol(phantom="foot")


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"matrix": 16, "acs": 17}, 16),
        ({"matrix": 17, "acs": 18}, 17),
        ({"matrix": 64, "partial_fourier": 0.6, "acs": 24}, 13),
        ({"matrix": 64, "phase_resolution": 0.25, "acs": 24}, 16),
    ],
)
def test_more_calibration_lines_than_can_be_measured_are_refused(options, most):
    refused = f"acs: {options['acs']} calibration lines around the middle reach beyond the lines that are measured"
    with pytest.raises(SimulationError, match=f"{refused}; accepted: 0 to {most}$"):
        ScanProtocol(**options, acceleration=2)
    assert ScanProtocol(**options | {"acs": most}, acceleration=2).calibration_lines().sum() == most
    ScanProtocol(**options)  # without acceleration there are none
    ScanProtocol(**options, acceleration=2, calibration="none")


@pytest.mark.parametrize("pattern", ["poisson-disc", "points-variable-density"])
def test_scans_with_partitions_measure_points_of_ky_and_kz(pattern):
    protocol = ScanProtocol(
        matrix=32, partitions=16, coils=6, acceleration=2, acs=8, sampling=pattern, noise_scan=False
    )
    scan = simulate(protocol)
    expected = protocol.imaging_points(0)
    assert expected.sum() == 16 * 32 // 2
    assert expected[4:12, 12:20].all()
    assert not expected[:, 12:20].all()
    places = [(item.idx.kspace_encode_step_2, item.idx.kspace_encode_step_1) for item in scan.items]
    assert sorted(places) == sorted(map(tuple, np.argwhere(expected)))
    calibration = {
        place
        for place, item in zip(places, scan.items, strict=True)
        if item.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
    }
    assert calibration == {(kz, ky) for kz in range(4, 12) for ky in range(12, 20)}
