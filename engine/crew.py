"""The threads of an engine: they tell the machine what happens, and do what it says. They decide nothing."""

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from ..flow.deferred import Deferred, settled
from ..flow.ledger import Account, Ledger
from ..wire.errors import IsocenterError
from . import events, machine
from .alarm import Alarm
from .device import Device
from .jobs import DeviceLostError, EngineError, Inputs, Result, Tensors, Ticket, entries, likeness, stack, unstack

log: logging.Logger = logging.getLogger("isocenter.engine")

_REVIVAL_SECONDS = 1.0
_CLOSE_SECONDS = 10.0
_SLOW_SECONDS = 10.0
"""A load that takes longer is not what others, which are measured when they are loaded, should wait for."""
_PROBATION_SECONDS = 300.0
_MARGIN = 10.0
"""Times what a run is expected to take by its size: other programs, and memory that is slower than caches, take their part."""
_FLOAT_BYTES = 4

Call = Callable[[], object]
T = TypeVar("T")


@dataclass(eq=False)
class _Task:
    """What a job stands for: its inputs, or an errand, something else to be done in the thread of a device.

    Attributes
    ----------
    size
        Bytes of the inputs, with which the account is charged.
    seconds
        How long an errand, or what is to be computed of the inputs, may take; None: the deadline holds.
    """

    ticket: Ticket
    work: Inputs | Call
    account: Account | None = None
    size: int = 0
    seconds: float | None = None

    def leave_queue(self, calls: list[Call]) -> None:
        """Give its bytes back, once."""
        if self.account is not None:
            calls.append(partial(self.account.credit, self.size))
            self.account = None


