"""One thread for each device, which takes jobs from the queue and works them off."""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from .device import Device, DeviceLostError
from .jobs import EngineError, FairQueue, Job, Result, stack, unstack

log = logging.getLogger("isocenter.engine")


_REVIVAL_SECONDS = 1.0


class Suspended:
    """Bundles that hang: they are not run until they have come back."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def add(self, bundle: str, reason: str) -> None:
        """Run it no more."""
        log.error("bundle %s is suspended: %s", bundle, reason)
        self._reasons[bundle] = reason

    def remove(self, bundle: str) -> None:
        """Run it again."""
        if self._reasons.pop(bundle, None) is not None:
            log.warning("bundle %s has come back and is used again", bundle)

    def check(self, bundle: str) -> None:
        """Raise ``EngineError`` for a bundle that is suspended."""
        if bundle in self._reasons:
            raise EngineError(f"bundle {bundle!r} is suspended: {self._reasons[bundle]}")


class Worker:
    """Works off a queue on one device.

    Parameters
    ----------
    device
        Where to run.
    queue
        Shared by all workers.
    suspended
        Shared by all workers.
    """

    def __init__(self, device: Device, queue: FairQueue, suspended: Suspended) -> None:
        self.device = device
        self._queue = queue
        self._suspended = suspended
        self._running: list[Job] = []
        self._thread: threading.Thread
        self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name=f"engine {self.device.name}", daemon=True)
        self._thread.start()

    def _is_retired(self) -> bool:
        """Whether another thread has taken the place of the one that asks."""
        return threading.current_thread() is not self._thread

    def _loop(self) -> None:
        while jobs := self._queue.take(self.device.name, self._limit, self._is_retired):
            self._work_off(jobs)
            del jobs  # the memory of this scan is for the next one, which comes before its jobs do

    def _work_off(self, jobs: list[Job]) -> None:
        live = [job for job in jobs if job.future.running() or job.future.set_running_or_notify_cancel()]
        if not live:
            return
        self._running = live
        outcomes = self._execute(live)
        if isinstance(outcomes[0], DeviceLostError) and not self._is_retired():
            self._running = []
            self._wait_for_device(live)
            return
        for job, outcome in zip(live, outcomes, strict=True):
            _settle(job.future, outcome)
        if not self._is_retired():
            self._running = []
        elif not isinstance(outcomes[0], EngineError):  # it has come back by itself
            self._suspended.remove(live[0].bundle)

    def _limit(self, job: Job) -> int:
        try:
            return self.device.batch(job.bundle)
        except Exception:  # noqa: BLE001 - running the job will say why
            return 1

    def _execute(self, jobs: list[Job]) -> Sequence[Result | Exception]:
        """Return a result, or what went wrong, for each job."""
        first = jobs[0]
        try:
            self._suspended.check(first.bundle)
            if first.order is None:
                return unstack(jobs, self.device.run(first.bundle, stack(jobs)))
            first.order()
            return [Result({}, "", self.device.name, 0.0)]
        except Exception as error:  # noqa: BLE001 - a job's failure is its own
            return [error] * len(jobs)

    def _wait_for_device(self, jobs: list[Job]) -> None:
        """Leave the jobs to other devices until this one is back."""
        log.error("%s is lost; its jobs go to other devices", self.device.name)
        self._queue.put_back(jobs)
        while not self._queue.is_closed and not self.device.is_alive():
            time.sleep(_REVIVAL_SECONDS)
        log.warning("%s is back", self.device.name)

    def abandon(self, future: Future[Result], reason: str) -> bool:
        """Give up what this worker is doing, if it is doing this; another thread goes on with the queue."""
        running = self._running
        if not any(job.future is future for job in running):
            return False
        self._suspended.add(running[0].bundle, reason)
        self._running = []
        self._start()
        for job in running:
            _settle(job.future, EngineError(f"bundle {job.bundle!r}: {reason}"))
        self.device.reset()
        return True

    def join(self, timeout: float) -> None:
        """Wait for what runs."""
        self._thread.join(timeout)


def _settle(future: Future[Result], outcome: Result | BaseException) -> None:
    """Answer a job; one that was given up has its answer already."""
    with suppress(InvalidStateError):
        if isinstance(outcome, Result):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
