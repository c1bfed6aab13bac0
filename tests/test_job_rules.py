"""Each rule of the job machine by itself."""

import pytest
from isocenter.engine.events import (
    Answer,
    Cancel,
    Cancelled,
    Closed,
    DeviceBack,
    DeviceGone,
    DeviceLost,
    Expired,
    Finished,
    Job,
    Load,
    Loaded,
    LoadFailed,
    Overdue,
    Overran,
    Pardoned,
    Probation,
    Refuse,
    Replace,
    Reset,
    Resume,
    Revive,
    Run,
    Slow,
    Submitted,
    Suspend,
)
from isocenter.engine.machine import start, step
from isocenter.engine.phases import DevicePhase


class Machine:
    """A state, and what was to be done since the test last asked."""

    def __init__(self, *devices, ready=("b",), batch=1):
        self.state = start(devices or ["one"])
        self.effects = []
        for device in devices or ["one"]:
            for bundle in ready:
                self.load(bundle, device, batch)
        self.effects.clear()

    def load(self, bundle, device, batch=1):
        """Let a bundle be loaded by an errand."""
        self.tell(Submitted(Job(-1, bundle, device=device)), Loaded(device, bundle, batch))
        self.tell(Finished(device, self.state.devices[device].run, ["loaded"]))

    def tell(self, *events):
        for event in events:
            self.state, effects = step(self.state, event)
            self.effects += effects
        return self

    def submit(self, *jobs):
        return self.tell(*(Submitted(job) for job in jobs))

    def said(self):
        effects, self.effects = self.effects, []
        return effects

    def finish(self, device="one", seconds=0.0):
        running = self.state.devices[device]
        return self.tell(Finished(device, running.run, [f"result {job.id}" for job in running.jobs], seconds))

    def overrun(self, device="one", reason="hangs", **how):
        """Let the run of a device go on for too long; return its number."""
        run = self.state.devices[device].run
        self.tell(Overran(device, run, reason, **how))
        return run

    def work_off(self, device="one"):
        """Let everything be done that can be; return the jobs of each run."""
        runs = [effect.jobs for effect in self.said() if type(effect) is Run]
        while self.state.devices[device].phase is DevicePhase.RUNNING:
            self.finish(device)
            runs += [effect.jobs for effect in self.said() if type(effect) is Run]
        return runs


def b(number, scan="s", **options):
    return Job(number, "b", scan, **options)


class TestOrder:
    def test_scans_take_turns(self):
        machine = Machine().submit(b(0), b(1, "x"), b(2, "x"), b(3, "x"), b(4, "y"), b(5, "y"))
        assert machine.work_off() == [(0,), (1,), (4,), (2,), (5,), (3,)]

    def test_urgent_jobs_go_before_the_others_of_their_scan(self):
        machine = Machine().submit(b(0), b(1, "x"), b(2, "y"), b(3, "x", urgent=True), b(4, "x", urgent=True))
        assert machine.work_off() == [(0,), (3,), (2,), (4,), (1,)]

    def test_jobs_that_are_put_back_keep_their_order_and_go_before_all_others(self):
        machine = Machine("one", "two", batch=3)
        machine.submit(*(b(number, likeness="l", device="one") for number in range(4)))
        machine.finish()
        assert [job.id for job in machine.state.devices["one"].jobs] == [1, 2, 3]
        machine.submit(b(5, "z", urgent=True, device="one"), b(6, "y", device="one"))
        machine.said()
        machine.tell(DeviceLost("one", machine.state.devices["one"].run))
        assert machine.said() == [Revive("one")]
        assert [job.id for job in machine.state.waiting] == [1, 2, 3, 5, 6]

    def test_what_a_lost_device_ran_is_done_by_another_one(self):
        machine = Machine("one", "two").submit(b(1, device="two"), b(2), b(3))
        machine.said()
        machine.tell(DeviceLost("one", machine.state.devices["one"].run)).finish("two")
        assert machine.said() == [Revive("one"), Answer(1, "result 1"), Run("two", machine.state.runs, "b", (2,))]

    def test_like_jobs_are_done_together_as_far_as_the_batch_has_room(self):
        machine = Machine(batch=4).submit(
            b(0),
            b(1, entries=2, likeness="l"),
            b(2, entries=1, likeness="other"),
            b(3, "y", entries=3, likeness="l"),
            b(4, "y", entries=1, likeness="l"),
            b(5, "z", entries=1, likeness="l"),
            b(6, "z", entries=1, likeness="l"),
        )
        assert machine.work_off() == [(0,), (1, 4, 5), (3, 6), (2,)]

    def test_nothing_is_like_a_job_without_likeness(self):
        assert Machine(batch=4).submit(b(0), b(1), b(2)).work_off() == [(0,), (1,), (2,)]

    def test_pinned_jobs_are_done_by_their_device_only(self):
        machine = Machine("one", "two", batch=4)
        machine.submit(b(0, device="one"), b(1, likeness="l", device="one"), b(2, likeness="l"), b(3, likeness="l"))
        assert machine.work_off("two") == [(0,), (2,), (3,)]
        assert [job.id for job in machine.state.waiting] == [1]

    def test_a_job_that_needs_no_bundle_waits_for_none(self):
        machine = Machine(ready=()).submit(Job(0, device="one"))
        assert machine.said() == [Run("one", 1, "", (0,))]


