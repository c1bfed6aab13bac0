"""Where readouts land, when blocks leave, and what is kept out of the image."""

import itertools

import ismrmrd
import numpy as np
import pytest
import torch
from helpers import collect, frame_kspace
from isocenter.flow.ledger import Ledger
from isocenter.gadgets import load
from isocenter.gadgets.early import EarlyWork
from isocenter.gadgets.kspace import Kspace, PartialKspace
from isocenter.gadgets.scan import Scan
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.items import AcquisitionBucket, Interruption

QUIET = {"matrix": 32, "coils": 3, "noise": 0.0, "noise_scan": False}
accumulate = load("accumulate")


def blocks(simulation, items=None, **options):
    out, scan = collect([(accumulate, options)], simulation, items)
    return (
        [item for item in out if isinstance(item, Kspace)],
        [item for item in out if not isinstance(item, Kspace)],
        scan,
    )


def exact(protocol, frame=0, slice_index=0):
    return torch.from_numpy(frame_kspace(protocol, frame)[slice_index])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"matrix": 33, "oversampling": 1},
        {"partitions": 6, "matrix": 16},
        {"reverse_every_second": True},
        {"averages": 3},
        {"phase_oversampling": 1.5},
    ],
    ids=str,
)
def test_a_complete_scan_fills_kspace_exactly(change):
    protocol = ScanProtocol(**{**QUIET, **change})
    (kspace,), others, _ = blocks(simulate(protocol))
    assert kspace.mask.all()
    assert not others
    assert torch.allclose(kspace.data[:, 0], exact(protocol), atol=1e-6 * float(kspace.data.abs().max()))


@pytest.mark.parametrize(
    "change",
    [
        {"partial_fourier": 0.625},
        {"phase_resolution": 0.7},
        {"acceleration": 3, "acs": 10},
        {"acceleration": 4, "acs": 8, "sampling": "variable-density"},
        {"acceleration": 2, "acs": 8, "partial_fourier": 0.75},
        {"acceleration": 2, "acs": 8, "averages": 2},
    ],
    ids=str,
)
def test_lines_land_where_they_were_measured_and_nowhere_else(change):
    protocol = ScanProtocol(**{**QUIET, **change})
    (kspace,), _, _ = blocks(simulate(protocol))
    expected = protocol.imaging_lines(0) | protocol.calibration_lines()
    assert kspace.mask[0, 0].tolist() == expected.tolist()
    wanted = exact(protocol) * torch.from_numpy(expected)[:, None]
    assert torch.allclose(kspace.data[:, 0], wanted, atol=1e-5)
    assert (kspace.headers["number_of_samples"][0, 0] == 64).tolist() == expected.tolist()


def test_lines_are_placed_by_the_center_of_the_limits():
    """Lines numbered from 4 on, as the header says; two more lie before the first row of the matrix."""
    simulation = simulate(ScanProtocol(**QUIET))
    limits = "<kspace_encoding_step_1><minimum>{}</minimum><maximum>{}</maximum><center>{}</center>"
    shifted = simulation.header.replace(limits.format(0, 31, 16), limits.format(4, 35, 20))
    assert shifted != simulation.header
    simulation.header = shifted
    for item in simulation.items:
        item.clear_all_flags()
        item.idx.kspace_encode_step_1 += 4
    before = [ismrmrd.Acquisition(item.getHead(), 10 * item.data) for item in simulation.items[:2]]
    for line, item in enumerate(before):
        item.idx.kspace_encode_step_1 = line
    (kspace,), (lost,), scan = blocks(simulation, [*before, *simulation.items, Interruption("late")])
    assert isinstance(lost, Interruption)
    assert torch.allclose(kspace.data[:, 0], exact(ScanProtocol(**QUIET)), atol=1e-5)
    assert "kspace_encode_step_1 0, kspace_encode_step_2 0 is outside the lines 4 to 35" in scan.problem_messages()[0]
    assert not kspace.notes  # it has left at its last line, before the interruption


def test_limits_without_extent_say_nothing():
    simulation = simulate(ScanProtocol(**QUIET))
    simulation.header = simulation.header.replace(
        "<maximum>31</maximum><center>16</center>", "<maximum>0</maximum><center>16</center>"
    )
    (kspace,), _, scan = blocks(simulation)
    assert kspace.mask.all()
    assert not scan.problems


