"""The uncertainty of images: the standard deviation of their error, in a series beside them."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import collect
from isocenter.bundle.folder import sha256
from isocenter.bundle.manifest import BundleError, Domain, Manifest, Uncertainty
from isocenter.export.network import export_network
from isocenter.export.options import ExportOptions, load_options
from isocenter.export.shipped import SHIPPED
from isocenter.gadgets import load
from isocenter.gadgets.error_check import error_doubt
from isocenter.models.error_level import SenseStart
from isocenter.models.error_map import ErrorMap
from isocenter.models.networks.ridge_net import RidgeNet, RidgeNetWithError
from isocenter.service.provenance import amiss
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.errors import IsocenterError

SMALL = {"iterations": 1, "filters": 4, "cg_iterations": 2, "start_iterations": 4}
CALIBRATED = Domain(dimensions=("2d",), acceleration=(2, 3), acs=(12, 24), coils=(2, 16))
SCAN = ScanProtocol(matrix=64, coils=6, slices=2, acceleration=2, acs=16, noise=1.0, oversampling=1)
FRONT = [(load(name), {}) for name in ("accumulate", "prewhiten", "estimate_coil_maps")]


def complex_noise(shape, variance, seed=0):
    random = np.random.default_rng(seed)
    return (np.sqrt(variance / 2) * random.standard_normal((*shape, 2))).astype(np.float32)


@pytest.mark.parametrize("which", ["noise", "missing"])
@pytest.mark.parametrize(("detail", "error"), [(1.0, 0.2), (0.05, 1.0)])
def test_it_is_that_of_the_best_linear_estimate_of_detail_from_an_image_with_errors(which, detail, error):
    """The error of Wiener's estimate, measured, where detail and errors have the same variance everywhere."""
    shape = (1, 256, 256)
    truth = complex_noise(shape, detail)
    estimate = (truth + complex_noise(shape, error, 1)) * detail / (detail + error)
    measured = np.sqrt(((estimate - truth) ** 2).sum(-1).mean())
    level = torch.full(shape, error)
    none = torch.zeros(shape)
    noise, missing = (level, none) if which == "noise" else (none, level)
    one = torch.ones(1, 1, 1)
    start = SenseStart(torch.zeros((*shape, 2)), one[..., None], 0 * one, noise, missing)
    found = ErrorMap(1, 1, 1)(torch.from_numpy(truth), start)
    assert float(found.mean()) == pytest.approx(measured, rel=0.03)


def test_without_detail_the_noise_of_a_sample_is_left():
    one = torch.ones(2, 1, 1)
    start = SenseStart(torch.zeros(2, 8, 8, 2), one[..., None], 0.5 * one, torch.ones(2, 8, 8), torch.ones(2, 8, 8))
    found = ErrorMap(0.3, 0.4, 0.25)(torch.full((2, 8, 8, 2), 7.0), start)
    assert torch.allclose(found, torch.full((2, 8, 8), 0.25))


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_it_has_the_units_of_the_image_and_leaves_the_image_as_it_is(factor):
    torch.manual_seed(0)
    network = RidgeNet(**SMALL).eval()
    kspace = torch.from_numpy(complex_noise((1, 3, 24, 20), 1.0))
    maps = torch.from_numpy(complex_noise((1, 3, 24, 20), 1.0, 1))
    maps = maps / maps.square().sum((1, 4), keepdim=True).sqrt()
    mask = (torch.arange(24) % 2 == 0).to(torch.float32).reshape(1, 1, 24, 1, 1)
    both = RidgeNetWithError(network, ErrorMap(0.2, 0.4, 0.3))
    with torch.no_grad():
        image, error = both(kspace, mask, maps)
        scaled = both(kspace * factor, mask, maps)
        assert torch.equal(image, network(kspace, mask, maps))
        assert torch.allclose(scaled[1], error * factor, rtol=1e-3)
        assert float(error.min()) > 0
        assert not any(output.any() for output in both(0 * kspace, mask, maps))


