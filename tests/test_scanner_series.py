"""Series as scanners want them: integers by one scale for a scan, phases, a second method beside the first."""

import json
import math
from dataclasses import replace

import ismrmrd
import numpy as np
import pytest
import torch
from helpers import collect
from isocenter.bundle.manifest import BundleError
from isocenter.export.options import ExportOptions
from isocenter.export.own_module import export_module
from isocenter.gadgets import load
from isocenter.gadgets.scan import Scan
from isocenter.pipelines.loader import load as load_pipeline
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.items import ImageHeader, make_image

SLICES = ScanProtocol(matrix=32, coils=4, slices=3, acceleration=2, acs=12, noise=0.2, oversampling=1)
BITS = (
    "<userParameters><userParameterLong><name>BitsStored</name><value>16</value></userParameterLong></userParameters>"
)
WHITENED = {"IsocenterNoiseSource": "noise readouts of this scan"}
FRONT = [(load(name), {}) for name in ("accumulate", "prewhiten", "estimate_coil_maps")]


def image(values, kind=ismrmrd.IMTYPE_MAGNITUDE, series=1, **attributes):
    header = ImageHeader()
    header.image_type, header.image_series_index = kind, series
    meta = ismrmrd.Meta()
    for name, value in attributes.items():
        meta[name] = value
    return make_image(np.asarray(values, np.float32).reshape(1, 1, 1, -1), header, meta)


def scan(extra=""):
    header = simulate(ScanProtocol(matrix=16, coils=1)).header
    return Scan(header.replace("</ismrmrdHeader>", f"{extra}</ismrmrdHeader>"))


def converted(images, of_scan=None, **options):
    return list(load("convert")(iter(images), of_scan or scan(), **{"output": "uint16", **options}))


def value(converted_image):
    """What the page of images says how to come back."""
    meta = converted_image.meta
    return (converted_image.data.astype(float) - float(meta["IsocenterOffset"])) / float(meta["IsocenterScale"])


