"""`isocenter view`: what a scan, images and a bundle are, told and drawn; and what else is told to be none."""

import h5py
import numpy as np
import pytest
from isocenter import reconstruct
from isocenter.commands.cli import app
from isocenter.commands.view.images import images_sheet
from isocenter.commands.view.scan import scan_sheet
from isocenter.service.settings import Settings
from isocenter.simulate.files import FileLayout
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.files import ImageWriter
from isocenter.wire.image_files import image_series
from isocenter.wire.items import ImageHeader, make_image
from typer.testing import CliRunner


def view(*arguments, status=0):
    result = CliRunner().invoke(app, ["view", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == status, result.output
    return result.output


def facts_of(scan, tmp_path, bundles, layout=None):
    path = tmp_path / "scan.h5"
    if layout is not None:
        scan.layout = layout
    scan.save(path)
    sheet = scan_sheet(path, Settings(home=tmp_path, bundles=(bundles,)))
    return dict(sheet.facts), sheet


@pytest.fixture(scope="module")
def slices():
    return simulate(ScanProtocol(matrix=64, coils=4, slices=3, acceleration=2, acs=16))


class TestScans:
    def test_what_was_simulated_is_told(self, slices, tmp_path, bundles):
        facts, sheet = facts_of(slices, tmp_path, bundles)
        assert facts["matrix"] == "128 x 64 x 1 encoded, 64 x 64 x 1 reconstructed"
        assert facts["field of view"] == "480 x 240 x 5 mm encoded, 240 x 240 x 5 mm"
        assert facts["header says"] == "cartesian, R 2, calibration embedded"
        assert facts["lines"].startswith("40 of 64 measured: R 2 uniform, 17 adjacent")
        assert facts["coils"] == "4"
        assert facts["counters"] == "3 slices"
        assert facts["noise scan"].startswith("1 readout, 2048 samples")
        assert "noise measurement 1" in facts["flags"]
        assert "transverse" in facts["lies"]
        assert facts["bundle sense"] == "was made for such scans"
        assert sheet.notes == []
        assert [panel.title for panel in sheet.rows[1].panels] == ["slice 0", "slice 1", "slice 2"]

    def test_the_correlation_of_the_noise_is_that_of_its_covariance(self, slices, tmp_path, bundles):
        _, sheet = facts_of(slices, tmp_path, bundles)
        correlation = next(panel for panel in sheet.rows[0].panels if panel.title.startswith("noise")).image
        noise = next(item.data for item in slices.items if item.is_flag_set(19))
        assert np.allclose(correlation, np.abs(np.corrcoef(noise)), atol=0.02)  # the mean is removed there

    def test_the_sampling_panel_shows_which_lines_are_for_what(self, slices, tmp_path, bundles):
        _, sheet = facts_of(slices, tmp_path, bundles)
        pattern = next(panel for panel in sheet.rows[0].panels if panel.title.startswith("sampling")).image
        protocol = slices.protocol
        imaging, calibration = protocol.imaging_lines(0), protocol.calibration_lines()
        assert np.array_equal(pattern[:, 0].any(-1), imaging | calibration)
        kinds = imaging & ~calibration, calibration & ~imaging, imaging & calibration
        colours = [set(map(tuple, pattern[rows, 0])) for rows in kinds]
        assert all(len(each) == 1 for each in colours)
        assert len(set.union(*colours)) == 3

    def test_the_zero_filled_image_of_a_complete_scan_is_the_truth(self, tmp_path, bundles):
        scan = simulate(ScanProtocol(matrix=64, coils=4, noise=1e-3))
        _, sheet = facts_of(scan, tmp_path, bundles)
        image, truth = sheet.rows[0].panels[0].image, scan.truth[0, 0]
        assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] > 0.9999

    @pytest.mark.parametrize(
        "options",
        [
            {"partitions": 4, "acceleration": 2},
            {"phantom": "heart", "frames": 3, "acceleration": 3, "calibration": "interleaved", "acs": 12},
            {"acceleration": 2, "calibration": "separate"},
            {"noise": 0.0},
            {"orientation": "oblique", "contrasts": 2, "waveforms": True, "extra_readouts": True},
        ],
        ids=["volume", "series", "separate", "no noise", "oblique"],
    )
    def test_other_scans(self, options, tmp_path, bundles):
        facts, sheet = facts_of(simulate(ScanProtocol(matrix=32, coils=3, **options)), tmp_path, bundles)
        assert len(sheet.rows[0].panels) >= 4
        assert facts["coils"] == "3"

    def test_a_recorded_stream(self, slices, tmp_path, bundles):
        facts, sheet = facts_of(slices, tmp_path, bundles, FileLayout(stream=True))
        assert facts["counters"] == "3 slices"
        slices.layout = FileLayout()
        assert sheet.rows

    def test_what_a_bundle_was_not_made_for_and_what_is_missing_is_told(self, tmp_path, bundles):
        scan = simulate(ScanProtocol(matrix=32, coils=3, acceleration=2, acs=16))
        scan.items = [item for item in scan.items if item.idx.kspace_encode_step_1 != 2]
        facts, sheet = facts_of(scan, tmp_path, bundles)
        assert "not made for it" in facts["bundle ridge"]
        assert any("lines" in note for note in sheet.notes)


class TestImages:
    @pytest.fixture
    def file(self, slices, tmp_path, bundles):
        path = tmp_path / "out.h5"
        settings = Settings(home=tmp_path, bundles=(bundles,))
        for group, pipeline in (("first", "rss.xml"), ("second", "sense.xml")):
            writer = ImageWriter(path, group)
            for image in reconstruct((slices.header, slices.items), pipeline, settings=settings):
                writer.write(image)
            writer.close()
        return path

    @pytest.mark.filterwarnings("ignore::isocenter.ReconstructionWarning")
    def test_all_groups_with_what_made_them_and_what_they_warn_of(self, file):
        series = image_series(file)
        assert [(each.name, each.count) for each in series] == [("first/image_1", 3), ("second/image_1", 3)]
        sheet = images_sheet(file, series, as_stored=False)
        facts = dict(sheet.facts)
        assert "sense.xml, bundle sense" in facts["second/image_1"]
        assert len(sheet.rows) == 2
        assert any("first/image_1: Undersampled" in note for note in sheet.notes)
        assert not any(note.startswith("second") for note in sheet.notes)

    @pytest.mark.filterwarnings("ignore::isocenter.ReconstructionWarning")
    def test_one_group_to_png(self, file, tmp_path):
        said = view(file, "-g", "second", "-o", tmp_path / "x.png")
        assert "first" not in said
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

    def test_images_of_every_type_are_read_as_they_were_written(self, tmp_path):
        import ismrmrd
        from isocenter.wire.items import IMAGE_DTYPES, ImageHeader, make_image

        path = tmp_path / "types.h5"
        written = {}
        for number, dtype in enumerate(IMAGE_DTYPES.values()):
            header = ImageHeader()
            header.image_series_index, header.slice = number, 7
            data = (np.arange(24).reshape(1, 2, 3, 4) * (1 + (1j if dtype.kind == "c" else 0))).astype(dtype)
            written[f"images/image_{number}"] = data
            writer = ImageWriter(path, "images")
            writer.write(make_image(data, header, ismrmrd.Meta(Mine="yes")))
            writer.close()
        found = {series.name: series.read(0) for series in image_series(path)}
        assert found.keys() == written.keys()
        for name, image in found.items():
            assert image.data.dtype == written[name].dtype
            assert np.array_equal(image.data, written[name])
            assert image.slice == 7
            assert image.meta["Mine"] == "yes"


class TestBundles:
    def test_by_name_and_by_folder(self, bundles, tmp_path):
        for what in ("ridge", bundles / "ridge"):
            said = view(what, "-o", tmp_path / "x.png", "--config", self.settings(tmp_path, bundles))
            assert "made for acceleration" in said
            assert "licence" in said
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

    def test_a_name_that_is_nearly_right(self, bundles, tmp_path):
        said = view("rigde", "--config", self.settings(tmp_path, bundles), status=2)
        assert "there is no file and no bundle 'rigde'" in said
        assert "ridge" in said

    def test_one_that_is_not_built_yet_is_built(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ISOCENTER_HOME", str(tmp_path / "new"))
        assert "combine" in view("combine", "-o", tmp_path / "x.png")
        assert (tmp_path / "new" / "bundles" / "combine" / "model.yaml").is_file()

    def settings(self, tmp_path, bundles):
        path = tmp_path / "settings.yaml"
        path.write_text(f"bundles: ['{bundles}']\n")
        return path


class TestAnythingElse:
    def test_is_refused_in_a_sentence(self, tmp_path):
        (tmp_path / "empty").touch()
        (tmp_path / "text").write_text("hello, this is no scan")
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["kspace"] = np.zeros(3)
        (tmp_path / "broken.h5").write_bytes((tmp_path / "other.h5").read_bytes()[:600])
        with h5py.File(tmp_path / "headerless.h5", "w") as file:
            file["dataset/xml"], file["dataset/data"] = "no markup", np.zeros(3)
        for name, complaint in {
            "empty": "is empty",
            "text": "neither an MRD file (HDF5) nor a stream",
            "other.h5": "holds neither a scan nor images; it holds: kspace",
            "broken.h5": "damaged",
            "headerless.h5": "header",
            "nothing": "there is no file and no bundle",
            ".": "folder without model.yaml",
        }.items():
            said = view(tmp_path / name, status=2)
            assert "error: " in said
            assert complaint in said.replace("\n", " "), name

    def test_a_group_that_is_not_there_is_told_with_those_that_are(self, slices, tmp_path):
        slices.save(tmp_path / "scan.h5")
        writer = ImageWriter(tmp_path / "scan.h5", "first try")
        writer.write(make_image(np.ones((1, 1, 8, 8), np.float32), ImageHeader()))
        writer.close()
        for group in ("first tri", "first"):
            said = view(tmp_path / "scan.h5", "-g", group, status=2).replace("\n", " ")
            assert f"has no group {group!r} of images or of a scan" in said
            assert "accepted: dataset, first try" in said
        assert "(nearest: 'first try')" in view(tmp_path / "scan.h5", "-g", "first tri", status=2)
        for group in ("first try", "first try/image_0", "/first try/", "dataset", "/dataset"):
            view(tmp_path / "scan.h5", "-g", group)

    def test_a_picture_that_cannot_be_written_is_refused_before_the_work(self, tmp_path):
        said = view(tmp_path / "nothing", "-o", tmp_path / "no folder" / "x.png", status=2)
        assert "cannot be written" in said
