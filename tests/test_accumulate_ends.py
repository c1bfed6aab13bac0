"""When blocks leave: by flags, by what is complete, by the end of the scan, or in part, and what is said to be missing."""

import ismrmrd
import numpy as np
import pytest
import torch
from helpers import collect
from isocenter.gadgets.kspace import Kspace, PartialKspace
from isocenter.gadgets.scan import Scan
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.items import AcquisitionBucket, Interruption
from test_accumulate import QUIET, accumulate, blocks, damage, exact


def test_slices_leave_one_by_one_as_soon_as_they_are_complete():
    simulation = simulate(ScanProtocol(**QUIET, slices=3))
    left = []

    def watched():
        for item in simulation.items:
            yield item
            if item.is_flag_set(ismrmrd.ACQ_LAST_IN_SLICE):
                assert left, "a slice that is complete must leave before the next readout is asked for"

    for kspace in accumulate(watched(), Scan(simulation.header)):
        left.append(kspace.central_headers[0].idx.slice)
    assert left == [1, 0, 2]


def test_a_complete_slice_without_flags_leaves_at_its_last_line():
    simulation = simulate(ScanProtocol(**QUIET))
    for item in simulation.items:
        item.clear_all_flags()
    stream = accumulate(iter(simulation.items), Scan(simulation.header))
    assert isinstance(next(stream), Kspace)


def without_flags(simulation):
    for item in simulation.items:
        item.clear_all_flags()
    return simulation


def test_averages_without_flags_leave_when_the_last_one_is_complete():
    protocol = ScanProtocol(**QUIET, averages=2)
    (kspace,), (lost,), scan = blocks(*[(s := without_flags(simulate(protocol))), [*s.items, Interruption("late")]])
    assert isinstance(lost, Interruption)
    assert not kspace.notes
    assert not scan.problems


@pytest.mark.parametrize("change", [{}, {"acceleration": 2}])
def test_averages_that_are_frames_leave_when_all_are_complete(change):
    """By LAST_IN_SLICE of every average, or else because no line is missing."""
    simulation = simulate(ScanProtocol(**QUIET, averages=2, acs=0, **change))
    for item in simulation.items:
        item.clear_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
        item.clear_flag(ismrmrd.ACQ_LAST_IN_REPETITION)
    simulation = simulation if change else without_flags(simulation)
    (kspace,), _, scan = blocks(simulation, [*simulation.items, Interruption("late")], frames="average")
    assert kspace.mask.sum(dim=(1, 2)).tolist() == ([16, 16] if change else [32, 32])
    assert not kspace.notes
    assert not scan.problems


@pytest.mark.parametrize("flag", [ismrmrd.ACQ_LAST_IN_MEASUREMENT, ismrmrd.ACQ_LAST_IN_REPETITION])
def test_the_end_of_the_measurement_or_repetition_ends_all_blocks(flag):
    simulation = without_flags(simulate(ScanProtocol(**QUIET, slices=2, acceleration=2, acs=0)))
    simulation.items[-1].set_flag(flag)
    out, scan = collect([(accumulate, {})], simulation, [*simulation.items, Interruption("late")])
    # the first slice has left when the second one began, as no line of it was missing
    assert [kspace.central_headers[0].idx.slice for kspace in out[:2]] == [1, 0]
    assert [kspace.notes for kspace in out[:2]] == [{}, {}]
    assert not scan.problems


def test_frames_become_blocks_of_their_own_or_one_dynamic_block():
    protocol = ScanProtocol(**{**QUIET, "phantom": "heart"}, frames=4)
    separate, _, _ = blocks(simulate(protocol))
    (dynamic,), _, _ = blocks(simulate(protocol), frames="phase")
    assert len(separate) == 4
    assert dynamic.data.shape == (3, 4, 1, 32, 64)
    for frame in range(4):
        assert torch.equal(dynamic.data[:, frame], separate[frame].data[:, 0])
        assert dynamic.central_headers[frame].idx.phase == frame