class TestConvert:
    def test_images_are_what_they_were_unless_integers_are_asked_for(self):
        images = [image([1, 2.5]), image([3])]
        assert all(a is b for a, b in zip(converted(images, output="float32"), images, strict=True))

    def test_one_scale_holds_for_all_slices_and_series(self):
        levels = [0.0, 1e-5, 3e-5, 2e-5]
        out = converted([image(np.linspace(0, level, 50), series=number) for number, level in enumerate(levels)])
        assert len({each.meta["IsocenterScale"] for each in out[1:]}) == 1
        assert out[1].data.max() == pytest.approx(4095 / 4, abs=2)
        for each, level in zip(out[1:], levels[1:], strict=True):
            assert each.data.dtype == np.uint16
            np.testing.assert_allclose(value(each).ravel(), np.linspace(0, level, 50), atol=0.51e-5 / 1023)

    def test_an_image_with_much_brighter_ones_before_it_is_clipped_and_says_so(self):
        this = scan()
        first, second = converted([image(np.ones(100)), image(np.r_[np.ones(98), 10, 10])], this)
        assert "IsocenterClipped" not in first.meta
        assert second.meta["IsocenterClipped"].startswith("2 of 100 pixels (2.00%) lie beyond 4095")
        assert second.data.max() == 4095
        assert "2 of 100 pixels" in this.problems["clipped"]

    def test_whitened_images_keep_the_noise_at_four_counts_whatever_the_first_one_shows(self):
        noise = np.abs(np.random.default_rng(0).standard_normal(500))
        out = converted([image(noise, IsocenterNoiseSource="noise readouts of this scan"), image([500.0])])
        assert [each.meta["IsocenterScale"] for each in out] == ["4.0", "4.0"]
        assert out[1].data.item() == 2000
        assert converted([image(1e5 * noise, IsocenterNoiseSource="measurement x")])[0].data.max() < 4095

    def test_a_given_scale_is_taken(self):
        assert converted([image([10, 20])], scale=7)[0].data.ravel().tolist() == [70, 140]

    @pytest.mark.parametrize(("output", "largest"), [("uint16", 65535), ("int16", 32767)])
    def test_the_header_says_how_many_bits_are_stored(self, output, largest):
        (out,) = converted([image([1, 1e9])], scan(BITS), output=output, scale=1)
        assert out.data.dtype == np.dtype(output)
        assert out.data.ravel().tolist() == [1, largest]

    def test_a_phase_is_a_turn_of_4096(self):
        phases = np.array([-math.pi, -math.pi / 2, 0, 1e-4, math.pi / 2, math.pi - 1e-4, math.pi])
        this = scan(BITS)
        (out,) = converted([image(phases, ismrmrd.IMTYPE_PHASE)], this)
        assert out.data.ravel().tolist() == [0, 1024, 2048, 2048, 3072, 0, 0]
        assert np.abs(np.exp(1j * value(out).ravel()) - np.exp(1j * phases)).max() < 1e-3
        assert "IsocenterClipped" not in out.meta
        assert not this.problems

    def test_real_parts_lie_around_the_middle(self):
        (out,) = converted([image([-1, 0, 0.5, 1], ismrmrd.IMTYPE_REAL)])
        assert out.data.ravel().tolist() == [1024, 2048, 2560, 3072]
        np.testing.assert_allclose(value(out).ravel(), [-1, 0, 0.5, 1], atol=1e-3)

    def test_values_that_are_no_numbers_harm_none(self):
        this = scan()
        bright, phase = converted([image([np.nan, np.inf, 1]), image([np.nan, np.inf, 0], ismrmrd.IMTYPE_PHASE)], this)
        assert bright.data.ravel().tolist() == [0, 4095, 1024]
        assert "1 of 3 pixels" in bright.meta["IsocenterClipped"]
        assert phase.data.ravel().tolist() == [2048, 2048, 2048]

    @pytest.mark.parametrize(
        ("values", "attributes", "scale", "said"),
        [
            (np.linspace(0, 1, 100), {}, 10, "the brightest of its pixels are 9.9 grey levels"),
            (np.linspace(0, 1, 100), {}, 1e-3, "the brightest of its pixels are 0.00099 grey levels"),
            (np.linspace(0, 1, 100), {}, 17, None),
            (np.linspace(0, 40, 100), WHITENED, 1, None),
            (np.linspace(0, 40, 100), WHITENED, 0.5, None),
            (np.linspace(0, 40, 100), WHITENED, 0.2, "43% of the pixels that stand out of the noise have fewer than 4"),
            (np.r_[1e5, np.linspace(6, 30, 99)], WHITENED, 0.04, "99% of the pixels that stand out of the noise"),
            (np.linspace(900, 1000, 100), WHITENED, 0.1, None),
            (np.linspace(0, 4, 100), WHITENED, 0.01, None),
            (
                np.linspace(0, 3, 100),
                WHITENED | {"IsocenterShows": "uncertainty"},
                4,
                "the brightest of its pixels are 12",
            ),
            (np.zeros(100), {}, 1, None),
            (np.r_[np.nan, np.linspace(0, 1, 99)], {}, 100, "1 of 100 pixels are no numbers and become zero"),
        ],
    )
    def test_integers_that_show_little_of_an_image_are_told(self, values, attributes, scale, said):
        this = scan()
        (out,) = converted([image(values, **attributes)], this, scale=scale)
        rounded = out.meta.get("IsocenterRounded")
        if said is None:
            assert rounded is None
            assert "rounded" not in this.problems
        else:
            assert rounded.startswith(said)
            what = " of the uncertainty" if "IsocenterShows" in attributes else ""
            assert this.problems["rounded"] == f"in an image{what}, {rounded}"

    def test_images_of_one_factor_are_told_of_once(self):
        this = scan()
        images = converted([image([1.0, 2.0]), image([0.001, 0.002]), image([0.002, 0.001])], this)
        assert ["IsocenterRounded" in each.meta for each in images] == [False, True, True]
        assert len(this.problems) == 1
        assert this.problem_messages()[0].endswith("take float32 (2 times)")

    def test_a_phase_has_levels_enough_whatever_it_is(self):
        (out,) = converted([image([0, 1e-4, 1e-3], ismrmrd.IMTYPE_PHASE)])
        assert "IsocenterRounded" not in out.meta

    def test_complex_images_pass(self):
        complex_image = make_image(np.ones((1, 1, 2, 2), np.complex64), ImageHeader())
        assert converted([complex_image]) == [complex_image]


