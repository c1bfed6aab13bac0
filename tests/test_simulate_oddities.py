"""What each oddity does to a scan, and how its file is laid out."""

from functools import cache

import ismrmrd
import numpy as np
import pytest
from h5py import File, h5t
from isocenter.simulate.errors import SimulationError
from isocenter.simulate.oddities import ODDITIES, make_odd
from oddities import make
from test_cli import isocenter

ROOMY = {
    "plain": {"matrix": 16, "coils": 3, "slices": 2, "contrasts": 2, "averages": 2},
    "referenced": {"matrix": 24, "coils": 3, "slices": 2, "acceleration": 2, "calibration": "separate", "acs": 8},
    "embedded": {"matrix": 24, "coils": 3, "contrasts": 2, "acceleration": 2, "acs": 8, "partial_fourier": 0.75},
    "volume": {"matrix": 12, "coils": 2, "partitions": 6},
    "two slices": {"matrix": 16, "coils": 3, "slices": 2},
}
"""Scans of which each oddity finds one that it can change."""


@cache
def roomy_scans():
    """The scans, and what they are like; no oddity changes one of them."""
    return [(scan, fingerprint(scan)) for scan in map(make, ROOMY.values())]


def fingerprint(scan):
    """Everything about a scan that its file holds."""
    items = [(bytes(item.getHead()), item.data.tobytes(), item.traj.tobytes()) for item in scan.items]
    return scan.header.encode(scan.header_encoding), items, scan.layout


@pytest.mark.parametrize("name", sorted(ODDITIES))
def test_an_oddity_says_what_it_does_and_changes_a_scan_but_not_the_one_it_was_given(name):
    assert ODDITIES[name].summary.endswith(".")
    changed = 0
    for scan, before in roomy_scans():
        try:
            odd = make_odd(scan, name, np.random.default_rng(1))
        except SimulationError:
            continue
        assert fingerprint(scan) == before
        changed += fingerprint(odd) != before
    assert changed


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ("sharpened", "oddity 'sharpened' is not known; accepted: acceleration-one-factor"),
        ("lines-lost:number=3", "has no parameter 'number'; accepted: count"),
        ("lines-lost:count=3,count=4", "parameter 'count' of oddity 'lines-lost' is given twice"),
        ("lines-lost:count=few", "parameter 'count' of oddity 'lines-lost' is 'few'; accepted: a whole number"),
        ("lines-lost:count=100", "cannot lose 100 lines; accepted: 1 to"),
        ("elliptical-scanning", "the scan is 2-D"),
        ("reference-after-image", "no calibration lines of their own"),
        ("flagged:flag=green", "'green' is no MRD flag"),
        ("line-order:kind=spiral", "kind must be one of random, reversed, centric"),
        ("limits-missing:counter=colour", "the header has nothing like"),
    ],
)
def test_what_cannot_be_done_is_refused(request_, complaint):
    with pytest.raises(SimulationError, match=complaint):
        make_odd(make({"matrix": 16}), request_, np.random.default_rng(1))


def lines(scan):
    return [item.idx.kspace_encode_step_1 for item in scan.items]


def test_lost_lines_keep_the_flags_of_the_ends():
    scan = make({"matrix": 16}, ["lines-lost:count=6"])
    assert len(scan.items) == 10
    assert scan.items[0].is_flag_set(ismrmrd.ACQ_FIRST_IN_SLICE)
    assert scan.items[-1].is_flag_set(ismrmrd.ACQ_LAST_IN_SLICE)
    assert [item.scan_counter for item in scan.items] == list(range(10))


def test_segments_are_interleaved_and_each_ends_with_a_flag():
    scan = make({"matrix": 16}, ["segments:count=4"])
    assert lines(scan)[:5] == [0, 4, 8, 12, 1]
    ends = [n for n, item in enumerate(scan.items) if item.is_flag_set(ismrmrd.ACQ_LAST_IN_SLICE)]
    assert ends == [3, 7, 11, 15]


def test_in_passes_the_highest_line_ends_the_first():
    scan = make({"matrix": 16}, ["passes:count=3"])
    assert lines(scan)[:6] == [0, 3, 6, 9, 12, 15]
    assert [n for n, item in enumerate(scan.items) if item.is_flag_set(ismrmrd.ACQ_LAST_IN_SLICE)] == [5]


def test_repetitions_can_be_the_inner_loop():
    scan = make(
        {"matrix": 16, "frames": 2, "frame_counter": "repetition", "phantom": "heart"}, ["dynamics-interleaved"]
    )
    assert [(item.idx.kspace_encode_step_1, item.idx.repetition) for item in scan.items[:3]] == [(0, 0), (0, 1), (1, 0)]
    assert [item.is_flag_set(ismrmrd.ACQ_LAST_IN_REPETITION) for item in scan.items[-3:]] == [False, True, True]


