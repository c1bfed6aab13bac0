"""Pictures that read themselves: orientation letters, millimetres, windows, errors, and how they are drawn and printed."""

import io
import math

import ismrmrd
import nibabel
import numpy as np
import pytest
from isocenter import reconstruct
from isocenter.commands.demo import PROTOCOL
from isocenter.commands.picture import Geometry, Panel, Row, Sheet, draw, error_panels, show
from isocenter.commands.picture.geometry import geometry_of, make_geometry, radiological
from isocenter.commands.picture.images import MOST, complaints, image_sheet, planes
from isocenter.commands.picture.truth import Score, compare, matched, mean_score
from isocenter.service.provenance import BUNDLE, DOUBTS, OTHERS
from isocenter.simulate.protocol import directions
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.errors import FileError
from isocenter.wire.items import ImageHeader, make_image
from matplotlib.image import imread
from rich.console import Console

ORIENTATIONS = ("transverse", "sagittal", "coronal", "oblique", "flipped")


def picture(data, *, orientation="transverse", fov=(200.0, 100.0, 5.0), image_type=0, series=1, **counters):
    header = ImageHeader()
    header.field_of_view = fov
    header.read_dir, header.phase_dir, header.slice_dir = directions(orientation)
    header.image_type, header.image_series_index = image_type, series
    for name, value in counters.items():
        setattr(header, name, value)
    return make_image(np.asarray(data)[None, None], header, ismrmrd.Meta())


class TestOrientation:
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_the_first_letters_are_those_that_nibabel_finds(self, orientation):
        read, phase, slices = (np.array(each) for each in directions(orientation))
        lps_to_ras = np.diag([-1.0, -1.0, 1.0])
        affine = np.eye(4)
        affine[:3, :3] = lps_to_ras @ np.stack([read, phase, slices], axis=1)
        right, down, _ = (code.translate(str.maketrans("SI", "HF")) for code in nibabel.aff2axcodes(affine))
        _, at_right, _, at_bottom = make_geometry((1, 1), read, phase).letters
        assert (at_right[0], at_bottom[0]) == (right, down)

    def test_an_oblique_direction_has_a_letter_for_each_part_the_largest_first(self):
        tilted = math.radians(25)
        geometry = make_geometry((1, 1), (1, 0, 0), (0, math.cos(tilted), math.sin(tilted)))
        assert geometry.letters == ("R", "L", "AF", "PH")
        assert geometry.plane == "oblique transverse"

    def test_a_tilt_of_two_degrees_is_not_told(self):
        geometry = make_geometry((1, 1), (1, 0, 0), (0, math.cos(0.035), math.sin(0.035)))
        assert geometry.letters[3] == "P"
        assert geometry.plane == "transverse"

    @pytest.mark.parametrize(
        "read", [(0, 0, 0), (2, 0, 0), (math.nan, 0, 0), (0, 1, 0)], ids=["none", "long", "nan", "not at right angles"]
    )
    def test_without_directions_there_are_no_letters_but_still_millimetres(self, read):
        geometry = make_geometry((1, 1), read, (0, 1, 0))
        assert geometry.letters == ("", "", "", "")
        assert geometry.bar(100) == 20

    @pytest.mark.parametrize("pixel", [(0, 1), (1, math.nan), (math.inf, 1)])
    def test_pixels_without_size_have_no_geometry(self, pixel):
        assert make_geometry(pixel, (1, 0, 0), (0, 1, 0)) is None

    @pytest.mark.parametrize(
        ("right", "down", "letters"),
        [
            ((-1, 0, 0), (0, 1, 0), ("R", "L", "A", "P")),
            ((0, 1, 0), (1, 0, 0), ("R", "L", "A", "P")),
            ((0, 0, 1), (0, -1, 0), ("A", "P", "H", "F")),
            ((0, 0, -1), (1, 0, 0), ("R", "L", "H", "F")),
        ],
    )
    def test_images_are_looked_at_from_feet_left_and_front_and_pixels_go_with_their_letters(self, right, down, letters):
        """A pixel that is marked at the edge that a letter names is at that letter afterwards."""
        before = make_geometry((1.0, 2.0), right, down)
        for edge in range(4):
            image = np.zeros((8, 8), np.float32)
            image[{0: np.s_[:, 0], 1: np.s_[:, -1], 2: np.s_[0], 3: np.s_[-1]}[edge]] = 1
            turned, after, said = radiological(image, before)
            assert after.letters == letters
            assert said
            edges = (turned[:, 0], turned[:, -1], turned[0], turned[-1])
            assert edges[letters.index(before.letters[edge])].all()
            assert after.pixel == ((2.0, 1.0) if "exchanged" in said else (1.0, 2.0))

    def test_what_is_in_its_usual_way_stays(self):
        image = np.arange(6.0).reshape(2, 3)
        turned, geometry, said = radiological(image, make_geometry((1, 1), (1, 0, 0), (0, 1, 0)))
        assert np.array_equal(turned, image)
        assert said == ""
        assert geometry.plane == "transverse"

    def test_millimetres_come_from_the_field_of_view(self):
        geometry = geometry_of(picture(np.zeros((20, 50), np.float32)).getHead())
        assert geometry.pixel == (5.0, 4.0)
        assert geometry.bar(50) == 50


