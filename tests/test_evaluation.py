"""Evaluation: its options, what it judges and how, what it writes, and what it leaves out."""

import csv
import json
import math
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from isocenter.bundle.folder import Bundle
from isocenter.commands.cli import app
from isocenter.commands.evaluation import methods as evaluated_methods
from isocenter.commands.evaluation.methods import _sense
from isocenter.commands.evaluation.protocol import Protocol, parse_protocol
from isocenter.commands.evaluation.report import Report, Result, difference_interval
from isocenter.commands.evaluation.tuning import best_strength
from isocenter.commands.evaluation.volume import Volume, object_masks
from isocenter.models import metrics
from isocenter.models.fourier import fft, ifft
from isocenter.simulate.coils import random_coil_maps
from isocenter.simulate.sampling import Request, draw
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.training.data import FullScan
from isocenter.wire.errors import OptionError
from typer.testing import CliRunner

OPTIONS = {
    "accelerations": "2",
    "acs": "8",
    "scans": 2,
    "seed": 1,
    "crop": "matrix",
    "fit_scale": False,
    "reference": "SENSE",
    "keep_images": False,
    "sampling": "equispaced",
    "convention": "fastmri",
    "truth": "auto",
    "region": "auto",
}


@pytest.fixture
def sense_bundle(bundles):
    return bundles / "sense"