class TestToInteger:
    def made(self, images, of_scan=None, **options):
        return list(load("to_integer")(iter(images), of_scan or scan(), **options))

    def test_images_that_were_not_scaled_are_told(self):
        this = scan()
        (out,) = self.made([image([0, 1e-5])], this)
        assert out.data.max() == 0
        assert out.meta["IsocenterRounded"].startswith("the brightest of its pixels are")
        assert "grey levels" in this.problems["rounded"]
        (out,) = self.made(load("scale")(iter([image(np.linspace(0, 1e-5, 100))]), scan()))
        assert "IsocenterRounded" not in out.meta

    def test_the_noise_is_scaled_with_the_image(self):
        noisy = image(np.linspace(0, 40, 100), **WHITENED)
        for factor, is_told in ((0.1, True), (1.0, False)):
            (out,) = self.made(load("scale")(iter([image(noisy.data, **WHITENED)]), scan(), factor=factor))
            assert ("IsocenterRounded" in out.meta) == is_told

    def test_what_is_no_number_is_zero_also_of_parts_with_signs(self):
        (out,) = self.made([image([np.nan, -100, 100], ismrmrd.IMTYPE_REAL)])
        assert out.data.ravel().tolist() == [2048, 1948, 2148]
        assert "1 of 3 pixels are no numbers" in out.meta["IsocenterRounded"]


class TestFinish:
    def finished(self, images):
        return list(load("finish")(iter(images), scan()))

    def test_windows_of_integers_are_whole_numbers(self):
        (out,) = self.finished(converted([image(np.linspace(0, 1, 1000))]))
        assert out.meta["WindowWidth"] == str(round(float(np.percentile(out.data, 99.5))))
        assert out.meta["WindowCenter"].isdecimal()

    def test_the_window_of_a_phase_is_a_whole_turn(self):
        (as_float,) = self.finished([image([-1, 0, 2], ismrmrd.IMTYPE_PHASE)])
        (as_integer,) = self.finished(converted([image([-1, 0, 2], ismrmrd.IMTYPE_PHASE)]))
        assert (as_float.meta["WindowCenter"], as_float.meta["WindowWidth"]) == ("0", "6.28319")
        assert (as_integer.meta["WindowCenter"], as_integer.meta["WindowWidth"]) == ("2048", "4096")

    def test_descriptions_say_which_series_is_which(self):
        images = [
            image([1], IsocenterBundle="ridge"),
            image([1], ismrmrd.IMTYPE_PHASE, 3001, IsocenterBundle="ridge"),
            image([1], series=101, IsocenterBundle="sense"),
            image([1], series=201, IsocenterBundle="ridge", IsocenterShows="uncertainty"),
        ]
        described = [each.meta["SequenceDescriptionAdditional"] for each in self.finished(images)]
        assert described == [
            "Isocenter_ridge",
            "Isocenter_ridge_phase",
            "Isocenter_sense",
            "Isocenter_ridge_uncertainty",
        ]


class TestExtract:
    def test_complex_images_have_a_series_of_their_own(self):
        data = np.ones((1, 1, 2, 2), np.complex64)
        out = list(load("extract")(iter([make_image(data, ImageHeader())]), scan(), complex_images=True))
        assert [(each.image_series_index, each.image_type) for each in out] == [(0, 1), (4000, 5)]

    def test_magnitudes_have_no_phase_and_it_is_said(self):
        this = scan()
        assert not list(load("extract")(iter([image([1])]), this, magnitude=False, phase=True))
        assert this.problems["no phase"] == "there are no phase images: it makes magnitudes"


def test_the_scanner_pipelines_send_the_series_that_hosts_expect(service):
    exact = service.replay(simulate(SLICES), "sense.xml").images
    images = service.replay(simulate(SLICES), "sense-scanner.xml").images
    assert len(images) == 3
    for each, reference in zip(images, exact, strict=True):
        assert each.data.dtype == np.uint16
        assert each.meta["IsocenterComplete"] == "yes"
        assert each.meta["Keep_image_geometry"] == "1"
        assert [float(x) for x in each.meta["ImageRowDir"]] == list(each.read_dir)
        assert each.meta["SequenceDescriptionAdditional"] == "Isocenter_sense"
        step = 1 / float(each.meta["IsocenterScale"])
        assert np.abs(value(each) - reference.data).max() <= 0.501 * step
        assert "RescaleSlope" not in each.meta  # else hosts would take the window as rescaled values


@pytest.mark.parametrize("name", ["rss", "sense", "network"])
def test_scanner_pipelines_differ_from_the_others_in_the_output_only(name):
    plain, scanner = load_pipeline(name).steps, load_pipeline(f"{name}-scanner").steps
    differing = [(a, b) for a, b in zip(plain, scanner, strict=True) if a != b]
    assert [(a.gadget.name, a.options, b.options) for a, b in differing] == [("convert", {}, {"output": "uint16"})]