class TestLoading:
    def test_a_job_waits_for_its_bundle_and_holds_up_no_other(self):
        machine = Machine().submit(Job(0, "c", "s"), b(1))
        assert machine.said() == [Load("one", "c"), Run("one", 2, "b", (1,))]
        machine.tell(Loaded("one", "c", 1)).finish()
        assert machine.said() == [Answer(1, "result 1"), Run("one", 3, "c", (0,))]

    def test_it_is_loaded_on_every_device_that_may_do_the_job(self):
        machine = Machine("one", "two", ready=()).submit(Job(0, "c"), Job(1, "d", device="two"))
        assert machine.said() == [Load("one", "c"), Load("two", "c"), Load("two", "d")]

    def test_a_failure_is_the_failure_of_all_that_wait_for_it_and_it_is_tried_again_for_the_next(self):
        machine = Machine(ready=()).submit(Job(0, "c"), Job(1, "c"))
        machine.said()
        assert machine.tell(LoadFailed("one", "c", "broken")).said() == [Refuse(0, "broken"), Refuse(1, "broken")]
        assert machine.submit(Job(2, "c")).said() == [Load("one", "c")]

    def test_a_failure_on_one_device_leaves_the_others(self):
        machine = Machine("one", "two", ready=()).submit(Job(0, "c"))
        machine.said()
        machine.tell(LoadFailed("one", "c", "broken"))
        assert machine.said() == []
        machine.tell(Loaded("two", "c", 1)).submit(Job(1, "c"))
        assert machine.said() == [Run("two", 1, "c", (0,))]
        assert machine.submit(Job(2, "c", device="one")).said() == [Load("one", "c")]

    def test_what_takes_too_long_is_refused_and_used_when_it_comes(self):
        machine = Machine(ready=()).submit(Job(0, "c"))
        machine.said()
        assert machine.tell(Overdue("one", "c", "too long")).said() == [Refuse(0, "too long")]
        assert machine.submit(Job(1, "c")).said() == [Refuse(1, "too long")]
        assert machine.tell(Loaded("one", "c", 1)).submit(Job(2, "c")).said() == [Run("one", 1, "c", (2,))]

    def test_jobs_that_have_no_other_bundle_wait_for_one_that_takes_too_long(self):
        machine = Machine(ready=()).submit(Job(0, "c", patient=True))
        machine.said()
        assert machine.tell(Overdue("one", "c", "too long")).said() == []
        assert machine.submit(Job(1, "c", patient=True)).said() == []
        assert machine.tell(Loaded("one", "c", 1)).said() == [Run("one", 1, "c", (0,))]

    def test_they_wait_for_it_no_longer_than_it_is_loaded(self):
        machine = Machine(ready=()).submit(Job(0, "c", patient=True)).tell(Overdue("one", "c", "too long"))
        machine.said()
        assert machine.tell(LoadFailed("one", "c", "broken")).said() == [Refuse(0, "broken")]

    def test_what_comes_late_is_not_overdue(self):
        machine = Machine().tell(Overdue("one", "b", "too long")).submit(b(0))
        assert [type(effect) for effect in machine.said()] == [Run]

    def test_in_the_background_one_after_the_other_and_none_holds_up_the_others_for_good(self):
        machine = Machine(ready=())
        machine.submit(*(Job(number, name, background=True) for number, name in enumerate("cde")))
        assert machine.said() == [Load("one", "c")]
        assert machine.submit(Job(3, "f")).said() == [Load("one", "f")]
        assert machine.tell(Loaded("one", "f", 1)).said() == [Run("one", 1, "f", (3,))]
        assert machine.tell(Overdue("one", "c", "too long")).said() == [Refuse(0, "too long"), Load("one", "d")]
        assert machine.tell(LoadFailed("one", "d", "broken")).said() == [Refuse(1, "broken"), Load("one", "e")]

    def test_in_the_background_none_waits_behind_one_that_is_slow(self):
        machine = Machine(ready=())
        machine.submit(*(Job(number, name, background=True) for number, name in enumerate("cd")))
        assert machine.said() == [Load("one", "c")]
        assert machine.tell(Slow("one", "c")).said() == [Load("one", "d")]
        assert machine.tell(Loaded("one", "c", 1)).said() == [Run("one", 1, "c", (0,))]
        assert machine.tell(Slow("one", "c")).said() == []

    def test_a_job_that_waits_for_a_bundle_can_be_cancelled(self):
        machine = Machine(ready=()).submit(Job(0, "c"), Job(1, "c"))
        machine.said()
        assert machine.tell(Cancelled(0), Cancelled(1)).said() == [Cancel(0), Cancel(1)]

    def test_a_device_that_is_back_is_asked_for_its_bundles_anew(self):
        machine = Machine().submit(b(0))
        machine.tell(DeviceLost("one", 2), DeviceBack("one"))
        assert machine.said()[-2:] == [Revive("one"), Load("one", "b")]

    def test_a_device_that_is_lost_while_it_loads(self):
        machine = Machine(ready=()).submit(Job(0, "c"))
        machine.said()
        assert machine.tell(LoadFailed("one", "c", "gone", lost=True)).said() == [Revive("one")]
        assert machine.tell(DeviceBack("one")).said() == [Load("one", "c")]

    def test_a_device_that_stays_away_keeps_no_job_waiting(self):
        machine = Machine("one", "two").submit(b(0), b(1, device="one"), b(2, device="two"), b(3))
        machine.tell(DeviceLost("one", machine.state.devices["one"].run))
        machine.said()
        assert machine.tell(DeviceGone("one", "away")).said() == [Refuse(1, "away")]
        assert machine.submit(b(4, device="one"), Job(5, device="one")).said() == [Refuse(4, "away"), Refuse(5, "away")]
        assert [job.id for job in machine.state.waiting] == [0, 3]
        machine.tell(DeviceBack("one"))
        assert machine.submit(b(6, device="one")).said() == [Load("one", "b")]

    def test_a_device_that_is_back_is_not_away(self):
        machine = Machine().submit(b(0)).tell(DeviceLost("one", 2), DeviceBack("one"))
        machine.said()
        assert machine.tell(DeviceGone("one", "away")).said() == []