@pytest.mark.parametrize("echo", [0.75, 0.5])
def test_an_asymmetric_echo_is_placed_by_its_center_sample(echo):
    """With half of the samples, as many are left as when the oversampling was removed."""
    protocol = ScanProtocol(**QUIET, asymmetric_echo=echo)
    (kspace,), _, _ = blocks(simulate(protocol))
    first = round(64 * (1 - echo))
    assert kspace.data.shape[-1] == 64
    assert (kspace.data[..., :first] == 0).all()
    assert torch.allclose(kspace.data[:, 0, :, :, first:], exact(protocol)[..., first:], atol=1e-5)


def test_readouts_that_are_cut_off_on_both_sides_have_a_lower_resolution_which_is_said():
    simulation = simulate(ScanProtocol(**QUIET))
    short = []
    for item in simulation.items:
        head = item.getHead()
        head.number_of_samples, head.center_sample = 40, 20
        short.append(ismrmrd.Acquisition(head, item.data[:, 12:52].copy()))
    (kspace,), _, scan = blocks(simulation, short)
    assert torch.allclose(kspace.data[:, 0, :, :, 12:52], exact(ScanProtocol(**QUIET))[..., 12:52], atol=1e-5)
    assert "40 samples around the middle of k-space where the header has 64" in kspace.notes["Resolution"]
    assert scan.problem_messages() == [kspace.notes["Resolution"]]


def test_a_reversed_asymmetric_echo_is_placed_likewise():
    protocol = ScanProtocol(**QUIET, asymmetric_echo=0.75, reverse_every_second=True)
    (kspace,), _, _ = blocks(simulate(protocol))
    assert torch.allclose(kspace.data[:, 0, :, :, 16:], exact(protocol)[..., 16:], atol=1e-5)


def test_samples_that_reach_beyond_either_edge_cost_their_readout_only():
    simulation = simulate(ScanProtocol(**QUIET))
    for item in simulation.items:
        item.data[:, 40:] = 0
        item.resize(40, 3)
        item.center_sample = 20
    for index, center in ((10, 39), (11, 5)):
        simulation.items[index].center_sample = center
    (kspace,), _, scan = blocks(simulation)
    assert int(kspace.mask.sum()) == 30
    assert (
        "40 samples with center_sample 39 do not fit the encoded readout of 64 (2 times)" in scan.problem_messages()[0]
    )


def test_discarded_samples_of_reversed_readouts_are_left_out():
    protocol = ScanProtocol(**QUIET, reverse_every_second=True)
    simulation = simulate(protocol)
    for item in simulation.items:
        item.discard_pre, item.discard_post = (5, 3) if item.is_flag_set(ismrmrd.ACQ_IS_REVERSE) else (3, 5)
        item.data[:, : item.discard_pre] = item.data[:, 64 - item.discard_post :] = 1e3
    (kspace,), _, _ = blocks(simulation)
    assert torch.allclose(kspace.data[:, 0, :, :, 3:-5], exact(protocol)[..., 3:-5], atol=1e-5)
    assert torch.count_nonzero(kspace.data[..., :3]) == torch.count_nonzero(kspace.data[..., -5:]) == 0


def test_discarded_samples_are_left_out():
    simulation = simulate(ScanProtocol(**QUIET))
    for item in simulation.items:
        item.discard_pre, item.discard_post = 3, 5
    (kspace,), _, _ = blocks(simulation)
    assert (kspace.data[..., :3] == 0).all()
    assert (kspace.data[..., -5:] == 0).all()
    assert torch.allclose(kspace.data[:, 0, :, :, 3:-5], exact(ScanProtocol(**QUIET))[..., 3:-5], atol=1e-5)


