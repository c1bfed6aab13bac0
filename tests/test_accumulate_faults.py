"""Readouts that are wrong cost themselves only, and what they were is said."""

import ismrmrd
import numpy as np
import pytest
import torch
from isocenter.flow.ledger import Ledger
from isocenter.gadgets.early import EarlyWork
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.scan import Scan
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.items import AcquisitionBucket, Interruption
from test_accumulate import QUIET, accumulate, blocks, damage, exact


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