@pytest.mark.parametrize("flags", [True, False])
def test_repetitions_that_are_frames_stay_in_one_block(flags):
    protocol = ScanProtocol(**QUIET, frames=3, frame_counter="repetition", slices=2)
    simulation = simulate(protocol)
    if not flags:
        for item in simulation.items:
            item.clear_all_flags()
    dynamic, _, scan = blocks(simulation, frames="repetition")
    assert [kspace.mask.sum(dim=(1, 2)).tolist() for kspace in dynamic] == [[32, 32, 32]] * 2
    assert [[header.idx.repetition for header in kspace.central_headers] for kspace in dynamic] == [[0, 1, 2]] * 2
    assert not scan.problem_messages()


def test_a_dynamic_block_of_repetitions_leaves_when_the_last_one_ends():
    simulation = simulate(ScanProtocol(**QUIET, frames=3, frame_counter="repetition", acceleration=2))
    for item in simulation.items:
        item.clear_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
        item.clear_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    stream = accumulate(iter([*simulation.items, Interruption("late")]), Scan(simulation.header), frames="repetition")
    assert isinstance(next(stream), Kspace)


def test_repetitions_leave_when_the_next_one_begins():
    protocol = ScanProtocol(**QUIET, frames=3, frame_counter="repetition")
    simulation = simulate(protocol)
    for item in simulation.items:
        item.clear_all_flags()
    repetitions, _, _ = blocks(simulation, trigger="repetition")
    assert [kspace.central_headers[0].idx.repetition for kspace in repetitions] == [0, 1, 2]


def test_repetitions_without_flags_leave_when_the_next_one_begins():
    simulation = without_flags(
        simulate(ScanProtocol(**QUIET, frames=3, frame_counter="repetition", acceleration=2, acs=0))
    )
    taken, left = [], []
    for item in simulation.items:
        item.idx.phase = 2  # other counters do not matter

    def watched():
        for item in simulation.items:
            taken.append(item)
            yield item

    for kspace in accumulate(watched(), Scan(simulation.header)):
        left.append((kspace.central_headers[0].idx.repetition, len(taken)))
    assert left == [(0, 17), (1, 33), (2, 48)]


def test_with_the_trigger_end_all_blocks_leave_at_the_end():
    simulation = simulate(ScanProtocol(**QUIET, frames=3, frame_counter="repetition"))
    scan = Scan(simulation.header)
    out = list(accumulate(iter([*simulation.items, Interruption("late")]), scan, trigger="end"))
    assert isinstance(out[0], Interruption)
    assert [kspace.central_headers[0].idx.repetition for kspace in out[1:]] == [0, 1, 2]
    assert [kspace.notes for kspace in out[1:]] == [{}, {}, {}]


def test_with_the_trigger_end_a_block_that_is_complete_after_its_flag_waits_as_well():
    simulation = without_flags(simulate(ScanProtocol(**QUIET, averages=2, slices=2)))
    first = [item for item in simulation.items if item.idx.slice == 1]
    first[31].set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    taken = []

    def watched():
        for item in [*first, *(item for item in simulation.items if item.idx.slice == 0)]:
            taken.append(item)
            yield item

    left = [len(taken) for _ in accumulate(watched(), Scan(simulation.header), trigger="end")]
    assert left == [128, 128]


def test_a_few_readouts_that_come_late_are_left_out_and_reported():
    simulation = simulate(ScanProtocol(**QUIET))
    late = [ismrmrd.Acquisition(item.getHead(), item.data) for item in simulation.items[3:6]]
    (kspace,), _, scan = blocks(simulation, [*simulation.items, *late])
    assert kspace.mask.all()
    assert not kspace.notes
    assert any("3 readouts were left out" in text and "had left" in text for text in scan.problem_messages())


def test_a_whole_image_that_comes_late_is_another_one_which_says_so():
    simulation = simulate(ScanProtocol(**QUIET))
    again = [ismrmrd.Acquisition(item.getHead(), item.data) for item in simulation.items]
    (first, second), _, scan = blocks(simulation, [*simulation.items, *again])
    assert second.mask.all()
    assert not first.notes
    assert "reconstructed before" in second.notes["Late"]
    assert "late readouts" in scan.problems


