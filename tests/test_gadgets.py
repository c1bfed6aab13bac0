"""One battery for every gadget, then what each does, against numpy."""

import inspect
import math
import threading
import tracemalloc

import ismrmrd
import numpy as np
import pytest
import torch
from helpers import collect, random_acquisition
from isocenter.engine import Engine
from isocenter.engine import device as device_module
from isocenter.gadgets import GADGETS, load
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.noise import NoiseCovariance
from isocenter.gadgets.noise_store import NoiseStore, system_of
from isocenter.gadgets.recon_data import from_kspace
from isocenter.gadgets.scan import Scan
from isocenter.simulate.header import header_xml
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.errors import DataError, IsocenterError, OptionError
from isocenter.wire.header import parse_encodings, parse_header
from isocenter.wire.items import Image, ImageHeader, make_image

NEEDED = {"noise_summary": {"noise_file": "x"}, "select_coils": {"coils_out": 2}, "reconstruct": {"bundle": "rss"}}
FRONT = [(load("accumulate"), {}), (load("prewhiten"), {}), (load("remove_oversampling"), {})]


def block(**change):
    simulation = simulate(ScanProtocol(**{"matrix": 32, "coils": 4, "noise": 0.5, **change}))
    out, _ = collect([(load("accumulate"), {})], simulation)
    return next(item for item in out if isinstance(item, Kspace)), simulation


def image(data, meta=None, **fields):
    header = ImageHeader()
    for name, value in fields.items():
        setattr(header, name, value)
    return make_image(np.asarray(data), header, ismrmrd.Meta(meta or {}))


def scan(**change):
    return Scan(header_xml(ScanProtocol(**{"matrix": 32, "coils": 4, **change})))


@pytest.mark.parametrize("name", GADGETS)
class TestEveryGadget:
    def test_passes_items_that_it_does_not_handle_in_order(self, name, engine):
        waveforms = [ismrmrd.Waveform.from_array(np.full((1, 2), n, np.uint32)) for n in range(5)]
        plain = Scan(header_xml(ScanProtocol(matrix=32)), engine=engine)
        out = list(load(name)(iter(waveforms), plain, **NEEDED.get(name, {})))
        assert [item for item in out if isinstance(item, ismrmrd.Waveform)] == waveforms

    def test_says_what_it_does_and_explains_its_options(self, name):
        gadget = load(name)
        documentation = inspect.getdoc(gadget.function) or ""
        assert gadget.summary
        for option in gadget.options:
            assert option in documentation, f"option {option} of {name} is not explained"

    def test_refuses_an_unknown_option_by_name(self, name):
        with pytest.raises(OptionError, match=f"gadget '{name}': it has no option 'colour'"):
            load(name).parse({**{k: str(v) for k, v in NEEDED.get(name, {}).items()}, "colour": "red"})

    def test_its_defaults_are_accepted_as_text(self, name):
        gadget = load(name)
        texts = {key: str(value) for key, value in gadget.defaults.items() if value is not inspect.Parameter.empty}
        parsed = gadget.parse({**texts, **{k: str(v) for k, v in NEEDED.get(name, {}).items()}})
        assert {key: parsed[key] for key in texts if key not in NEEDED.get(name, {})} == {
            key: value for key, value in gadget.defaults.items() if key in texts and key not in NEEDED.get(name, {})
        }


@pytest.mark.parametrize(
    ("name", "properties", "complaint"),
    [
        ("accumulate", {"trigger": "sometimes"}, "option 'trigger': 'sometimes' is not accepted"),
        ("select_coils", {}, "its option 'coils_out' needs a value"),
        ("select_coils", {"coils_out": "0"}, "accepted: whole number from 1 to 65535"),
        ("extract", {"phase": "perhaps"}, "option 'phase': 'perhaps' is not accepted"),
        ("scale", {"factor": "big"}, "option 'factor': 'big' is not accepted"),
    ],
)
def test_wrong_values_are_refused_with_what_is_accepted(name, properties, complaint):
    with pytest.raises(OptionError, match=complaint):
        load(name).parse(properties)


def test_an_unknown_gadget_is_refused_with_those_that_exist():
    with pytest.raises(OptionError, match="there is no gadget 'sharpen'; accepted: accumulate"):
        load("sharpen")