class TestSuspension:
    @pytest.fixture
    def machine(self):
        """One job hangs, one of the same bundle waits."""
        machine = Machine(ready=("b", "c")).submit(b(0), b(1), Job(2, "c"))
        machine.said()
        return machine

    def test_a_run_that_is_given_up(self, machine):
        reason = "bundle 'b' is suspended: hangs"
        run = machine.overrun()
        effects = machine.said()
        assert effects == [
            Refuse(0, "bundle 'b': hangs"),
            Replace("one"),
            Reset("one"),
            Suspend("b", "hangs"),
            Refuse(1, reason),
        ]
        assert machine.submit(b(3)).said() == [Refuse(3, reason)]
        assert [type(effect) for effect in machine.tell(DeviceBack("one")).said()] == [Load]
        assert machine.tell(Finished("one", run, ["late"])).said() == [Resume("b")]
        assert machine.state.suspended == {}
        assert machine.submit(b(4)).said() == [Load("one", "b")]

    def test_a_run_that_ended_before_it_was_given_up_suspends_nothing(self, machine):
        run = machine.state.devices["one"].run
        machine.finish().said()
        assert machine.tell(Overran("one", run, "hangs")).said() == []
        assert machine.state.suspended == {}

    def test_inputs_that_take_too_long_suspend_no_bundle(self, machine):
        run = machine.overrun(reason="no inputs", hangs=False)
        assert machine.said() == [Refuse(0, "no inputs"), Replace("one"), Reset("one")]
        assert machine.state.suspended == {}
        assert machine.tell(Finished("one", run, [])).said() == []
        machine.tell(DeviceBack("one"), Loaded("one", "b", 1))
        assert [job.id for job in machine.state.devices["one"].jobs] == [1]

    def test_it_comes_back_with_the_last_of_its_runs(self):
        machine = Machine("one", "two").submit(b(0), b(1))
        first, second = machine.overrun("one"), machine.overrun("two")
        machine.said()
        assert machine.tell(Finished("one", first, ["late"])).said() == []
        assert machine.tell(Finished("two", second, ["late"])).said() == [Resume("b")]

    def test_a_run_that_was_stopped_has_not_come_back_and_is_pardoned_after_a_while(self, machine):
        run = machine.overrun()
        machine.said()
        assert machine.tell(DeviceLost("one", run)).said() == [Probation(run)]
        machine.tell(DeviceBack("one"))
        assert machine.state.suspended == {"b": "hangs"}
        assert machine.state.devices["one"].phase is DevicePhase.IDLE
        machine.said()
        assert machine.tell(Pardoned(run)).said() == [Resume("b")]
        assert machine.state.suspended == {}

    def test_a_job_that_is_put_back_finds_its_bundle_suspended(self):
        machine = Machine("one", "two").submit(b(0), b(1))
        machine.overrun()
        machine.said()
        machine.tell(DeviceLost("two", machine.state.devices["two"].run))
        assert machine.said() == [Revive("two"), Refuse(1, "bundle 'b' is suspended: hangs")]

    def test_an_errand_without_a_bundle_suspends_none(self):
        machine = Machine().submit(Job(0, device="one"))
        machine.overrun()
        assert Suspend not in [type(effect) for effect in machine.said()]
        assert [type(effect) for effect in machine.submit(Job(1, device="one")).tell(DeviceBack("one")).said()] == [Run]