@pytest.mark.parametrize("mode", ["embedded", "separate", "external"])
def test_calibration_lines_are_kept_beside_the_image(mode):
    protocol = ScanProtocol(**QUIET, acceleration=4, acs=8, calibration=mode)
    (kspace,), _, _ = blocks(simulate(protocol))
    acs = protocol.calibration_lines()
    imaging = protocol.imaging_lines(0)
    assert torch.allclose(kspace.calibration[:, 0, acs], exact(protocol)[:, 0, acs], atol=1e-5)
    assert (kspace.calibration[:, 0, ~acs] == 0).all()
    assert kspace.mask[0, 0].tolist() == (imaging | acs if mode == "embedded" else imaging).tolist()


@pytest.mark.parametrize("averages", [1, 2])
def test_the_end_of_a_separate_calibration_scan_is_not_the_end_of_the_image(averages):
    protocol = ScanProtocol(**QUIET, acceleration=2, acs=8, calibration="separate", averages=averages)
    simulation = simulate(protocol)
    calibration = [a for a in simulation.items if a.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)]
    calibration[-1].set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    (kspace,), _, scan = blocks(simulation)
    assert kspace.mask[0, 0].tolist() == protocol.imaging_lines(0).tolist()
    assert not scan.problems


def test_an_embedded_calibration_line_may_be_the_last_one_of_the_image():
    simulation = simulate(ScanProtocol(**QUIET, acceleration=2, acs=8))
    only = next(item for item in simulation.items if item.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION))
    items = [item for item in simulation.items if item is not only]
    items[-1].clear_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    items[-1].clear_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
    only.set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    out, scan = collect([(accumulate, {})], simulation, [*items, only, Interruption("late")])
    assert isinstance(out[0], Kspace)
    assert not scan.problems


def split(items, count):
    return items[:-count], items[-count:]


def test_calibration_lines_of_a_blocks_own_counters_come_before_later_ones():
    """Phases whose readouts are mixed: two blocks leave when the third one's calibration lines are the last ones."""
    protocol = ScanProtocol(**{**QUIET, "phantom": "heart"}, frames=3, acceleration=2, acs=8)
    simulation = simulate(protocol)
    begins, ends = zip(
        *(split([item for item in simulation.items if item.idx.phase == phase], 2) for phase in range(3)), strict=True
    )
    left, _, _ = blocks(simulation, [*itertools.chain(*begins), *ends[1], *ends[0], *ends[2]])
    acs = protocol.calibration_lines()
    assert not torch.allclose(exact(protocol, 0)[:, 0, acs], exact(protocol, 1)[:, 0, acs], atol=1e-3)
    for phase, kspace in zip((1, 0, 2), left, strict=True):
        assert kspace.central_headers[0].idx.phase == phase
        assert torch.allclose(kspace.calibration[:, 0, acs], exact(protocol, phase)[:, 0, acs], atol=1e-5)
        assert torch.allclose(kspace.data[:, 0, 0, acs], exact(protocol, phase)[:, 0, acs], atol=1e-5)


def test_a_block_without_calibration_lines_gets_the_last_ones_of_its_slice():
    protocol = ScanProtocol(
        **{**QUIET, "phantom": "heart"}, frames=3, slices=2, acceleration=2, acs=8, calibration="separate"
    )
    simulation = simulate(protocol)
    later = simulate(protocol)
    lines = [item for item in later.items if item.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)]
    for line in lines:
        line.data[:] *= 2
        line.idx.phase = 1
    middle = next(index for index, item in enumerate(simulation.items) if item.idx.phase == 2)
    left, _, _ = blocks(simulation, [*simulation.items[:middle], *lines, *simulation.items[middle:]])
    acs = protocol.calibration_lines()
    assert len(left) == 6
    for kspace in left:
        header = kspace.central_headers[0].idx
        expected = exact(protocol, 0, header.slice)[:, 0, acs] * (2 if header.phase == 2 else 1)
        assert torch.allclose(kspace.calibration[:, 0, acs], expected, atol=1e-5)


def test_embedded_calibration_lines_can_be_kept_out_of_the_image():
    protocol = ScanProtocol(**QUIET, acceleration=4, acs=8)
    (kspace,), _, _ = blocks(simulate(protocol), fill_calibration=False)
    assert kspace.mask[0, 0].tolist() == protocol.imaging_lines(0).tolist()