class TestWindow:
    def test_width_and_level_are_those_of_the_image(self):
        image = picture(np.eye(16, dtype=np.uint16) * 900)
        image.meta["WindowWidth"], image.meta["WindowCenter"] = "800", "500"
        (row,) = image_sheet([image], "").rows
        assert row.panels[0].limits == (100, 900)
        assert row.panels[0].corner == "W 800 L 500"

    def test_phase_goes_from_minus_pi_to_pi_and_real_parts_are_grey_where_they_are_zero(self):
        data = np.linspace(-2, 2, 64, dtype=np.float32).reshape(8, 8)
        (phase,) = image_sheet([picture(data, image_type=ismrmrd.IMTYPE_PHASE)], "").rows[0].panels
        (real,) = image_sheet([picture(data, image_type=ismrmrd.IMTYPE_REAL)], "").rows[0].panels
        assert phase.limits == (-math.pi, math.pi)
        assert sum(real.limits) == 0

    def test_a_complex_image_is_shown_as_magnitude_and_phase(self):
        data = np.exp(1j * np.linspace(-3, 3, 64)).reshape(8, 8).astype(np.complex64)
        magnitude, phase = image_sheet([picture(data)], "").rows[0].panels
        assert np.allclose(magnitude.image, 1, atol=1e-6)
        assert np.allclose(phase.image, np.angle(data))

    @pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
    def test_an_image_without_contrast_or_numbers_can_be_shown(self, value, tmp_path):
        panel = Panel(np.full((8, 8), value, np.float32))
        assert np.isfinite(panel.grey()).all()
        draw(Sheet("", [Row([panel])]), tmp_path / "x.png")
        assert (tmp_path / "x.png").is_file()