@pytest.mark.parametrize("field", ["slice", "repetition", "contrast", "set"])
def test_a_stray_counter_makes_no_image_of_its_own(field):
    (kspace,), _, scan = blocks(damage(simulate(ScanProtocol(**QUIET)), **{field: 17}))
    assert int(kspace.mask.sum()) == 31
    assert any(f"{field} 17" in message and "were left out" in message for message in scan.problem_messages())


def test_trigger_by_counter_sorts_slices():
    repetitions, _, _ = blocks(simulate(ScanProtocol(**QUIET, slices=3)), trigger="repetition")
    assert [kspace.central_headers[0].idx.slice for kspace in repetitions] == [0, 1, 2]


def partial_lines(simulation, **options):
    out, _ = collect([(accumulate, options)], simulation)
    return [int(item.kspace.mask.sum()) for item in out if isinstance(item, PartialKspace)]


def test_a_partial_block_comes_once_for_so_many_lines_of_the_image():
    simulation = simulate(ScanProtocol(**QUIET, acceleration=2, acs=12))
    only_calibration = [a for a in simulation.items if a.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)]
    simulation.items[3].data[0, 5] = np.nan
    assert len(only_calibration) > 4
    assert partial_lines(simulation, partial=3) == [3, 6, 9, 12]


def test_the_last_line_of_an_average_counts_for_partial_blocks_as_well():
    assert partial_lines(simulate(ScanProtocol(**QUIET, averages=2)), partial=16) == [16, 32, 32]


def test_a_partial_block_is_what_had_come_and_does_not_change_the_whole():
    protocol = ScanProtocol(**QUIET, averages=3)
    out, _ = collect([(accumulate, {"partial": 40})], simulate(protocol))
    first, second, whole = out
    (expected,), _, _ = blocks(simulate(protocol))
    assert (int(first.kspace.mask.sum()), int(second.kspace.mask.sum())) == (32, 32)
    assert torch.equal(whole.data, expected.data)
    for partial in (first, second):
        assert torch.allclose(partial.kspace.data[:, 0], exact(protocol), atol=1e-5)
    (few,) = (item for item in collect([(accumulate, {"partial": 20})], simulate(ScanProtocol(**QUIET)))[0][:1])
    assert torch.count_nonzero(few.kspace.data[:, 0, 0].abs().sum(dim=(0, 2))) == 20
    assert few.kspace.headers["number_of_samples"].astype(bool).sum() == 20


def test_interrupted_scan_gives_what_had_arrived_and_says_so():
    simulation = simulate(ScanProtocol(**QUIET))
    scan = Scan(simulation.header)
    _, kspace = accumulate(iter([*simulation.items[:20], Interruption("lost")]), scan)
    assert int(kspace.mask.sum()) == 20
    assert "12 of 32 lines are missing (20 to 31)" in kspace.notes["Incomplete"]
    assert "incomplete" in scan.problems


@pytest.mark.parametrize("interrupted", [True, False])
@pytest.mark.parametrize("flags", [True, False])
def test_a_line_that_never_came_is_missed_with_flags_and_without(flags, interrupted):
    """Two slices; the last line of the second one is lost, with its flags."""
    simulation = simulate(ScanProtocol(**QUIET, slices=2, acceleration=2, acs=0))
    items = simulation.items[:-1]
    if not flags:
        for item in items:
            item.clear_all_flags()
    (complete, lacking), _, scan = blocks(simulation, [*items, *([Interruption("lost")] if interrupted else [])])
    assert (complete.central_headers[0].idx.slice, lacking.central_headers[0].idx.slice) == (1, 0)
    assert not complete.notes
    assert lacking.notes == {"Incomplete": "the image is incomplete: 1 of 16 lines are missing (30)"}
    assert scan.problem_messages() == [lacking.notes["Incomplete"]]


def lines_of(frames, simulation):
    """Of a fully sampled series, these lines of each frame, and eight in the middle."""
    return [
        item
        for item in simulation.items
        if 12 <= item.idx.kspace_encode_step_1 < 20 or item.idx.kspace_encode_step_1 in frames[item.idx.phase]
    ]


