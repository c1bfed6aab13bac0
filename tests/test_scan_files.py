"""Files of fully sampled scans: what is read of them, and what is refused and in which words."""

import re
import shutil

import h5py
import ismrmrd
import isocenter
import numpy as np
import pytest
import torch
from conftest import SHARED
from isocenter.simulate.files import FileLayout
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.training.files.folder import FileScans
from isocenter.wire.errors import FileError

pytestmark = pytest.mark.filterwarnings("ignore")


def read(folder, slices=None, **options) -> FileScans:
    return FileScans(folder, slices, cache=folder.parent / "cache", **options)


def everything(scans):
    return [scans.scan(index) for index in range(len(scans))]


def save(folder, mutate=None, header=None, name="a.h5", layout=None, **protocol):
    scan = simulate(ScanProtocol(**{"matrix": 32, "coils": 3, **protocol}))
    if mutate is not None:
        mutate(scan.items)
    if header is not None:
        changed = header(scan.header)
        assert changed != scan.header
        scan.header = changed
    if layout is not None:
        scan.layout = layout
    scan.save(folder / name)
    return scan


def noise(*shape, seed=1):
    random = np.random.default_rng(seed)
    values = random.standard_normal((*shape, 2)) @ [1, 1j]
    # brightest in the middle, as k-space is
    for axis in (-1, -2):
        size = shape[axis]
        weight = 1 / (1 + np.abs(np.arange(size) - size // 2))
        values = values * weight.reshape([-1 if axis % len(shape) == other else 1 for other in range(len(shape))])
    return values.astype(np.complex64)


HEADER = (
    "<ismrmrdHeader><encoding><encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize>"
    "<fieldOfView_mm><x>{fov}</x><y>{fov_y}</y><z>5</z></fieldOfView_mm></encodedSpace>"
    "<reconSpace><matrixSize><x>{rx}</x><y>{ry}</y><z>1</z></matrixSize>"
    "<fieldOfView_mm><x>{rfov}</x><y>{rfov}</y><z>5</z></fieldOfView_mm></reconSpace>"
    "<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
)


def fastmri(path, kspace, header=None, patient=None, **datasets):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        for name, values in datasets.items():
            file[name] = values
        if header is not None:
            file["ismrmrd_header"] = header
        if patient is not None:
            file.attrs["patient_id"] = patient
    return kspace


# MRD


@pytest.mark.parametrize(
    "protocol",
    [
        {},
        {"extra_readouts": True, "reverse_every_second": True, "averages": 2, "slices": 2, "waveforms": True},
        {"oversampling": 1, "noise_scan": False, "contrasts": 2},
        {"recon_fov": (180.0, 180.0), "phase_oversampling": 1.5},
    ],
)
def test_mrd_is_what_the_service_makes_of_it(folder, protocol):
    save(folder, **protocol)
    with isocenter.open_scan(folder / "a.h5") as scan:
        blocks = {(k.central_header(0).idx.contrast, k.central_header(0).idx.slice): k for k in scan.kspace()}
    scans = everything(read(folder))
    assert len(scans) == len(blocks)
    for scan, (_, block) in zip(scans, sorted(blocks.items()), strict=True):
        torch.testing.assert_close(scan.kspace, block.data[:, 0, 0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "name", ["brain_4ch_full", "brain_8ch_230x180_full", "head_16ch_96x96_full", "phantom_8ch_full"]
)
def test_real_scans_are_read(folder, name):
    source = SHARED / "data" / f"{name}.h5"
    if not source.is_file():
        pytest.skip("no real scans here")
    (folder / "real.h5").symlink_to(source)
    with isocenter.open_scan(source) as scan:
        block = next(scan.kspace())
    scans = read(folder)
    assert len(scans) == 1
    assert torch.equal(scans.scan(0).kspace, block.data[:, 0, 0])


def test_an_undersampled_real_scan_is_refused(folder):
    source = SHARED / "data" / "skyra_bottles_r3.h5"
    if not source.is_file():
        pytest.skip("no real scans here")
    shutil.copy(source, folder / "a.h5")
    with pytest.raises(FileError, match=r"a\.h5, slice 0: .* of 144 lines were not measured"):
        read(folder)


def test_partitions_are_scans_after_a_transform_along_kz(folder):
    save(folder, partitions=4, partition_oversampling=1.5)
    with isocenter.open_scan(folder / "a.h5") as scan:
        block = next(scan.kspace()).data[:, 0].numpy().astype(np.complex128)
    kz, z = np.arange(6) - 3, np.arange(4) - 2  # the slab without its oversampling
    expected = np.einsum("pz,czyx->pcyx", np.exp(2j * np.pi * np.outer(z, kz) / 6) / np.sqrt(6), block)
    found = np.stack([scan.kspace.numpy() for scan in everything(read(folder))])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def leave_out_corners(items):
    def inside(item):
        y, z = (item.idx.kspace_encode_step_1 - 15.5) / 16, (item.idx.kspace_encode_step_2 - 7.5) / 8
        return item.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT) or y**2 + z**2 <= 1

    items[:] = [item for item in items if inside(item)]


def test_corners_of_a_volume_may_be_missing_and_whole_partitions_may_not(folder):
    save(folder, partitions=16, mutate=leave_out_corners)
    scans = read(folder)
    assert len(scans) == 16
    assert "a.h5: the corners of its volume of k-space were not measured" in "\n".join(scans.report)
    assert scans.scan(0).measured is None
    save(folder, partitions=8, mutate=lambda items: items.__delitem__(slice(33, 65)))
    with pytest.raises(FileError, match=r"32 of 256 lines are missing \(of partitions 1\)"):
        read(folder)


def test_frames_are_one_series_or_scans_of_their_own_and_are_never_averaged(folder):
    save(folder, phantom="heart", frames=3, repeats=2, noise=0.0)
    series = everything(read(folder, series=True))
    stills = everything(read(folder))
    assert [tuple(scan.kspace.shape) for scan in series] == [(3, 3, 32, 32)] * 2
    assert [scan.name for scan in series] == ["a.h5, slice 0", "a.h5, slice 0, repetition 1"]
    assert len(stills) == 6
    assert len({scan.volume for scan in stills}) == 6
    frames = torch.cat([scan.kspace for scan in series], dim=1)
    # blocks come as they are complete, repetition after repetition
    for index, still in enumerate(stills):
        torch.testing.assert_close(still.kspace, frames[:, index])


def test_repetitions_are_frames_where_there_is_one_phase(folder):
    save(folder, phantom="heart", frames=3, frame_counter="repetition")
    assert read(folder, series=True).scan(0).kspace.shape == (3, 3, 32, 32)


def shift_lines(items):
    for item in items:
        if not item.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT):
            item.idx.kspace_encode_step_1 = (item.idx.kspace_encode_step_1 + 8) % 32


def shift_samples(items):
    for item in items:
        if not item.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT):
            item.data[:] = np.roll(item.data, 12, -1)


