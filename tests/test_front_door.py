"""``import isocenter``: the same images as the stream, a scan's blocks, a bundle's image."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import h5py
import ismrmrd
import isocenter
import numpy as np
import pytest
import torch
from helpers import random_acquisition
from isocenter.bundle.manifest import BundleError
from isocenter.gadgets.scan import Scan
from isocenter.models.classical import RootSumOfSquares
from isocenter.service.settings import Settings
from isocenter.simulate.scan import ScanProtocol, simulate, truth_path
from isocenter.wire.errors import DataError, FileError, IsocenterError, OptionError, PipelineError

# what rss makes of an undersampled scan is aliased, which is said, and serves here all the same
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is undersampled:isocenter.commands.api.ReconstructionWarning",
    "ignore:the image is incomplete:isocenter.commands.api.ReconstructionWarning",
)


@pytest.fixture(scope="module")
def settings(bundles):
    return Settings(home=bundles.parent)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    scan = simulate(ScanProtocol(matrix=96, coils=4, slices=2, acceleration=3, acs=16, noise=0.2))
    scan.save(path)
    return path


def as_sent(meta):
    """On the wire, a list of one value is that value."""
    return {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in meta.items()
        if name not in ("IsocenterRuntime", "IsocenterPipeline")  # the same steps may have another name
    }


def same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        # which runtime is the fastest, each process measures for itself
        alike = one.meta["IsocenterRuntime"] == other.meta["IsocenterRuntime"]
        tolerance = 0 if alike else 1e-5 * np.abs(other.data).max()
        assert np.abs(one.data - other.data).max() <= tolerance
        for name in ("slice", "image_index", "image_series_index", "position", "field_of_view"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        assert as_sent(one.meta) == as_sent(other.meta)
    return True


@pytest.mark.parametrize("pipeline", ["sense.xml", "rss", "network.xml"])
def test_the_images_are_those_of_the_stream(service, settings, recorded, pipeline):
    with isocenter.open_scan(recorded) as scan:
        header, items = scan.header, list(scan.items())
    with h5py.File(recorded) as file:
        stream = SimpleNamespace(header=bytes(file["dataset/xml"][0]), items=items)
    parameters = {"bundle": "modl-brain"} if pipeline == "network.xml" else {}
    sent = service.replay(stream, pipeline, parameters=json.dumps({"parameters": parameters}) if parameters else None)
    assert same(isocenter.reconstruct(recorded, pipeline, settings=settings, **parameters), sent.images)
    assert same(isocenter.reconstruct((header, items), pipeline, settings=settings, **parameters), sent.images)


def test_readouts_are_left_as_they_are(settings, recorded, tmp_path):
    """By gadgets as well that change readouts where they are."""
    in_place = tmp_path / "in_place.xml"
    names = ("prewhiten", "remove_oversampling", "accumulate")
    gadgets = "".join(f'<gadget name="{name}"/>' for name in names)
    reconstruct = '<gadget name="reconstruct"><property name="bundle" value="rss"/></gadget>'
    in_place.write_text(f"<configuration>{gadgets}{reconstruct}</configuration>")
    with isocenter.open_scan(recorded) as scan:
        items = list(scan.items())
        before = [item.data.copy() for item in items]
        isocenter.reconstruct((scan.header, items), "rss", settings=settings)
        isocenter.reconstruct((scan.header, items), in_place, settings=settings)
    assert all(np.array_equal(item.data, data) for item, data in zip(items, before, strict=True))


def test_what_is_wrong_with_a_scan_is_a_warning(settings):
    scan = simulate(ScanProtocol(matrix=32, coils=2))
    scan.items[9].idx.kspace_encode_step_1 = 4000
    with pytest.warns(isocenter.ReconstructionWarning, match="4000, kspace_encode_step_2 0 is outside"):
        images = isocenter.reconstruct((scan.header, scan.items), "rss", settings=settings)
    assert len(images) == 1


def test_a_scan_without_an_image_is_an_error(settings):
    scan = simulate(ScanProtocol(matrix=32, coils=2))
    broken = [random_acquisition(2, 100)]
    with (
        pytest.raises(IsocenterError, match=r"no image was made; .*do not fit"),
        pytest.warns(isocenter.ReconstructionWarning),
    ):
        isocenter.reconstruct((scan.header, broken), "rss", settings=settings)


def test_a_pipeline_can_be_a_file(settings, recorded, tmp_path):
    path = tmp_path / "mine.xml"
    path.write_text("<configuration><pipeline name='rss'/></configuration>")
    ours = isocenter.reconstruct(recorded, path, settings=settings)
    assert same(ours, isocenter.reconstruct(recorded, "rss", settings=settings))


def test_a_missing_bundle_that_comes_with_isocenter_is_built_and_no_other(tmp_path, recorded):
    settings = Settings(home=tmp_path)
    assert len(isocenter.reconstruct(recorded, "rss", settings=settings)) == 2
    assert [path.name for path in (tmp_path / "bundles").iterdir() if path.is_dir()] == ["rss"]
    with pytest.raises(BundleError, match="there is no bundle 'nonsense'"):
        isocenter.load_bundle("nonsense", settings=settings)


def test_a_scan_gives_its_blocks(recorded):
    with isocenter.open_scan(recorded) as scan:
        assert len(scan) == sum(1 for _ in scan.acquisitions)
        blocks = list(scan.kspace())
        raw = list(scan.kspace(whiten=False, oversampling=True))
        assert isinstance(scan.header, ismrmrd.xsd.ismrmrdHeader)
        assert repr(scan) == f"<OpenScan scan.h5: {len(scan)} acquisitions, encoded 192 x 96 x 1>"
    assert [tuple(block.data.shape) for block in blocks] == [(4, 1, 1, 96, 96)] * 2
    assert [tuple(block.data.shape) for block in raw] == [(4, 1, 1, 96, 192)] * 2
    assert blocks[0].data.dtype == torch.complex64
    assert "\n" not in repr(blocks[0])
    assert repr(blocks[0]).startswith("<Kspace coils 4, frames 1, kz 1, ky 96, kx 96:")


def test_blocks_of_a_scan_are_whitened_and_cropped_as_asked(tmp_path):
    path = tmp_path / "scan.h5"
    simulate(ScanProtocol(matrix=32, coils=3, frames=2, noise=0.5)).save(path)
    noise = next(item for item in simulate(ScanProtocol(matrix=32, coils=3, frames=2, noise=0.5)).items).data
    with isocenter.open_scan(path) as scan:
        lines = np.stack([item.data for item in scan.acquisitions if item.number_of_samples == 64], axis=1)
        (raw,) = scan.kspace(frames="phase", whiten=False, oversampling=True)
        (cropped,) = scan.kspace(frames="phase", whiten=False)
        (whitened,) = scan.kspace(frames="phase", oversampling=True)
        assert [block.data.shape[1:3] for block in scan.kspace()] == [(1, 1)] * 2
    assert np.array_equal(raw.data.numpy().reshape(3, 64, 64), lines)
    assert cropped.data.shape == (3, 2, 1, 32, 32)
    factor = np.linalg.inv(np.linalg.cholesky(noise.astype(complex) @ noise.conj().T))
    expected = np.tensordot(factor, raw.data.numpy(), axes=1)
    scale = np.abs(whitened.data.numpy()).max() / np.abs(expected).max()
    assert np.allclose(whitened.data.numpy(), scale * expected, atol=1e-4 * scale * np.abs(expected).max())


def test_blocks_of_a_scan_warn_of_what_is_wrong_with_it(tmp_path):
    path = tmp_path / "scan.h5"
    scan = simulate(ScanProtocol(matrix=16, coils=2))
    scan.items[5].idx.kspace_encode_step_1 = 4000
    scan.save(path)
    with (
        isocenter.open_scan(path) as opened,
        pytest.warns(isocenter.ReconstructionWarning, match="4000, kspace_encode_step_2 0 is outside"),
    ):
        assert len(list(opened.kspace())) == 1


def test_a_pipeline_that_makes_no_images_gives_none(tmp_path, bundles, recorded):
    settings = Settings(home=tmp_path, bundles=(bundles,))
    assert isocenter.reconstruct(recorded, "default_measurement_dependencies.xml", settings=settings) == []


def test_parameters_choose_what_a_pipeline_leaves_open(settings, recorded):
    images = isocenter.reconstruct(recorded, "network.xml", settings=settings, bundle="sense")
    assert [image.meta["IsocenterBundle"] for image in images] == ["sense", "sense"]


def test_a_pipeline_may_have_another_name(settings, recorded):
    other = settings.model_copy(update={"aliases": {"openrecon": "rss"}})
    assert same(
        isocenter.reconstruct(recorded, "openrecon", settings=other),
        isocenter.reconstruct(recorded, "rss", settings=settings),
    )


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_bundle_runs_on_arrays(settings, recorded, kind):
    convert = np.asarray if kind == "numpy" else torch.as_tensor
    with isocenter.open_scan(recorded) as scan:
        block = next(scan.kspace())
    bundle = isocenter.load_bundle("rss", settings=settings)
    kspace, mask = convert(block.data.numpy()), convert(block.mask.numpy())
    image = bundle.run(kspace, mask)
    assert isinstance(image, type(kspace))
    expected = RootSumOfSquares()(torch.view_as_real(block.data[:, 0][None]))[0]
    assert np.allclose(np.asarray(image)[0], expected.numpy(), rtol=1e-5)
    assert bundle.manifest.name == "rss"
    assert repr(bundle) == "<bundle rss 1.1: RootSumOfSquares of kspace>"


def test_a_bundle_that_takes_maps_estimates_them_or_is_given_them(settings, tmp_path):
    path = tmp_path / "scan.h5"
    simulate(ScanProtocol(matrix=64, coils=6, acceleration=2, acs=24, noise=0.05, noise_scan=False)).save(path)
    with isocenter.open_scan(path) as scan:
        block = next(scan.kspace())
    with h5py.File(truth_path(path)) as file:
        truth = np.asarray(file["image"])[0, 0]
    bundle = isocenter.load_bundle("sense", settings=settings)
    image = np.abs(bundle.run(block.data, block.mask).numpy())[0, 0]
    scaled = image * (image * truth).sum() / (image**2).sum()
    assert np.linalg.norm(scaled - truth) < 0.05 * np.linalg.norm(truth)
    # other maps give another image
    other = bundle.run(block.data, block.mask, torch.ones(6, 1, 64, 64) / 6**0.5)
    assert not np.allclose(np.abs(other.numpy()), image, rtol=0.1)
    with pytest.raises(DataError, match=r"maps have the shape \(5, 1, 64, 64\)"):
        bundle.run(block.data, block.mask, torch.ones(5, 1, 64, 64))
    with pytest.raises(DataError, match=r"mask has the shape \(1, 1, 63\)"):
        bundle.run(block.data, block.mask[..., :-1])
    assert torch.equal(
        bundle.run(block.data, block.mask), bundle.run(block.data, block.mask, bundle._maps(block, None).get())
    )
    with pytest.raises(DataError, match=r"maps have the shape \(6, 3\); accepted: \[coils, kz, ky, kx\]"):
        bundle.run(block.data, block.mask, torch.ones(6, 3))
    with pytest.raises(DataError, match=r"kspace has the shape \(6, 64, 64\)"):
        bundle.run(block.data[:, 0, 0], block.mask)
    with pytest.raises(DataError, match="mask has the shape"):
        bundle.run(block.data, block.mask[0])


def test_a_bundle_can_be_a_folder(settings, bundles, tmp_path):
    assert isocenter.load_bundle(bundles / "rss", settings=settings).manifest.name == "rss"
    shutil.copytree(bundles / "rss", tmp_path / "rss")
    text = (tmp_path / "rss" / "model.yaml").read_text()
    (tmp_path / "rss" / "model.yaml").write_text(re.sub(r"(?m)^version:.*$", "version: '7.7'", text))
    others = Settings(home=tmp_path / "home", bundles=(bundles,))
    assert isocenter.load_bundle(tmp_path / "rss", settings=others).manifest.version == "7.7"


def test_a_parameter_names_another_pipeline_as_it_does_for_the_service(settings, recorded):
    ours = isocenter.reconstruct(recorded, "sense.xml", settings=settings, config="rss")
    assert same(ours, isocenter.reconstruct(recorded, "rss", settings=settings))


def test_a_closed_scan_says_so(settings, recorded):
    with isocenter.open_scan(recorded) as scan:
        pass
    with pytest.raises(FileError, match="the file was closed"):
        list(scan.kspace())
    with pytest.raises(IsocenterError, match="the scan holds no data"):
        isocenter.reconstruct((scan.header, []), "rss", settings=settings)


def test_arguments_that_cannot_be_meant_are_named(settings, recorded):
    with pytest.raises(DataError, match="the scan is a NoneType; accepted: a path"):
        isocenter.reconstruct(None, settings=settings)
    with pytest.raises(PipelineError, match=r"there is no file /nowhere/x\.xml"):
        isocenter.reconstruct(recorded, "/nowhere/x.xml", settings=settings)
    with pytest.raises(BundleError, match=r"/nowhere/b is no bundle: it has no model\.yaml"):
        isocenter.load_bundle("/nowhere/b", settings=settings)
    with isocenter.open_scan(recorded) as scan:
        with pytest.raises(OptionError, match="frames is 'foo'; accepted: none, phase"):
            list(scan.kspace(frames="foo"))
        block = next(scan.kspace())
    bundle = isocenter.load_bundle("rss", settings=settings)
    kspace, mask = block.data.numpy(), block.mask.numpy()
    with pytest.raises(DataError, match="an input is a NoneType"):
        bundle.run(None, mask)
    with pytest.raises(DataError, match="is empty or holds NaN"):
        bundle.run(kspace * np.nan, mask)
    expected = bundle.run(kspace, mask)
    for other in (kspace.astype(">c8"), kspace[..., ::-1].copy()[..., ::-1], np.asfortranarray(kspace)):
        assert np.array_equal(bundle.run(other, mask), expected)


def test_names_are_listed_and_others_refused():
    assert {"reconstruct", "open_scan", "load_bundle", "__version__"} <= set(dir(isocenter))
    assert isocenter.__version__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'; it has"):
        isocenter.nothing  # noqa: B018


def test_a_scan_does_not_change():
    scan = Scan(simulate(ScanProtocol(matrix=16, coils=2)).header, parameters={"a": 1})
    with pytest.raises(AttributeError, match="a scan does not change"):
        scan.engine = None
    assert scan.with_parameters({"b": 2}).parameters == {"a": 1, "b": 2}
    assert scan.parameters == {"a": 1}


OWN_GADGET = """
from isocenter.gadgets.gadget import gadget
from isocenter.wire.items import Image