class _Hand:
    """A thread that does what it is given, one thing after the other."""

    def __init__(self, name: str) -> None:
        self._given: SimpleQueue[Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while (work := self._given.get()) is not None:
            work()
            del work  # the memory of this scan is for the next one, which comes before its jobs do

    def give(self, work: Call | None) -> None:
        """Add something to do; None: nothing comes after it."""
        self._given.put(work)

    def join(self, end: float) -> bool:
        """Wait until it is done, at most until then; return whether it is."""
        return _joined(self._thread, end)


class Crew:
    """A thread for each device, and one for each bundle that is being loaded.

    Parameters
    ----------
    devices
        Each has a name of its own.
    deadline
        Seconds after which a run hangs, unless it is so large that it is expected to take longer.
    patience
        Seconds after which a load is overdue, and a device that does not come back is gone.

    Raises
    ------
    EngineError
        Two devices have the same name.
    """

    def __init__(self, devices: Sequence[Device], deadline: float, patience: float) -> None:
        self._devices = {device.name: device for device in devices}
        if len(self._devices) < len(devices):
            raise EngineError(f"a device is named twice: {', '.join(device.name for device in devices)}")
        self._deadline = deadline
        self._patience = patience
        self._state = machine.start(list(self._devices))
        self._lock = threading.Lock()
        self._tasks: dict[int, _Task] = {}
        self._numbers = itertools.count(1)
        self._charging: list[Ledger] = []
        self._closing = threading.Event()
        self._loading: set[threading.Thread] = set()
        self._alarm = Alarm("engine alarm")
        self._hands = {name: _Hand(f"engine {name}") for name in self._devices}
        # each takes the effect that is its key, which no type of a mapping can say
        self._means: Mapping[type, Callable[[Any, list[Call]], None]] = {
            events.Load: self._load,
            events.Run: self._run,
            events.Answer: self._answer,
            events.Refuse: self._refuse,
            events.Cancel: self._cancel,
            events.Replace: self._replace,
            events.Reset: self._reset,
            events.Revive: self._revive,
            events.Suspend: self._suspend,
            events.Resume: self._resume,
            events.Probation: self._probation,
        }

    @property
    def state(self) -> machine.State:
        """What is the case."""
        return self._state

    def submit(
        self,
        bundle: str,
        inputs: Inputs,
        *,
        scan: str,
        urgent: bool = False,
        last: bool = False,
        patient: bool = False,
        account: Account | None = None,
    ) -> Ticket:
        """Queue inputs for a bundle, once the account has room for them.

        Raises
        ------
        EngineError
            The engine is closed.
        """
        self._check_open()
        size = sum(_FLOAT_BYTES * math.prod(value.shape) for value in inputs.values())
        if account is not None:
            # what is urgent waits for no room: an account that holds nothing takes whatever comes
            account = account.ledger.account("urgent") if urgent else account
            self._charge(account, size)
        job = events.Job(
            next(self._numbers),
            bundle,
            scan,
            urgent,
            last,
            patient=patient,
            entries=entries(inputs),
            likeness=likeness(inputs),
        )
        times = [
            value.seconds for value in inputs.values() if isinstance(value, Deferred) and value.seconds is not None
        ]
        return self._put(job, _Task(self._ticket(job), inputs, account, size, max(times, default=None)))

    def reason_to_wait(self, ticket: Ticket) -> str:
        """Return why a job waits for others than its own scan's; empty if it does not."""
        return self._state.reason_to_wait(ticket.job)

    def submit_errand(
        self,
        errand: Call,
        *,
        bundle: str,
        scan: str,
        device: str,
        background: bool = False,
        seconds: float | None = None,
    ) -> Ticket:
        """Queue something to be done in the thread of a device, after the bundle is loaded there.

        It may take so many seconds; None: the deadline holds.

        Raises
        ------
        EngineError
            The engine is closed.
        """
        self._check_open()
        job = events.Job(next(self._numbers), bundle, scan, background=background, device=device)
        return self._put(job, _Task(self._ticket(job), errand, seconds=seconds))

    def _check_open(self) -> None:
        if self._state.closed:
            raise EngineError("the engine is closed")

    def _charge(self, account: Account, size: int) -> None:
        self._charging.append(account.ledger)  # for whoever closes the engine meanwhile
        try:
            if not account.charge(size, leave=lambda: self._state.closed):
                raise EngineError("the engine is closed")
        finally:
            self._charging.remove(account.ledger)

    def _ticket(self, job: events.Job) -> Ticket:
        return Ticket(job.id, lambda number: self.tell(events.Cancelled(number)))

    def _put(self, job: events.Job, task: _Task) -> Ticket:
        self._tasks[job.id] = task
        self.tell(events.Submitted(job))
        return task.ticket

    def close(self) -> bool:
        """Cancel what waits, and wait a while for what runs and loads; return whether all of it has ended."""
        self.tell(events.Closed())
        self._closing.set()
        for ledger in tuple(self._charging):
            ledger.wake()
        end = time.monotonic() + _CLOSE_SECONDS
        for hand in self._hands.values():
            hand.give(None)
        ended = [hand.join(end) for hand in self._hands.values()]
        ended += [_joined(thread, end) for thread in tuple(self._loading)]
        self.tell(events.Expired())
        self._alarm.close()
        return all(ended)

    def tell(self, event: events.Event) -> None:
        """Tell the machine what has happened, and do what it says.

        What calls others, such as answers, is done when the lock is free: they may want to tell something, too.
        """
        calls: list[Call] = []
        with self._lock:
            self._state, effects = machine.step(self._state, event)
            for effect in effects:
                self._means[type(effect)](effect, calls)
        for call in calls:
            try:
                call()
            except Exception:  # one job's trouble is not the others'
                log.exception("after %s", type(event).__name__)

    # what the machine says; under the lock, with calls for afterwards

    def _load(self, effect: events.Load, _: list[Call]) -> None:
        name = f"load {effect.bundle} on {effect.device}"
        thread = threading.Thread(target=self._load_now, args=(effect.device, effect.bundle), name=name, daemon=True)
        self._loading.add(thread)
        thread.start()

    def _run(self, effect: events.Run, calls: list[Call]) -> None:
        tasks = [self._tasks[job] for job in effect.jobs]
        for task in tasks:
            task.ticket.begin()
            task.leave_queue(calls)
        self._hands[effect.device].give(partial(self._run_now, effect, tasks))

    def _answer(self, effect: events.Answer, calls: list[Call]) -> None:
        calls.append(partial(self._leave(effect.job, calls).answer, effect.outcome))

    def _refuse(self, effect: events.Refuse, calls: list[Call]) -> None:
        calls.append(partial(self._leave(effect.job, calls).refuse, effect.reason))

    def _cancel(self, effect: events.Cancel, calls: list[Call]) -> None:
        calls.append(self._leave(effect.job, calls).end)

    def _leave(self, job: int, calls: list[Call]) -> Ticket:
        task = self._tasks.pop(job)
        task.leave_queue(calls)
        return task.ticket

    def _replace(self, effect: events.Replace, _: list[Call]) -> None:
        self._hands[effect.device].give(None)
        self._hands[effect.device] = _Hand(f"engine {effect.device}")

    def _reset(self, effect: events.Reset, _: list[Call]) -> None:
        self._await_device(effect.device)
        self._hands[effect.device].give(partial(self._reset_now, self._devices[effect.device]))

    def _revive(self, effect: events.Revive, calls: list[Call]) -> None:
        calls.append(partial(log.error, "%s is lost; its jobs go to other devices", effect.device))
        self._await_device(effect.device)
        self._hands[effect.device].give(partial(self._revive_now, self._devices[effect.device]))

    def _await_device(self, name: str) -> None:
        reason = f"{name} has been away for {self._patience:g} seconds"
        self._alarm.watch(("device", name), self._patience, partial(self.tell, events.DeviceGone(name, reason)))

    def _suspend(self, effect: events.Suspend, calls: list[Call]) -> None:
        calls.append(partial(log.error, "bundle %s is suspended: %s", effect.bundle, effect.reason))

    def _resume(self, effect: events.Resume, calls: list[Call]) -> None:
        calls.append(partial(log.warning, "bundle %s has come back and is used again", effect.bundle))

    def _probation(self, effect: events.Probation, _: list[Call]) -> None:
        self._alarm.watch(("run", effect.run), _PROBATION_SECONDS, partial(self.tell, events.Pardoned(effect.run)))

    # what takes time, in threads; each tells how it ended

    def _run_now(self, effect: events.Run, tasks: Sequence[_Task]) -> None:
        start = time.monotonic()
        try:
            outcomes = self._outcomes(effect, tasks, start)
            event = events.Finished(effect.device, effect.run, outcomes, time.monotonic() - start)
        except DeviceLostError:
            event = events.DeviceLost(effect.device, effect.run)
        self._alarm.forget(("run", effect.run))
        self.tell(event)

    def _outcomes(self, effect: events.Run, tasks: Sequence[_Task], start: float) -> list[object]:
        """Do what is to be done together; an errand comes alone. What fails is the outcome of its own job only."""
        device = self._devices[effect.device]
        works = [task.work for task in tasks]
        seconds = sum(self._deadline if task.seconds is None else task.seconds for task in tasks)
        errands = [partial(_carry_out, work, device.name) for work in works if callable(work)]
        if errands:
            self._limit(effect, start, seconds, hangs=bool(effect.bundle))
            return [_attempt(errand) for errand in errands]

        def compute(inputs: Sequence[Tensors]) -> list[Result]:
            self._limit(effect, start, self._seconds(effect, tasks), hangs=True)
            return unstack(inputs, device.compute(effect.bundle, stack(inputs)))

        self._limit(effect, start, seconds, hangs=False)
        inputs = [_attempt(partial(_settle, work)) for work in works if not callable(work)]
        if self._state.devices[effect.device].run != effect.run:
            return []  # it was given up meanwhile
        results = iter(_each(compute, [each for each in inputs if not isinstance(each, Exception)]))
        return [each if isinstance(each, Exception) else next(results) for each in inputs]

    def _seconds(self, effect: events.Run, tasks: Sequence[_Task]) -> float:
        """Return how long a run may take."""
        expected = self._state.models[effect.device, effect.bundle].pace * sum(task.size for task in tasks)
        return max(self._deadline, _MARGIN * expected)

    def _limit(self, effect: events.Run, start: float, seconds: float, *, hangs: bool) -> None:
        """Give a run up when it goes on for so many seconds from now."""
        reason = f"no result after {seconds:.3g} seconds" if hangs else f"no inputs after {seconds:.3g} seconds"

        def tell() -> None:
            self.tell(events.Overran(effect.device, effect.run, reason, time.monotonic() - start, hangs))

        self._alarm.watch(("run", effect.run), seconds, tell)

    def _load_now(self, name: str, bundle: str) -> None:
        reason = (
            f"bundle {bundle!r} was not loaded on {name} within {self._patience:g} seconds; it is still being loaded, and is "
            "used for what is sent, or sent again, when that is done"
        )
        late = {
            "slow": (_SLOW_SECONDS, events.Slow(name, bundle)),
            "overdue": (self._patience, events.Overdue(name, bundle, reason)),
        }
        for how, (seconds, event) in late.items():
            self._alarm.watch((how, name, bundle), seconds, partial(self.tell, event))
        device = self._devices[name]
        try:
            device.load(bundle)
            event = events.Loaded(name, bundle, device.batch(bundle), device.pace(bundle))
        except BaseException as error:  # noqa: BLE001 - whoever waits for it must know
            event = events.LoadFailed(name, bundle, _trouble(name, bundle, error), isinstance(error, DeviceLostError))
        for how in late:
            self._alarm.forget((how, name, bundle))
        self.tell(event)
        self._loading.discard(threading.current_thread())

    def _reset_now(self, device: Device) -> None:
        try:
            device.reset()
        except Exception:
            log.exception("%s could not be reset", device.name)
        self._is_back(device)

    def _revive_now(self, device: Device) -> None:
        while not _is_alive(device):
            if self._closing.wait(_REVIVAL_SECONDS):
                return
        log.warning("%s is given jobs again", device.name)
        self._is_back(device)

    def _is_back(self, device: Device) -> None:
        self._alarm.forget(("device", device.name))
        self.tell(events.DeviceBack(device.name))


def _joined(thread: threading.Thread, end: float) -> bool:
    """Wait for a thread, at most until then; return whether it has ended."""
    thread.join(max(0.0, end - time.monotonic()))
    return not thread.is_alive()


def _attempt(call: Callable[[], T]) -> T | Exception:
    """Return what a call returns, or an error that whoever waits can be given.

    Raises
    ------
    DeviceLostError
        The device is gone; it is no failure of what it ran.
    """
    try:
        return call()
    except DeviceLostError:
        raise
    except BaseException as error:  # noqa: BLE001 - a job's failure is its own
        return _failure(error)


def _carry_out(errand: Call, device: str) -> Result:
    errand()
    return Result({}, "", device, 0.0)


def _settle(inputs: Inputs) -> Tensors:
    try:
        return settled(inputs)
    except TimeoutError:
        raise EngineError("its inputs take too long to compute") from None


def _each(compute: Callable[[Sequence[Tensors]], list[Result]], jobs: list[Tensors]) -> Sequence[Result | Exception]:
    """Compute jobs together, or if that fails each by itself: one of them must not cost the others their images."""
    together = _attempt(partial(compute, jobs)) if jobs else []
    if not isinstance(together, Exception):
        return together
    if len(jobs) == 1:
        return [together]
    log.warning("a batch of %d jobs failed; they are computed one by one", len(jobs))
    return [result for job in jobs for result in _each(compute, [job])]


def _failure(error: BaseException) -> Exception:
    """Return an error that whoever waits can be given; one that ends a thread is not for theirs."""
    return error if isinstance(error, Exception) else EngineError(f"it ended its thread ({type(error).__name__})")


def _trouble(name: str, bundle: str, error: BaseException) -> IsocenterError | str:
    """Return what is said to all that wait for a bundle; an error that nobody has foreseen is logged, too."""
    if isinstance(error, IsocenterError):
        return error
    log.error("bundle %s cannot be loaded on %s", bundle, name, exc_info=error)
    return (
        f"bundle {bundle!r} cannot be loaded on {name}: {type(error).__name__}, of which the service's log tells more"
    )


def _is_alive(device: Device) -> bool:
    try:
        return device.is_alive()
    except Exception:
        log.exception("%s could not be asked whether it is there", device.name)
        return False