def spoil(items):
    items[5].data[0, 3] = np.nan


def element(name, replacement=""):
    return lambda text: re.sub(rf"<{name}>.*?</{name}>", replacement, text, count=1, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"acceleration": 2, "acs": 8}, r"slice 0: 12 of 32 lines were not measured \(1, 3, "),
        ({"partial_fourier": 0.75}, r"8 of 32 lines were not measured \(0 to 7\), .*partial Fourier"),
        ({"asymmetric_echo": 0.75}, r"16 of 64 samples of the readout were not measured .*an asymmetric echo"),
        ({"mutate": shift_lines}, "most of the signal lies around line 24 along ky"),
        ({"mutate": shift_samples}, "most of the signal lies around 44 along kx"),
        ({"mutate": spoil}, r"1 of 32 lines are missing \(4\).*NaN"),
        ({"mutate": lambda items: items.pop(9)}, r"1 of 32 lines are missing \(8\)"),
        ({"mutate": lambda items: items.__delitem__(slice(1, None))}, "it makes no image.*noise measurement"),
        ({"header": lambda text: text.replace("cartesian", "spiral")}, "trajectory 'spiral' is not accepted"),
        ({"header": lambda text: "hello"}, "header is not readable XML"),
        ({"header": element("encodedSpace")}, "encodedSpace.matrixSize.x: it is missing"),
    ],
)
def test_mrd_that_is_no_truth_is_refused_by_file_and_reason(folder, arguments, message):
    save(folder, **arguments)
    with pytest.raises(FileError, match=rf"(?s)a\.h5.*{message}"):
        read(folder)


def test_series_of_one_frame_are_refused(folder):
    save(folder)
    with pytest.raises(FileError, match="it is of one frame"):
        read(folder, series=True)


def strange_noise(items):
    short = ismrmrd.Acquisition.from_array(np.ascontiguousarray(items[0].data[:2]))
    short.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    items[0] = short


