"""The threads of an engine: they tell the machine what happens, and do what it says. They decide nothing."""

import copy
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

from ..flow.ledger import Account, Ledger
from ..wire.errors import IsocenterError
from . import events, machine
from .device import Device
from .jobs import DeviceLostError, EngineError, Inputs, Result, entries, likeness, stack, unstack

log = logging.getLogger("isocenter.engine")

_REVIVAL_SECONDS = 1.0
_CLOSE_SECONDS = 10.0
_FLOAT_BYTES = 4

Work = Callable[[], object]


class Ticket(Future[Result]):
    """The answer to a job, which ``cancel`` takes out of the queue as long as it has not begun.

    It does not know its inputs: they would live as long as anybody has it.
    """

    def __init__(self, job: int, cancel: Callable[[int], None]) -> None:
        super().__init__()
        self.job = job
        self._take_out = cancel
        self._has_begun = False

    def cancel(self) -> bool:
        """Take the job out of the queue; False if it has begun."""
        self._take_out(self.job)
        return self.cancelled()

    def begin(self) -> None:
        """Say that the job runs; again after it was put back."""
        if not self._has_begun:
            self._has_begun = True
            self.set_running_or_notify_cancel()

    def answer(self, outcome: Any) -> None:
        """Give the outcome."""
        if isinstance(outcome, Result):
            self.set_result(outcome)
        else:
            self.set_exception(outcome)

    def refuse(self, reason: Any) -> None:
        """Give an error of its own: whoever raises one ties the frames of its callers to it."""
        self.set_exception(copy.copy(reason) if isinstance(reason, IsocenterError) else EngineError(str(reason)))

    def end(self) -> None:
        """Say that the job will not be done."""
        if self._has_begun:  # before its device was lost
            self.set_exception(CancelledError())
        else:
            super().cancel()
            self.set_running_or_notify_cancel()


@dataclass(eq=False)
class _Task:
    """What a job stands for: its inputs, or an order, something else to be done in the thread of a device."""

    ticket: Ticket
    work: Inputs | Work
    account: Account | None = None
    size: int = 0

    def leave_queue(self, calls: list[Work]) -> None:
        """Give its bytes back, once."""
        if self.account is not None:
            calls.append(partial(self.account.credit, self.size))
            self.account = None


