"""Where pixels lie: images against Fourier sums in float64 at the pixels of the recon space, never against our transforms."""

from dataclasses import replace

import ismrmrd
import isocenter
import numpy as np
import pytest
import torch
from helpers import collect, random_acquisition
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from isocenter.gadgets import load
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.recon_grid import grid_fov, must_interpolate, to_recon_grid
from isocenter.gadgets.remove_oversampling import crop_readout
from isocenter.gadgets.scan import Scan
from isocenter.simulate.header import header_xml
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.header import Encoding
from isocenter.wire.items import ACQUISITION_HEADER, ImageHeader, make_image


def samples_at(count):
    """Places of the samples of one axis, in cycles per field of view."""
    return np.arange(count) - count // 2


def pixels_at(count, fov):
    """Places of the pixels of one axis, in mm from the position in the header."""
    return (np.arange(count) - count // 2) * fov / count


def fourier_sums(kspace, encoded_fov, sizes, fovs):
    """Image [..., z, y, x] of samples [..., kz, ky, kx] at the pixels of another grid, zero outside the encoded field of view."""
    image = kspace.astype(complex)
    for axis, (fov, size, wanted) in enumerate(zip(encoded_fov, sizes, fovs, strict=True)):
        dim = image.ndim - 1 - axis
        count = image.shape[dim]
        x = pixels_at(size, wanted)
        inside = (x / fov >= -0.5 - 1e-9) & (x / fov < 0.5 - 1e-9)
        sums = np.exp(2j * np.pi * np.outer(x / fov, samples_at(count))) * inside[:, None] / np.sqrt(count)
        image = np.moveaxis(np.tensordot(image, sums, (dim, 1)), -1, dim)
    return image


def random_kspace(*shape, seed=0):
    random = np.random.default_rng(seed)
    return (random.standard_normal(shape) + 1j * random.standard_normal(shape)).astype(np.complex64)


def own_grid(kspace):
    """The image on the grid of its own samples."""
    shape = kspace.shape[-3:]
    return fourier_sums(kspace, shape[::-1], shape[::-1], shape[::-1]).astype(np.complex64)


def near(found, expected, tolerance=2e-5):
    return found.shape == expected.shape and np.abs(found - expected).max() <= tolerance * max(
        np.abs(expected).max(), 1e-3
    )


SIZE = st.integers(2, 40)
RATIO = st.one_of(st.sampled_from([0.5, 0.75, 1, 1.25, 4 / 3, 1.5, 2]), st.floats(0.4, 2.5))


class TestReconGrid:
    @settings(max_examples=150, deadline=None)
    @given(st.tuples(SIZE, SIZE, SIZE), st.tuples(SIZE, SIZE, SIZE), st.tuples(RATIO, RATIO, RATIO), st.integers(0, 99))
    def test_images_are_the_fourier_sums_at_the_recon_pixels(self, have, wanted, ratios, seed):
        fov = (240.0, 200.0, 100.0)
        recon = tuple(length * ratio for length, ratio in zip(fov, ratios, strict=True))
        for axis in range(3):  # the edge of the field of view within rounding of a pixel belongs to either side
            x = pixels_at(wanted[axis], recon[axis]) / fov[axis]
            assume(not (np.abs(np.abs(x) - 0.5) < 3e-3).any() or ratios[axis] == 1)
        kspace = random_kspace(*have[::-1], seed=seed)
        encoding = Encoding(have, wanted, fov, recon)
        found = to_recon_grid(torch.from_numpy(own_grid(kspace)), fov, encoding).numpy()
        expected = fourier_sums(kspace, fov, wanted, recon)
        # pixels of nearly the same size are taken over: they lie up to a thousandth of a pixel off
        same = not must_interpolate(have[::-1], fov, encoding) or any(
            abs(recon[a] / wanted[a] * have[a] / fov[a] - 1) * wanted[a] < 2e-3 for a in range(3)
        )
        assert near(found, expected, 2e-2 if same else 5e-5)

    @pytest.mark.parametrize("size", [47, 48])
    def test_the_same_grid_is_not_touched(self, size):
        images = torch.from_numpy(random_kspace(1, size, size))
        encoding = Encoding((size, size, 1), (size, size, 1), (240.0, 240.0, 5.0), (240.0001, 239.9999, 5.0))
        assert to_recon_grid(images, (240.0, 240.0, 5.0), encoding) is images

    @pytest.mark.parametrize(("size", "wanted"), [(96, 48), (97, 48), (94, 47), (95, 47)])
    def test_a_ratio_that_is_not_exact_in_the_last_digit_crops(self, size, wanted):
        images = torch.from_numpy(random_kspace(1, 1, size))
        encoding = Encoding((size, 1, 1), (wanted, 1, 1), (480.0001, 5.0, 5.0), (480.0 * wanted / size, 5.0, 5.0))
        found = to_recon_grid(images, (480.0001, 5.0, 5.0), encoding)
        start = size // 2 - wanted // 2
        assert torch.equal(found, images[..., start : start + wanted])

    @pytest.mark.parametrize(("size", "wanted"), [(36, 48), (35, 48), (36, 47), (35, 47)])
    def test_a_larger_field_of_view_is_padded_not_repeated(self, size, wanted):
        images = torch.ones(1, size, 4)
        encoding = Encoding((4, size, 1), (4, wanted, 1), (10.0, 5.0 * size, 5.0), (10.0, 5.0 * wanted, 5.0))
        found = to_recon_grid(images, encoding.encoded_fov, encoding)
        first = wanted // 2 - size // 2
        assert found.shape == (1, wanted, 4)
        assert torch.equal(found[0, first : first + size], images[0])
        assert float(found.sum()) == images.sum()

    def test_magnitudes_stay_real_and_constants_keep_their_value(self):
        encoding = Encoding((20, 15, 1), (31, 40, 1), (240.0, 240.0, 5.0), (200.0, 240.0, 5.0))
        found = to_recon_grid(torch.ones(1, 15, 20), encoding.encoded_fov, encoding)
        assert found.dtype == torch.float32
        assert torch.allclose(found, torch.ones(1, 40, 31), atol=1e-5)

    def test_magnitudes_are_not_below_zero_between_pixels(self):
        encoding = Encoding((20, 15, 1), (31, 40, 1), (240.0, 240.0, 5.0), (200.0, 240.0, 5.0))
        point = np.zeros((1, 1, 15, 20), np.float32)
        point[0, 0, 7, 10] = 1
        header = ImageHeader()
        header.image_type = ismrmrd.IMTYPE_MAGNITUDE
        header.field_of_view = encoding.encoded_fov
        expected = to_recon_grid(torch.from_numpy(point[0]), encoding.encoded_fov, encoding).numpy()
        assert expected.min() < -0.02
        scan = Scan(header_xml(ScanProtocol(matrix=16)))
        scan.__dict__["encodings"] = (encoding,)
        (image,) = load("adjust_field_of_view")(iter([make_image(point, header, ismrmrd.Meta())]), scan)
        assert np.array_equal(image.data[0], np.maximum(expected, 0))


class TestReadout:
    @settings(max_examples=80, deadline=None)
    @given(st.integers(2, 50), st.data())
    def test_a_cropped_readout_gives_the_same_pixels(self, samples, data):
        size = data.draw(st.integers(1, samples))
        kspace = random_kspace(1, 1, samples)
        cropped = crop_readout(torch.from_numpy(kspace), size).numpy()
        start = samples // 2 - size // 2
        assert near(own_grid(cropped), own_grid(kspace)[..., start : start + size])

    def test_a_readout_is_never_made_longer(self):
        data = torch.from_numpy(random_kspace(2, 9))
        assert crop_readout(data, 12) is data

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize(("samples", "center", "pre", "post"), [(64, 32, 0, 0), (48, 16, 0, 0), (50, 32, 3, 2)])
    def test_a_readout_is_cropped_like_the_line_of_a_block(self, samples, center, pre, post, reverse):
        protocol = ScanProtocol(matrix=32, coils=2, noise_scan=False)
        readout = random_acquisition(2, samples, center_sample=center, discard_pre=pre, discard_post=post)
        if reverse:
            readout.set_flag(ismrmrd.ACQ_IS_REVERSE)
        steps = [(load("accumulate"), {}), (load("remove_oversampling"), {})]
        scan = simulate(protocol)
        items = [readout]  # among others of another length it would be left out
        (by_block,), _ = collect(steps, scan, items)
        (by_readout,), _ = collect(steps[::-1], scan, items)
        assert torch.allclose(by_block.data, by_readout.data, atol=1e-5 * float(by_block.data.abs().max()))

    def test_every_readout_is_cropped_by_its_own_encoding_space(self):
        one = Scan(header_xml(ScanProtocol(matrix=32)))
        encodings = (one.encodings[0], replace(one.encodings[0], encoded_matrix=(40, 20, 1)))
        one.__dict__["encodings"] = encodings
        sent = [
            random_acquisition(1, n, encoding_space_ref=e, center_sample=n // 2) for n, e in ((64, 0), (40, 1), (64, 7))
        ]
        out = list(load("remove_oversampling")(iter(sent), one))
        assert [(each.number_of_samples, each._head.center_sample) for each in out] == [(32, 16), (20, 10), (64, 32)]

    @pytest.mark.parametrize("samples", [32, 20, 0, 80])
    def test_readouts_without_oversampling_and_of_other_lengths_stay_as_they_are(self, samples):
        readout = random_acquisition(1, samples, center_sample=samples // 2)
        (out,) = load("remove_oversampling")(iter([readout]), Scan(header_xml(ScanProtocol(matrix=32))))
        assert out is readout


def block(kspace, encoding):
    """A fully sampled block [coils, kz, ky, kx] with headers of a slice off the centre, oblique."""
    _, kz, ky, kx = kspace.shape
    headers = np.zeros((1, kz, ky), ACQUISITION_HEADER)
    headers["number_of_samples"] = kx
    headers["position"] = (10.0, -20.0, 35.0)
    headers["read_dir"], headers["phase_dir"], headers["slice_dir"] = (0, 0.6, 0.8), (1, 0, 0), (0, 0.8, -0.6)
    mask = torch.ones(1, kz, ky, dtype=torch.bool)
    return Kspace(torch.from_numpy(kspace)[:, None], mask, None, headers, encoding)


def images_of(blocks, engine, encodings, bundle="rss", **options):
    scan = Scan(header_xml(ScanProtocol(matrix=16)), engine=engine)
    scan.__dict__["encodings"] = encodings
    stream = load("reconstruct")(iter(blocks), scan, bundle=bundle, **options)
    return list(load("adjust_field_of_view")(stream, scan)), scan


class TestImages:
    @pytest.mark.parametrize(
        ("encoded", "recon", "encoded_fov", "recon_fov"),
        [
            ((20, 20, 1), (40, 40, 1), (240, 240, 5), (240, 240, 5)),
            ((21, 19, 1), (33, 40, 1), (240, 180, 5), (200, 240, 5)),
            ((24, 24, 1), (24, 24, 1), (240, 240, 5), (240, 240, 5)),
            ((16, 12, 6), (20, 16, 9), (200, 150, 60), (200, 200, 45)),
        ],
    )
    def test_root_sums_of_squares_are_of_interpolated_coil_images(self, engine, encoded, recon, encoded_fov, recon_fov):
        encoding = Encoding(encoded, recon, encoded_fov, recon_fov)
        kspace = random_kspace(3, *encoded[::-1])
        (image,), _ = images_of([block(kspace, encoding)], engine, (encoding,), recon_grid=True)
        expected = np.sqrt((np.abs(fourier_sums(kspace, encoded_fov, recon, recon_fov)) ** 2).sum(0))
        assert near(image.data[0], expected, 5e-5)
        assert tuple(image.field_of_view) == pytest.approx(recon_fov)

    def test_an_image_lies_where_its_header_says(self, engine):
        """The pixel that the header puts at a point's place is the one in which the point is seen."""
        encoding = Encoding((40, 24, 1), (30, 48, 1), (300.0, 180.0, 5.0), (150.0, 240.0, 5.0))
        point = np.array([22.5, -45.0])  # along read and phase direction, in mm
        kx, ky = samples_at(40) / 300.0, samples_at(24) / 180.0
        kspace = np.exp(-2j * np.pi * (ky[:, None] * point[1] + kx * point[0]))[None, None].astype(np.complex64)
        for steps in ((True, {"recon_grid": True}), (True, {}), (False, {})):
            adjusts, options = steps
            scan = Scan(header_xml(ScanProtocol(matrix=16)), engine=engine)
            scan.__dict__["encodings"] = (encoding,)
            stream = load("reconstruct")(iter([block(kspace, encoding)]), scan, bundle="rss", **options)
            (image,) = load("adjust_field_of_view")(stream, scan) if adjusts else stream
            rows, columns = image.data.shape[2:]
            assert (columns, rows) == ((30, 48) if adjusts else (40, 24))
            y, x = np.unravel_index(image.data[0, 0].argmax(), (rows, columns))
            offsets = [
                (x - columns // 2) * image.field_of_view[0] / columns,
                (y - rows // 2) * image.field_of_view[1] / rows,
            ]
            place = (
                np.array(image.position)
                + offsets[0] * np.array(image.read_dir)
                + offsets[1] * np.array(image.phase_dir)
            )
            true = np.array([10, -20, 35]) + 22.5 * np.array([0, 0.6, 0.8]) - 45 * np.array([1, 0, 0])
            assert np.abs(place - true).max() < 4

    def test_an_image_that_nobody_adjusts_has_the_field_of_view_of_its_pixels(self, service):
        scan = simulate(ScanProtocol(matrix=32, coils=2, phase_oversampling=1.5, noise_scan=False))
        (plain,) = service.replay(scan, "default.xml").images
        (adjusted,) = service.replay(scan, "rss.xml").images
        assert plain.data.shape == (1, 1, 48, 32)
        assert tuple(plain.field_of_view) == pytest.approx((240, 360, 5))
        assert adjusted.data.shape == (1, 1, 32, 32)
        assert tuple(adjusted.field_of_view) == pytest.approx((240, 240, 5))
        assert np.array_equal(adjusted.data[0, 0], plain.data[0, 0, 8:40])

    def test_adjusting_twice_is_adjusting_once(self, engine):
        encoding = Encoding((16, 12, 1), (16, 16, 1), (200.0, 300.0, 5.0), (200.0, 200.0, 5.0))
        (once,), scan = images_of([block(random_kspace(2, 1, 12, 16), encoding)], engine, (encoding,))
        (twice,) = load("adjust_field_of_view")(iter([once]), scan)
        assert np.array_equal(once.data, twice.data)

    def test_images_of_gadgetron_tell_their_field_of_view_in_their_attributes(self):
        """Its headers have the recon space's field of view before anything is adjusted."""
        encoding = Encoding((16, 12, 1), (8, 8, 1), (400.0, 300.0, 5.0), (200.0, 200.0, 5.0))
        header = ImageHeader()
        header.field_of_view = encoding.recon_fov
        meta = ismrmrd.Meta({"encoding": "0", "encoding_FOV": ["400", "300", "5"], "recon_FOV": ["200", "200", "5"]})
        data = own_grid(random_kspace(1, 12, 8))
        scan = Scan(header_xml(ScanProtocol(matrix=16)))
        scan.__dict__["encodings"] = (encoding,)
        (out,) = load("adjust_field_of_view")(iter([make_image(data[None], header, meta)]), scan)
        assert near(out.data[0], data[:, 2:10])
        assert out.meta["encoding_FOV"] == ["200.0", "200.0", "5.0"]

    def test_images_of_an_encoding_space_that_there_is_not_pass_by(self):
        header = ImageHeader()
        for named in ("7", "none", "-1"):
            image = make_image(np.ones((1, 1, 3, 3), np.float32), header, ismrmrd.Meta({"encoding": named}))
            assert next(load("adjust_field_of_view")(iter([image]), Scan(header_xml(ScanProtocol(matrix=16))))) is image


class TestNumbers:
    def test_every_encoding_space_has_a_series_of_its_own(self, engine):
        encodings = tuple(Encoding((n, n, 1), (n, n, 1), (240.0, 240.0, 5.0), (240.0, 240.0, 5.0)) for n in (16, 12))
        blocks = [block(random_kspace(2, 1, n, n), encoding) for n, encoding in zip((16, 12), encodings, strict=True)]
        blocks[1].encoding_index = 1
        images, _ = images_of(blocks, engine, encodings, series=4)
        assert [(each.image_series_index, each.image_index, each.data.shape[-1]) for each in images] == [
            (4, 1, 16),
            (5, 1, 12),
        ]

    @pytest.mark.parametrize("numbering", ["counters", "running"])
    def test_numbers_do_not_repeat_where_the_header_has_no_limits(self, engine, numbering):
        encoding = Encoding((8, 8, 1), (8, 8, 1), (240.0, 240.0, 5.0), (240.0, 240.0, 5.0))
        blocks = []
        for contrast in range(2):
            for number in range(3):
                blocks.append(block(random_kspace(1, 1, 8, 8), encoding))
                blocks[-1].headers["idx"]["slice"], blocks[-1].headers["idx"]["contrast"] = number, contrast
        images, _ = images_of(blocks, engine, (encoding,), numbering=numbering)
        assert sorted(each.image_index for each in images) == [1, 2, 3, 4, 5, 6]
        assert [each.image_index for each in images[:3]] == [1, 2, 3]

    def test_numbers_wrap_and_repeat_only_when_all_are_taken(self):
        from isocenter.gadgets.image_header import MOST_IMAGES, ImageNumbers

        numbers = ImageNumbers()
        assert [numbers.take(1, MOST_IMAGES), numbers.take(1, MOST_IMAGES)] == [MOST_IMAGES, 1]
        taken = [numbers.running(2) for _ in range(MOST_IMAGES + 2)]
        assert sorted(taken[:MOST_IMAGES]) == list(range(1, MOST_IMAGES + 1))
        assert min(taken) == 1
        assert max(taken) == MOST_IMAGES


def test_the_grid_of_a_block_keeps_the_encoded_pixel_size():
    encoding = Encoding((97, 60, 8), (48, 48, 8), (480.0, 300.0, 40.0), (240.0, 240.0, 32.0))
    assert grid_fov(encoding, (8, 60, 97)) == pytest.approx((480, 300, 40))
    assert grid_fov(encoding, (8, 60, 48)) == pytest.approx((48 * 480 / 97, 300, 40))
    assert grid_fov(encoding, (1, 60, 97)) == pytest.approx((480, 300, 32))


_TILT = np.deg2rad(25), np.deg2rad(-40)
DIRECTIONS = {
    "transverse": np.eye(3),
    "feet first": np.diag([-1.0, 1.0, -1.0]),
    "readout flipped": np.diag([-1.0, 1.0, 1.0]),
    "sagittal": np.array([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]]),
    "twice oblique": np.array(
        [[1, 0, 0], [0, np.cos(_TILT[0]), np.sin(_TILT[0])], [0, -np.sin(_TILT[0]), np.cos(_TILT[0])]]
    )
    @ np.array([[np.cos(_TILT[1]), 0, np.sin(_TILT[1])], [0, 1, 0], [-np.sin(_TILT[1]), 0, np.cos(_TILT[1])]]),
}


@pytest.mark.parametrize("partitions", [1, 8])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_point_is_seen_where_it_is_in_the_patient(engine, name, partitions):
    """From readouts to the image: off the centre, in slices and volumes, whatever way they lie."""
    directions = DIRECTIONS[name]
    protocol = ScanProtocol(matrix=32, coils=2, partitions=partitions, slice_thickness=6.0, noise_scan=False)
    size = np.array([2 * protocol.fov, protocol.fov, 6.0 * partitions])
    center = np.array([31.0, -47.0, 12.0])
    offsets = np.array([30.0, -52.5, 12.0 if partitions > 1 else 0.0])
    samples = samples_at(64) / size[0]
    readouts = []
    for z in range(partitions):
        for y in range(32):
            k = np.array([(y - 16) / size[1], (z - partitions // 2) / size[2]])
            signal = np.exp(-2j * np.pi * (samples * offsets[0] + k @ offsets[1:]))
            readout = ismrmrd.Acquisition.from_array(np.tile(signal, (2, 1)).astype(np.complex64), center_sample=32)
            readout.idx.kspace_encode_step_1, readout.idx.kspace_encode_step_2 = y, z
            readout.position[:] = center
            readout.read_dir[:], readout.phase_dir[:], readout.slice_dir[:] = directions
            readouts.append(readout)
    (image,) = isocenter.reconstruct((header_xml(protocol), readouts), "rss.xml")
    brightest = np.array(np.unravel_index(image.data[0].argmax(), image.data.shape[1:]))[::-1]
    matrix = np.array(image.data.shape[:0:-1])
    pixel = np.array(image.field_of_view) / matrix
    along = (brightest - matrix // 2) * pixel
    axes = np.array([image.read_dir, image.phase_dir, image.slice_dir])
    assert np.abs(np.array(image.position) + along @ axes - center - offsets @ directions).max() < 4
