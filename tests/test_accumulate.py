"""Where readouts land, and what is kept out of the image."""

import itertools

import ismrmrd
import numpy as np
import pytest
import torch
from helpers import collect, frame_kspace
from isocenter.gadgets import load
from isocenter.gadgets.kspace import Kspace
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.items import Interruption

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


def damage(simulation, **fields):
    """Change one readout in the middle."""
    item = simulation.items[10]
    for name, value in fields.items():
        target = item.idx if hasattr(item.idx, name) else item
        setattr(target, name, value)
    return simulation


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
