"""The job machine under whatever may happen, in any order; ``test_job_rules`` has each rule by itself."""

from collections import Counter
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from isocenter.engine.events import (
    Cancelled,
    Closed,
    DeviceBack,
    DeviceGone,
    DeviceLost,
    Expired,
    Finished,
    Job,
    Loaded,
    LoadFailed,
    Overdue,
    Overran,
    Pardoned,
    Revive,
    Run,
    Slow,
    Submitted,
)
from isocenter.engine.machine import start, step
from isocenter.engine.phases import JOB_MOVES, DevicePhase, JobPhase, ModelPhase

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
        "patient": st.booleans(),
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
        self.on_probation = []
        """Given-up runs that ended because their device was stopped."""
        self.stopped = set()
        """Bundles of such runs that ended after all was closed."""
        self.runs = []
        """Devices and numbers of all runs."""
        self.places = {}
        """On which device a job runs, or ran last."""

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
        self.runs.append((effect.device, effect.run))
        self.places.update(dict.fromkeys(effect.jobs, effect.device))
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

    def probation(self, effect):
        assert not self.state.closed
        self.on_probation.append(effect.run)

    # the queue, as the words have it

    def next(self, device):
        running = [job for job, place in self.places.items() if self.phases[job] is JobPhase.RUNNING]
        runs = Counter(scan for scan, _ in {(self.jobs[job].scan, self.places[job]) for job in running})
        scans = sorted(self.rows, key=lambda scan: (runs[scan], self.state.turns.had[scan]))
        queue = (*self.front, *(job for scan in scans for job in self.rows[scan]))
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
            row = self.rows.setdefault(job.scan, [])
            row.insert(sum(other.urgent for other in row) if job.urgent else len(row), job)
            self.tell(Submitted(job))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel_one(self, data):
        job = data.draw(st.sampled_from(sorted(self.jobs)))
        begun = self.phases[job] is not JobPhase.WAITING
        before = dict(self.phases)
        self.tell(Cancelled(job))
        assert self.phases == before if begun else self.phases[job] is JobPhase.ANSWERED

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), hangs=st.booleans(), seconds=st.integers(0, 9))
    def overrun(self, data, hangs, seconds):
        """Also one that has ended: then nothing happens."""
        device, run = data.draw(st.sampled_from(self.runs))
        before = self.state
        jobs = before.devices[device].jobs if before.devices[device].run == run else ()
        self.tell(Overran(device, run, "hangs", seconds, hangs))
        assert all(self.phases[job.id] is JobPhase.ANSWERED for job in jobs)
        if not jobs:
            assert self.state == before

    @rule(device=st.sampled_from(DEVICES))
    def stay_away(self, device):
        """Also one that is there: then nothing happens."""
        if device in self.names:
            before = self.state
            self.tell(DeviceGone(device, "away"))
            if before.devices[device].phase in (DevicePhase.IDLE, DevicePhase.RUNNING):
                assert self.state == before

    @precondition(lambda self: self.on_probation)
    @rule()
    def pardon(self):
        self.tell(Pardoned(self.on_probation.pop(0)))

    @rule(device=st.sampled_from(DEVICES), bundle=st.sampled_from(BUNDLES))
    def be_slow(self, device, bundle):
        """Also too late."""
        if device in self.names:
            self.tell(Slow(device, bundle))

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
    @rule(
        data=st.data(),
        well=st.sampled_from((True, True, True, False)),
        batch=st.integers(1, 4),
        lost=st.booleans(),
        seconds=st.integers(0, 9),
    )
    def something_ends(self, data, well, batch, lost, seconds):
        self.end(data.draw(st.sampled_from(self.under_way())), well, batch, lost, seconds)

    def end(self, work, well=True, batch=1, lost=False, seconds=0):
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
        if not well and work.run in self.state.hung and self.state.closed:
            self.stopped.add(work.bundle)
        self.ending = work.jobs if self.state.devices[work.device].run == work.run else ()
        results = [f"result {job}" for job in work.jobs]
        self.tell(Finished(work.device, work.run, results, seconds) if well else DeviceLost(work.device, work.run))
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
    def scans_that_are_there_have_accounts(self):
        if hasattr(self, "state"):
            assert {job.scan for job in self.state.waiting} | set(self.state.running) <= set(self.state.turns.had)

    @invariant()
    def no_job_waits_for_a_device_that_stays_away(self):
        if hasattr(self, "state") and not self.state.closed:
            present = {name for name, device in self.state.devices.items() if device.trouble is None}
            assert all(present & ({job.device} if job.device else set(self.names)) for job in self.state.waiting)

    @invariant()
    def only_the_patient_wait_for_a_bundle_that_is_overdue(self):
        if hasattr(self, "state") and not self.state.closed:
            for job in self.state.waiting:
                names = [job.device] if job.device else self.names
                models = [self.state.models.get((name, job.bundle)) for name in names]
                assert job.patient or not all(model and model.phase is ModelPhase.OVERDUE for model in models)

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
        for run in self.on_probation:
            self.tell(Pardoned(run))
        assert set(self.state.suspended) <= self.stopped
        assert not self.state.turns.had, "accounts of scans that are gone"


class TestWorld(World.TestCase):
    settings = settings(max_examples=50, stateful_step_count=60, deadline=None)


@pytest.mark.long
class TestManyWorlds(World.TestCase):
    settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
