import shutil
import subprocess

import numpy as np
import pytest
import torch
from helpers import frame_kspace
from isocenter.models import coil_maps
from isocenter.models.coil_maps import adaptive, dominant_eigenvector, espirit
from isocenter.models.fourier import fft, ifft
from isocenter.simulate.coils import random_coil_maps
from isocenter.simulate.scan import ScanProtocol, _maps
from isocenter.training.data import simulated_scan
from isocenter.training.recipe import SimulatedData


@pytest.fixture(scope="module")
def brain():
    protocol = ScanProtocol(matrix=96, coils=6, oversampling=1)
    kspace = torch.from_numpy(frame_kspace(protocol, 0)[0])
    random = torch.Generator().manual_seed(0)
    kspace = kspace + 1e-4 * kspace.abs().max() * torch.randn(kspace.shape, dtype=torch.complex64, generator=random)
    truth = torch.from_numpy(_maps(protocol)[0])
    signal = ifft(kspace[:, 0], [1, 2]).abs().square().sum(0).sqrt()
    return kspace, truth / truth.norm(dim=0), signal > 0.1 * signal.max()


def deviation(maps, reference, where):
    """Relative difference after alignment of the phase at every pixel."""
    maps, reference = maps[:, where], reference[:, where]
    inner = (reference.conj() * maps).sum(0)
    return float((maps * torch.exp(-1j * inner.angle()) - reference).norm() / reference.norm())