def test_that_which_ships_was_calibrated_for_the_weights_that_ship():
    shipped = SHIPPED["ridge"]
    assert shipped.uncertainty is not None
    calibrated = load_options(shipped.uncertainty).uncertainty
    assert calibrated.weights == sha256(shipped.file)
    assert calibrated.domain.acceleration[1] <= shipped.domain.acceleration[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save({f"network.{name}": value for name, value in RidgeNet(**SMALL).state_dict().items()}, path)
    return path


def options(checkpoint, **changes):
    calibrated = {"noise": 0.2, "missing": 0.4, "floor": 0.3, "scans": 5, "coverage": (0.7, 0.94, 0.99)}
    values = {"weights": sha256(checkpoint), "domain": CALIBRATED, **calibrated, **changes}
    return ExportOptions(configuration=SMALL, uncertainty=Uncertainty(**values))


@pytest.fixture(scope="module")
def small(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "small"
    return export_network("ridge-net", checkpoint, folder, options(checkpoint), ["torchscript"])


class TestExport:
    def test_a_bundle_returns_it(self, small):
        assert [(spec.name, spec.axes) for spec in small.manifest.outputs] == [
            ("image", ("batch", "ky", "kx", "complex")),
            ("error", ("batch", "ky", "kx")),
        ]
        assert small.manifest.uncertainty.coverage == (0.7, 0.94, 0.99)

    @pytest.mark.long
    def test_it_can_be_written_as_onnx(self, checkpoint, tmp_path):
        bundle = export_network("ridge-net", checkpoint, tmp_path / "small", options(checkpoint), ["onnx"])
        assert set(bundle.manifest.parity) == {"onnx"}

    def test_what_is_returned_and_what_was_calibrated_go_together(self, small):
        with pytest.raises(ValueError, match="there is an output 'error' where"):
            Manifest.model_validate({**small.manifest.model_dump(), "uncertainty": None})

    def test_a_calibration_for_other_weights_is_refused(self, checkpoint, tmp_path):
        with pytest.raises(BundleError, match=r"calibrated for other weights than small\.pt"):
            export_network("ridge-net", checkpoint, tmp_path / "small", options(checkpoint, weights="0" * 64))

    def test_networks_that_cannot_tell_it_are_refused(self, checkpoint, tmp_path):
        other = SHIPPED["modl-brain"].file
        asked = options(checkpoint, weights=sha256(other)).model_copy(update={"configuration": {}})
        with pytest.raises(BundleError, match="network 'modl' cannot tell its uncertainty"):
            export_network("modl", other, tmp_path / "modl", asked)


class TestSeries:
    def images(self, engine, protocol=SCAN, after=(), **chosen):
        tail = [(load("reconstruct"), {"uncertainty": True, **chosen}), (load("extract"), {}), *after]
        return collect([*FRONT, *tail, (load("finish"), {})], simulate(protocol), engine=engine)

    def test_it_follows_its_image_in_units_and_scale(self, make_engine, small):
        to_integer = [(load("convert"), {"output": "uint16"})]
        exact, this = self.images(make_engine(small.folder.parent), bundle="small")
        integers, _ = self.images(make_engine(small.folder.parent), bundle="small", after=to_integer)
        assert [(each.image_series_index, each.image_index) for each in exact] == [(1, 2), (201, 2), (1, 1), (201, 1)]
        assert len({each.meta["IsocenterScale"] for each in integers}) == 1
        for each, rounded in zip(exact, integers, strict=True):
            back = rounded.data / float(rounded.meta["IsocenterScale"])
            assert np.abs(back - each.data).max() <= 0.501 / float(rounded.meta["IsocenterScale"])
        image, error = exact[:2]
        assert "IsocenterShows" not in image.meta
        assert error.meta["SequenceDescriptionAdditional"] == "Isocenter_small_uncertainty"
        assert error.meta["ImageComment"] == "Isocenter small 1.0, uncertainty"
        assert error.meta["IsocenterUncertainty"] == (
            "standard deviation of the error of the magnitude; within one, two and three of them were 70 %, 94 %, 99 % of the "
            "pixels of 5 fully sampled scans"
        )
        assert not this.problems

    def test_a_scan_unlike_those_that_it_was_calibrated_on_is_told(self, make_engine, small):
        images, this = self.images(make_engine(small.folder.parent), replace(SCAN, acceleration=4), bundle="small")
        reason = "it was not calibrated for this scan (acceleration 4, accepted is 2 to 3)"
        assert images[1].meta["IsocenterUncalibrated"] == reason
        assert "IsocenterUncalibrated" not in images[0].meta
        assert this.problems["calibration of the uncertainty"] == f"the uncertainty is a guess: {reason}"

    def test_a_bundle_without_sends_none_and_it_is_told(self, engine):
        images, this = self.images(engine, bundle="sense")
        assert [each.image_series_index for each in images] == [1, 1]
        assert this.problems["uncertainty"] == (
            "there is no image of the uncertainty of slice 1, contrast 0, repetition 0: bundle 'sense' tells no calibrated one"
        )

    def test_that_of_a_bundle_which_was_not_made_for_the_scan_is_not_sent_with_images_of_the_fallback(self, engine):
        protocol = replace(SCAN, matrix=32)
        images, this = self.images(engine, protocol, bundle="ridge", fallback="sense")
        assert {each.image_series_index for each in images} == {1}
        assert "'sense' tells no calibrated one" in this.problems["uncertainty"]

    def test_a_series_beside_has_none(self, make_engine, small):
        images, this = self.images(make_engine(small.folder.parent), bundle="small", beside="sense")
        assert sorted(each.image_series_index for each in images) == [1, 1, 101, 101, 201, 201]
        assert not this.problems


def test_a_client_gets_it_and_most_errors_of_the_shipped_network_are_within_it(service):
    scan = simulate(replace(SCAN, slices=1, matrix=96, acceleration=3))
    asked = '{"parameters": {"bundle": "ridge", "uncertainty": true}}'
    image, error = service.replay(scan, "network.xml", parameters=asked).images
    assert (image.image_series_index, error.image_series_index) == (1, 201)
    assert error.meta["IsocenterComplete"] == "yes"
    truth = scan.truth[0, 0]
    inside = truth > 0.1 * truth.max()
    pixels, true, deviations = (x[inside].astype(float) for x in (image.data[0, 0], truth, error.data[0, 0]))
    errors = pixels - true * (pixels @ true) / (true @ true)
    shares = [np.mean(np.abs(errors) <= times * deviations) for times in (1, 2, 3)]
    assert shares[0] > 0.5
    assert shares[1] > 0.85
    assert shares[2] > 0.95


class TestMark:
    def test_it_is_the_local_error_over_the_brightest_signal(self):
        image, deviation = torch.zeros(1, 1, 40, 30), torch.full((1, 1, 40, 30), 0.03)
        image[0, 0, 5, 5] = 1
        assert error_doubt(image, deviation) == ""
        deviation[0, 0, 28:35, 10:17] = 0.1  # 49 of the 121 pixels around row 31
        expected = (49 * 0.1**2 + 72 * 0.03**2) / 121
        assert error_doubt(image, deviation).startswith(
            f"errors of up to {math.ceil(100 * expected**0.5)} % of the brightest signal "
        )
        row = int(re.search(r"row (\d+) of 40", error_doubt(image, deviation))[1])
        assert 29 <= row <= 33
        just_over = torch.full_like(deviation, 0.0401)
        assert "of up to 5 % of the brightest signal are to be expected (accepted: 4 %)" in error_doubt(
            image, just_over
        )
        for factor in (1e-12, 1e12):
            assert error_doubt(image * factor, deviation * factor) == error_doubt(image, deviation)

    def test_a_neighbourhood_counts_not_a_pixel(self):
        deviation = torch.zeros(1, 1, 40, 30)
        deviation[0, 0, 20, 20] = 0.4
        assert error_doubt(torch.ones(1, 1, 40, 30), deviation) == ""

    def test_of_nothing_nothing_is_said(self):
        nothing = torch.zeros(1, 2, 8, 8)
        assert error_doubt(nothing, nothing) == ""
        assert error_doubt(nothing, nothing + 1) == ""
        assert error_doubt(nothing + 1, nothing / 0) == ""

    @pytest.mark.parametrize(("acceleration", "coils", "marked"), [(2, 8, False), (8, 4, True)])
    def test_images_of_the_shipped_network_and_the_client_are_told(self, service, acceleration, coils, marked):
        scan = simulate(replace(SCAN, slices=1, matrix=128, acceleration=acceleration, coils=coils, noise=0.3))
        result = service.replay(scan, "network.xml", parameters='{"parameters": {"bundle": "ridge"}}')
        (image,) = result.images
        assert image.meta["IsocenterBundle"] == "ridge"
        told = [text for text in result.texts if "are to be expected (accepted: 4 %)" in text]
        assert (len(told), "IsocenterError" in image.meta, "Error" in amiss(image.meta)) == (marked,) * 3
        if marked:
            assert image.meta["IsocenterError"] in told[0]


def test_whoever_asks_for_something_else_is_refused(engine):
    with pytest.raises(IsocenterError, match="parameter 'uncertainty'"):
        load("reconstruct").parse_option("uncertainty", "perhaps", "parameter 'uncertainty'")
