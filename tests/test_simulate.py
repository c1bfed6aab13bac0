import math

import h5py
import numpy as np
import pytest
from isocenter.simulate import sampling
from isocenter.simulate.coils import coil_coefficients, coil_maps
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
    assert sampling.uniform(9, 3).nonzero()[0].tolist() == [1, 4, 7]
    mask = sampling.random(128, 4, 16, seed=3)
    assert mask.sum() == 32
    assert mask[56:72].all()
    assert sampling.partial_fourier(8, 0.75).tolist() == [False] * 2 + [True] * 6
    with pytest.raises(ValueError, match="exceed"):
        sampling.random(64, 8, 24, seed=0)


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


def test_geometry_of_slices():
    scan = simulate(ScanProtocol(matrix=16, coils=1, slices=3, orientation="coronal", noise_scan=False))
    positions = {item.idx.slice: list(item.position) for item in scan.items}
    assert positions == {0: [0, -6, 0], 1: [0, 0, 0], 2: [0, 6, 0]}
    assert np.allclose(np.cross(scan.items[0].read_dir, scan.items[0].phase_dir), scan.items[0].slice_dir)


def test_a_wrong_protocol_is_refused():
    with pytest.raises(ValueError, match="phantom 'foot' is not known"):
        ScanProtocol(phantom="foot")
