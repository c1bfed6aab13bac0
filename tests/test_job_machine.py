"""The job machine: each rule by itself, and all of them under whatever may happen, in any order."""

from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from isocenter.engine.events import (
    Abandoned,
    Answer,
    Cancel,
    Cancelled,
    Closed,
    DeviceBack,
    DeviceLost,
    Expired,
    Finished,
    Job,
    Load,
    Loaded,
    LoadFailed,
    Overdue,
    Refuse,
    Replace,
    Reset,
    Resume,
    Revive,
    Run,
    Submitted,
    Suspend,
)
from isocenter.engine.machine import JOB_MOVES, DevicePhase, JobPhase, ModelPhase, start, step


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
        """Let a bundle be loaded by an order."""
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

    def finish(self, device="one"):
        running = self.state.devices[device]
        return self.tell(Finished(device, running.run, [f"result {job.id}" for job in running.jobs]))

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

    def test_urgent_jobs_go_first_and_use_up_the_turn_of_their_scan(self):
        machine = Machine().submit(b(0), b(1, "x"), b(2, "y"), b(3, "x", urgent=True), b(4, "x", urgent=True))
        assert machine.work_off() == [(0,), (3,), (4,), (2,), (1,)]

    def test_jobs_that_are_put_back_keep_their_order_and_go_before_all_others(self):
        machine = Machine("one", "two", batch=3)
        machine.submit(*(b(number, likeness="l", device="one") for number in range(4)))
        machine.submit(b(4, "y", urgent=True, device="one")).finish()
        assert machine.state.devices["one"].jobs[0].id == 4
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

    def test_a_job_that_waits_for_a_bundle_can_be_given_up_and_nothing_is_suspended(self):
        machine = Machine(ready=()).submit(Job(0, "c"), Job(1, "c"))
        machine.said()
        assert machine.tell(Abandoned(0, "too long"), Cancelled(1)).said() == [Cancel(0), Cancel(1)]
        assert machine.submit(Job(2, "c")).state.suspended == {}

    def test_a_device_that_is_back_is_asked_for_its_bundles_anew(self):
        machine = Machine().submit(b(0))
        machine.tell(DeviceLost("one", 2), DeviceBack("one"))
        assert machine.said()[-2:] == [Revive("one"), Load("one", "b")]

    def test_a_device_that_is_lost_while_it_loads(self):
        machine = Machine(ready=()).submit(Job(0, "c"))
        machine.said()
        assert machine.tell(LoadFailed("one", "c", "gone", lost=True)).said() == [Revive("one")]
        assert machine.tell(DeviceBack("one")).said() == [Load("one", "c")]


class TestSuspension:
    @pytest.fixture
    def machine(self):
        """One job hangs, one of the same bundle waits."""
        machine = Machine(ready=("b", "c")).submit(b(0), b(1), Job(2, "c"))
        machine.said()
        return machine

    def test_a_run_that_is_given_up(self, machine):
        run = machine.state.devices["one"].run
        reason = "bundle 'b' is suspended: hangs"
        effects = machine.tell(Abandoned(0, "hangs")).said()
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

    def test_a_job_that_ended_before_it_was_given_up_suspends_nothing(self, machine):
        machine.finish().said()
        assert machine.tell(Abandoned(0, "hangs")).said() == []
        assert machine.state.suspended == {}

    def test_it_comes_back_with_the_last_of_its_runs(self):
        machine = Machine("one", "two").submit(b(0), b(1)).tell(Abandoned(0, "hangs"), Abandoned(1, "hangs"))
        first, second = machine.state.hung
        machine.said()
        assert machine.tell(Finished("one", first, ["late"])).said() == []
        assert machine.tell(Finished("two", second, ["late"])).said() == [Resume("b")]

    def test_a_run_that_was_stopped_has_not_come_back(self, machine):
        run = machine.state.devices["one"].run
        machine.tell(Abandoned(0, "hangs"), DeviceLost("one", run), DeviceBack("one"))
        assert machine.state.suspended == {"b": "hangs"}
        assert machine.state.devices["one"].phase is DevicePhase.IDLE

    def test_a_job_that_is_put_back_finds_its_bundle_suspended(self):
        machine = Machine("one", "two").submit(b(0), b(1)).tell(Abandoned(0, "hangs"))
        machine.said()
        machine.tell(DeviceLost("two", machine.state.devices["two"].run))
        assert machine.said() == [Revive("two"), Refuse(1, "bundle 'b' is suspended: hangs")]

    def test_an_order_without_a_bundle_suspends_none(self):
        machine = Machine().submit(Job(0, device="one")).tell(Abandoned(0, "hangs"))
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