class _Hand:
    """A thread that does what it is given, one thing after the other."""

    def __init__(self, name: str) -> None:
        self._given: SimpleQueue[Work | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while (work := self._given.get()) is not None:
            work()
            del work  # the memory of this scan is for the next one, which comes before its jobs do

    def give(self, work: Work | None) -> None:
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
    patience
        Seconds after which a load is overdue.

    Raises
    ------
    EngineError
        Two devices have the same name.
    """

    def __init__(self, devices: Sequence[Device], patience: float) -> None:
        self._devices = {device.name: device for device in devices}
        if len(self._devices) < len(devices):
            raise EngineError(f"a device is named twice: {', '.join(device.name for device in devices)}")
        self._patience = patience
        self._state = machine.start(list(self._devices))
        self._lock = threading.Lock()
        self._tasks: dict[int, _Task] = {}
        self._numbers = itertools.count(1)
        self._charging: list[Ledger] = []
        self._closing = threading.Event()
        self._loading: set[threading.Thread] = set()
        self._hands = {name: _Hand(f"engine {name}") for name in self._devices}
        self._means: Mapping[type, Callable[[Any, list[Work]], None]] = {
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
        }

    @property
    def state(self) -> machine.State:
        """What is the case."""
        return self._state

    def submit(
        self, bundle: str, inputs: Inputs, *, scan: str, urgent: bool = False, account: Account | None = None
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
        job = events.Job(next(self._numbers), bundle, scan, urgent, entries=entries(inputs), likeness=likeness(inputs))
        return self._put(job, inputs, account, size)

    def order(self, work: Work, *, bundle: str, scan: str, device: str, background: bool = False) -> Ticket:
        """Queue something to be done in the thread of a device, after the bundle is loaded there.

        Raises
        ------
        EngineError
            The engine is closed.
        """
        self._check_open()
        job = events.Job(next(self._numbers), bundle, scan, background=background, device=device)
        return self._put(job, work)

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

    def _put(self, job: events.Job, work: Inputs | Work, account: Account | None = None, size: int = 0) -> Ticket:
        ticket = Ticket(job.id, lambda number: self.tell(events.Cancelled(number)))
        self._tasks[job.id] = _Task(ticket, work, account, size)
        self.tell(events.Submitted(job))
        return ticket

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
        return all(ended)

    def tell(self, event: events.Event) -> None:
        """Tell the machine what has happened, and do what it says.

        What calls others, such as answers, is done when the lock is free: they may want to tell something, too.
        """
        calls: list[Work] = []
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

    def _load(self, effect: events.Load, _: list[Work]) -> None:
        name = f"load {effect.bundle} on {effect.device}"
        thread = threading.Thread(target=self._load_now, args=(effect.device, effect.bundle), name=name, daemon=True)
        self._loading.add(thread)
        thread.start()

    def _run(self, effect: events.Run, calls: list[Work]) -> None:
        tasks = [self._tasks[job] for job in effect.jobs]
        for task in tasks:
            task.ticket.begin()
            task.leave_queue(calls)
        self._hands[effect.device].give(partial(self._run_now, effect, tasks))

    def _answer(self, effect: events.Answer, calls: list[Work]) -> None:
        calls.append(partial(self._leave(effect.job, calls).answer, effect.outcome))

    def _refuse(self, effect: events.Refuse, calls: list[Work]) -> None:
        calls.append(partial(self._leave(effect.job, calls).refuse, effect.reason))

    def _cancel(self, effect: events.Cancel, calls: list[Work]) -> None:
        calls.append(self._leave(effect.job, calls).end)

    def _leave(self, job: int, calls: list[Work]) -> Ticket:
        task = self._tasks.pop(job)
        task.leave_queue(calls)
        return task.ticket

    def _replace(self, effect: events.Replace, _: list[Work]) -> None:
        self._hands[effect.device].give(None)
        self._hands[effect.device] = _Hand(f"engine {effect.device}")

    def _reset(self, effect: events.Reset, _: list[Work]) -> None:
        self._hands[effect.device].give(partial(self._reset_now, self._devices[effect.device]))

    def _revive(self, effect: events.Revive, calls: list[Work]) -> None:
        calls.append(partial(log.error, "%s is lost; its jobs go to other devices", effect.device))
        self._hands[effect.device].give(partial(self._revive_now, self._devices[effect.device]))

    def _suspend(self, effect: events.Suspend, calls: list[Work]) -> None:
        calls.append(partial(log.error, "bundle %s is suspended: %s", effect.bundle, effect.reason))

    def _resume(self, effect: events.Resume, calls: list[Work]) -> None:
        calls.append(partial(log.warning, "bundle %s has come back and is used again", effect.bundle))

    # what takes time, in threads; each tells how it ended

    def _run_now(self, effect: events.Run, tasks: Sequence[_Task]) -> None:
        device = self._devices[effect.device]
        try:
            event = events.Finished(device.name, effect.run, _outcomes(device, effect.bundle, tasks))
        except DeviceLostError:
            event = events.DeviceLost(device.name, effect.run)
        except BaseException as error:  # noqa: BLE001 - a job's failure is its own
            event = events.Finished(device.name, effect.run, [_failure(error)] * len(tasks))
        self.tell(event)

    def _load_now(self, name: str, bundle: str) -> None:
        reason = f"bundle {bundle!r} was not loaded on {name} within {self._patience:g} seconds"
        overdue = threading.Timer(self._patience, self.tell, [events.Overdue(name, bundle, reason)])
        overdue.daemon = True
        overdue.start()
        device = self._devices[name]
        try:
            device.load(bundle)
            event = events.Loaded(name, bundle, device.batch(bundle))
        except BaseException as error:  # noqa: BLE001 - whoever waits for it must know
            event = events.LoadFailed(name, bundle, _trouble(name, bundle, error), isinstance(error, DeviceLostError))
        overdue.cancel()
        self.tell(event)
        self._loading.discard(threading.current_thread())

    def _reset_now(self, device: Device) -> None:
        try:
            device.reset()
        except Exception:
            log.exception("%s could not be reset", device.name)
        self.tell(events.DeviceBack(device.name))

    def _revive_now(self, device: Device) -> None:
        while not _is_alive(device):
            if self._closing.wait(_REVIVAL_SECONDS):
                return
        log.warning("%s is back", device.name)
        self.tell(events.DeviceBack(device.name))


def _joined(thread: threading.Thread, end: float) -> bool:
    """Wait for a thread, at most until then; return whether it has ended."""
    thread.join(max(0.0, end - time.monotonic()))
    return not thread.is_alive()


def _outcomes(device: Device, bundle: str, tasks: Sequence[_Task]) -> Sequence[Result]:
    """Do what is to be done together; an order comes alone."""
    works = [task.work for task in tasks]
    inputs = [work for work in works if not callable(work)]
    if inputs:
        return unstack(inputs, device.run(bundle, stack(inputs)))
    for work in works:
        if callable(work):
            work()
    return [Result({}, "", device.name, 0.0)]


def _failure(error: BaseException) -> Exception:
    """Return an error that whoever waits can be given; one that ends a thread is not for theirs."""
    return error if isinstance(error, Exception) else EngineError(f"{type(error).__name__}: {error}")


def _trouble(name: str, bundle: str, error: BaseException) -> IsocenterError | str:
    """Return what is said to all that wait for a bundle; an error that nobody has foreseen is logged, too."""
    if isinstance(error, IsocenterError):
        return error
    log.error("bundle %s cannot be loaded on %s", bundle, name, exc_info=error)
    return f"bundle {bundle!r} cannot be loaded on {name}: {type(error).__name__}: {error}"


def _is_alive(device: Device) -> bool:
    try:
        return device.is_alive()
    except Exception:
        log.exception("%s could not be asked whether it is there", device.name)
        return False