@pytest.mark.parametrize(
    ("arguments", "remark"),
    [
        ({"mutate": strange_noise}, "data is not prewhitened: data has 3 channels but the noise 2"),
        ({"coils": 1}, "its k-space is of a single coil"),
        ({"extra_readouts": True}, "readouts were not applied (1 of phase correction data)"),
        ({"averages": 2, "mutate": lambda items: items.pop(9)}, "fewer averages came than the 2"),
        ({"phase_resolution": 0.75}, "8 of 32 lines are zeros at both sides, and count as not measured"),
        ({"header": element("fieldOfView_mm")}, "the header is in doubt"),
        ({"recon_matrix": (64, 48)}, "wants an image of 48 x 64 pixels, more than the 32 x 32 that its k-space has"),
    ],
)
def test_what_is_accepted_with_a_reason_is_told(folder, arguments, remark):
    save(folder, **arguments)
    scans = read(folder)
    assert any(line.startswith("  a.h5: ") and remark in line for line in scans.report), scans.report


def test_lines_that_phase_resolution_leaves_out_are_known(folder):
    save(folder, phase_resolution=0.75)
    scan = read(folder).scan(0)
    assert scan.measured is not None
    assert torch.equal(scan.measured, scan.kspace.abs().sum(dim=(0, 2)) > 0)
    assert int(scan.measured.sum()) == 24


@pytest.mark.parametrize(
    ("layout", "header"),
    [
        (FileLayout(big_endian=True, reversed_members=True, xml="scalar", trajectory=False), None),
        (FileLayout(group="scan"), None),
        (None, element("encodingLimits", "<encodingLimits/>")),
    ],
)
def test_files_and_headers_of_other_programs_give_the_same(folder, layout, header):
    save(folder, noise=0.0)
    expected = read(folder).scan(0).kspace
    save(folder, noise=0.0, layout=layout, header=header)
    assert torch.equal(read(folder).scan(0).kspace, expected)


def test_of_two_scans_in_a_file_one_is_read_and_the_other_named(folder):
    save(folder)
    with h5py.File(folder / "a.h5", "a") as file:
        file.copy("dataset", "dataset_2")
    scans = read(folder)
    assert len(scans) == 1
    assert "'dataset_2' left out" in "\n".join(scans.report)


# fastMRI


@pytest.mark.parametrize("form", ["c8", ">c16", "real/imag", "r/i half", "float pairs", "int16 pairs"])
def test_fastmri_is_read_in_every_type(folder, form):
    kspace = noise(3, 2, 12, 10)
    if form == "int16 pairs":
        kspace = (np.round(1000 * kspace.real) + 1j * np.round(1000 * kspace.imag)).astype(np.complex64)
    pairs = np.stack([kspace.real, kspace.imag], -1)
    stored = {
        "c8": kspace,
        ">c16": kspace.astype(">c16"),
        "real/imag": np.ascontiguousarray(pairs).view([("real", "<f4"), ("imag", "<f4")])[..., 0],
        "r/i half": np.ascontiguousarray(pairs.astype(np.float16)).view([("r", "<f2"), ("i", "<f2")])[..., 0],
        "float pairs": pairs,
        "int16 pairs": pairs.astype(np.int16),
    }[form]
    fastmri(folder / "a.h5", stored)
    scans = everything(read(folder))
    assert [scan.name for scan in scans] == [f"a.h5, slice {index}" for index in range(3)]
    found = np.stack([scan.kspace.numpy() for scan in scans])
    np.testing.assert_allclose(found, kspace.swapaxes(-1, -2), rtol=1e-3 if "half" in form else 0)


def centred(size):
    index = np.arange(size) - size // 2
    return np.exp(-2j * np.pi * np.outer(index, index) / size) / np.sqrt(size)


def test_the_header_tells_oversampling_and_the_image_that_is_wanted(folder):
    kspace = fastmri(
        folder / "a.h5", noise(1, 2, 24, 16), HEADER.format(x=24, y=16, fov=240, fov_y=160, rx=12, ry=12, rfov=120)
    )
    scan = read(folder).scan(0)
    assert scan.matrix == (12, 12)
    image = np.einsum("xk,ckl->cxl", centred(24).conj().T, kspace[0])[:, 6:18]
    expected = np.einsum("kx,cxl->clk", centred(12), image)
    np.testing.assert_allclose(scan.kspace.numpy(), expected, atol=1e-6)