class TestEnd:
    def test_what_waits_is_cancelled_and_what_runs_is_answered(self):
        machine = Machine().submit(b(0), b(1), b(2, urgent=True))
        machine.said()
        assert machine.tell(Closed()).said() == [Cancel(2), Cancel(1)]
        assert machine.submit(b(3)).said() == [Refuse(3, "the engine is closed")]
        assert machine.finish().said() == [Answer(0, "result 0")]

    def test_a_device_that_is_lost_after_the_end_answers_its_jobs(self):
        machine = Machine().submit(b(0)).tell(Closed())
        machine.said()
        assert machine.tell(DeviceLost("one", 2)).said() == [Refuse(0, "one was lost while the engine was closed")]

    def test_jobs_that_were_put_back_are_cancelled(self):
        machine = Machine().submit(b(0)).tell(DeviceLost("one", 2))
        machine.said()
        assert machine.tell(Closed(), DeviceBack("one")).said() == [Cancel(0)]

    def test_nothing_is_begun_when_a_bundle_comes_after_the_end(self):
        machine = Machine(ready=()).submit(Job(0, "c")).tell(Closed())
        machine.said()
        assert machine.tell(Loaded("one", "c", 1)).said() == []

    def test_what_runs_for_too_long_is_answered_all_the_same(self):
        machine = Machine().submit(b(0)).tell(Closed())
        machine.said()
        machine.tell(Expired())
        assert machine.said() == [Refuse(0, "bundle 'b': the engine was closed before it was done")]
        assert machine.tell(Finished("one", 2, ["late"])).state.devices["one"].jobs == ()
