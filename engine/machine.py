"""What the engine does next: a machine without threads, clock, tensors or I/O.

Many threads act upon an engine at once. Scans submit, cancel and give up; devices end, fail, hang and vanish; bundles get
loaded, or do not; somebody closes it all. Each of these is harmless alone. The faults of such a thing live in between: a job
that ends in the moment in which it is given up, a device that is lost while the engine is closed. With locks one has to think
of every pair of them, and cannot test that one did. So all that is decided is decided here, by one function, in the words of
``events``::

    step(state, event) -> (state, effects)

A state is a value, an event says what has happened, effects say what is to be done about it. Whoever calls (``crew``) passes
events one after the other, in the order in which they arrive, and carries the effects out; it decides nothing. Two things that
happen "at once" are two events in one order or in the other, and a test tries both.

**Four sorts of things have a state of their own**, and the tables below say how each can move. What is not in a table does not
happen: an event that finds no move is late, and changes nothing. That is all there is to say about most races.

A *job* waits, runs, and is answered, once. Where it is says which: in the queue, with a device, or nowhere, as an answered job
is forgotten. A job whose device is lost waits again, before all others.

A *device* runs one thing at a time. Runs are numbered, because a thread that hangs may come back long after it was given up,
when its device runs something else: what it says is about its own run and about no other. ``LOST`` is a device that says so
itself; ``RESETTING`` is one whose run was given up, and which goes on in another thread. Either ends with ``DeviceBack``.

A *model* is a bundle on a device. It is loaded beside what runs, in a thread of its own, as soon as a job wants it; the job
waits in the queue, where it is passed over until a device is ``READY`` for it. Orders to load something for later (background)
start one after the other, as loading measures. A model that takes too long is ``OVERDUE``: it holds up no other any more, and
its jobs are refused so that a fallback makes their images. It is used as soon as it comes. One that has ``FAILED`` is tried
again when somebody wants it and no device has it. A device that comes back may be a new process, and is asked for its models
anew.

A *bundle* is suspended while runs of it hang that were given up: its jobs are refused at once. This needs no table; it is what
``hung`` says. When the last of these runs comes back, the bundle is used again. One that ends because its device was stopped
has not come back: the next run would hang as well.

**The order of jobs.** First those that were put back, in their order, then urgent ones, then one of each scan in turn. Whatever
is taken, urgent or not, uses up the turn of its scan. The first job that the device can do is taken, and along with it jobs
that are like it, as many as its batch has room for; these use up no turn.

**Closing** cancels what waits. What runs is answered when it ends, by the loss of its device, or at the latest when the time
for it has ``Expired``. Nothing is begun, loaded or revived any more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum, auto
from typing import Any, NamedTuple

from .events import (
    Abandoned,
    Answer,
    Cancel,
    Cancelled,
    Closed,
    DeviceBack,
    DeviceLost,
    Effect,
    Event,
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


class JobPhase(StrEnum):
    """Where a job is."""

    WAITING = auto()
    RUNNING = auto()
    ANSWERED = auto()


class DevicePhase(StrEnum):
    """What a device does."""

    IDLE = auto()
    RUNNING = auto()
    LOST = auto()
    RESETTING = auto()


class ModelPhase(StrEnum):
    """How far a bundle is on a device."""

    ABSENT = auto()
    LOADING = auto()
    OVERDUE = auto()
    READY = auto()
    FAILED = auto()


# How things move: by what happens, or by what is done about something else.

JOB_MOVES: Mapping[JobPhase, Mapping[type, JobPhase]] = {
    JobPhase.WAITING: {Run: JobPhase.RUNNING, Refuse: JobPhase.ANSWERED, Cancel: JobPhase.ANSWERED},
    JobPhase.RUNNING: {Answer: JobPhase.ANSWERED, Refuse: JobPhase.ANSWERED, Revive: JobPhase.WAITING},
    JobPhase.ANSWERED: {},
}
DEVICE_MOVES: Mapping[DevicePhase, Mapping[type, DevicePhase]] = {
    DevicePhase.IDLE: {Run: DevicePhase.RUNNING, DeviceLost: DevicePhase.LOST},
    DevicePhase.RUNNING: {
        Finished: DevicePhase.IDLE,
        DeviceLost: DevicePhase.LOST,
        Abandoned: DevicePhase.RESETTING,
        Expired: DevicePhase.RESETTING,
    },
    DevicePhase.LOST: {DeviceBack: DevicePhase.IDLE},
    DevicePhase.RESETTING: {DeviceBack: DevicePhase.IDLE},
}
MODEL_MOVES: Mapping[ModelPhase, Mapping[type, ModelPhase]] = {
    ModelPhase.ABSENT: {Load: ModelPhase.LOADING},
    ModelPhase.LOADING: {
        Loaded: ModelPhase.READY,
        LoadFailed: ModelPhase.FAILED,
        Overdue: ModelPhase.OVERDUE,
        DeviceLost: ModelPhase.ABSENT,
    },
    ModelPhase.OVERDUE: {
        Loaded: ModelPhase.READY,
        LoadFailed: ModelPhase.FAILED,
        DeviceLost: ModelPhase.ABSENT,
    },
    ModelPhase.READY: {DeviceBack: ModelPhase.ABSENT},
    ModelPhase.FAILED: {Submitted: ModelPhase.ABSENT},
}

_UP = DevicePhase.IDLE, DevicePhase.RUNNING
_TROUBLED = ModelPhase.FAILED, ModelPhase.OVERDUE


class Device(NamedTuple):
    """What a device does: its run, by number, and the jobs of it."""

    phase: DevicePhase = DevicePhase.IDLE
    run: int = 0
    jobs: tuple[Job, ...] = ()


class Model(NamedTuple):
    """A bundle on a device: how many entries are worth a batch, or what is wrong with it."""

    phase: ModelPhase = ModelPhase.ABSENT
    batch: int = 1
    trouble: object = None


class Hung(NamedTuple):
    """A run that was given up and has not come back."""

    bundle: str
    reason: str


class State(NamedTuple):
    """All that the engine knows. Nothing in it is ever changed.

    Attributes
    ----------
    devices
        By name.
    models
        By device and bundle; those that are not there are absent.
    front
        Jobs that wait before all others: those put back, then urgent ones.
    rows
        The other jobs that wait, by scan; the scan whose turn it is comes first.
    hung
        Runs that were given up, by number.
    runs
        How many there were.
    closed
        Whether it is closed.
    """

    devices: Mapping[str, Device]
    models: Mapping[tuple[str, str], Model]
    front: tuple[Job, ...]
    rows: Mapping[str, tuple[Job, ...]]
    hung: Mapping[int, Hung]
    runs: int
    closed: bool

    @property
    def waiting(self) -> tuple[Job, ...]:
        """Jobs that have not begun, or were put back, in their order within each scan."""
        return (*self.front, *(job for row in self.rows.values() for job in row))

    @property
    def suspended(self) -> dict[str, str]:
        """Why bundles are not used, by name."""
        return {hung.bundle: hung.reason for hung in self.hung.values() if hung.bundle}


def start(devices: Sequence[str]) -> State:
    """Return the first state of an engine with these devices."""
    return State({name: Device() for name in devices}, {}, (), {}, {}, 0, False)


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """Return what is the case after an event, and what is to be done, in this order."""
    draft = _Draft(state)
    _HANDLERS[type(event)](draft, event)
    draft.take()
    return draft.state(), tuple(draft.effects)


class _Draft:
    """The next state while it is made, out of copies of what is in the one before."""

    def __init__(self, state: State) -> None:
        self.devices = dict(state.devices)
        self.models = dict(state.models)
        self.front = state.front
        self.rows = dict(state.rows)
        self.hung = dict(state.hung)
        self.runs = state.runs
        self.closed = state.closed
        self.effects: list[Effect] = []

    def state(self) -> State:
        return State(self.devices, self.models, self.front, self.rows, self.hung, self.runs, self.closed)

    # jobs

    def submitted(self, event: Submitted) -> None:
        job = event.job
        if reason := "the engine is closed" if self.closed else self.suspension(job.bundle):
            self.effects.append(Refuse(job.id, reason))
            return
        if job.urgent:
            self.front += (job,)
        else:
            self.rows[job.scan] = (*self.rows.get(job.scan, ()), job)
        if not all(self.is_ready(name, job) for name in self.places(job)):
            self.forgive(job)
            self.want(job)

    def cancelled(self, event: Cancelled) -> None:
        if any(job.id == event.job for job in self.waiting()):
            self.drop(event.job)
            self.effects.append(Cancel(event.job))

    def abandoned(self, event: Abandoned) -> None:
        self.cancelled(Cancelled(event.job))
        for name, device in self.devices.items():
            if any(job.id == event.job for job in device.jobs):
                self.give_up(name, Abandoned, event.reason)
                return

    def waiting(self) -> Iterator[Job]:
        yield from self.front
        for row in tuple(self.rows.values()):
            yield from row

    def drop(self, job: int) -> None:
        self.front = _without(self.front, job)
        for scan, row in self.rows.items():
            shorter = _without(row, job)
            if shorter is not row:
                self.rows[scan] = shorter
                if not shorter:
                    del self.rows[scan]
                return

    def refuse(self, job: Job, reason: object) -> None:
        self.drop(job.id)
        self.effects.append(Refuse(job.id, reason))

    # models

    def loaded(self, event: Loaded) -> None:
        self.move_model(event.device, event.bundle, Loaded, batch=event.batch)
        self.want_all()

    def load_failed(self, event: LoadFailed) -> None:
        if event.lost:
            self.move_model(event.device, event.bundle, DeviceLost)
            self.lose(event.device)
        else:
            self.move_model(event.device, event.bundle, LoadFailed, trouble=event.error)
        self.want_all()

    def overdue(self, event: Overdue) -> None:
        self.move_model(event.device, event.bundle, Overdue, trouble=event.reason)
        self.want_all()

    def phase(self, device: str, bundle: str) -> ModelPhase:
        model = self.models.get((device, bundle))
        return ModelPhase.ABSENT if model is None else model.phase

    def move_model(self, device: str, bundle: str, by: type, batch: int = 1, trouble: object = None) -> bool:
        phase = MODEL_MOVES[self.phase(device, bundle)].get(by)
        if phase is not None:
            self.models[device, bundle] = Model(phase, batch, trouble)
        return phase is not None

    def places(self, job: Job) -> list[str]:
        """Devices that may do a job."""
        return list(self.devices) if job.device is None else [job.device]

    def forgive(self, job: Job) -> None:
        """Let a bundle that could be loaded nowhere be tried again: its files may be others now."""
        places = self.places(job)
        if all(self.phase(name, job.bundle) is ModelPhase.FAILED for name in places):
            for name in places:
                self.move_model(name, job.bundle, Submitted)

    def want(self, job: Job) -> None:
        """Load what a job needs wherever it may be done; refuse a job that has nothing to hope for."""
        if not job.bundle or self.closed:
            return
        if reason := self.suspension(job.bundle):
            self.refuse(job, reason)
            return
        places = self.places(job)
        for name in places:
            turn = not (job.background and self.is_loading(name))
            if turn and self.devices[name].phase in _UP and self.move_model(name, job.bundle, Load):
                self.effects.append(Load(name, job.bundle))
        present = [name for name in places if self.devices[name].phase is not DevicePhase.LOST]
        if all(self.phase(name, job.bundle) in _TROUBLED for name in present):
            troubled = [name for name in places if self.phase(name, job.bundle) in _TROUBLED]
            if troubled:
                self.refuse(job, self.models[troubled[0], job.bundle].trouble)

    def want_all(self) -> None:
        for job in tuple(self.waiting()):
            self.want(job)

    def is_loading(self, device: str) -> bool:
        return any(key[0] == device and model.phase is ModelPhase.LOADING for key, model in self.models.items())

    # devices

    def finished(self, event: Finished) -> None:
        device = self.devices[event.device]
        if device.run == event.run:
            self.move_device(event.device, Finished)
            self.effects += [Answer(job.id, out) for job, out in zip(device.jobs, event.outcomes, strict=True)]
            return
        hung = self.hung.pop(event.run, None)
        if hung is not None and hung.bundle and not self.suspension(hung.bundle):
            self.effects.append(Resume(hung.bundle))

    def device_lost(self, event: DeviceLost) -> None:
        if self.devices[event.device].run == event.run:
            self.lose(event.device)
            self.want_all()

    def device_back(self, event: DeviceBack) -> None:
        if self.move_device(event.device, DeviceBack):
            for name, bundle in self.models:
                if name == event.device:
                    self.move_model(name, bundle, DeviceBack)
            self.want_all()

    def move_device(self, name: str, by: type, run: int = 0, jobs: tuple[Job, ...] = ()) -> bool:
        phase = DEVICE_MOVES[self.devices[name].phase].get(by)
        if phase is not None:
            self.devices[name] = Device(phase, run, jobs)
        return phase is not None

    def lose(self, name: str) -> None:
        """Put a device's jobs back before all others, for the other devices or for the time when it is back."""
        jobs = self.devices[name].jobs
        if not self.move_device(name, DeviceLost):
            return
        if self.closed:
            self.effects += [Refuse(job.id, f"{name} was lost while the engine was closed") for job in jobs]
        else:
            self.front = jobs + self.front
            self.effects.append(Revive(name))

    def give_up(self, name: str, by: type, reason: str) -> None:
        """Answer what a device runs, suspend the bundle that it hangs in, and go on without."""
        device = self.devices[name]
        bundle = device.jobs[0].bundle
        self.move_device(name, by)
        self.hung[device.run] = Hung(bundle, reason)
        self.effects += [Refuse(job.id, f"bundle {job.bundle!r}: {reason}") for job in device.jobs]
        if self.closed:
            return
        self.effects += [Replace(name), Reset(name)]
        if bundle:
            self.effects.append(Suspend(bundle, reason))
            self.want_all()

    def suspension(self, bundle: str) -> str:
        """Why a bundle is not used; empty: it is."""
        for hung in self.hung.values():
            if bundle and hung.bundle == bundle:
                return f"bundle {bundle!r} is suspended: {hung.reason}"
        return ""

    # turns

    def take(self) -> None:
        """Give every idle device the job whose turn it is."""
        if self.closed or not (self.front or self.rows):
            return
        for name, device in self.devices.items():
            if device.phase is DevicePhase.IDLE and (jobs := self.turn(name)):
                self.runs += 1
                self.move_device(name, Run, self.runs, jobs)
                self.effects.append(Run(name, self.runs, jobs[0].bundle, tuple([job.id for job in jobs])))

    def turn(self, name: str) -> tuple[Job, ...]:
        """Take the first job that a device can do now out of the queue, and those that go along with it."""
        for first in self.waiting():
            if self.can_do(name, first):
                break
        else:
            return ()
        self.drop(first.id)
        if first.scan in self.rows:  # to the end of the row of scans
            self.rows[first.scan] = self.rows.pop(first.scan)
        return (first, *self.companions(name, first))

    def can_do(self, name: str, job: Job) -> bool:
        return job.device in (None, name) and self.is_ready(name, job)

    def is_ready(self, name: str, job: Job) -> bool:
        return not job.bundle or self.phase(name, job.bundle) is ModelPhase.READY

    def companions(self, name: str, first: Job) -> list[Job]:
        room = self.models[name, first.bundle].batch - first.entries if first.bundle else 0
        found: list[Job] = []
        if room > 0 and first.likeness is not None:
            for job in tuple(self.waiting()):
                like = job.bundle == first.bundle and job.likeness == first.likeness
                if like and job.entries <= room and self.can_do(name, job):
                    found.append(job)
                    room -= job.entries
                    self.drop(job.id)
        return found

    # the end

    def close(self, _: Closed) -> None:
        self.closed = True
        self.effects += [Cancel(job.id) for job in self.waiting()]
        self.front, self.rows = (), {}

    def expired(self, _: Expired) -> None:
        self.closed = True
        for name, device in self.devices.items():
            if device.phase is DevicePhase.RUNNING:
                self.give_up(name, Expired, "the engine was closed before it was done")


def _without(jobs: tuple[Job, ...], job: int) -> tuple[Job, ...]:
    """Return jobs less one; the same tuple if it is not among them."""
    for index, other in enumerate(jobs):
        if other.id == job:
            return jobs[:index] + jobs[index + 1 :]
    return jobs


_HANDLERS: Mapping[type, Callable[[_Draft, Any], None]] = {
    Submitted: _Draft.submitted,
    Cancelled: _Draft.cancelled,
    Abandoned: _Draft.abandoned,
    Loaded: _Draft.loaded,
    LoadFailed: _Draft.load_failed,
    Overdue: _Draft.overdue,
    Finished: _Draft.finished,
    DeviceLost: _Draft.device_lost,
    DeviceBack: _Draft.device_back,
    Closed: _Draft.close,
    Expired: _Draft.expired,
}