class TestPrewhiten:
    def test_noise_readouts_without_end_take_no_memory(self):
        scan = Scan(simulate(ScanProtocol(matrix=16, coils=8)).header)
        noise = random_acquisition(8, 4096)
        noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        tracemalloc.start()
        assert not list(load("prewhiten")((noise for _ in range(300)), scan))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * noise.data.nbytes

    def test_whitened_noise_has_unit_variance_and_no_correlation(self):
        protocol = ScanProtocol(matrix=96, coils=5, noise=50.0, seed=3)
        silent = simulate(ScanProtocol(matrix=96, coils=5, noise=0.0, noise_scan=False))
        noisy = simulate(protocol)
        for item, other in zip(noisy.items[1:], silent.items, strict=True):
            item.data[:] -= other.data * np.linalg.norm(item.data) / np.linalg.norm(item.data)
        out, _ = collect(FRONT[:2], noisy)
        samples = out[0].data[:, 0, 0].reshape(5, -1).numpy()
        covariance = samples @ samples.conj().T / samples.shape[1]
        assert np.abs(covariance - 2 * np.eye(5)).max() < 0.25

    def test_acquisitions_and_blocks_are_whitened_alike(self):
        _, simulation = block()
        by_block, _ = collect(FRONT[:2], simulation)
        by_readout, _ = collect([FRONT[1], FRONT[0]], simulation)
        assert torch.allclose(by_block[0].data, by_readout[0].data, rtol=1e-4, atol=1e-4)

    def test_the_formula_of_gadgetron(self):
        random = np.random.default_rng(0)
        noise = random.standard_normal((3, 400)) + 1j * random.standard_normal((3, 400))
        plain = scan()
        covariance = NoiseCovariance.from_sums(noise @ noise.conj().T, noise.shape[1], 10.0, plain)
        factor = np.linalg.cholesky(noise @ noise.conj().T / 399)
        expected = math.sqrt(2 * 5 / 10 * 0.793) * np.linalg.inv(factor)
        assert np.allclose(covariance.whitening(5.0), expected, rtol=1e-5)
        assert np.allclose(covariance.whitening(0.0), np.linalg.inv(factor), rtol=1e-5)

    def test_noise_of_an_earlier_scan_is_found_by_its_measurement_id(self, tmp_path):
        noise_scan = simulate(ScanProtocol(matrix=32, coils=4, measurement_id="noise/../1"))
        collect(FRONT[:2], noise_scan, noise_scan.items[:1], noise_folder=tmp_path)
        later = simulate(ScanProtocol(matrix=32, coils=4, noise_scan=False, noise=0.5))
        dependency = "<dependencyType>Noise</dependencyType><measurementID>noise/../1</measurementID>"
        dependency = f"<measurementDependency>{dependency}</measurementDependency>"
        later.header = later.header.replace("</protocolName>", "</protocolName>" + dependency)
        whitened, _ = collect(FRONT[:2], later, noise_folder=tmp_path)
        plain, _ = collect(FRONT[:1], later)
        (kept,) = NoiseStore(tmp_path).find("noise/../1", system_of(Scan(later.header)))
        matrix = kept.covariance.whitening(5.0)
        expected = torch.tensordot(torch.from_numpy(matrix), plain[0].data, dims=1)
        assert torch.allclose(whitened[0].data, expected, rtol=1e-4, atol=1e-4)
        assert len(list(tmp_path.iterdir())) == 1

    def test_coils_are_matched_by_name(self):
        covariance = NoiseCovariance(np.diag([1.0, 4.0, 9.0]).astype(complex), 0, 1, ("a", "b", "c"))
        assert np.allclose(np.diag(covariance.whitening(0, ("c", "a", "b"))), [1 / 3, 1, 1 / 2])


