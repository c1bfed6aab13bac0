"""What the engine does next: a machine without threads, clock, tensors or I/O.

Many threads act upon an engine at once. Scans submit and cancel; devices end, fail, hang and vanish; bundles get loaded, or do
not; somebody closes it all. Each of these is harmless alone. The faults of such a thing live in between: a run that ends in the
moment in which it is given up, a device that is lost while the engine is closed. With locks one has to think
of every pair of them, and cannot test that one did. So all that is decided is decided here, by one function, in the words of
``events``::

    step(state, event) -> (state, effects)

A state is a value, an event says what has happened, effects say what is to be done about it. Whoever calls (``crew``) passes
events one after the other, in the order in which they arrive, and carries the effects out; it decides nothing. Two things that
happen "at once" are two events in one order or in the other, and a test tries both.

**Four sorts of things have a state of their own**, and the tables of ``phases`` say how each can move. What is not in a table
does not happen: an event that finds no move is late, and changes nothing. That is all there is to say about most races. A
table can be read as a whole, and a move that is wrong is wrong in one place; conditions spread over the handlers can not.

A *job* waits, runs, and is answered, once. Where it is says which: in the queue, with a device, or nowhere, as an answered job
is forgotten. A job whose device is lost waits again, before all others.

A *device* runs one thing at a time. Runs are numbered, because a thread that hangs may come back long after it was given up,
when its device runs something else: what it says is about its own run and about no other. ``LOST`` is a device that says so
itself; ``RESETTING`` is one whose run was given up, and which goes on in another thread. Either ends with ``DeviceBack``. Jobs
wait for that, until ``DeviceGone`` says that it takes too long; then they are refused unless another device can do them.

A *model* is a bundle on a device. It is loaded beside what runs, in a thread of its own, as soon as a job wants it; the
job waits in the queue, where it is passed over until a device is ``READY`` for it. Errands that load something for
later (background) start one after the other, as loading measures; one that is ``SLOW`` holds them up no longer. A model
that takes too long is ``OVERDUE``: its jobs are refused so that a fallback makes their images, but for those that are
patient as there is no other. It is used as soon as it comes. One that has ``FAILED`` is tried again when somebody wants
it and no device has it. A device that comes back may be a new process, and is asked for its models anew.

A *bundle* is suspended while runs of it hang that were given up: its jobs are refused at once. This needs no table; it is what
``hung`` says. When the last of these runs comes back, the bundle is used again. One that ends because its device was stopped
has not come back, and the next one may hang as well; so it counts until it is ``Pardoned``.

**Time.** What is given up is what runs for too long: ``Overran`` is said of a run, never of a job. A job that waits, for its
turn or for its bundle, loses nothing by it.

**The order of jobs.** First those that were put back, in their order, then those of the scan that has had the least time of the
devices (``turns``). The first job that the device can do is taken, and along with it jobs that are like it, as many as its
batch has room for.

**Closing** cancels what waits. What runs is answered when it ends, by the loss of its device, or at the latest when the time
for it has ``Expired``. Nothing is begun, loaded or revived any more.

**What always holds**, after every step; tests drive the machine through random events and look:

- A job is in the queue, with one device, or answered; and it is answered once.
- A device has jobs if and only if it is ``RUNNING``, and ``run`` is the only run whose end it still listens to.
- Every ``Load``, ``Run``, ``Reset``, ``Revive`` and ``Probation`` ends with an event: nothing is waited for that nobody tells.
- No bundle is loaded twice at once on a device, and none runs where it is not ``READY`` or while it is suspended.
- No job waits that no device can ever do: ``want`` has refused it.

The crew stays in step because it holds one lock over ``step`` and the effects, so that what it has carried out and what the
state says are the same whenever somebody looks; only calls to others wait until the lock is free.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .events import (
    Answer,
    Cancel,
    Cancelled,
    Closed,
    DeviceBack,
    DeviceGone,
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
from .phases import DEVICE_MOVES, MODEL_MOVES, DevicePhase, ModelPhase
from .turns import Turns

_UP = DevicePhase.IDLE, DevicePhase.RUNNING


class DeviceState(NamedTuple):
    """What a device does: its run, by number, and the jobs of it; or what is wrong with it."""

    phase: DevicePhase = DevicePhase.IDLE
    run: int = 0
    jobs: tuple[Job, ...] = ()
    trouble: object = None


class ModelState(NamedTuple):
    """A bundle on a device: how many entries are worth a batch, seconds for a byte of inputs, or what is wrong with it."""

    phase: ModelPhase = ModelPhase.ABSENT
    batch: int = 1
    pace: float = 0.0
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
    turns
        The jobs that wait, and whose turn it is.
    hung
        Runs that were given up, by number.
    runs
        How many there were.
    closed
        Whether it is closed.
    """

    devices: Mapping[str, DeviceState]
    models: Mapping[tuple[str, str], ModelState]
    turns: Turns
    hung: Mapping[int, Hung]
    runs: int
    closed: bool

    @property
    def waiting(self) -> tuple[Job, ...]:
        """Jobs that have not begun, or were put back, in their order within each scan."""
        return self.turns.jobs

    @property
    def running(self) -> Counter[str]:
        """How many runs each scan has under way."""
        return _running(self.devices)

    def reason_to_wait(self, number: int) -> str:
        """Return why a job waits for others than its own scan's; empty if it does not."""
        job = next((job for job in self.waiting if job.id == number), None)
        if job is None:
            return ""
        names = [name for name in self.devices if job.device in (None, name)]
        phases = [self.models.get((name, job.bundle), ModelState()).phase for name in names]
        if job.bundle and ModelPhase.READY not in phases:
            return f"bundle {job.bundle!r} is being loaded"
        scans = self.turns.scans_before(number, self.running)
        return f"{scans} scan{'s' if scans > 1 else ''} before this one" if scans else ""

    @property
    def suspended(self) -> dict[str, str]:
        """Why bundles are not used, by name."""
        return {hung.bundle: hung.reason for hung in self.hung.values() if hung.bundle}