DEVICES = "one", "two", "three"
BUNDLES = "b", "c", "d"
WISHES = st.fixed_dictionaries(
    {
        "bundle": st.sampled_from(("b", "b", "c", "d", "")),
        "scan": st.sampled_from("xyz"),
        "urgent": st.booleans(),
        "background": st.booleans(),
        "entries": st.integers(1, 3),
        "likeness": st.sampled_from((None, "like", "alike")),
        "device": st.sampled_from((None, None, *DEVICES)),
    }
)


class World(RuleBasedStateMachine):
    """Threads that do what the machine says, in any order and at any pace; and a queue of its own that tells who is next."""

    @initialize(number=st.integers(1, 3), life=st.integers(3, 100))
    def begin(self, number, life):
        self.life = life
        self.is_sound = True
        self.names = DEVICES[:number]
        self.state = start(self.names)
        self.numbers = count()
        self.jobs, self.phases = {}, {}
        self.front, self.rows = [], {}
        self.loads = set()
        """What is being loaded."""
        self.threads = {name: [] for name in self.names}
        """What each device's thread has to do yet."""
        self.hanging = []
        """Runs of threads that were replaced."""
        self.stopped = set()
        """Bundles of given-up runs that ended because their device was stopped."""

    def tell(self, event):
        self.is_sound = False
        self.state, effects = step(self.state, event)
        for effect in effects:
            self.check(effect)
            getattr(self, type(effect).__name__.lower())(effect)
        assert self.state.waiting == (*self.front, *(job for row in self.rows.values() for job in row))
        self.is_sound = True

    def check(self, effect):
        """Jobs move as the table has it, and none is named that is not there."""
        for job in getattr(effect, "jobs", (effect.job,) if hasattr(effect, "job") else ()):
            self.phases[job] = JOB_MOVES[self.phases[job]][type(effect)]

    # what the machine says

    def load(self, effect):
        assert not self.state.closed
        assert (effect.device, effect.bundle) not in self.loads, "it is being loaded already"
        self.loads.add((effect.device, effect.bundle))

    def run(self, effect):
        assert not self.state.closed
        first, *others = [self.jobs[job] for job in effect.jobs]
        assert first == self.next(effect.device), "it is not the turn of this job"
        self.leave(first)
        if first.scan in self.rows:
            self.rows[first.scan] = self.rows.pop(first.scan)
        for job in others:
            assert (job.likeness, job.bundle) == (first.likeness, first.bundle)
            assert self.can_do(effect.device, job)
            self.leave(job)
        if others:
            assert sum(job.entries for job in (first, *others)) <= self.state.models[effect.device, first.bundle].batch
        assert first.bundle not in self.state.suspended or not first.bundle
        assert not self.threads[effect.device], "the thread is busy"
        self.threads[effect.device].append(effect)

    def answer(self, effect):
        assert effect.outcome == f"result {effect.job}"

    def refuse(self, effect):
        self.leave(self.jobs[effect.job])

    cancel = refuse

    def replace(self, effect):
        assert not self.state.closed
        self.hanging += self.threads[effect.device]
        self.threads[effect.device] = []

    def reset(self, effect):
        assert not self.state.closed
        self.threads[effect.device].append(effect)

    def revive(self, effect):
        assert not self.state.closed
        back = [job for job in self.runs_of(effect.device) if self.phases[job] is JobPhase.RUNNING]
        for job in back:
            self.phases[job] = JOB_MOVES[JobPhase.RUNNING][Revive]
        self.front[:0] = [self.jobs[job] for job in back]
        self.threads[effect.device].append(effect)

    def suspend(self, effect):
        assert effect.bundle in self.state.suspended

    def resume(self, effect):
        assert effect.bundle not in self.state.suspended

    # the queue, as the words have it

    def next(self, device):
        queue = (*self.front, *(job for row in self.rows.values() for job in row))
        return next((job for job in queue if self.can_do(device, job)), None)

    def can_do(self, device, job):
        model = self.state.models.get((device, job.bundle))
        ready = model is not None and model.phase is ModelPhase.READY
        return job.device in (None, device) and (ready or not job.bundle)

    def leave(self, job):
        if job in self.front:
            self.front.remove(job)
        elif job in self.rows.get(job.scan, ()):
            self.rows[job.scan].remove(job)
            if not self.rows[job.scan]:
                del self.rows[job.scan]

    def runs_of(self, device):
        """Jobs of the run that a device has in hand, or whose end it just told."""
        return (
            self.ending
            if self.ending is not None
            else [j for w in self.threads[device] if type(w) is Run for j in w.jobs]
        )

    ending = None
    is_sound = False
    """Whether nothing has failed yet."""

    # what may happen

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=5))
    def submit(self, wishes):
        for wish in wishes:
            job = Job(next(self.numbers), **wish)
            if job.device not in self.names:
                job = job._replace(device=None)
            if not job.bundle:
                job = job._replace(likeness=None)
            self.jobs[job.id], self.phases[job.id] = job, JobPhase.WAITING
            (self.front if job.urgent else self.rows.setdefault(job.scan, [])).append(job)
            self.tell(Submitted(job))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel_one(self, data):
        job = data.draw(st.sampled_from(sorted(self.jobs)))
        begun = self.phases[job] is not JobPhase.WAITING
        before = dict(self.phases)
        self.tell(Cancelled(job))
        assert self.phases == before if begun else self.phases[job] is JobPhase.ANSWERED

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def abandon_one(self, data):
        """Also one that has ended: then nothing happens."""
        job = data.draw(st.sampled_from(sorted(self.jobs)))
        before, phase = self.state, self.phases[job]
        self.tell(Abandoned(job, "hangs"))
        assert self.phases[job] is JobPhase.ANSWERED
        if phase is JobPhase.ANSWERED:
            assert self.state == before

    @rule(device=st.sampled_from(DEVICES), bundle=st.sampled_from(BUNDLES))
    def be_overdue(self, device, bundle):
        """Also too late."""
        if device in self.names:
            self.tell(Overdue(device, bundle, "too long"))

    def under_way(self):
        """What may end next: loads, what each device's thread does, and what hangs in threads that were replaced."""
        at_work = [self.threads[name][0] for name in self.names if self.threads[name]]
        return [*sorted(self.loads), *at_work, *self.hanging]

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), well=st.sampled_from((True, True, True, False)), batch=st.integers(1, 4), lost=st.booleans())
    def something_ends(self, data, well, batch, lost):
        self.end(data.draw(st.sampled_from(self.under_way())), well, batch, lost)

    def end(self, work, well=True, batch=1, lost=False):
        if work in self.loads:
            self.loads.remove(work)
            self.tell(Loaded(*work, batch) if well else LoadFailed(*work, "broken", lost))
            return
        mine = self.threads[work.device]
        if mine and mine[0] is work:
            del mine[0]
        else:
            self.hanging = [other for other in self.hanging if other is not work]
        if type(work) is not Run:
            self.tell(DeviceBack(work.device))
            return
        if not well and work.run in self.state.hung:
            self.stopped.add(work.bundle)
        self.ending = work.jobs if self.state.devices[work.device].run == work.run else ()
        results = [f"result {job}" for job in work.jobs]
        self.tell(Finished(work.device, work.run, results) if well else DeviceLost(work.device, work.run))
        self.ending = None

    @precondition(lambda self: len(self.jobs) > self.life)
    @rule()
    def close(self):
        self.tell(Closed())
        assert not self.state.waiting

    @precondition(lambda self: self.state.closed)
    @rule()
    def expire(self):
        self.tell(Expired())
        assert set(self.phases.values()) <= {JobPhase.ANSWERED}

    # what is always so

    @invariant()
    def jobs_are_where_their_phase_says(self):
        if not hasattr(self, "state"):
            return
        running = [job.id for device in self.state.devices.values() for job in device.jobs]
        waiting = [job.id for job in self.state.waiting]
        for phase, jobs in ((JobPhase.RUNNING, running), (JobPhase.WAITING, waiting)):
            assert sorted(jobs) == sorted(job for job, each in self.phases.items() if each is phase)

    @invariant()
    def no_device_is_idle_while_there_is_something_for_it(self):
        if hasattr(self, "state") and not self.state.closed:
            for name, device in self.state.devices.items():
                assert device.phase is not DevicePhase.IDLE or self.next(name) is None

    @invariant()
    def suspended_bundles_have_no_job(self):
        if hasattr(self, "state"):
            assert not {job.bundle for job in self.state.waiting} & set(self.state.suspended)

    def teardown(self):
        """Everything comes to rest: each job has been answered, and each bundle is back."""
        if not self.is_sound:
            return
        while under_way := self.under_way():
            self.end(under_way[-1])
        assert set(self.phases.values()) <= {JobPhase.ANSWERED}
        assert set(self.state.suspended) <= self.stopped


World.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestWorld = World.TestCase