def test_a_header_that_contradicts_itself_crops_nothing_and_is_named(folder):
    header = HEADER.format(x=24, y=16, fov=240, fov_y=160, rx=16, ry=12, rfov=120)
    fastmri(folder / "a.h5", noise(1, 2, 24, 16), header)
    scans = read(folder)
    assert scans.scan(0).kspace.shape == (2, 16, 24)
    assert scans.scan(0).matrix == (12, 16)
    assert "matrix and a field of view that do not agree" in "\n".join(scans.report)


def test_a_header_that_wants_a_larger_image_is_named(folder):
    header = HEADER.format(x=24, y=16, fov=240, fov_y=160, rx=24, ry=20, rfov=240)
    fastmri(folder / "a.h5", noise(1, 2, 24, 16), header)
    scans = read(folder)
    assert scans.scan(0).matrix is None
    assert "wants an image of 20 x 24 pixels, more than the 16 x 24" in "\n".join(scans.report)


def with_nan(kspace):
    kspace[0, 0, 3, 3] = np.inf
    return kspace


def without(kspace, lines):
    kspace[..., lines] = 0
    return kspace


def in_one_coil(kspace):
    kspace[:, 0] += noise(1, 2, 24, 40)[:, 0]
    return kspace


def without_points(kspace):
    chance = np.random.default_rng(1).random(kspace.shape[-2:]) < 0.5
    return np.where(chance, kspace, 0)


def image_along(*axes):
    """Coil images of a disc, as k-space along the other axes."""
    y, x = np.mgrid[:40, :32]
    image = (np.hypot((y - 20) / 15, (x - 16) / 11) < 1) * np.exp(1j * x / 9) * np.array([1, 2j])[:, None, None]
    others = [axis for axis in (-1, -2) if axis not in axes]
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image, others), axes=others), others)[None].astype(np.complex64)


MASK = np.arange(40) % 2 == 0


@pytest.mark.parametrize(
    ("kspace", "others", "message"),
    [
        (without(noise(1, 2, 24, 40), ~MASK), {"mask": MASK}, r"mask: 20 of 40 lines were not measured \(1, 3, 5,"),
        (without(noise(1, 2, 24, 40), ~MASK), {}, r"slice 0: 20 of 40 lines were not measured"),
        (without(noise(1, 2, 24, 40), ~MASK) + 1e-10 * noise(1, 2, 24, 40), {}, r"slice 0: 20 of 40 lines were not"),
        (
            in_one_coil(without(noise(1, 2, 24, 40), ~MASK)),
            {},
            r"slice 0: 20 of 40 lines are zero in coil 1 and not in",
        ),
        (without_points(noise(1, 2, 24, 40)), {}, r"slice 0: \d+ of the 960 samples of its lines were not measured"),
        (without(noise(1, 2, 24, 40), slice(30, 40)), {}, r"10 of 40 lines .*\(30 to 39\), .*partial Fourier"),
        (with_nan(noise(1, 2, 24, 16)), {}, "it holds NaN, infinite"),
        (noise(8, 24, 20, 1, 2), {}, r"kspace: it is \[8, 24, 20, 1, 2\], five axes, as SKM-TEA"),
        (noise(8, 24, 20), {}, r"\[8, 24, 20\], three axes: slices or coils"),
        (
            noise(1, 2, 24, 16).real[..., :13],
            {},
            r"kspace: it is \[1, 2, 24, 13\] of float32; accepted: complex numbers",
        ),
        (np.fft.ifftshift(noise(1, 2, 24, 16), (-1, -2)), {}, "most of the signal lies around 0 along ky"),
        (
            noise(2, 1, 24, 16),
            {"reconstruction_rss": np.zeros((1, 24, 16))},
            r"reconstruction_rss beside it \[1, 24, 16\]",
        ),
        (noise(1, 2, 24, 16).swapaxes(-1, -2), {"header": (24, 16)}, "readout and lines are exchanged"),
        (noise(1, 20, 16, 2), {}, "20 coils of 2 lines with 16 samples: are its axes in another order"),
        (noise(1, 2, 24, 16), {"header": (32, 20)}, "header has 20 lines of 32 samples; accepted"),
        (
            image_along(-1, -2),
            {},
            r"along ky it is an image and no k-space: the middle has \d+% of the signal, and after",
        ),
        (image_along(-2), {}, "along kx it is an image and no k-space"),
        (np.zeros((0, 2, 24, 16), np.complex64), {}, r"kspace: it is empty, \[0, 2, 24, 16\]"),
    ],
)
def test_fastmri_that_is_no_truth_is_refused_by_file_field_and_reason(folder, kspace, others, message):
    others = dict(others)
    if size := others.pop("header", None):
        others["header"] = HEADER.format(x=size[0], y=size[1], fov=240, fov_y=160, rx=12, ry=12, rfov=120)
    fastmri(folder / "a.h5", kspace, **others)
    with pytest.raises(FileError, match=rf"a\.h5, .*{message}"):
        read(folder)