def middle(kspace, size):
    y, x = (slice(n // 2 - size // 2, n // 2 + size // 2) for n in kspace.shape[2:])
    return kspace[:, :, y, x]


def test_espirit_finds_the_true_maps(brain):
    kspace, truth, signal = brain
    maps = espirit(middle(kspace, 24), (1, 96, 96), iterations=200)[:, 0]
    where = signal & (maps.abs().sum(0) > 0)
    assert where.sum() > 0.98 * signal.sum()
    assert deviation(maps, truth, where) < 0.03


def test_eight_calibration_lines_are_enough(brain):
    kspace, truth, signal = brain
    maps = espirit(middle(kspace, 24)[:, :, 8:16], (1, 96, 96))[:, 0]
    where = signal & (maps.abs().sum(0) > 0)
    assert where.sum() > 0.9 * signal.sum()
    assert deviation(maps, truth, where) < 0.1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_crop_is_adapted_to_the_object(brain, scale):
    """Where too few singular vectors are kept, eigenvalues are small also where there is signal."""
    kspace, _, signal = brain
    calibration = middle(kspace, 24) * (scale / kspace.abs().max())
    fixed, adapted = (espirit(calibration, (1, 96, 96), threshold=0.3, crop=crop)[:, 0] for crop in (0.8, "auto"))
    cut = [float((maps.abs().sum(0) == 0)[signal].float().mean()) for maps in (fixed, adapted)]
    assert cut[0] > 0.1
    assert cut[1] < 0.01
    air = espirit(calibration, (1, 96, 96))[:, 0].abs().sum(0)[~signal] == 0
    assert air.float().mean() > 0.6


def test_maps_are_computed_from_the_windowed_image_of_the_calibration_data(brain):
    calibration = torch.cat([middle(brain[0], 20), 0.5j * middle(brain[0], 20).flip(1)], dim=1)
    padded = torch.zeros(6, 5, 96, 96, dtype=torch.complex128)
    window = np.hanning(22)[1:-1]
    padded[:, 1:3, 38:58, 38:58] = calibration * torch.from_numpy(
        np.hanning(4)[1:-1, None, None] * np.outer(window, window)
    )
    expected = ifft(padded, [1, 2, 3])[:, 3, ::2, ::3].flatten(1).T
    image = coil_maps._calibration_image(calibration, (5, 96, 96), 3, [2, 3]) / (5 * 96 * 96) ** 0.5
    assert (image - expected).abs().max() < 1e-4 * expected.abs().max()


def test_maps_of_an_object_that_fills_the_field_of_view():
    """Patches of k-space see both edges at once; SENSE with the maps of its edges left ghosts of 8 % of the image."""
    data = SimulatedData(kind="simulated-brain", matrix=(96, 120), coils=(4, 12), noise=(0.001, 0.01))
    scan = simulated_scan(data, 2**33 + 296, "test")
    maps = espirit(middle(scan.kspace[:, None], 24), (1, *scan.kspace.shape[1:]))[:, 0]
    image = ifft(scan.kspace, [1, 2]).abs().square().sum(0).sqrt()
    alike = (maps.conj() * scan.maps).sum(0).abs()[image > 0.2 * image.max()]
    assert alike.mean() > 0.998


@pytest.mark.parametrize("shape", [(1, 128, 240), (1, 125, 60), (2, 121, 241)])
def test_interpolated_maps_are_those_of_every_pixel(brain, shape, monkeypatch):
    calibration = middle(brain[0], 20).expand(-1, shape[0], -1, -1).contiguous()
    interpolated = espirit(calibration, shape)
    monkeypatch.setattr(coil_maps, "_FINE", 10**6)
    everywhere = espirit(calibration, shape)
    inside, same = ((maps.abs().sum(0) > 0) for maps in (interpolated, everywhere))
    assert (inside != same).float().mean() < 2e-3
    difference = (interpolated - everywhere)[:, inside & same]
    # where nothing gave a signal, two eigenvalues may be alike, and any vector of theirs is right
    assert difference.norm(dim=0).quantile(0.9) < 1e-3


@pytest.mark.parametrize("estimate", [espirit, adaptive])
def test_the_phase_does_not_jump_where_two_coils_are_equally_strong(brain, estimate):
    """Sets of a scan whose phases are subtracted differ by noise alone."""
    coil = middle(brain[0][:1], 24)
    sets = [torch.cat([coil, (1 + change) * 1j * coil]) for change in (-1e-4, 1e-4)]
    first, second = (estimate(each, (1, 32, 32)) for each in sets)
    assert (first - second).abs().max() < 1e-3


def test_espirit_maps_have_unit_norm_or_are_zero(brain):
    norms = espirit(middle(brain[0], 24), (1, 96, 96)).norm(dim=0)
    assert torch.all((norms < 1e-6) | ((norms - 1).abs() < 1e-4))


def test_adaptive_finds_the_true_maps(brain):
    kspace, truth, signal = brain
    assert deviation(adaptive(middle(kspace, 32), (1, 96, 96))[:, 0], truth, signal) < 0.08
    assert deviation(adaptive(kspace, (1, 96, 96))[:, 0], truth, signal) < 0.05


def walsh(calibration, shape, edge):
    """Dominant eigenvectors of the coils' correlations over blocks of edge x edge pixels, Walsh et al., in float64."""
    padded = np.zeros((len(calibration), *shape), complex)
    windowed = calibration
    for axis, (part, full) in enumerate(zip(calibration.shape[1:], shape, strict=True), start=1):
        if part < full:
            window = np.sin(np.pi * np.arange(1, part + 1) / (part + 1)) ** 2
            windowed = windowed * np.moveaxis(window[:, None, None, None], 0, axis)
    starts = [full // 2 - part // 2 for part, full in zip(calibration.shape[1:], shape, strict=True)]
    padded[(slice(None), *(slice(a, a + n) for a, n in zip(starts, calibration.shape[1:], strict=True)))] = windowed
    images = np.fft.ifftn(np.fft.ifftshift(padded, axes=(1, 2, 3)), axes=(1, 2, 3), norm="ortho")
    images = np.fft.fftshift(images, axes=(1, 2, 3))
    flat = calibration.reshape(len(calibration), -1)
    principal = np.linalg.eigh(flat @ flat.conj().T)[1][:, -1]
    chirp = np.exp(1j * np.pi / len(principal) * np.arange(len(principal)) ** 2)
    principal = principal * np.exp(-1j * np.angle(chirp.conj() @ principal))
    maps = np.zeros_like(images)
    for z, y, x in np.ndindex(*shape):
        rows, columns = (slice(max(n - edge // 2, 0), n + edge // 2 + 1) for n in (y, x))
        pixels = images[:, z, rows, columns].reshape(len(images), -1)
        vector = np.linalg.eigh(pixels @ pixels.conj().T)[1][:, -1]
        maps[:, z, y, x] = vector * np.exp(-1j * np.angle(principal.conj() @ vector))
    return maps, np.abs(images).max(axis=0)


@pytest.mark.parametrize("options", [{}, {"smoothing": 3}])
def test_adaptive_maps_are_the_eigenvectors_of_local_correlations(options):
    kspace = torch.from_numpy(frame_kspace(ScanProtocol(matrix=48, coils=4, oversampling=1), 0)[0])[:, 0, 12:36, 10:38]
    calibration = torch.stack([kspace, 0.5j * kspace.flip(1), 0.3 * kspace.roll(1, 2)], dim=1)
    expected, signal = walsh(calibration.numpy().astype(complex), (3, 48, 48), options.get("smoothing", 5))
    maps = adaptive(calibration, (3, 48, 48), **options).numpy()
    assert np.abs(maps - expected)[:, signal > 0.1 * signal.max()].max() < 3e-3


def test_three_dimensions_of_a_volume_constant_in_z(brain):
    """A volume whose only k-space plane along z is the middle one has the maps of its plane everywhere."""
    kspace, _, signal = brain
    volume = torch.zeros(6, 8, 24, 24, dtype=torch.complex64)
    volume[:, 4] = middle(kspace, 24)[:, 0]
    maps = espirit(volume, (5, 96, 96), kernel=4)
    plane = espirit(middle(kspace, 24), (1, 96, 96), kernel=4)[:, 0]
    where = signal & (plane.abs().sum(0) > 0) & (maps[:, 2].abs().sum(0) > 0)
    assert where.sum() > 0.9 * signal.sum()
    assert deviation(maps[:, 2], plane, where) < 0.02


def test_dominant_eigenvector_is_that_of_numpy():
    random = np.random.default_rng(0)
    factors = random.standard_normal((7, 5, 5)) + 1j * random.standard_normal((7, 5, 5))
    matrices = factors @ factors.conj().transpose(0, 2, 1) + 1e3 * factors[:, :, :1] @ factors[
        :, :, :1
    ].conj().transpose(0, 2, 1)
    vectors, values = dominant_eigenvector(torch.from_numpy(matrices).permute(1, 2, 0), iterations=50)
    expected_values, expected = np.linalg.eigh(matrices)
    assert np.allclose(values.numpy(), expected_values[:, -1], rtol=1e-6)
    assert np.allclose(np.abs((vectors.numpy().T * expected[:, :, -1].conj()).sum(1)), 1, atol=1e-6)


@pytest.mark.parametrize("coils", [3, 8, 40])
def test_close_eigenvalues_are_told_apart(coils):
    random = np.random.default_rng(coils)
    unitary = np.linalg.qr(random.standard_normal((coils, coils)) + 1j * random.standard_normal((coils, coils)))[0]
    spectrum = np.linspace(0.02, 0.95, coils)
    spectrum[-1] = 1
    matrix = (unitary * spectrum) @ unitary.conj().T
    vectors, values = dominant_eigenvector(torch.from_numpy(matrix)[..., None].to(torch.complex64), iterations=256)
    assert values.item() == pytest.approx(1, abs=1e-5)
    assert abs(np.vdot(unitary[:, -1], vectors[:, 0].numpy())) == pytest.approx(1, abs=1e-5)


def _write_cfl(path, array):
    """Write an array in BART's format, first axis fastest."""
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def _read_cfl(path):
    shape = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(shape, order="F")


@pytest.mark.filterwarnings("ignore")
def test_espirit_maps_are_sigpys(brain):
    app = pytest.importorskip("sigpy.mri.app")
    kspace, _, signal = brain
    reference = app.EspiritCalib(
        kspace[:, 0].numpy(), calib_width=24, thresh=0.0316, crop=0.8, max_iter=100, show_pbar=False
    )
    maps = espirit(middle(kspace, 24), (1, 96, 96), threshold=0.0316, crop=0.8, iterations=100)[:, 0]
    theirs = torch.from_numpy(reference.run())
    where = signal & (maps.abs().sum(0) > 0) & (theirs.abs().sum(0) > 0)
    assert where.sum() > 0.95 * signal.sum()
    assert deviation(maps, theirs, where) < 0.02


@pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")
def test_espirit_maps_are_barts(brain, tmp_path):
    kspace, _, signal = brain
    _write_cfl(tmp_path / "kspace", kspace.numpy().transpose(3, 2, 1, 0))
    subprocess.run(["bart", "ecalib", "-m1", "-r24", "kspace", "maps"], cwd=tmp_path, check=True, capture_output=True)
    reference = torch.from_numpy(np.ascontiguousarray(_read_cfl(tmp_path / "maps").squeeze().transpose(2, 1, 0)))
    maps = espirit(middle(kspace, 24), (1, 96, 96), threshold=0.0316, crop=0.8, iterations=30)[:, 0]
    where = signal & (maps.abs().sum(0) > 0) & (reference.abs().sum(0) > 0)
    assert deviation(maps, reference, where) < 0.02


def test_what_the_scale_of_the_data_rounds_away_does_not_show_in_the_maps():
    """Singular values near the threshold are lost in single precision, and with them pixels at the edge of the maps."""
    data = SimulatedData(kind="simulated-brain", matrix=(192, 192), coils=(11, 11), noise=(0.001, 0.001))
    calibration = simulated_scan(data, 5, "test").kspace[:, 85:107, 84:108][:, None].contiguous()
    maps = espirit(calibration, (1, 192, 192))
    for factor in (3e-6, 1.7):
        assert (espirit(factor * calibration, (1, 192, 192)) - maps).abs().max() < 1e-3


def strip(axis, rows=1.0):
    """K-space without noise of a bright strip with texture, of a length in fields of view, its maps, and where it is."""
    random = np.random.default_rng(3)
    shape = (160, 120)
    truth = torch.from_numpy(random_coil_maps(random, 8, shape))
    texture = ifft(
        torch.from_numpy(random.standard_normal(shape) * np.outer(np.hanning(160), np.hanning(120)) ** 8), [0, 1]
    )
    where = torch.zeros(shape, dtype=torch.bool)
    where[: int(rows * shape[0]), 30:90] = True
    image = where * (1 + 0.3 * texture.real / texture.real.abs().max())
    kspace = fft((truth * image).to(torch.complex64), [1, 2])
    return (kspace, truth, where) if axis == 0 else (kspace.mT.contiguous(), truth.mT.contiguous(), where.T)


def ends(x, axis, count=4):
    """The first and the last rows or columns."""
    size = x.shape[1 + axis]
    return x.index_select(1 + axis, torch.cat([torch.arange(count), torch.arange(size - count, size)]))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("lines", [12, 24])
def test_an_object_that_reaches_both_ends_has_the_maps_of_either_side_there(axis, lines, monkeypatch):
    """Where patches see both ends at once: maps that were any mixture of both cost SENSE up to 8 dB."""
    kspace, truth, where = strip(axis)
    calibration = middle(kspace[:, None], 24).narrow(2 + axis, 12 - lines // 2, lines)

    def alike():
        maps = espirit(calibration, (1, *where.shape))[:, 0]
        agreement = (maps.conj() * truth).sum(0, keepdim=True).abs()
        return float(ends(agreement, axis)[ends(where[None], axis)].min())

    assert alike() > 0.95
    monkeypatch.setattr(coil_maps, "_CLEARLY", 0.0)
    assert alike() < 0.9


@pytest.mark.parametrize("rows", [0.5, 0.7])
def test_an_object_with_room_has_the_maps_that_it_had(rows, monkeypatch):
    kspace, _, where = strip(0, rows)
    calibration = middle(kspace[:, None], 24)
    maps = espirit(calibration, (1, *where.shape))
    monkeypatch.setattr(coil_maps, "_CLEARLY", 0.0)
    assert torch.equal(maps, espirit(calibration, (1, *where.shape)))


def test_an_object_that_wraps_keeps_the_maps_of_its_larger_part():
    """At the ends of this field of view lies what is beyond the other one: followed from the inside, maps would miss it."""
    kspace, truth, where = strip(0, 0.8)
    image = torch.roll(ifft(kspace, [1, 2]), -8, 1)
    maps = espirit(middle(fft(image, [1, 2])[:, None], 24), (1, *where.shape))[:, 0]
    truth, where = torch.roll(truth, -8, 1), torch.roll(where, -8, 0)
    assert (maps.conj() * truth).sum(0).abs()[where].quantile(0.02) > 0.95