def test_noise_navigators_feedback_dummies_and_waveforms_pass_by():
    protocol = ScanProtocol(**{**QUIET, "matrix": 96, "noise_scan": True}, extra_readouts=True, waveforms=True)
    simulation = simulate(protocol)
    (kspace,), others, _ = blocks(simulation)
    assert kspace.mask.all()
    assert torch.allclose(kspace.data[:, 0], exact(protocol), atol=1e-5)
    assert len(others) == len(simulation.items) - 96
    assert sum(isinstance(item, ismrmrd.Waveform) for item in others) == 3


@pytest.mark.parametrize("flag", [30, 31])
def test_phase_stabilisation_passes_by(flag):
    simulation = simulate(ScanProtocol(**QUIET))
    extra = ismrmrd.Acquisition(simulation.items[3].getHead(), np.full((3, 64), 1e3, np.complex64))
    extra.set_flag(flag)
    (kspace,), others, _ = blocks(simulation, [extra, *simulation.items])
    assert others == [extra]
    assert torch.allclose(kspace.data[:, 0], exact(ScanProtocol(**QUIET)), atol=1e-5)


def test_slices_leave_one_by_one_as_soon_as_they_are_complete():
    simulation = simulate(ScanProtocol(**QUIET, slices=3))
    left = []

    def watched():
        for item in simulation.items:
            yield item
            if item.is_flag_set(ismrmrd.ACQ_LAST_IN_SLICE):
                assert left, "a slice that is complete must leave before the next readout is asked for"

    from isocenter.gadgets.scan import Scan

    for kspace in accumulate(watched(), Scan(simulation.header)):
        left.append(kspace.central_headers[0].idx.slice)
    assert left == [1, 0, 2]


def test_a_complete_slice_without_flags_leaves_at_its_last_line():
    simulation = simulate(ScanProtocol(**QUIET))
    for item in simulation.items:
        item.clear_all_flags()
    stream = accumulate(
        iter(simulation.items), __import__("isocenter.gadgets.scan", fromlist=["Scan"]).Scan(simulation.header)
    )
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
    from isocenter.gadgets.scan import Scan

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


def damage(simulation, **fields):
    """Change one readout in the middle."""
    item = simulation.items[10]
    for name, value in fields.items():
        target = item.idx if hasattr(item.idx, name) else item
        setattr(target, name, value)
    return simulation


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"kspace_encode_step_1": 32}, "kspace_encode_step_1 32, kspace_encode_step_2 0 is outside the lines 0 to 31"),
        (
            {"kspace_encode_step_2": 1},
            "kspace_encode_step_1 10, kspace_encode_step_2 1 is outside the lines 0 to 31 and 0 to 0",
        ),
        ({"encoding_space_ref": 3}, "encoding_space_ref 3 is not in the header"),
    ],
)
def test_a_counter_outside_the_limits_costs_its_readout_only(fields, complaint):
    (kspace,), _, scan = blocks(damage(simulate(ScanProtocol(**QUIET)), **fields))
    assert int(kspace.mask.sum()) == 31
    assert any(complaint in message for message in scan.problem_messages())


def test_a_counter_of_frames_outside_the_limits_costs_its_readout_only():
    simulation = damage(simulate(ScanProtocol(**QUIET, frames=2)), phase=2)
    (kspace,), _, scan = blocks(simulation, frames="phase")
    assert kspace.mask.sum(dim=(1, 2)).tolist() == [31, 32]
    assert "readouts of phase 2 are too few for an image" in scan.problems["counter"]


def test_readouts_off_the_cartesian_grid_are_refused():
    simulation = simulate(ScanProtocol(**QUIET))
    simulation.header = simulation.header.replace(">cartesian<", ">radial<")
    found, _, scan = blocks(simulation)
    assert not found
    assert "trajectory 'radial' is not accepted, only 'cartesian'" in scan.problems["trajectory"]


