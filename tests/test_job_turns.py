"""Scans share devices by time."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from isocenter.engine.events import DeviceLost, Job, Overran
from test_job_rules import Machine, b

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=12)
SCANS = st.dictionaries(st.sampled_from("vwxyz"), LENGTHS, min_size=1)


def work_off(machine, seconds, submit=lambda done: None):
    """Let jobs run one after the other, as long as each takes; return the scans and lengths of the runs."""
    done = []
    while machine.state.devices["one"].jobs:
        job = machine.state.devices["one"].jobs[0]
        done.append((job.scan, seconds[job.id]))
        submit(done)
        machine.finish(seconds=seconds[job.id])
    return done


@given(SCANS)
def test_scans_that_all_have_something_to_do_have_had_the_same_but_for_one_job(scans):
    jobs = [(scan, length) for scan, lengths in scans.items() for length in lengths]
    machine = Machine().submit(*(b(number, scan) for number, (scan, _) in enumerate(jobs)))
    left = {scan: len(lengths) for scan, lengths in scans.items()}
    had = defaultdict(int)
    for scan, length in work_off(machine, [length for _, length in jobs]):
        had[scan] += length
        left[scan] -= 1
        present = [other for other in scans if left[other]]
        for one in present:
            assert all(abs(had[one] - had[other]) <= max(*scans[one], *scans[other]) for other in present)
    assert not any(left.values())


@given(LENGTHS, LENGTHS, st.integers(1, 12))
def test_a_scan_that_comes_later_shares_from_then_on_and_gets_nothing_for_the_time_before(first, second, after):
    lengths = [*first, *second]
    machine = Machine().submit(*(b(number, "x") for number in range(len(first))))
    submitted = []

    def submit(done):
        if len(done) == after:
            machine.submit(*(b(len(first) + number, "y") for number in range(len(second))))
            submitted.append(len(done))

    runs = work_off(machine, lengths, submit)
    if not submitted:
        return
    had = defaultdict(int)
    rest = runs[after:]
    for place, (scan, length) in enumerate(rest):
        had[scan] += length
        if {other for other, _ in rest[place + 1 :]} == {"x", "y"}:
            assert abs(had["x"] - had["y"]) <= 2 * max(lengths)


def test_a_scan_of_large_jobs_does_not_starve_one_of_small_ones():
    seconds = {**dict.fromkeys(range(3), 100.0), **dict.fromkeys(range(3, 13), 1.0)}
    machine = Machine().submit(*(b(number, "volume") for number in range(3)))
    machine.submit(*(b(number, "slices") for number in range(3, 13)))
    assert [scan for scan, _ in work_off(machine, seconds)] == ["volume", *["slices"] * 10, *["volume"] * 2]


def test_on_several_devices_a_scan_that_comes_gets_the_next_one():
    machine = Machine("one", "two").submit(*(b(number, "x") for number in range(4))).submit(b(4, "y"), b(5, "y"))
    machine.finish("one", 1.0)
    assert [device.jobs[0].id for device in machine.state.devices.values()] == [4, 1]
    machine.finish("one", 1.0)
    assert machine.state.devices["one"].jobs[0].id == 5


def test_those_that_share_a_batch_pay_for_their_part():
    machine = Machine(batch=4).submit(b(0, "z"), b(1, "x", entries=3, likeness="l"), b(2, "y", likeness="l"), b(3, "z"))
    machine.finish(seconds=0.0)
    machine.submit(b(4, "x"), b(5, "y"))
    machine.finish(seconds=8.0)
    assert machine.state.turns.had == {"x": 6.0, "y": 2.0, "z": 0.0}


def test_what_hung_is_paid_for_and_what_was_lost_is_not():
    machine = Machine("one", "two").submit(b(0, "x"), b(1, "y"), Job(2, "c", "x"), Job(3, "c", "y"))
    machine.tell(Overran("one", machine.state.devices["one"].run, "hangs", 60.0))
    machine.tell(DeviceLost("two", machine.state.devices["two"].run))
    assert machine.state.turns.had == {"x": 60.0, "y": 0.0}


def test_accounts_are_forgotten_when_they_make_no_difference():
    machine = Machine().submit(b(0, "x"), b(1, "y"), b(2, "y"))
    machine.finish(seconds=5.0)
    assert machine.state.turns.had == {"x": 5.0, "y": 0.0}
    machine.finish(seconds=6.0)
    assert machine.state.turns.had == {"y": 6.0}
    assert machine.submit(b(3, "x")).state.turns.had == {"y": 6.0, "x": 6.0}
    machine.finish().finish()
    assert machine.state.turns.had == {}


class TestReasonsToWait:
    def test_scans_before_one_are_counted_once_each(self):
        machine = Machine().submit(b(0, "x"), b(1, "x"), b(2, "y"), b(3, "z"), b(4, "z"), b(5, "mine"))
        assert machine.state.reason_to_wait(5) == "3 scans before this one"
        machine.finish(seconds=1.0)
        machine.finish(seconds=1.0)
        assert machine.state.reason_to_wait(5) == "1 scan before this one"
        assert machine.state.reason_to_wait(1) == "2 scans before this one"
        machine.finish(seconds=1.0)
        assert machine.state.reason_to_wait(5) == ""

    def test_a_scan_does_not_wait_for_itself(self):
        assert Machine().submit(b(0), b(1)).state.reason_to_wait(1) == ""

    def test_a_bundle_that_is_being_loaded_is_named(self):
        assert Machine().submit(b(0), Job(1, "c")).state.reason_to_wait(1) == "bundle 'c' is being loaded"