class TestRegularization:
    def images(self, engine, **options):
        images, this = collect([*FRONT, (load("reconstruct"), options)], simulate(SLICES), engine=engine)
        return np.stack([each.data for each in images]), images[0].meta, this.problems

    def test_more_of_it_shrinks_the_image_of_sense(self, engine):
        usual, meta, _ = self.images(engine, bundle="sense")
        assert "IsocenterRegularization" not in meta
        assert np.array_equal(usual, self.images(engine, bundle="sense", regularization=1.0)[0])
        strong, meta, problems = self.images(engine, bundle="sense", regularization=100.0)
        assert meta["IsocenterRegularization"] == "100"
        assert set(problems) == {"aliasing"}  # as it keeps little of what was not measured
        # (E^H E + 0.5)^-1 E^H E has no eigenvalue above 1 / 1.5
        assert np.linalg.norm(strong) < 0.7 * np.linalg.norm(usual)

    def test_a_bundle_without_any_says_so(self, engine):
        usual, _, _ = self.images(engine, bundle="rss")
        images, meta, problems = self.images(engine, bundle="rss", regularization=2.0)
        assert np.array_equal(images, usual)
        assert meta["IsocenterRegularization"] == f"1: {problems['lambda']}"
        assert problems["lambda"] == "bundle 'rss' has no strength that can be chosen: lambda=2 does nothing"