@gadget
def negate(items, scan, *, times: int = 1):
    "Change the sign."
    for item in items:
        if isinstance(item, Image):
            item.data[:] *= (-1) ** times
        yield item

def no_gadget(items, scan):
    return items
"""
OTHER_ITEMS = """
import numpy as np
from isocenter.gadgets.gadget import gadget
from isocenter.gadgets.kspace import Kspace, PartialKspace
from isocenter.wire.items import Acquisition, DicomFile, Feedback, Image

@gadget
def to_dicom(items, scan, *, times: int = 1):
    "A file beside every image."
    for item in items:
        yield item
        if isinstance(item, Image):
            yield DicomFile(b"DICM" * times, b"image.dcm")

@gadget
def next_line(items, scan, *, times: int = 1):
    "Says what to measure next, from blocks that are not complete."
    for item in items:
        if isinstance(item, PartialKspace):
            yield Feedback("lines", int(item.kspace.mask.sum()).to_bytes(2, "little"))
        yield item

@gadget
def with_trajectory(items, scan, *, times: int = 1):
    "Blocks as if they had been measured off the grid."
    for item in items:
        if isinstance(item, Kspace):
            item.trajectory = np.zeros((*item.mask.shape, item.data.shape[-1], 2), np.float32)
        yield item
"""
OWN_PIPELINE = (
    "<configuration><version>2</version><stream><external><connect port='9012'/><configuration><pipeline name='rss'/>"
    "<gadget name='NAME'><property name='times' value='1'/></gadget></configuration></external></stream></configuration>"
)


class TestOwnGadgets:
    @pytest.fixture
    def code(self, tmp_path, monkeypatch):
        from isocenter import gadgets

        monkeypatch.setattr(gadgets, "_registered", {})
        monkeypatch.setattr(sys, "path", list(sys.path))
        folder = tmp_path / "code"
        folder.mkdir()
        (folder / "own_gadgets_of_a_site.py").write_text(OWN_GADGET)
        yield folder
        sys.modules.pop("own_gadgets_of_a_site", None)

    def test_of_the_settings(self, make_service, code, small_scan):
        service = make_service(gadgets={"negate": "own_gadgets_of_a_site:negate"}, python_path=(code,))
        plain = service.replay(small_scan).images[0].data
        negated = service.replay(small_scan, OWN_PIPELINE.replace("NAME", "negate").encode()).images[0].data
        assert np.array_equal(negated, -plain)
        wrong = service.replay(small_scan, OWN_PIPELINE.replace("NAME", "negate").replace("times", "time").encode())
        assert "gadget 'negate': it has no option 'time' (nearest: 'times'); accepted: times" in wrong.texts[0]

    def test_one_that_fails_ends_its_scan_with_one_line_and_no_other(self, make_service, code, small_scan):
        failing = OWN_GADGET.replace("item.data[:] *= (-1) ** times", 'raise ValueError("no such sign\\nsecond line")')
        (code / "own_gadgets_of_a_site.py").write_text(failing)
        service = make_service(gadgets={"negate": "own_gadgets_of_a_site:negate"}, python_path=(code,))
        result = service.replay(small_scan, OWN_PIPELINE.replace("NAME", "negate").encode())
        assert result.failed
        said = "".join(result.texts)
        assert "ERROR: an internal error ended the scan" in said
        assert "no such sign" not in said
        assert len(said.splitlines()) == 1
        assert len(service.replay(small_scan).images) == 1

    def test_of_an_installed_package(self, service, code, small_scan):
        information = code / "own_package-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text("[isocenter.gadgets]\nturn = own_gadgets_of_a_site:negate\n")
        sys.path.insert(0, str(code))
        plain = service.replay(small_scan).images[0].data
        result = service.replay(small_scan, OWN_PIPELINE.replace("NAME", "turn").encode())
        assert np.array_equal(result.images[0].data, -plain)

    @pytest.fixture
    def service_of_others(self, make_service, code):
        (code / "own_gadgets_of_a_site.py").write_text(OTHER_ITEMS)
        names = ("to_dicom", "next_line", "with_trajectory")
        return make_service(gadgets={name: f"own_gadgets_of_a_site:{name}" for name in names}, python_path=(code,))

    def test_dicom_files_go_to_the_client(self, service_of_others, small_scan):
        result = service_of_others.replay(small_scan, OWN_PIPELINE.replace("NAME", "to_dicom").encode())
        assert [(file.dicom, file.name) for file in result.files] == [(b"DICM", b"image.dcm")]
        assert len(result.images) == 1

    @pytest.mark.parametrize("asked", [True, False])
    def test_feedback_from_partial_blocks_goes_to_who_asks_for_it(self, service_of_others, small_scan, asked):
        pipeline = OWN_PIPELINE.replace(
            "<pipeline name='rss'/>",
            "<gadget name='accumulate'><property name='partial' value='10'/></gadget>",
        ).replace("NAME", "next_line")
        parameters = json.dumps({"parameters": {"feedback": True}}) if asked else None
        result = service_of_others.replay(small_scan, pipeline.encode(), parameters=parameters)
        said = [(item.name, int.from_bytes(item.data, "little")) for item in result.feedback]
        assert said == ([("lines", 10), ("lines", 20), ("lines", 30)] if asked else [])

    def test_a_trajectory_is_refused_by_bundles_for_the_grid(self, service_of_others, small_scan):
        pipeline = OWN_PIPELINE.replace("<pipeline name='rss'/>", "<gadget name='accumulate'/>").replace(
            "</configuration></external>",
            "<gadget name='reconstruct'><property name='bundle' value='rss'/></gadget></configuration></external>",
        )
        result = service_of_others.replay(small_scan, pipeline.replace("NAME", "with_trajectory").encode())
        assert not result.images
        assert "bundle 'rss' takes Cartesian k-space; this block has a trajectory" in "".join(result.texts)

    @pytest.mark.parametrize(
        ("own", "complaint"),
        [
            ({"rss": "own_gadgets_of_a_site:nothing"}, "has no attribute 'nothing'"),
            ({"rss": "no_such_module:x"}, "No module named 'no_such_module'"),
            ({"rss": "own_gadgets_of_a_site:no_gadget"}, "it is a function; accepted: a function with the decorator"),
            ({"scale": "own_gadgets_of_a_site:negate"}, "Isocenter has a gadget of this name"),
        ],
    )
    def test_wrong_ones_are_refused_when_the_service_starts(self, make_service, code, own, complaint):
        with pytest.raises(IsocenterError, match=complaint):
            make_service(gadgets=own, python_path=(code,))