class TestSeries:
    def test_planes_are_in_the_order_of_slices_and_only_counters_that_differ_are_told(self):
        data = np.ones((8, 8), np.float32)
        images = [picture(data, slice=number, image_index=number + 1) for number in (2, 0, 1)]
        (row,) = image_sheet(images, "").rows
        assert [panel.title for panel in row.panels] == [f"image {n + 1}, slice {n}" for n in range(3)]

    def test_each_series_has_rows_of_its_own_and_of_a_long_one_a_part_is_shown_and_said(self):
        data = np.ones((8, 8), np.float32)
        images = [picture(data, phase=number) for number in range(MOST + 8)]
        sheet = image_sheet([*images, picture(data, series=3001)], "")
        assert sum(len(row.panels) for row in sheet.rows) == MOST + 1
        headings = [row.heading for row in sheet.rows if row.heading]
        assert f"{MOST} of {MOST + 8} planes" in headings[0]
        assert headings[1].startswith("series 3001")

    def test_what_an_image_says_is_amiss_stands_at_it_and_below(self):
        image = picture(np.ones((8, 8), np.float32))
        image.meta["IsocenterUndersampled"] = "the image is aliased"
        image.meta["IsocenterBundle"] = "rss"
        image.meta["IsocenterComplete"] = "no: the image is aliased"
        sheet = image_sheet([image], "")
        assert sheet.rows[0].panels[0].warning == "! Undersampled"
        assert sheet.notes == ["series 1: Undersampled: the image is aliased"]
        assert complaints(picture(np.ones((8, 8), np.float32))) == []

    def test_what_an_image_only_tells_is_not_amiss(self):
        image = picture(np.ones((8, 8), np.float32))
        for name in (*BUNDLE, *OTHERS):
            image.meta[f"Isocenter{name}"] = "yes" if name == "Complete" else "something"
        assert image_sheet([image], "").rows[0].panels[0].warning == ""
        for name in DOUBTS:
            image.meta[f"Isocenter{name}"] = "something"
        assert image_sheet([image], "").rows[0].panels[0].warning == f"! {', '.join(sorted(DOUBTS))}"

    def test_what_is_left_out_is_shown_beside_what_is_in_doubt(self):
        image = picture(np.ones((8, 8), np.float32))
        image.meta["IsocenterClipped"], image.meta["IsocenterComplete"] = "1 of 9 pixels", "no: lines are missing"
        assert complaints(image) == ["Clipped: 1 of 9 pixels", "Complete: no: lines are missing"]

    @pytest.mark.parametrize(
        ("ghosts", "said"),
        [(0.01949, "aliases 1.9 % of the object: not visible"), (0.0196, "aliases 2.0 % of the object: visible")],
    )
    def test_aliases_are_judged_by_the_number_that_is_printed(self, ghosts, said):
        assert Score(1.0, 40.0, ghosts).aliasing == f"{said} (from 2 %)"
        assert Score(1.0, 40.0, ghosts).is_aliased == (" visible" in said.replace("not visible", ""))


def test_errors_have_one_factor_that_does_not_clip_the_median_one():
    truth = np.ones((8, 8), np.float32)
    panels = error_panels([truth * 1.5, truth * 1.04, truth * 1.01], truth, 1.0, None)
    assert [panel.title for panel in panels] == ["error x 20"] * 3
    assert np.allclose(panels[1].image, 0.8, atol=1e-5)


class TestTruth:
    def test_frames_and_slices_find_their_truth_in_any_order(self):
        scan = simulate(ScanProtocol(phantom="heart", matrix=32, coils=2, slices=2, frames=3))
        images = [
            picture(true.data[0] * 7, slice=true.counters["slice"], phase=true.counters["phase"])
            for true in reversed(scan.images)
        ]
        every = planes(images)
        truths = matched(every, scan.truth)
        for image, score in compare(every, truths, 1):
            assert score.ssim == pytest.approx(1, abs=1e-4)
            assert image.max() == pytest.approx(max(true.max() for true in truths), rel=0.5)

    def test_images_that_are_not_of_the_scan_are_not_compared(self):
        truth = np.ones((1, 2, 8, 8), np.float32)
        assert matched(planes([picture(np.ones((8, 8), np.float32))]), truth) is None
        assert matched(planes([picture(np.ones((4, 8), np.float32), slice=n) for n in range(2)]), truth) is None

    def test_the_readme_s_scan_has_no_aliasing_to_be_seen(self, bundles):
        scan = simulate(ScanProtocol(phantom="brain", matrix=192, coils=12, acceleration=4, acs=32))
        every = planes(reconstruct((scan.header, scan.items), "network.xml"))
        ((_, score),) = compare(every, matched(every, scan.truth), 4)
        assert not score.is_aliased

    @pytest.mark.long
    @pytest.mark.filterwarnings("ignore:.*are to be expected")  # of SENSE
    def test_the_demo_leaves_aliasing_with_sense_and_none_with_the_network(self, bundles, tmp_path):
        from dataclasses import replace

        scan = simulate(replace(PROTOCOL, slices=1))
        found = {}
        for pipeline in ("sense.xml", "network.xml"):
            every = planes(reconstruct((scan.header, scan.items), pipeline))
            found[pipeline] = mean_score(
                [s for _, s in compare(every, matched(every, scan.truth), PROTOCOL.acceleration)]
            )
        assert found["sense.xml"].is_aliased
        assert not found["network.xml"].is_aliased
        assert "not visible" in found["network.xml"].aliasing
        assert found["network.xml"].psnr > found["sense.xml"].psnr + 5