@pytest.mark.parametrize(
    ("frames", "missing"),
    [
        # the lines of the last one lie by chance as those of every fourth
        ([(1, 6, 9, 22), (3, 10, 25, 30), (2, 5, 24, 31), (2, 6, 22, 26)], ""),
        # a line elsewhere in one of many frames makes no irregular scan
        ([(2, 7, 22, 26, 30), *[(2, 6, 10, 22, 26, 30)] * 4, (2, 6, 10, 22, 30)], "1 of 14 lines are missing (26)"),
        ([(0, 4, 8, 20, 24, 28), (1, 5, 9, 21, 25, 29), (2, 6, 22, 26, 30)], "1 of 14 lines are missing (10)"),
    ],
)
def test_frames_that_were_undersampled_at_random_lack_no_lines_of_a_regular_pattern(frames, missing):
    simulation = simulate(ScanProtocol(**QUIET, frames=len(frames), frame_counter="phase"))
    simulation.header = simulation.header.replace(
        "</encoding>",
        "<parallelImaging><accelerationFactor><kspace_encoding_step_1>4</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor></parallelImaging></encoding>",
    )
    (kspace,), _, _ = blocks(simulation, lines_of(frames, simulation), frames="phase")
    assert missing in kspace.notes.get("Incomplete", "")
    assert ("Incomplete" in kspace.notes) == bool(missing)


def test_a_block_that_is_complete_when_the_stream_is_interrupted_is_not_called_incomplete():
    simulation = simulate(ScanProtocol(**QUIET, slices=2, acceleration=2, acs=0))
    left, _, scan = blocks(simulation, [*simulation.items[:17], Interruption("lost")], trigger="end")
    assert left[0].notes == {"Incomplete": "the image is incomplete: only 1 line came, of at least 14"}
    assert not left[1].notes
    assert "only 1 line came" in scan.problems["incomplete"]


def test_what_a_counter_hands_on_is_not_called_incomplete():
    left, _, scan = blocks(simulate(ScanProtocol(**QUIET, averages=2)), trigger="average")
    assert [kspace.notes for kspace in left] == [{}, {}]
    assert [int(kspace.mask.sum()) for kspace in left] == [32, 32]
    assert "incomplete" not in scan.problems


def test_the_reference_is_the_line_closest_to_the_middle():
    protocol = ScanProtocol(**QUIET, partial_fourier=0.75)
    (kspace,), _, _ = blocks(simulate(protocol))
    assert kspace.central_headers[0].idx.kspace_encode_step_1 == 16 - protocol.first_line


def test_a_bucket_gives_the_same_block_as_its_readouts():
    simulation = simulate(ScanProtocol(**QUIET, acceleration=2, acs=8))
    both = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING
    only = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION
    reference = [a for a in simulation.items if a.is_flag_set(both) or a.is_flag_set(only)]
    data = [a for a in simulation.items if not a.is_flag_set(only)]
    (expected,), _, _ = blocks(simulation)
    (kspace,), _, _ = blocks(simulation, [AcquisitionBucket(data, reference)])
    assert torch.equal(kspace.data, expected.data)
    assert torch.equal(kspace.calibration, expected.calibration)


def test_lines_that_are_in_both_lists_of_a_bucket_count_once():
    simulation = simulate(ScanProtocol(**QUIET, acceleration=2, acs=8))
    both = [a for a in simulation.items if a.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)]
    copies = [ismrmrd.Acquisition(a.getHead(), 3 * a.data) for a in both]
    (expected,), _, _ = blocks(simulation)
    (kspace,), _, _ = blocks(simulation, [AcquisitionBucket(simulation.items, copies)])
    assert len(both) == 4
    assert torch.equal(kspace.data, expected.data)


def test_a_bucket_is_handed_on_at_once():
    simulation = without_flags(simulate(ScanProtocol(**QUIET, slices=2, acceleration=2, acs=0)))
    waveform = ismrmrd.Waveform.from_array(np.ones((1, 2), np.uint32))
    buckets = [
        AcquisitionBucket([a for a in simulation.items if a.idx.slice == n], waveforms=[waveform]) for n in (1, 0)
    ]
    out, _ = collect([(accumulate, {})], simulation, buckets)
    assert out[0] is out[2] is waveform
    assert [kspace.central_headers[0].idx.slice for kspace in out[1::2]] == [1, 0]