class TestRemoveOversampling:
    def test_it_crops_the_image(self):
        kspace, simulation = block(noise=0.0, noise_scan=False)
        full = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace.data.numpy(), -1), norm="ortho"), -1)
        (cropped,), _ = collect([FRONT[0], FRONT[2]], simulation)
        ours = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(cropped.data.numpy(), -1), norm="ortho"), -1)
        assert ours.shape[-1] == 32
        assert np.abs(ours - full[..., 16:48]).max() < 1e-5 * np.abs(full).max()

    def test_acquisitions_and_blocks_are_cropped_alike(self):
        _, simulation = block(noise=0.0, noise_scan=False, acceleration=2, acs=8)
        (by_block,), _ = collect([FRONT[0], FRONT[2]], simulation)
        (by_readout,), _ = collect([FRONT[2], FRONT[0]], simulation)
        assert torch.allclose(by_block.data, by_readout.data, atol=1e-5)
        assert torch.allclose(by_block.calibration, by_readout.calibration, atol=1e-5)

    def test_twice_is_once(self):
        _, simulation = block()
        once, _ = collect([FRONT[0], FRONT[2]], simulation)
        twice, _ = collect([FRONT[0], FRONT[2], FRONT[2]], simulation)
        assert torch.equal(once[-1].data, twice[-1].data)


def test_an_asymmetric_echo_is_padded_like_the_block_is():
    _, simulation = block(asymmetric_echo=0.75, noise_scan=False)
    padded, _ = collect([(load("pad_asymmetric_echo"), {}), FRONT[0]], simulation)
    plain, _ = collect([FRONT[0]], simulation)
    assert torch.equal(padded[0].data, plain[0].data)


class TestCompressCoils:
    def test_without_reduction_it_is_unitary(self):
        kspace, simulation = block(noise_scan=False)
        (compressed,), _ = collect([FRONT[0], (load("compress_coils"), {})], simulation)
        assert torch.allclose(compressed.data.abs().square().sum(0), kspace.data.abs().square().sum(0), rtol=1e-3)

    def test_few_virtual_coils_hold_nearly_all_energy(self):
        kspace, simulation = block(coils=12, noise_scan=False)
        (compressed,), _ = collect([FRONT[0], (load("compress_coils"), {"coils": 6})], simulation)
        assert compressed.data.shape[0] == 6
        assert compressed.data.norm() > 0.98 * kspace.data.norm()

    def test_tolerance_decides_where_no_number_is_given(self):
        _, simulation = block(coils=12, noise_scan=False)
        (compressed,), _ = collect([FRONT[0], (load("compress_coils"), {"tolerance": 0.05})], simulation)
        assert 1 < compressed.data.shape[0] < 12

    def test_select_coils_keeps_the_first(self):
        kspace, simulation = block(noise_scan=False, acceleration=2, acs=8)
        (selected,), _ = collect([FRONT[0], (load("select_coils"), {"coils_out": 2})], simulation)
        assert torch.equal(selected.data, kspace.data[:2])
        assert selected.calibration.shape[0] == 2


class TestCoilMaps:
    def test_too_few_calibration_lines_are_an_error_of_a_bundle_that_needs_maps(self, engine):
        scan = simulate(ScanProtocol(matrix=32, acceleration=4, acs=0))
        steps = [*FRONT, (load("estimate_coil_maps"), {})]
        (block,) = (item for item in collect(steps, scan)[0] if isinstance(item, Kspace))
        assert block.coil_maps is None
        scan = simulate(scan.protocol)
        with pytest.raises(IsocenterError, match="at least 4 adjacent calibration lines"):
            collect([*steps, (load("reconstruct"), {"bundle": "sense"})], scan, engine=engine)
        scan = simulate(scan.protocol)
        out, _ = collect([*steps, (load("reconstruct"), {"bundle": "sense", "fallback": "rss"})], scan, engine=engine)
        assert out[0].meta["IsocenterBundle"] == "rss"
        assert "calibration lines" in out[0].meta["IsocenterFallback"]

    def test_a_block_without_calibration_takes_the_maps_before(self):
        protocol = ScanProtocol(matrix=32, coils=4, noise_scan=False, frames=2, frame_counter="repetition")
        simulation = simulate(protocol)
        items = [
            item for item in simulation.items if item.idx.repetition == 0 or item.idx.kspace_encode_step_1 % 3 == 0
        ]
        out, plain = collect([FRONT[0], (load("estimate_coil_maps"), {})], simulation, items)
        assert len(out) == 2
        assert torch.equal(out[0].coil_maps.get(), out[1].coil_maps.get())
        assert "maps of the block before" in plain.problems["calibration"]