def test_samples_too_small_to_be_squared_are_refused_as_such(folder):
    fastmri(folder / "a.h5", 1e-30 * noise(2, 3, 12, 10))
    with pytest.raises(FileError, match=r"a\.h5, slice 0: its largest sample is .*e-30, too small to be squared"):
        read(folder)


def test_a_single_coil_has_an_axis_of_its_own(folder):
    kspace = fastmri(folder / "a.h5", noise(2, 12, 10), reconstruction_esc=np.ones((2, 12, 10), np.float32))
    scans = read(folder)
    np.testing.assert_array_equal(scans.scan(1).kspace.numpy(), kspace[1:].swapaxes(-1, -2))
    assert "of a single coil" in "\n".join(scans.report)


def test_padded_sides_are_not_measured_and_empty_slices_left_out(folder):
    kspace = noise(3, 2, 24, 40)
    kspace[0] = 0
    kspace[..., :6] = kspace[..., 36:] = 0
    fastmri(folder / "a.h5", kspace, mask=np.ones(40, bool))
    scans = read(folder)
    assert [scan.name for scan in everything(scans)] == ["a.h5, slice 1", "a.h5, slice 2"]
    assert np.flatnonzero(scans.scan(0).measured).tolist() == list(range(6, 36))
    report = "\n".join(scans.report)
    assert "a.h5: slice 0 is left out: all its samples are zero" in report
    assert "10 of 40 lines are zeros at both sides" in report


def test_an_image_of_another_scan_is_named(folder):
    kspace = noise(1, 2, 24, 24)
    image = np.linalg.norm(np.einsum("xk,ckl,yl->cxy", centred(24).conj(), kspace[0], centred(24).conj()), axis=0)
    fastmri(folder / "right.h5", kspace, reconstruction_rss=image[None, 6:18, 6:18])
    assert len(read(folder).report) == 1
    fastmri(folder / "right.h5", kspace, reconstruction_rss=image[None, ::-1, :6])
    assert "is not the image of its k-space" in "\n".join(read(folder).report)


# CMRxRecon


@pytest.mark.parametrize(
    ("name", "shape", "coils"), [("kspace_full", (3, 2, 4, 12, 10), 4), ("kspace_single_full", (3, 2, 12, 10), 1)]
)
def test_cmrxrecon_is_read_as_series_or_frame_by_frame(folder, name, shape, coils):
    kspace = noise(*shape)
    pairs = np.ascontiguousarray(np.stack([kspace.real, kspace.imag], -1))
    with h5py.File(folder / "cine_sax.mat", "w", userblock_size=512) as file:
        file[name] = pairs.view([("real", "<f4"), ("imag", "<f4")])[..., 0]
    kspace = kspace.reshape(3, 2, coils, 12, 10)
    series = read(folder, series=True)
    assert len(series) == 2
    np.testing.assert_array_equal(series.scan(1).kspace.numpy(), kspace[:, 1].swapaxes(0, 1))
    stills = read(folder, expected="fastmri")
    assert len(stills) == 6
    np.testing.assert_array_equal(stills.scan(3).kspace.numpy(), kspace[1, 1])
    assert stills.scan(3).name == "cine_sax.mat, slice 1, frame 1"
    assert "read as cmrxrecon, not as fastmri" in "\n".join(stills.report)


def test_cmrxrecon_with_its_axes_in_another_order_is_refused(folder):
    with h5py.File(folder / "a.mat", "w") as file:
        file["kspace_full"] = noise(10, 12, 4, 2, 3)
    with pytest.raises(
        FileError, match=r"a\.mat, kspace_full: it is \[10, 12, 4, 2, 3\], 2 lines of 3 samples: are its axes"
    ):
        read(folder)


def test_undersampled_cmrxrecon_and_old_matlab_files_are_refused(folder):
    with h5py.File(folder / "a.mat", "w") as file:
        file["kspace_sub04"] = noise(3, 2, 4, 12, 10)
    (folder / "b.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(FileError) as caught:
        read(folder)
    assert "2 files cannot be used" in str(caught.value)
    assert "a.mat, kspace_sub04: it is undersampled" in str(caught.value)
    assert "b.mat: it is a MATLAB file of a version before 7.3; accepted: save(..., '-v7.3')" in str(caught.value)