class TestPng:
    def test_each_pixel_becomes_a_square_of_pixels(self, tmp_path):
        image = np.random.default_rng(1).random((72, 72)).astype(np.float32)
        draw(Sheet("title", [Row([Panel(image, "two\nlines", (0.0, 1.0))])]), tmp_path / "x.png")
        png = imread(tmp_path / "x.png")[..., 0]
        tops = [
            top
            for top in range(len(png) - 287)
            if np.mean(np.abs(png[top : top + 288 : 4, 12:300:4] - image) < 3 / 255) > 0.95
        ]
        assert len(tops) == 4  # as every pixel is there four times
        assert np.array_equal(png[tops[0], 12:300].reshape(72, 4).min(1), png[tops[0], 12:300].reshape(72, 4).max(1))

    def test_pixels_that_are_not_square_are_drawn_as_they_lie(self, tmp_path):
        panel = Panel(np.ones((100, 100), np.float32), "", (0.0, 1.0), Geometry((2.0, 1.0)))
        draw(Sheet("", [Row([panel])]), tmp_path / "x.png")
        bright = imread(tmp_path / "x.png")[..., 0] > 0.9
        height, width = np.ptp(np.flatnonzero(bright.any(1))) + 1, np.ptp(np.flatnonzero(bright.any(0))) + 1
        assert height / width == pytest.approx(2, rel=0.02)

    def test_the_scale_bar_has_its_length(self, tmp_path):
        panel = Panel(np.zeros((96, 96), np.float32), "", (0.0, 1.0), Geometry((1.0, 1.0)), legend="")
        draw(Sheet("", [Row([panel])]), tmp_path / "x.png")
        bright = imread(tmp_path / "x.png")[..., 0] > 0.5
        longest = max(len(run) for row in bright for run in "".join("#" if x else " " for x in row).split())
        assert longest == pytest.approx(20 * 3, abs=1)

    def test_where_it_cannot_be_written(self, tmp_path):
        with pytest.raises(FileError, match="cannot be written"):
            draw(Sheet("", [Row([Panel(np.ones((4, 4), np.float32))])]), tmp_path / "nowhere" / "x.png")


class TestTerminal:
    SHEET = Sheet("title", [Row([Panel(np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1)), "ramp")])])

    def printed(self, monkeypatch, sheet=SHEET, **options):
        monkeypatch.delenv("NO_COLOR", raising=False)
        stream = io.TextIOWrapper(io.BytesIO(), encoding=options.pop("encoding", "utf-8"))
        show(sheet, Console(file=stream, width=60, **options))
        stream.flush()
        return stream.buffer.getvalue().decode()

    @pytest.mark.parametrize(("system", "code", "red"), [("truecolor", "38;2;", 0), ("256", "38;5;", 90)])
    def test_half_blocks_where_there_are_colours(self, system, code, red, monkeypatch):
        """In other colours each time: rich remembers how it has written one."""
        colours = np.full((16, 16, 3), (red, 60, 70), np.uint8)
        text = self.printed(monkeypatch, Sheet("", [Row([Panel(colours)])]), force_terminal=True, color_system=system)
        assert "▀" in text
        assert code in text

    @pytest.mark.parametrize(
        "options",
        [
            {"force_terminal": False},
            {"force_terminal": True, "no_color": True},
            {"force_terminal": True, "color_system": None},
        ],
    )
    def test_plain_characters_where_there_are_none(self, monkeypatch, options):
        text = self.printed(monkeypatch, **options)
        assert text.isascii()
        line = next(line for line in text.splitlines() if "@" in line).rstrip()
        assert len(line) <= 60
        darkness = [" .:-=+*#%@".index(letter) for letter in line]
        assert darkness == sorted(darkness)
        assert set(darkness) == set(range(10))

    def test_half_blocks_are_not_sent_where_they_cannot_be_encoded(self, monkeypatch):
        assert "▀" not in self.printed(monkeypatch, force_terminal=True, color_system="truecolor", encoding="ascii")

    def test_more_panels_than_fit_are_said(self):
        stream = io.StringIO()
        show(Sheet("", [Row([Panel(np.ones((4, 4), np.float32))] * 9)]), Console(file=stream, width=80), most=6)
        assert "3 more panels" in stream.getvalue()