class TestReconstruct:
    def test_without_an_engine_it_says_what_to_do(self):
        with pytest.raises(IsocenterError, match="has no engine"):
            list(load("reconstruct")(iter([]), scan(), bundle="rss"))

    def test_without_a_bundle_it_says_where_to_name_one(self, engine):
        with pytest.raises(IsocenterError, match="no bundle is named"):
            collect([(load("reconstruct"), {})], simulate(ScanProtocol(matrix=16)), [], engine=engine)

    def test_a_bundle_that_needs_maps_asks_for_them(self, engine):
        _, simulation = block()
        with pytest.raises(DataError, match="add the gadget estimate_coil_maps"):
            collect([*FRONT, (load("reconstruct"), {"bundle": "sense"})], simulation, engine=engine)

    def test_a_failing_bundle_falls_back_and_the_images_say_so(self, engine):
        _, simulation = block()
        out, plain = collect(
            [*FRONT, (load("reconstruct"), {"bundle": "sense", "fallback": "rss"})], simulation, engine=engine
        )
        assert out[0].meta["IsocenterBundle"] == "rss"
        assert "'sense' failed" in out[0].meta["IsocenterFallback"]
        assert "'rss' made the images instead" in plain.problems["fallback"]

    def test_a_bundle_that_is_being_loaded_makes_the_images_if_no_other_one_can(self, bundles, monkeypatch):
        go_on, make = threading.Event(), device_module.LoadedModel

        def load_slowly(bundle, *arguments):
            assert bundle.manifest.name == "combine" or go_on.wait(60)
            return make(bundle, *arguments)

        monkeypatch.setattr(device_module, "LoadedModel", load_slowly)
        engine = Engine([bundles])
        engine._crew._patience = 0.1
        _, simulation = block()
        steps = [*FRONT, (load("estimate_coil_maps"), {})]
        out, _ = collect(
            [*steps, (load("reconstruct"), {"bundle": "rss", "fallback": "combine"})], simulation, engine=engine
        )
        assert out[0].meta["IsocenterBundle"] == "combine"
        assert "'rss' was not loaded on cpu within 0.1 seconds" in out[0].meta["IsocenterFallback"]
        assert "is used for what is sent, or sent again, when that is done" in out[0].meta["IsocenterFallback"]
        threading.Timer(0.2, go_on.set).start()
        _, simulation = block()
        out, _ = collect([*steps, (load("reconstruct"), {"bundle": "rss"})], simulation, engine=engine)
        assert out[0].meta["IsocenterBundle"] == "rss"
        engine.close()

    def test_a_block_that_no_bundle_can_reconstruct_costs_only_itself(self, engine):
        protocol = ScanProtocol(matrix=32, coils=4, slices=3, frames=2, frame_counter="repetition", noise_scan=False)
        simulation = simulate(protocol)
        steps = [FRONT[0], FRONT[2], (load("estimate_coil_maps"), {})]
        blocks = [item for item in collect(steps, simulation)[0] if isinstance(item, Kspace)]
        for lost in (1, 4):
            blocks[lost].coil_maps, blocks[lost].maps_problem = None, "coil maps need more"
        plain = Scan(simulation.header, engine=engine)
        out = list(load("reconstruct")(iter(blocks), plain, bundle="sense"))
        counters = [(block.central_headers[0].idx.slice, block.central_headers[0].idx.repetition) for block in blocks]
        assert [(each.slice, each.repetition) for each in out] == [counters[n] for n in (0, 2, 3, 5)]
        (said,) = plain.problem_messages()
        number, repetition = counters[1]
        assert said == (
            f"there is no image of slice {number}, contrast 0, repetition {repetition}: coil maps need more (2 times)"
        )

    def test_where_nothing_can_be_reconstructed_the_first_reason_ends_the_scan(self, engine):
        _, simulation = block(slices=2)
        blocks = [item for item in collect(FRONT, simulation)[0] if isinstance(item, Kspace)]
        for number, each in enumerate(blocks):
            each.maps_problem = f"reason {number}"
        with pytest.raises(IsocenterError, match=r"^reason 0$"):
            list(load("reconstruct")(iter(blocks), Scan(simulation.header, engine=engine), bundle="sense"))

    @pytest.mark.parametrize("options", [{"bundle": "rss"}, {"bundle": "sense", "fallback": "rss"}])
    def test_what_the_last_bundle_cannot_unfold_is_marked_and_told(self, engine, options):
        _, simulation = block(acceleration=2, acs=0, calibration="none")
        (image,), plain = collect([*FRONT, (load("reconstruct"), options)], simulation, engine=engine)
        assert image.meta["IsocenterBundle"] == "rss"
        assert "acceleration 2, accepted is 1" in image.meta["IsocenterUndersampled"]
        assert "the image is aliased" in image.meta["IsocenterUndersampled"]
        assert "slice 0, contrast 0, repetition 0 is undersampled" in plain.problems["undersampled"]

    def test_partial_fourier_is_nothing_to_unfold(self, engine):
        _, simulation = block(partial_fourier=0.7)
        (image,), plain = collect([*FRONT, (load("reconstruct"), {"bundle": "rss"})], simulation, engine=engine)
        assert "IsocenterUndersampled" not in image.meta
        assert set(plain.problems) == {"extent"}

    def test_a_bundle_that_was_not_made_for_a_scan_but_is_the_only_one_is_marked_and_told(self, engine):
        _, simulation = block(acceleration=2, phantom="heart")
        steps = [*FRONT, (load("estimate_coil_maps"), {}), (load("reconstruct"), {"bundle": "modl-brain"})]
        (image,), plain = collect(steps, simulation, engine=engine)
        assert "bundle 'modl-brain' was not made for this scan" in image.meta["IsocenterOutsideDomain"]
        assert plain.problems["domain"].startswith(image.meta["IsocenterOutsideDomain"])

    def test_headers_carry_geometry_counters_and_field_of_view(self, engine):
        protocol = ScanProtocol(
            matrix=32, coils=2, slices=3, orientation="oblique", frames=2, frame_counter="repetition"
        )
        out, _ = collect([*FRONT, (load("reconstruct"), {"bundle": "rss"})], simulate(protocol), engine=engine)
        assert [(i.slice, i.repetition, i.image_index) for i in out] == [
            (1, 0, 2),
            (0, 0, 1),
            (2, 0, 3),
            (1, 1, 5),
            (0, 1, 4),
            (2, 1, 6),
        ]
        first = out[1]
        assert np.allclose(first.field_of_view, (240, 240, 5))
        assert np.allclose(first.position, -6 * np.array(first.slice_dir))
        assert np.allclose(first.phase_dir, [0, math.cos(math.radians(25)), math.sin(math.radians(25))])
        assert first.acquisition_time_stamp > 0
        assert first.image_type == ismrmrd.IMTYPE_MAGNITUDE
        assert first.meta["sampling_limits_E1"] == ["0", "16", "31"]