def test_calibration_lines_do_not_replace_lines_of_the_image():
    protocol = ScanProtocol(**QUIET, acceleration=2, acs=8)
    simulation = simulate(protocol)
    both = [a for a in simulation.items if a.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)]
    copies = [ismrmrd.Acquisition(a.getHead(), 3 * a.data) for a in both]
    for copy in copies:
        copy.clear_all_flags()
        copy.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
    (kspace,), _, _ = blocks(simulation, [*copies, *simulation.items])
    (expected,), _, _ = blocks(simulate(protocol))
    assert torch.equal(kspace.data, expected.data)
    rows = [a.idx.kspace_encode_step_1 for a in both]
    assert torch.allclose(kspace.calibration[:, 0, rows], 2 * expected.data[:, 0, 0, rows], atol=1e-5)


def test_calibration_lines_of_other_channels_do_not_fill_the_image():
    protocol = ScanProtocol(**QUIET, acceleration=2, acs=8)
    simulation = simulate(protocol)
    for item in simulation.items:
        if item.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING):
            item.clear_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
        if item.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION):
            item.resize(64, 2)
    (kspace,), _, _ = blocks(simulation)
    assert kspace.mask[0, 0].tolist() == protocol.imaging_lines(0).tolist()


def test_wrong_channels_cost_their_readout_only():
    simulation = simulate(ScanProtocol(**QUIET))
    simulation.items[10] = ismrmrd.Acquisition(simulation.items[10].getHead(), np.zeros((3, 64), np.complex64))
    simulation.items[10].resize(64, 2)
    simulation.items[11].resize(100, 3)
    (kspace,), _, scan = blocks(simulation)
    assert int(kspace.mask.sum()) == 30
    messages = " ".join(scan.problem_messages())
    assert "2 channels where most readouts have 3" in messages
    assert "100 samples where most readouts have 64" in messages


@pytest.mark.parametrize("early", [False, True])
def test_calibration_lines_that_are_not_finite_do_not_fill_the_image(early):
    simulation = simulate(ScanProtocol(matrix=32, coils=3, noise_scan=False, acceleration=2, acs=8))
    only_calibration = [item for item in simulation.items if item.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)]
    only_calibration[0].data[0, 5] = np.nan
    line = only_calibration[0].idx.kspace_encode_step_1
    scan = Scan(simulation.header)
    work = EarlyWork(crop=True) if early else None
    (kspace,) = [item for item in accumulate(iter(simulation.items), scan, early=work) if isinstance(item, Kspace)]
    assert int(kspace.mask.sum()) == 16 + len(only_calibration) - 1
    assert not kspace.mask[0, 0, line]
    assert torch.count_nonzero(kspace.data[..., line, :]) == 0
    assert torch.isfinite(torch.view_as_real(kspace.calibration)).all()


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_lines_that_are_not_finite_are_left_out(value, early):
    simulation = simulate(ScanProtocol(**QUIET))
    simulation.items[7].data[1, 3] = value
    scan = Scan(simulation.header)
    work = EarlyWork(crop=True) if early else None
    (kspace,) = [item for item in accumulate(iter(simulation.items), scan, early=work) if isinstance(item, Kspace)]
    assert torch.isfinite(torch.view_as_real(kspace.data)).all()
    assert int(kspace.mask.sum()) == 31
    assert "holds NaN or infinite samples and was left out" in scan.problems["not finite"]


def test_the_flags_of_a_readout_that_is_not_finite_count():
    simulation = simulate(ScanProtocol(**QUIET, slices=2))
    simulation.items[31].data[:] = np.nan
    left, _, scan = blocks(simulation, simulation.items[:32])
    assert [int(kspace.mask.sum()) for kspace in left] == [31]
    assert "1 of 32 lines are missing (31)" in left[0].notes["Incomplete"]
    stream = accumulate(iter([*simulation.items[:32], Interruption("late")]), Scan(simulation.header))
    assert isinstance(next(stream), Kspace)
    absent = "readouts of only 1 images came; the header announces 2 (2 slices)"
    assert set(scan.problems) == {"not finite", "incomplete", absent}


def test_an_absurd_matrix_is_refused_before_memory_is_taken():
    simulation = simulate(ScanProtocol(**QUIET))
    simulation.header = simulation.header.replace("<x>64</x><y>32</y>", "<x>65000</x><y>65000</y>", 1)
    found, _, scan = blocks(simulation)
    assert not found
    assert any("exceeds the limit" in message for message in scan.problem_messages())


