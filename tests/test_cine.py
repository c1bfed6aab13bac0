"""Series that are reconstructed while they are scanned: the pipeline cine.xml, its windows, and what images say."""

from dataclasses import replace

import numpy as np
import pytest
from isocenter.flow.ledger import Ledger
from isocenter.gadgets import load
from isocenter.gadgets.early import chain_context
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.scan import Scan
from isocenter.gadgets.sliding_window import sliding_window
from isocenter.simulate.scan import ScanProtocol, simulate

HEART = ScanProtocol(
    phantom="heart",
    matrix=48,
    coils=4,
    frames=20,
    acceleration=4,
    acs=0,
    calibration="interleaved",
    noise=2,
    noise_scan=False,
    oversampling=1,
)
WINDOW, STEP, BEHIND = 16, 12, 2
LOST = {(2, 2), (2, 6), (12, 4), (12, 8)}
"""Phase and line of readouts that do not arrive."""


def line(readout):
    return readout.idx.kspace_encode_step_1


@pytest.fixture
def send(make_service):
    service = make_service()
    return lambda scan, **options: service.replay(scan, "cine.xml", **options)


def places(images):
    return [(image.slice, image.phase) for image in images]


def decibels(images, scan):
    """Peak signal-to-noise ratio of images to the truth of the same counters."""
    truth = {(true.counters["slice"], true.counters["phase"]): true.data[0] for true in scan.images}
    pairs = [(np.abs(image.data[0, 0]), truth[image.slice, image.phase]) for image in images]
    error = np.mean([(found - right) ** 2 for found, right in pairs])
    return 10 * np.log10(max(right.max() for _, right in pairs) ** 2 / error)


def test_every_frame_of_every_slice_becomes_one_image_that_is_better_than_sense(send):
    scan = simulate(replace(HEART, slices=2))
    images = send(scan, parameters='{"parameters": {"beside": "sense"}}').images
    ours = [image for image in images if image.image_series_index == 1]
    beside = [image for image in images if image.image_series_index == 101]
    for series in (ours, beside):
        for number in range(2):
            assert [place for place in places(series) if place[0] == number] == [(number, phase) for phase in range(20)]
    assert {image.meta["IsocenterBundle"] for image in ours} == {"ridge-cine"}
    assert not any("IsocenterFallback" in image.meta or "IsocenterNeighbours" in image.meta for image in images)
    assert decibels(ours, scan) > decibels(beside, scan) + 3
    # neither the first frames nor the last ones, which have fewer neighbours, nor those where a window ends, are worse than all
    each = [decibels([image], scan) for image in ours]
    assert min(each) > decibels(beside, scan) + 1


def test_images_come_while_the_scan_runs():
    simulated = simulate(replace(HEART, frames=50))
    scan = Scan(simulated.header)
    taken = []

    def readouts():
        for item in simulated.items:
            taken.append(item)
            yield item

    steps = [(load(name), {}) for name in ("accumulate", "sliding_window", "estimate_coil_maps")]
    joined = chain_context(steps, scan, begin_maps=True)["joined"]
    windows = sliding_window(load("accumulate")(readouts(), scan, joined=joined), scan)
    seen = [(len(taken), window.data.shape[1], window.shown) for window in windows if isinstance(window, Kspace)]
    lines = HEART.matrix // HEART.acceleration
    newest = [WINDOW, WINDOW + STEP, WINDOW + 2 * STEP, 50]
    assert [count for count, _, _ in seen] == [lines * frames for frames in newest]
    assert [shown.stop - shown.start for _, _, shown in seen] == [
        WINDOW - BEHIND,
        STEP,
        STEP,
        50 - (WINDOW + 2 * STEP - BEHIND),
    ]


def test_a_series_shorter_than_the_window_comes_at_its_end(send):
    scan = simulate(replace(HEART, frames=9))
    images = send(scan).images
    assert places(images) == [(0, phase) for phase in range(9)]
    assert {image.meta["IsocenterBundle"] for image in images} == {"ridge-cine"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frames": 3, "acceleration": 2}, "frames 3, accepted is 6 to 64"),
        ({"coils": 1}, "coils 1, accepted is 2 to 32"),
    ],
)
def test_what_the_network_was_not_made_for_is_sense_frame_by_frame_and_says_so(send, change, reason):
    protocol = replace(HEART, **change)
    result = send(simulate(protocol))
    assert places(result.images) == [(0, phase) for phase in range(protocol.frames)]
    for image in result.images:
        assert image.meta["IsocenterBundle"] == "sense"
        assert f"'ridge-cine' was not made for this scan ({reason}" in image.meta["IsocenterFallback"]
    assert any(reason in text for text in result.texts)


def test_lost_frames_and_lines_are_said_on_the_frames_that_lack_them_and_on_those_made_with_them(send):
    scan = simulate(replace(HEART, frames=24))
    kept = [item for item in scan.items if item.idx.phase != 5 and (item.idx.phase, line(item)) not in LOST]
    result = send(replace(scan, items=kept))
    assert sorted(places(result.images)) == [(0, phase) for phase in range(24) if phase != 5]
    assert any("readouts of only 23 images came; the header announces 24" in text for text in result.texts)
    images = {image.phase: image for image in result.images}
    assert [phase for phase, image in images.items() if "IsocenterIncomplete" in image.meta] == [2, 12]
    early, late = images[2], images[12]
    for image in (early, late):
        assert "the image is incomplete: 2 of 12 lines are missing" in image.meta["IsocenterIncomplete"]
    # by then the window has the frames around the one, but none of those around the other
    assert (early.meta["IsocenterBundle"], late.meta["IsocenterBundle"]) == ("sense", "ridge-cine")
    assert "frames 1, accepted is 6 to 64" in early.meta["IsocenterFallback"]
    assert late.meta["IsocenterNeighbours"].startswith("1 of the ")
    assert decibels([late], scan) > decibels([images[11], images[13]], scan) - 3


def test_a_scan_that_may_not_hold_a_window_has_images_of_fewer_frames():
    simulated = simulate(replace(HEART, frames=12))
    frame = 4 * 48 * 48 * 8
    scan = Scan(simulated.header, ledger=Ledger(keeps=18 * frame))
    blocks = list(sliding_window(load("accumulate")(iter(simulated.items), scan, joined=True), scan))
    shown = [header.idx.phase for block in blocks for header in block.only_shown().central_headers]
    assert shown == list(range(12))
    assert 1 < max(block.data.shape[1] for block in blocks) < 12
    assert any("may not hold a whole window" in text for text in scan.problem_messages())


def test_so_few_lines_that_motion_would_be_smoothed_away_are_left_to_sense(send):
    images = send(simulate(replace(HEART, frames=8, acceleration=6))).images
    assert {image.meta["IsocenterBundle"] for image in images} == {"sense"}
    assert "lines per measured line 6, accepted is 1 to 5.5" in images[0].meta["IsocenterFallback"]