def start(devices: Sequence[str]) -> State:
    """Return the first state of an engine with these devices."""
    return State({name: DeviceState() for name in devices}, {}, Turns(), {}, 0, False)


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """Return what is the case after an event, and what is to be done, in this order."""
    draft = _Draft(state)
    _HANDLERS[type(event)](draft, event)
    draft.settle()
    draft.take()
    return draft.state(), tuple(draft.effects)


class _Draft:
    """The next state while it is made, out of copies of what is in the one before."""

    def __init__(self, state: State) -> None:
        self.devices = dict(state.devices)
        self.models = dict(state.models)
        self.turns = state.turns
        self.hung = dict(state.hung)
        self.runs = state.runs
        self.closed = state.closed
        self.effects: list[Effect] = []

    def state(self) -> State:
        return State(self.devices, self.models, self.turns, self.hung, self.runs, self.closed)

    # jobs

    def submitted(self, event: Submitted) -> None:
        job = event.job
        if reason := "the engine is closed" if self.closed else self.suspension(job.bundle):
            self.effects.append(Refuse(job.id, reason))
            return
        self.turns = self.turns.add(job)
        self.forgive(job)
        self.want(job)

    def cancelled(self, event: Cancelled) -> None:
        for job in self.turns.jobs:
            if job.id == event.job:
                self.turns = self.turns.without(job)
                self.effects.append(Cancel(job.id))

    def refuse(self, job: Job, reason: object) -> None:
        self.turns = self.turns.without(job)
        self.effects.append(Refuse(job.id, reason))

    # models

    def loaded(self, event: Loaded) -> None:
        self.move_model(event.device, event.bundle, Loaded, ModelState(batch=event.batch, pace=event.pace))
        self.want_all()

    def load_failed(self, event: LoadFailed) -> None:
        if event.lost:
            self.move_model(event.device, event.bundle, DeviceLost)
            self.lose(event.device)
        else:
            self.move_model(event.device, event.bundle, LoadFailed, ModelState(trouble=event.error))
        self.want_all()

    def slow(self, event: Slow) -> None:
        self.move_model(event.device, event.bundle, Slow)
        self.want_all()

    def overdue(self, event: Overdue) -> None:
        self.move_model(event.device, event.bundle, Overdue, ModelState(trouble=event.reason))
        self.want_all()

    def phase(self, device: str, bundle: str) -> ModelPhase:
        model = self.models.get((device, bundle))
        return ModelPhase.ABSENT if model is None else model.phase

    def move_model(self, device: str, bundle: str, by: type, what: ModelState | None = None) -> bool:
        phase = MODEL_MOVES[self.phase(device, bundle)].get(by)
        if phase is not None:
            self.models[device, bundle] = (what or ModelState())._replace(phase=phase)
        return phase is not None

    def devices_for(self, job: Job) -> list[str]:
        """Devices that may do a job."""
        return list(self.devices) if job.device is None else [job.device]

    def forgive(self, job: Job) -> None:
        """Let a bundle that could be loaded nowhere be tried again: its files may be others now."""
        names = self.devices_for(job)
        if all(self.phase(name, job.bundle) is ModelPhase.FAILED for name in names):
            for name in names:
                self.move_model(name, job.bundle, Submitted)

    def want(self, job: Job) -> None:
        """Load what a job needs wherever it may be done; refuse a job that has nothing to hope for."""
        if self.closed:
            return
        if reason := self.suspension(job.bundle):
            self.refuse(job, reason)
            return
        for name in self.devices_for(job) if job.bundle else ():
            turn = not (job.background and self.is_loading(name))
            if turn and self.devices[name].phase in _UP and self.move_model(name, job.bundle, Load):
                self.effects.append(Load(name, job.bundle))
        troubles = [self.trouble(name, job) for name in self.devices_for(job)]
        reasons = [reason for _, reason in troubles if reason is not None]
        if reasons and not any(hope for hope, _ in troubles):
            self.refuse(job, reasons[0])

    def trouble(self, name: str, job: Job) -> tuple[bool, object]:
        """Return whether a device may do a job soon, and what is wrong otherwise; None: it was lost just now."""
        device, model = self.devices[name], self.models.get((name, job.bundle), ModelState())
        waits = job.patient and model.phase is ModelPhase.OVERDUE
        reason = device.trouble if device.trouble is not None or waits else model.trouble
        return reason is None and device.phase is not DevicePhase.LOST, reason

    def want_all(self) -> None:
        for job in self.turns.jobs:
            self.want(job)

    def is_loading(self, device: str) -> bool:
        return any(key[0] == device and model.phase is ModelPhase.LOADING for key, model in self.models.items())

    # devices

    def finished(self, event: Finished) -> None:
        device = self.devices[event.device]
        if device.run == event.run:
            self.move_device(event.device, Finished)
            self.turns = self.turns.charge(device.jobs, event.seconds)
            self.effects += [Answer(job.id, out) for job, out in zip(device.jobs, event.outcomes, strict=True)]
            return
        self.come_back(event.run)

    def come_back(self, run: int) -> None:
        """Use the bundle of a run that was given up again, if it was the last one."""
        hung = self.hung.pop(run, None)
        if hung is not None and hung.bundle and not self.suspension(hung.bundle):
            self.effects.append(Resume(hung.bundle))

    def device_lost(self, event: DeviceLost) -> None:
        if self.devices[event.device].run == event.run:
            self.lose(event.device)
            self.want_all()
        elif event.run in self.hung and not self.closed:
            self.effects.append(Probation(event.run))

    def pardoned(self, event: Pardoned) -> None:
        self.come_back(event.run)

    def device_gone(self, event: DeviceGone) -> None:
        if self.move_device(event.device, DeviceGone, DeviceState(trouble=event.reason)):
            self.want_all()

    def device_back(self, event: DeviceBack) -> None:
        if self.move_device(event.device, DeviceBack):
            for name, bundle in self.models:
                if name == event.device:
                    self.move_model(name, bundle, DeviceBack)
            self.want_all()

    def move_device(self, name: str, by: type, what: DeviceState | None = None) -> bool:
        phase = DEVICE_MOVES[self.devices[name].phase].get(by)
        if phase is not None:
            self.devices[name] = (what or DeviceState())._replace(phase=phase)
        return phase is not None

    def lose(self, name: str) -> None:
        """Put a device's jobs back before all others, for the other devices or for the time when it is back."""
        jobs = self.devices[name].jobs
        if not self.move_device(name, DeviceLost):
            return
        if self.closed:
            self.effects += [Refuse(job.id, f"{name} was lost while the engine was closed") for job in jobs]
        else:
            self.turns = self.turns.put_back(jobs)
            self.effects.append(Revive(name))

    def overran(self, event: Overran) -> None:
        device = self.devices[event.device]
        if device.run == event.run:
            self.turns = self.turns.charge(device.jobs, event.seconds)
            self.give_up(event.device, Overran, event.reason, hangs=event.hangs)

    def give_up(self, name: str, by: type, reason: str, *, hangs: bool = True) -> None:
        """Answer what a device runs, suspend the bundle if it hangs, and go on without."""
        device = self.devices[name]
        bundle = device.jobs[0].bundle if hangs else ""
        self.move_device(name, by)
        self.hung[device.run] = Hung(bundle, reason)
        said = f"bundle {bundle!r}: {reason}" if bundle else reason
        self.effects += [Refuse(job.id, said) for job in device.jobs]
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

    def settle(self) -> None:
        """Keep accounts of the scans that are there."""
        self.turns = self.turns.settle(_running(self.devices))

    def take(self) -> None:
        """Give every idle device the job whose turn it is."""
        if self.closed:
            return
        for name, device in self.devices.items():
            if device.phase is DevicePhase.IDLE and (jobs := self.turn(name)):
                self.runs += 1
                self.move_device(name, Run, DeviceState(run=self.runs, jobs=jobs))
                self.effects.append(Run(name, self.runs, jobs[0].bundle, tuple([job.id for job in jobs])))

    def turn(self, name: str) -> tuple[Job, ...]:
        """Take the first job that a device can do now out of the queue, and those that go along with it."""
        if not self.turns.jobs:
            return ()
        able = [job for job in self.turns.order(_running(self.devices)) if self.can_do(name, job)]
        if not able:
            return ()
        jobs = able[0], *self.companions(name, able[0], able[1:])
        for job in jobs[1:]:
            self.turns = self.turns.without(job)
        self.turns = self.turns.take(jobs[0])
        return jobs

    def can_do(self, name: str, job: Job) -> bool:
        return job.device in (None, name) and self.is_ready(name, job)

    def is_ready(self, name: str, job: Job) -> bool:
        return not job.bundle or self.phase(name, job.bundle) is ModelPhase.READY

    def companions(self, name: str, first: Job, others: Sequence[Job]) -> list[Job]:
        """Return the jobs that are like the first one, as many as the batch has room for."""
        room = self.models[name, first.bundle].batch - first.entries if first.bundle else 0
        found: list[Job] = []
        for job in others if first.likeness is not None else ():
            if job.bundle == first.bundle and job.likeness == first.likeness and job.entries <= room:
                found.append(job)
                room -= job.entries
        return found

    # the end

    def close(self, _: Closed) -> None:
        self.closed = True
        self.effects += [Cancel(job.id) for job in self.turns.jobs]
        self.turns = Turns()

    def expired(self, _: Expired) -> None:
        self.closed = True
        for name, device in self.devices.items():
            if device.phase is DevicePhase.RUNNING:
                self.give_up(name, Expired, "the engine was closed before it was done")


def _running(devices: Mapping[str, DeviceState]) -> Counter[str]:
    return Counter(scan for device in devices.values() for scan in {job.scan for job in device.jobs})


# each takes the event that is its key, which no type of a mapping can say
_HANDLERS: Mapping[type, Callable[[_Draft, Any], None]] = {
    Submitted: _Draft.submitted,
    Cancelled: _Draft.cancelled,
    Loaded: _Draft.loaded,
    LoadFailed: _Draft.load_failed,
    Slow: _Draft.slow,
    Overdue: _Draft.overdue,
    Overran: _Draft.overran,
    Finished: _Draft.finished,
    DeviceLost: _Draft.device_lost,
    DeviceGone: _Draft.device_gone,
    DeviceBack: _Draft.device_back,
    Pardoned: _Draft.pardoned,
    Closed: _Draft.close,
    Expired: _Draft.expired,
}