def test_a_block_that_was_refused_for_memory_does_not_begin_later_with_half_of_its_lines():
    simulation = simulate(ScanProtocol(**QUIET))
    ledger = Ledger(keeps=2 * 32 * 3 * 64 * 8)
    other = ledger.account("other")
    other.keep(ledger.keeps)

    def readouts():
        yield from simulation.items[:20]
        other.close()
        yield from simulation.items[20:]

    scan = Scan(simulation.header, ledger=ledger)
    assert not [item for item in accumulate(readouts(), scan) if isinstance(item, Kspace)]
    (message,) = scan.problem_messages()
    assert "there is no memory for a block" in message
    assert message.endswith("(32 times)")


def test_slices_that_are_numbered_as_partitions_as_well_are_slices():
    simulation = simulate(ScanProtocol(**QUIET, slices=3))
    for item in simulation.items:
        item.idx.kspace_encode_step_2 = item.idx.slice
    left, _, scan = blocks(simulation)
    assert [kspace.data.shape[2] for kspace in left] == [1, 1, 1]
    assert all(kspace.mask.all() for kspace in left)
    assert not scan.problems


@pytest.mark.parametrize(("first", "last"), [(0, 28), (3, 31), (1, 30)])
def test_lines_that_go_on_where_the_limits_end_are_lines(first, last):
    simulation = simulate(ScanProtocol(**QUIET))
    simulation.header = simulation.header.replace(
        "<minimum>0</minimum><maximum>31</maximum>", f"<minimum>{first}</minimum><maximum>{last}</maximum>"
    )
    (kspace,), _, _ = blocks(simulation)
    assert kspace.mask.all()
    assert torch.allclose(kspace.data[:, 0], exact(ScanProtocol(**QUIET)), atol=1e-5)


def test_signal_far_from_the_stated_middle_is_told_from_the_first_image_on():
    simulation = simulate(ScanProtocol(**{**QUIET, "matrix": 48}, partial_fourier=0.7))
    simulation.header = simulation.header.replace("<center>10</center>", "<center>24</center>")
    for item in simulation.items:
        item.idx.user[5] = 0
    (kspace,), _, scan = blocks(simulation)
    assert "most of the signal lies around line 10 along ky, not around 24" in kspace.notes["Middle"]
    assert scan.problem_messages() == [kspace.notes["Middle"]]


def test_the_whole_reference_of_a_slice_may_be_unusable():
    protocol = ScanProtocol(**QUIET, acceleration=2, acs=8, calibration="separate", slices=2)
    simulation = simulate(protocol)
    for item in simulation.items:
        if item.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION) and item.idx.slice == 1:
            item.data[0, 5] = np.nan
    left, _, _ = blocks(simulation)
    notes = {kspace.central_headers[0].idx.slice: kspace.notes for kspace in left}
    assert not notes[0]
    assert "those of slice 0 are used" in notes[1]["Calibration"]


def test_a_readout_too_large_to_be_squared_costs_only_itself():
    simulation = simulate(ScanProtocol(**QUIET))
    simulation.items[7].data[1, 3] = 1e30
    (kspace,), _, scan = blocks(simulation)
    assert int(kspace.mask.sum()) == 31
    assert "too large to be squared" in scan.problems["not finite"]


def test_calibration_lines_with_both_flags_reach_the_image_out_of_a_bucket():
    simulation = simulate(ScanProtocol(**QUIET))
    for item in simulation.items[10:20]:
        item.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
        item.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
    # Gadgetron keeps lines that are flagged as calibration out of the image's list, whatever else they are flagged as
    apart = AcquisitionBucket([*simulation.items[:10], *simulation.items[20:]], simulation.items[10:20])
    (kspace,), _, _ = blocks(simulation, [apart])
    assert kspace.mask.all()


def test_a_position_that_one_readout_lacks_is_that_of_the_others():
    simulation = simulate(ScanProtocol(**QUIET))
    for item in simulation.items:
        item.position[:] = (10, 20, 30)
    simulation.items[16].position[:] = (0, 0, 0)
    (kspace,), _, _ = blocks(simulation)
    assert tuple(kspace.central_headers[0].position) == (10, 20, 30)