def test_elliptical_scanning_leaves_out_the_corners():
    scan = make({"matrix": 24, "partitions": 10, "oversampling": 1}, ["elliptical-scanning"])
    places = {(item.idx.kspace_encode_step_2, item.idx.kspace_encode_step_1) for item in scan.items}
    inside = {(z, y) for z in range(10) for y in range(24) if ((z - 5) / 5) ** 2 + ((y - 12) / 12) ** 2 <= 1}
    assert places == inside


def test_a_reference_of_half_the_resolution_is_the_middle_of_the_whole_one():
    protocol = {"matrix": 24, "acceleration": 2, "calibration": "separate", "acs": 8}
    whole, half = make(protocol), make(protocol, ["reference-half-resolution"])
    for before, after in zip(whole.items[:8], half.items[:8], strict=True):
        assert after.center_sample == 12
        assert np.array_equal(after.data, before.data[:, 12:36])


def test_readouts_without_oversampling_show_the_middle_of_the_field():
    whole, cropped = make({"matrix": 15}), make({"matrix": 15}, ["oversampling-removed"])

    def image(readout, pixels):
        """Fourier sum of a readout at pixels of the image."""
        n = readout.number_of_samples
        turns = np.outer(np.arange(n) - readout.center_sample, pixels) / n
        return readout.data @ np.exp(2j * np.pi * turns) / np.sqrt(n)

    for before, after in zip(whole.items, cropped.items, strict=True):
        assert after.number_of_samples == 15
        pixels = np.arange(15) - 7
        assert np.allclose(image(after, pixels), image(before, pixels), atol=1e-5)


def test_spokes_sample_the_object_where_they_say():
    """Along the axis they are the central line of the Cartesian scan."""
    scan, spokes = make({"matrix": 16}), make({"matrix": 16}, ["radial-trajectory"])
    first = spokes.items[0]
    assert first.traj.shape == (32, 2)
    assert np.allclose(first.traj[:, 0], (np.arange(32) - 16) / 32)
    assert np.allclose(first.data, scan.items[8].data, atol=1e-4 * np.abs(scan.items[8].data).max())


def test_layouts_of_files(tmp_path):
    path = tmp_path / "scan.h5"
    scan = make({"matrix": 8, "coils": 2}, ["big-endian", "members-reversed", "no-trajectory-member", "header-scalar"])
    scan.save(path)
    with File(path) as file:
        assert file["dataset/xml"].shape == ()
        kind = file["dataset/data"].id.get_type()
        assert [kind.get_member_name(n) for n in range(kind.get_nmembers())] == [b"data", b"head"]
        assert kind.get_member_type(0).get_super().get_order() == h5t.ORDER_BE
        head = kind.get_member_type(1)
        assert head.get_member_name(head.get_nmembers() - 1) == b"version"
        assert head.get_member_type(head.get_member_index(b"flags")).get_order() == h5t.ORDER_BE
        assert [int(n) for n in file["dataset/data"][:]["head"]["idx"]["kspace_encode_step_1"]] == list(range(8))
    make({"matrix": 8}, ["header-fixed-length", "other-group", "sizes-zero"]).save(path)
    with File(path) as file:
        assert file["scan_1/xml"].dtype.kind == "S"
        assert not file["scan_1/data"][:]["head"]["number_of_samples"].any()


def test_a_usual_file_is_read_by_the_ismrmrd_library(tmp_path):
    scan = make({"matrix": 8, "coils": 2, "waveforms": True})
    scan.save(tmp_path / "scan.h5")
    with ismrmrd.Dataset(str(tmp_path / "scan.h5"), create_if_needed=False) as dataset:
        assert dataset.read_xml_header() == scan.header.encode()
        read = [dataset.read_acquisition(n) for n in range(dataset.number_of_acquisitions())]
        assert read == [item for item in scan.items if isinstance(item, ismrmrd.Acquisition)]
        assert np.array_equal(dataset.read_waveform(0).data, scan.items[0].data)


def test_a_command_makes_and_lists_oddities(tmp_path):
    said = isocenter("simulate", "--list-oddities", cwd=tmp_path)
    assert all(name in said for name in ODDITIES)
    isocenter(
        *("simulate", "--matrix", 16, "--coils", 2, "--no-noise-scan", "--recon-matrix", 24, 20, "--seed", 7),
        *("--oddity", "lines-lost:count=4", "--oddity", "header-scalar", "-o", "odd.h5"),
        cwd=tmp_path,
    )
    with File(tmp_path / "odd.h5") as file, File(tmp_path / "odd.truth.h5") as truth:
        assert len(file["dataset/data"]) == 12
        assert b"simulator_phantom_1_7" in file["dataset/xml"][()]
        assert truth["image"].shape == (1, 1, 20, 24)
    said = isocenter("simulate", "--matrix", 16, "--oddity", "sharpened", "-o", "odd.h5", cwd=tmp_path, status=2)
    assert "oddity 'sharpened' is not known" in said
    lost = ("--matrix", 16, "--oddity", "lines-lost:count=100", "-o", "odd.h5")
    assert "cannot lose 100 lines" in isocenter("simulate", *lost, cwd=tmp_path, status=2)