def scan(noise=0.01, size=48, **fields):
    """An ellipse with structure in noisy air, seen by four coils."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size] / size - 0.5
    image = (np.hypot(x, 1.2 * y) < 0.33) * (1 + 0.4 * np.cos(40 * x) * np.cos(33 * y))
    maps = random_coil_maps(random, 4, (size, size))
    kspace = fft(torch.from_numpy(maps * image).to(torch.complex64), [-2, -1])
    noisy = random.standard_normal((2, *kspace.shape), np.float32) * np.float32(noise)
    return FullScan(kspace + torch.complex(*torch.from_numpy(noisy)), **fields)


def compare(protocol, scans, truth, methods=None, accelerations=(3,), acs=16):
    report = Report({}, "SENSE", 1)
    volume = Volume(0, 0, scans, protocol, truth, report)
    pictures = [
        volume.compare(methods or evaluated_methods.all_methods({}), acceleration, acs, None)
        for acceleration in accelerations
    ]
    return report, pictures


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acs": "-8"}, "option --acs: '-8'; accepted: whole numbers of lines, or fractions of all lines"),
        ({"acs": "8.5"}, "option --acs: '8.5'"),
        ({"acs": ""}, "option --acs: ''; accepted: numbers, separated by commas"),
        ({"acs": "eight"}, "option --acs: 'eight'"),
        ({"accelerations": "0.5"}, "option --accelerations: '0.5'; accepted: numbers from 1"),
        ({"accelerations": "nan"}, "option --accelerations: 'nan'"),
        ({"accelerations": ","}, "option --accelerations: ','"),
        ({"accelerations": "2.5"}, "option --sampling: lines cannot have a distance of 2.5"),
        ({"sampling": "ring"}, "option --sampling: the sampling pattern 'ring' is not known; accepted: equispaced,"),
        ({"convention": "volume"}, "option --convention: 'volume' is not known; accepted: fastmri, slice"),
        ({"truth": "sos"}, "option --truth: 'sos' is not known; accepted: auto, rss, combined"),
        ({"region": "brain"}, "option --region: 'brain' is not known; accepted: auto, all, object"),
        ({"crop": "320x"}, "option --crop: '320x'; accepted: matrix, none, or a size such as 320 or 320x256"),
        ({"crop": "0"}, "option --crop: '0'"),
        ({"crop": "5"}, "option --crop: '5' is smaller than the window of SSIM; accepted: sizes from 7"),
        ({"crop": "320x6"}, "option --crop: '320x6' is smaller"),
    ],
)
def test_options_with_mistakes_are_refused_in_a_sentence(changes, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        parse_protocol(**{**OPTIONS, **changes})


def test_options_are_read():
    changes = {"accelerations": "2, 4", "acs": "8,0.08", "crop": "40x32", "truth": "rss", "region": "all"}
    protocol = parse_protocol(**{**OPTIONS, **changes})
    assert (protocol.accelerations, protocol.acs, protocol.crop) == ([2, 4], [8, 0.08], (40, 32))
    assert (protocol.truth, protocol.region, protocol.region_for("rss")) == ("rss", "all", "all")
    assert parse_protocol(**{**OPTIONS, "crop": "320"}).crop == (320, 320)
    assert [Protocol([2], [8]).region_for(truth) for truth in ("rss", "combined")] == ["object", "all"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "nowhere"], "there is no bundle 'nowhere'"),
        (["--bundle", "{empty}/sense"], "is no bundle: it has no model.yaml; named without a folder, 'sense' is built"),
        (["--bundle", "{bundle}", "--reference", "GRAPPA"], "option --reference: there is no method 'GRAPPA'"),
        (["--bundle", "{bundle}", "-o", "{file}/below"], "cannot be written to"),
        (["--bundle", "{bundle}", "--data", "{empty}", "-o", "{out}"], "has no files"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_long_work(tmp_path, sense_bundle, arguments, message):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    places = {name: str(tmp_path / name) for name in ("file", "empty", "out")}
    result = CliRunner().invoke(app, ["evaluate", *(each.format(bundle=sense_bundle, **places) for each in arguments)])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_bundle_that_comes_with_it_is_built_by_its_name(tmp_path, sense_bundle, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOCENTER_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "bundles").mkdir(parents=True)
    (tmp_path / "home" / "bundles" / "mine").symlink_to(sense_bundle)
    models = evaluated_methods.open_bundles([Path("rss"), Path("mine")])
    folders = [model.bundle.folder for model in models.values()]
    assert folders == [tmp_path / "home" / "bundles" / name for name in ("rss", "mine")]


def test_a_bundle_of_series_that_comes_with_it_gets_series_by_its_name(tmp_path, bundles):
    assert (bundles / "ridge-cine").is_dir()
    (tmp_path / "data").mkdir()
    scan = simulate(ScanProtocol(matrix=48, coils=3, phantom="heart", frames=6))
    scan.save(tmp_path / "data" / "heart.h5")
    arguments = ["evaluate", "--bundle", "ridge-cine", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--accelerations", "2", "--acs", "8"])
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["settings"]["scans"] == "1 series, 1 volumes"
    assert "ridge-cine" in {row["method"] for row in content["results"]}


def test_bundles_of_one_name_are_told_apart(tmp_path, sense_bundle):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / sense_bundle.name).symlink_to(sense_bundle)
    names = list(evaluated_methods.open_bundles([sense_bundle, tmp_path / "a" / sense_bundle.name]))
    assert names[0] != names[1]
    assert Bundle.open(sense_bundle).manifest.name == sense_bundle.name


@pytest.mark.parametrize("truth", ["rss", "combined"])
def test_ssim_and_psnr_rank_alike_although_the_air_is_noisy(truth):
    report, _ = compare(Protocol([3], [16]), [scan(0.01, 64)], truth)
    figures = {result.method: result.figures for result in report.results}
    assert figures["SENSE"]["psnr"] > figures["zero-filled"]["psnr"] + 2
    assert figures["SENSE"]["ssim"] > figures["zero-filled"]["ssim"] + 0.02


def test_the_object_is_marked_and_the_air_is_not():
    y, x = np.mgrid[:64, :64] - 32
    disc = np.hypot(x, y) < 20
    random = np.random.default_rng(1)
    image = np.where(disc & ~(np.hypot(x, y) < 6), 1.0, 0.05) + 0.02 * random.random((64, 64))
    (mask,) = object_masks([torch.from_numpy(image[None].astype(np.float32))])
    assert mask[0][torch.from_numpy(disc)].all()
    assert not mask[0][torch.from_numpy(np.hypot(x, y) > 28)].any()


def test_a_volume_has_one_row_and_its_slices_have_one_each():
    scans = [scan(size=40, volume="a.h5", name=f"a.h5, slice {index}") for index in range(3)]
    zero = {"zero-filled": evaluated_methods.all_methods({})["zero-filled"], "SENSE": evaluated_methods._sense}
    volume, _ = compare(Protocol([3], [16], truth="rss"), scans, "rss", zero)
    slices, _ = compare(Protocol([3], [16], truth="rss", convention="slice"), scans, "rss", zero)
    assert [(result.scan, result.method) for result in volume.results] == [(0, "zero-filled"), (0, "SENSE")]
    assert [result.scan for result in slices.results if result.method == "SENSE"] == [0, 1, 2]
    mask = draw("equispaced", Request(40, acceleration=3, acs=16), np.random.default_rng((1, 0)))
    assert volume.results[0].net_acceleration == pytest.approx(40 / mask.sum())


@pytest.mark.parametrize("region", ["all", "object"])
def test_figures_are_those_of_the_cropped_images(region):
    own = scan(size=48, matrix=(32, 24))
    report, (picture,) = compare(Protocol([3], [16], region=region), [own], "rss")
    truth = torch.linalg.vector_norm(ifft(own.kspace, [-2, -1]), dim=0)
    torch.testing.assert_close(picture.truth, truth[8:40, 12:36], atol=1e-5, rtol=1e-4)
    image, true = (each[None].double() for each in (picture.images["SENSE"], picture.truth))
    (full,) = object_masks([truth[None, 8:40, 12:36]])
    expected = metrics.judge(image, true, "fastmri", None if region == "all" else full)
    shown = next(result.figures for result in report.results if result.method == "SENSE")
    assert shown == pytest.approx(expected, rel=1e-4)


def test_a_fitted_scale_is_off_by_default_and_undoes_a_factor():
    methods = evaluated_methods.all_methods({})
    methods = {"SENSE": methods["SENSE"], "doubled": lambda *given: 2 * methods["SENSE"](*given)}
    plain, _ = compare(Protocol([3], [16]), [scan()], "rss", methods)
    fitted, _ = compare(Protocol([3], [16], fit_scale=True), [scan()], "rss", methods)
    assert plain.results[1].figures["psnr"] < 15
    assert fitted.results[1].figures == pytest.approx(fitted.results[0].figures)


@pytest.mark.parametrize("peak", [1e-4, 0.3, 20.0])
def test_the_best_strength_is_found_to_a_factor(peak):
    tried = []

    def figure(strength):
        tried.append(strength)
        return -(math.log(strength / peak) ** 2)

    assert 1 / 1.2 < best_strength(figure, 0.1) / peak < 1.2
    assert len(tried) == len(set(tried)) < 20


def test_tuned_methods_are_no_worse_than_untuned_ones_and_tell_their_strength():
    report, _ = compare(Protocol([3], [16], tune=True, region="object"), [scan(noise=0.05, size=40)], "rss", acs=16)
    figures = {result.method: result.figures["psnr"] for result in report.results}
    strengths = {result.method: result.strength for result in report.results if result.strength is not None}
    assert set(strengths) == set(evaluated_methods.TUNED)
    for name in ("SENSE", "CS (TV)", "CS (wavelet)"):
        assert figures[f"{name}, tuned"] > figures[name] - 0.02
    assert figures["GRAPPA, tuned"] > figures["SENSE"]
    report.note_strengths()
    assert "GRAPPA, tuned" in report.settings["strengths"]


def test_points_go_to_those_who_take_them_and_the_others_are_left_out():
    report, _ = compare(
        Protocol([4], [12], sampling="poisson-disc"), [scan(name="a")], "rss", accelerations=(4,), acs=12
    )
    figures = {result.method: result.figures for result in report.results}
    assert figures["SENSE"]["psnr"] > figures["zero-filled"]["psnr"] + 2
    assert "CS (TV)" not in figures
    assert report.left_out == [
        f"a, {name}: it takes scans that are undersampled along ky alone" for name in ("CS (TV)", "CS (wavelet)")
    ]


@pytest.mark.parametrize(
    ("crop", "matrix", "message"),
    [
        ((500, 500), None, "a: the crop of 500 x 500 is larger than its 48 x 48 pixels"),
        ((40, 49), None, "a: the crop of 40 x 49 is larger than its 48 x 48 pixels"),
        ("matrix", (6, 40), "a: its 6 x 40 pixels are fewer than the window of SSIM"),
    ],
)
def test_images_whose_size_cannot_be_judged_are_left_out(crop, matrix, message):
    report, (picture,) = compare(Protocol([3], [16], crop=crop), [scan(name="a", matrix=matrix)], "rss")
    assert (report.results, report.left_out, picture) == ([], [message], None)


def test_the_smallest_crop_is_the_window_of_ssim():
    report, _ = compare(parse_protocol(**{**OPTIONS, "crop": "7"}), [scan()], "rss")
    assert all(math.isfinite(result.figures["ssim"]) for result in report.results)
    assert report.left_out == []


def masks():
    """A mask of lines of 48, 12 of them around the middle, and one of points."""
    rows = np.arange(48)
    lines = (abs(rows - 23.5) < 6) | (rows % 6 == 1)
    points = np.random.default_rng(1).random((48, 48)) < 0.3
    points[18:30, 18:30] = True
    return {"lines": lines, "points": points}


@pytest.mark.parametrize("name", ["lines", "points"])
def test_the_mask_of_a_file_is_told_as_it_is(tmp_path, name):
    mask = masks()[name]
    np.save(tmp_path / "mask.npy", mask)
    options = {**OPTIONS, "sampling": str(tmp_path / "mask.npy"), "accelerations": "2,4", "acs": "8,16,24"}
    protocol = parse_protocol(**options)
    assert len(protocol.cells) == 1
    acceleration, acs = protocol.cells[0]
    report, (picture,) = compare(protocol, [scan(name="a")], "rss", accelerations=(acceleration,), acs=acs)
    assert {(result.acceleration, result.acs) for result in report.results} == {(round(mask.size / mask.sum(), 2), 12)}
    assert picture.title == f"a\nR {mask.size / mask.sum():.3g}, ACS 12"
    assert {"zero-filled", "SENSE"} <= {result.method for result in report.results}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(48), "a: the mask measures nothing"),
        (np.ones(40), "a: {file}: the mask is [40]; accepted: [48] or [48, 48]"),
        (1 - np.pad(np.ones((2, 2)), 23), "a: the mask lacks the middle of k-space"),
    ],
)
def test_masks_of_files_that_do_not_do_are_left_out(tmp_path, mask, message):
    np.save(tmp_path / "mask.npy", mask)
    protocol = Protocol([2], [8], sampling=str(tmp_path / "mask.npy"))
    report, (picture,) = compare(protocol, [scan(name="a")], "rss", accelerations=(1,), acs=0)
    assert (report.results, picture) == ([], None)
    assert message.format(file=tmp_path / "mask.npy") in report.left_out[0]


def test_what_fails_costs_its_scan_only_and_is_told():
    def fails(kspace, measured, maps):
        if kspace.shape[-1] == 40:
            raise RuntimeError("Traceback of a runtime\n  File x\ncoils 4, accepted is 8\n")
        return evaluated_methods.all_methods({})["zero-filled"](kspace, measured, maps)

    methods = {"SENSE": _sense, "picky": fails}

    def spoils(kspace, measured, maps):
        image = evaluated_methods.all_methods({})["zero-filled"](kspace, measured, maps)
        image[..., 3, 3] = math.nan
        return image

    report, (picture,) = compare(Protocol([3], [16]), [scan(name="a")], "rss", {"net": spoils, "SENSE": _sense})
    assert list(picture.images) == list(picture.figures) == ["SENSE"]
    assert (report.results[0].method, len(report.results)) == ("SENSE", 1)
    report, _ = compare(Protocol([3], [16]), [scan(name="a")], "rss", {"net": spoils})
    assert (report.results, report.left_out) == ([], ["a, net: its image has pixels that are not finite"])
    scans = [scan(size=40, name="small"), scan(size=48, name="large")]
    results, left_out = [], []
    for one in scans:
        report, _ = compare(Protocol([3], [16]), [one], "rss", methods)
        results += [(result.volume, result.method) for result in report.results]
        left_out += report.left_out
    assert results == [("small", "SENSE"), ("large", "SENSE"), ("large", "picky")]
    assert left_out == ["small, picky: coils 4, accepted is 8"]
    empty = FullScan(torch.zeros(4, 40, 40, dtype=torch.complex64), name="black")
    report, (picture,) = compare(Protocol([3], [16]), [empty], "rss")
    assert (report.results, report.left_out, picture) == ([], ["black: it is empty"], None)
    report, (picture,) = compare(Protocol([8], [16], sampling="uniform-random"), [scans[0]], "rss", None, (8,))
    assert report.left_out[0].startswith(
        "small, R 8, ACS 16: an acceleration of 8 leaves 5 of 40 lines, fewer than the 16"
    )


def test_bootstrap_intervals_have_the_width_of_a_means_error():
    random = np.random.default_rng(5)
    values = random.normal(1.0, 0.5, 60)
    interval = difference_interval(values.tolist(), [str(index) for index in range(60)], 1)
    error = values.std() / math.sqrt(60)
    assert interval["mean"] == pytest.approx(values.mean())
    assert interval["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert interval["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    assert interval == difference_interval(values.tolist(), [str(index) for index in range(60)], 1)
    # slices of a volume that are all alike tell no more than one of them
    alike = difference_interval(np.repeat(values, 10).tolist(), [str(index // 10) for index in range(600)], 1)
    assert alike["high"] - alike["low"] == pytest.approx(interval["high"] - interval["low"], rel=1e-6)
    assert math.isnan(difference_interval([1.0, 2.0], ["a", "a"], 1)["low"])


def test_tables_say_how_they_were_made_and_agree_with_each_other(tmp_path):
    report = Report({"convention": "fastmri", "truth": "rss"}, "SENSE", 1, left_out=["b.h5, net: too many coils"])
    for method, better in (("SENSE", 0.0), ("net", 2.0)):
        for index in range(4):
            figures = dict.fromkeys(metrics.METRICS, index + better)
            report.results.append(Result(index, f"{index}.h5", 4, 8, method, 3.2, figures))
    report.results[-1].figures["psnr"] = math.inf
    report.write(tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("- convention: fastmri\n- truth: rss\n- left out: b.h5, net: too many coils\n")
    assert "| 4 | 8 | SENSE | 4 | 1.500 / 1.500 / 1.118 |" in text
    assert "| 4 | 8 | net | 4 | +2.000 (+2.000 to +2.000) | +inf" in text
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["settings"]["truth"] == "rss"
    assert content["results"][-1]["psnr"] is None
    assert content["differences"][0]["ssim"] == {"mean": 2.0, "low": 2.0, "high": 2.0}
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[1]["method"], float(rows[1]["ssim_median"])) == ("net", 3.5)
    with (tmp_path / "results.csv").open(newline="") as file:
        assert [float(row["nmse"]) for row in csv.DictReader(file)] == [0, 1, 2, 3, 2, 3, 4, 5]


def test_runs_outside_of_what_a_bundle_was_made_for_are_marked(tmp_path, bundles):
    methods = evaluated_methods.all_methods(evaluated_methods.open_bundles([bundles / "rss"]))
    report, _ = compare(Protocol([1, 3], [16]), [scan(volume="a")], "rss", methods, accelerations=(1, 3))
    report.write(tmp_path)
    reason = "acceleration 3, accepted is 1"
    outside = {(each.method, each.acceleration): each.outside_domain for each in report.results}
    assert {place: text for place, text in outside.items() if text} == {("rss", 3): reason}
    text = (tmp_path / "table.md").read_text()
    assert f"- (!) rss was not made for R 3 with ACS 16: {reason}; a service falls back, or marks its images\n" in text
    assert text.count("| rss (!) |") == 2  # figures and differences
    assert text.count("| rss |") == 2
    content = json.loads((tmp_path / "results.json").read_text())
    assert [row["outside_domain"] for row in content["summary"] if row["method"] == "rss"] == ["", reason]
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = [row["outside_domain"] for row in csv.DictReader(file) if row["method"] == "rss"]
    assert rows == ["", reason]


def test_volumes_of_which_not_all_slices_are_taken_are_named(tmp_path, sense_bundle):
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data" / "one.h5", "w") as file:
        file["kspace"] = np.stack([scan(size=32).kspace.numpy()] * 3)
    arguments = [
        "evaluate",
        "--bundle",
        str(sense_bundle),
        "--data",
        str(tmp_path / "data"),
        "-o",
        str(tmp_path / "out"),
    ]
    arguments += ["--accelerations", "2", "--acs", "12", "--scans"]
    for count, convention, is_cut in (("2", "fastmri", True), ("3", "fastmri", False), ("2", "slice", False)):
        result = CliRunner().invoke(app, [*arguments, count, "--convention", convention])
        assert result.exit_code == 0, result.output
        remark = "remark: 1 of 1 volumes are judged by some of their slices only, as 2 of 3 were asked for (--scans)"
        assert (remark in (tmp_path / "out" / "table.md").read_text()) == is_cut
        assert (remark in result.output.replace("\n", " ")) == is_cut


def test_images_are_kept_as_fastmris_evaluation_reads_them(tmp_path, sense_bundle):
    kspace = np.stack([scan(size=32).kspace.numpy()[:, :28].swapaxes(-1, -2)] * 2)
    for place, factor in (("data", 2), ("data/again", 1)):
        (tmp_path / place).mkdir()
        with h5py.File(tmp_path / place / "one.h5", "w") as file:
            file["kspace"] = factor * kspace
    (tmp_path / "data" / "bad.h5").write_bytes(b"no HDF5")
    arguments = ["evaluate", "--bundle", str(sense_bundle), "--data", str(tmp_path / "data"), "--truth", "rss"]
    arguments += ["--accelerations", "2", "--acs", "12", "--scans", "4", "--region", "all", "--keep-images"]
    assert "bad.h5 is no HDF5 file" in CliRunner().invoke(app, arguments).stderr
    result = CliRunner().invoke(app, [*arguments, "--leave-out", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "bad.h5 is no HDF5 file" in (tmp_path / "out" / "table.md").read_text()
    kept = tmp_path / "out" / "reconstructions"
    with h5py.File(kept / "truth" / "one.h5") as file:
        truth = file["reconstruction_rss"][()]
    with h5py.File(kept / sense_bundle.name / "R2-acs12" / "one.h5") as file:
        image = file["reconstruction"][()]
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1)), norm="ortho"), (-2, -1))
    assert image.shape == truth.shape == (2, 32, 28)
    assert np.abs(truth - np.linalg.norm(images, axis=1)).max() < 1e-4 * truth.max()
    assert sorted(file.name for file in (kept / "truth").iterdir()) == ["001-one.h5", "one.h5"]
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    figures = next(row for row in content["results"] if row["method"] == sense_bundle.name)
    assert (figures["volume"].rsplit("/", 1)[-1], content["settings"]["scans"]) == ("one.h5", "4 slices, 2 volumes")
    nmse = np.linalg.norm(truth - image) ** 2 / np.linalg.norm(truth) ** 2
    assert figures["nmse"] == pytest.approx(nmse, rel=1e-5)
    assert figures["psnr"] == pytest.approx(10 * np.log10(truth.max() ** 2 / ((truth - image) ** 2).mean()), rel=1e-5)
    assert Path(tmp_path / "out" / "images.png").stat().st_size > 10_000