class TestFilters:
    @pytest.mark.parametrize("shape", ["Gaussian", "Hanning", "TaperedHanning"])
    @pytest.mark.parametrize("size", [16, 17])
    def test_symmetric_unit_mean_square_largest_in_the_middle(self, shape, size):
        from isocenter.gadgets.filter_kspace import symmetric_filter

        values = symmetric_filter(shape, size, 1.0, 0.15)
        assert np.mean(values**2) == pytest.approx(1)
        inner = values[1:] if size % 2 == 0 else values
        assert np.allclose(inner, inner[::-1])
        assert values.argmax() == pytest.approx(size // 2, abs=size * 0.4)
        assert values[size // 2] == values.max()

    def test_a_gaussian_falls_to_exp_minus_half_at_the_edge(self):
        from isocenter.gadgets.filter_kspace import symmetric_filter

        values = symmetric_filter("Gaussian", 33, 1.0, 0.15)
        assert values[0] / values[16] == pytest.approx(math.exp(-0.5))

    def test_partial_fourier_images_fade_towards_the_missing_edge(self):
        random = np.random.default_rng(0)
        data = (random.standard_normal((1, 1, 32, 16)) + 0j).astype(np.complex64)
        partial = {"sampling_limits_E1": ["10", "16", "31"], "sampling_limits_E2": ["0", "0", "0"]}
        (out,) = load("filter_partial_fourier")(iter([image(data, partial)]), scan())
        before, after = (
            np.abs(np.fft.fftshift(np.fft.fft(np.fft.ifftshift(x, 2), axis=2), 2)) for x in (data, out.data)
        )
        ratio = (after / before)[0, 0, :, 3]
        assert ratio[10] < 0.2
        assert np.allclose(ratio[16:], 1, atol=1e-4)
        assert np.all(np.diff(ratio[10:16]) > 0)

    def test_complete_images_pass_untouched(self):
        complete = image(np.ones((1, 1, 8, 8), np.complex64), {"sampling_limits_E1": ["0", "4", "7"]})
        (out,) = load("filter_partial_fourier")(iter([complete]), scan())
        assert out is complete


class TestIntensities:
    def test_one_scale_for_a_series(self):
        images = [image(np.full((1, 1, 4, 4), level, np.float32), image_series_index=1) for level in (10.0, 20.0)]
        out = list(load("scale")(iter(images), scan(), target=1000))
        assert [float(i.data.max()) for i in out] == [1000, 2000]
        assert float(out[0].meta["IsocenterScale"]) == pytest.approx(100)

    def test_an_empty_image_decides_neither_scale_nor_window(self):
        images = [image(np.full((1, 1, 4, 4), level, np.float32), image_series_index=1) for level in (0, 10.0, 20.0)]
        out = list(load("finish")(load("scale")(iter(images), scan(), target=1000), scan()))
        assert [float(i.data.max()) for i in out] == [0, 1000, 2000]
        assert [i.meta["WindowWidth"] for i in out] == ["1", "1000", "1000"]

    def test_phases_are_not_scaled(self):
        phase = image(np.full((1, 1, 4, 4), 3, np.float32), image_type=ismrmrd.IMTYPE_PHASE)
        assert next(load("scale")(iter([phase]), scan(), factor=5)) is phase

    def test_extract_makes_the_parts_that_are_asked_for(self):
        data = np.full((1, 1, 2, 2), 3 - 4j, np.complex64)
        gadget = load("extract")
        out = list(gadget(iter([image(data, image_series_index=1)]), scan(), real=True, imaginary=True, phase=True))
        found = {i.image_series_index: (i.image_type, float(i.data[0, 0, 0, 0])) for i in out}
        assert found == {
            1: (1, 5.0),
            1001: (3, 3.0),
            2001: (4, -4.0),
            3001: (2, pytest.approx(math.atan2(-4, 3))),
        }

    def test_extract_of_nothing_is_refused(self):
        with pytest.raises(OptionError, match="at least one"):
            list(load("extract")(iter([]), scan(), magnitude=False))

    def test_complex_to_float_follows_the_image_type(self):
        data = np.full((1, 1, 1, 1), -1j, np.complex64)
        values = {}
        for kind in (0, 1, 2, 3, 4):
            (out,) = load("complex_to_float")(iter([image(data, image_type=kind)]), scan())
            values[kind] = (out.image_type, float(out.data[0, 0, 0, 0]))
        assert values == {0: (1, 1), 1: (1, 1), 2: (2, pytest.approx(-math.pi / 2)), 3: (3, 0), 4: (4, -1)}

    def test_integers_are_rounded_and_clipped(self):
        data = np.array([-5, 0.4, 0.6, 4000, 9000], np.float32).reshape(1, 1, 1, 5)
        plain = scan()
        (out,) = load("to_integer")(iter([image(data, image_type=1)]), plain)
        assert out.data.dtype == np.uint16
        assert out.data.ravel().tolist() == [0, 0, 1, 4000, 4095]
        assert "1 of 5 pixels" in plain.problems["clipped"]

    def test_phase_fills_the_range_of_integers(self):
        data = np.array([-math.pi, 0, math.pi], np.float32).reshape(1, 1, 1, 3)
        (out,) = load("to_integer")(iter([image(data, image_type=2)]), scan(), max_intensity=4096)
        assert out.data.ravel().tolist() == [0, 2048, 4096]

    def test_finish_sets_one_window_for_a_series(self):
        images = [
            image(np.full((1, 1, 4, 4), level, np.float32), image_series_index=1, image_index=7)
            for level in (10.0, 20.0)
        ]
        out = list(load("finish")(iter(images), scan()))
        assert [i.meta["WindowWidth"] for i in out] == ["10", "10"]
        assert out[0].meta["WindowCenter"] == "5"
        assert out[0].meta["GADGETRON_ImageNumber"] == "7"
        assert out[0].meta["SequenceDescriptionAdditional"] == "Isocenter"


def test_a_block_survives_the_way_through_gadgetrons_buffers():
    kspace, simulation = block(acceleration=2, acs=8, slices=1)
    (back,) = load("accumulate")(iter([from_kspace(kspace)]), Scan(simulation.header))
    assert torch.equal(back.data, kspace.data)
    assert torch.equal(back.mask, kspace.mask)
    assert torch.equal(back.calibration, kspace.calibration)
    assert back.central_headers[0] == kspace.central_headers[0]


def test_noise_summary_reports_what_is_kept(tmp_path):
    noise_scan = simulate(ScanProtocol(matrix=16, coils=3, measurement_id="m1"))
    collect(FRONT[:2], noise_scan, noise_folder=tmp_path)
    plain = Scan(noise_scan.header, noise_folder=tmp_path)
    (report,) = load("noise_summary")(iter([]), plain, noise_file="GadgetronNoiseCovarianceMatrix_m1")
    assert report.values["status"] == "success"
    assert report.values["channels"] == "3"
    assert (
        0 < float(report.values["min_sigma"]) <= float(report.values["mean_sigma"]) <= float(report.values["max_sigma"])
    )
    (missing,) = load("noise_summary")(iter([]), plain, noise_file="other")
    assert missing.values == {"status": "failed"}


def test_encodings_are_those_of_the_scan():
    assert scan().encodings == parse_encodings(parse_header(header_xml(ScanProtocol(matrix=32, coils=4))))
    assert isinstance(image(np.ones((1, 1, 1, 1), np.float32)), Image)


@pytest.mark.parametrize("name", ["scale", "finish", "adjust_field_of_view", "to_integer"])
@pytest.mark.parametrize("fov", [(0, 0, 0), (240, 240, 0), (math.nan, 240, 5), (math.inf, -1, 5)])
@pytest.mark.parametrize("attribute", [["0", "0", "0"], ["nan", "240", "5"], ["a", "b", "c"]])
def test_images_from_outside_may_hold_anything(name, fov, attribute):
    meta = {"encoding_FOV": attribute}
    images = [
        image(np.ones(shape, np.float32), meta, field_of_view=fov)
        for shape in ((1, 1, 0, 0), (0, 1, 16, 16), (1, 1, 16, 16), (1, 1, 1, 1))
    ]
    out, scan = collect([(load(name), {})], simulate(ScanProtocol(matrix=16, coils=2)), images)
    assert len(out) == 2
    assert all(np.isfinite(each.data).all() for each in out)
    said = scan.problem_messages()
    assert said[0] == "an image without pixels came and is left out (2 times)"
    assert all("the brightest of its pixels are 1 grey levels" in each for each in said[1:])
    assert len(said) == (2 if name == "to_integer" else 1)


FAR = [
    "1e11",
    "100000000000",
    "1e308",
    "9" * 5000,
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e-308",
    "1e9",
    "-1e9",
    "65535",
    "²",
]
CHAIN = {
    "accumulate": {},
    "prewhiten": {},
    "remove_oversampling": {},
    "select_coils": {"coils_out": "2"},
    "compress_coils": {},
    "filter_kspace": {},
    "filter_partial_fourier": {},
    "estimate_coil_maps": {},
    "reconstruct": {"bundle": "rss"},
    "adjust_field_of_view": {},
    "extract": {},
    "scale": {},
    "to_integer": {},
    "finish": {},
}
NUMBERS = [
    (name, option)
    for name in CHAIN
    for option, default in load(name).defaults.items()
    if isinstance(default, int | float) and not isinstance(default, bool)
]


@pytest.mark.parametrize(("name", "option"), [*NUMBERS, ("select_coils", "coils_out")])
def test_no_number_that_a_peer_may_write_does_harm(engine, name, option):
    """It is refused when the pipeline is read, or a scan goes through with it, and soon."""
    simulation = simulate(ScanProtocol(matrix=16, coils=2, noise=0.1, acceleration=2, acs=8))
    for text in FAR:
        try:
            changed = load(name).parse({**CHAIN[name], option: text})
        except OptionError:
            continue
        given = {each: changed if each == name else load(each).parse(options) for each, options in CHAIN.items()}
        with np.errstate(all="ignore"):
            out, scan = collect([(load(each), options) for each, options in given.items()], simulation, engine=engine)
        assert out or scan.problem_messages()
        assert all(np.isfinite(each.data).all() for each in out if isinstance(each, Image))