class TestBeside:
    @pytest.fixture(scope="class")
    def faulty(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("faulty")
        export_module("faulty:Raises", None, folder / "Raises", ExportOptions(), formats=["torchscript"])
        return folder

    def images(self, engine, **options):
        simulation = simulate(SLICES)
        tail = [(load("reconstruct"), options), (load("extract"), {}), (load("finish"), {})]
        return collect([*FRONT, *tail], simulation, engine=engine)

    def test_a_second_series_is_what_its_bundle_makes_alone(self, engine):
        images, this = self.images(engine, bundle="rss", beside="sense")
        alone, _ = self.images(engine, bundle="sense")
        second = [each for each in images if each.image_series_index == 101]
        assert [each.slice for each in second] == [each.slice for each in alone] == [1, 0, 2]
        assert [each.image_index for each in second] == [2, 1, 3]
        for each, reference in zip(second, alone, strict=True):
            np.testing.assert_allclose(each.data, reference.data, atol=1e-5 * reference.data.max())
            assert each.meta["IsocenterBundle"] == "sense"
            assert each.meta["SequenceDescriptionAdditional"] == "Isocenter_sense"
        first = [each for each in images if each.image_series_index == 1]
        assert [each.meta["SequenceDescriptionAdditional"] for each in first] == 3 * ["Isocenter_rss"]
        assert "beside" not in this.problems

    def test_a_bundle_that_fails_leaves_the_second_series(self, make_engine, faulty):
        simulation = simulate(replace(SLICES, noise_scan=False))
        for each in simulation.items:
            each.data[:] *= 1e4
        tail = [(load("reconstruct"), {"bundle": "Raises", "beside": "sense"}), (load("extract"), {})]
        images, this = collect([*FRONT, *tail], simulation, engine=make_engine(faulty))
        assert [each.image_series_index for each in images] == 3 * [101]
        assert any("there is no image of slice 1" in text for text in this.problems.values())

    def test_a_second_bundle_that_fails_leaves_the_first_series(self, make_engine, faulty):
        simulation = simulate(replace(SLICES, noise_scan=False))
        for each in simulation.items:
            each.data[:] *= 1e4
        tail = [(load("reconstruct"), {"bundle": "sense", "beside": "Raises"}), (load("extract"), {})]
        images, this = collect([*FRONT, *tail], simulation, engine=make_engine(faulty))
        assert [each.image_series_index for each in images] == 3 * [1]
        assert any("slice 1, contrast 0, repetition 0 in the second series" in text for text in this.problems.values())

    def test_a_second_bundle_that_is_not_there_is_refused_or_told(self, engine):
        with pytest.raises(BundleError, match="sence"):
            self.images(engine, bundle="sense", beside="sence")
        images, this = self.images(engine, bundle="sense", beside="sence", unknown="fallback")
        assert len(images) == 3
        assert "there is no second series" in this.problems["beside"]

    def test_the_same_bundle_twice_makes_one_series(self, engine):
        images, this = self.images(engine, bundle="sense", beside="sense")
        assert len(images) == 3
        assert "makes the first one already" in this.problems["beside"]


def test_parameters_of_the_client_choose_the_series(service):
    chosen = {"output": "uint16", "phase": "true", "complex": True, "beside": "rss", "scale": 0.5, "lambda": 2}
    parameters = json.dumps({"parameters": chosen})
    images = service.replay(simulate(replace(SLICES, slices=1)), "sense.xml", parameters=parameters).images
    found = {each.image_series_index: (each.meta["SequenceDescriptionAdditional"], each.data.dtype) for each in images}
    assert found == {
        1: ("Isocenter_sense", np.uint16),
        3001: ("Isocenter_sense_phase", np.uint16),
        4001: ("Isocenter_sense_complex", np.complex64),
        101: ("Isocenter_rss", np.uint16),
    }
    assert {each.meta["IsocenterScale"] for each in images if each.image_type == ismrmrd.IMTYPE_MAGNITUDE} == {"0.5"}
    of_sense = [each.meta for each in images if each.meta["IsocenterBundle"] == "sense"]
    assert {(meta["IsocenterRegularization"], meta["IsocenterComplete"]) for meta in of_sense} == {("2", "yes")}


def test_phases_of_sets_differ_as_those_of_the_object_do(engine):
    """Sets of the simulation differ by 0.7 in phase, and in nothing else but noise."""
    simulation = simulate(replace(SLICES, slices=1, sets=2, matrix=48, acs=16))
    tail = [(load("reconstruct"), {"bundle": "sense"}), (load("extract"), {"phase": True})]
    images, _ = collect([*FRONT, *tail, (load("convert"), {"output": "uint16"})], simulation, engine=engine)
    bright = next(each.data for each in images if each.image_type == ismrmrd.IMTYPE_MAGNITUDE) > 500
    first, second = (value(each)[bright] for each in images if each.image_type == ismrmrd.IMTYPE_PHASE)
    difference = np.angle(np.exp(1j * (second - first)))
    assert np.median(difference) == pytest.approx(0.7, abs=0.01)
    assert difference.std() < 0.1


class Slow(torch.nn.Module):
    """Root-sum-of-squares of k-space itself, after some hundredths of a second of work without any use."""

    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        wasted = torch.zeros(30_000)
        for _ in range(800):
            wasted = torch.acos(torch.cos(wasted))
        return kspace.square().sum(dim=-1).sum(dim=1).sqrt() + wasted[0] * 0


class TestLongestWait:
    """Slices that come at once, to a bundle that computes a few of them in a second."""

    @pytest.fixture(scope="class")
    def slow(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("slow")
        options = ExportOptions.model_validate(
            {"inputs": [{"name": "kspace", "axes": ("batch", "coils", "ky", "kx", "complex")}]}
        )
        export_module(f"{__name__}:Slow", None, folder / "Slow", options, formats=["torchscript"])
        return folder

    def bundles(self, engine, **options):
        engine.prepare("Slow", {})[0].result(60)
        images, this = collect(
            [*FRONT, (load("reconstruct"), {"bundle": "Slow", "fallback": "sense rss", **options})],
            simulate(replace(SLICES, slices=20)),
            engine=engine,
        )
        assert sorted(each.slice for each in images) == list(range(20))
        return images, [each.meta["IsocenterBundle"] for each in images], this.problems

    def test_a_faster_bundle_makes_the_images_that_would_pile_up(self, make_engine, slow):
        images, made_by, problems = self.bundles(make_engine(slow), longest_wait=0.2)
        assert made_by[0] == "Slow"
        assert made_by[-1] == "sense"
        assert set(made_by) == {"Slow", "sense"}
        assert made_by.count("sense") > 5
        reason = "'Slow' is too slow here (it had not begun 0.2 s after its data came); 'sense' made the images instead"
        assert images[-1].meta["IsocenterFallback"] == reason
        assert "IsocenterFallback" not in images[0].meta
        assert problems["fallback"] == f"bundle {reason}"

    @pytest.mark.parametrize("options", [{}, {"longest_wait": 60.0}, {"longest_wait": 0.2, "fallback": ""}])
    def test_all_wait_where_there_is_time_or_no_other_bundle(self, make_engine, slow, options):
        _, made_by, problems = self.bundles(make_engine(slow), **options)
        assert set(made_by) == {"Slow"}
        assert "fallback" not in problems
