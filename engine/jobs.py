"""What waits for a device, and in which order it gets its turn."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..flow.deferred import Deferred, settled
from ..wire.errors import IsocenterError

Tensors = Mapping[str, Tensor]
Inputs = Mapping[str, Tensor | Deferred]

_FLOAT_BYTES = 4


class EngineError(IsocenterError):
    """The engine cannot take or finish a job."""


@dataclass(frozen=True)
class Result:
    """What came of a job.

    Attributes
    ----------
    outputs
        Tensors by name.
    runtime, device
        What computed them, and where.
    seconds
        How long the runtime took for the whole batch that the job was part of.
    """

    outputs: dict[str, Tensor]
    runtime: str
    device: str
    seconds: float


@dataclass(eq=False)
class Job:
    """Inputs for one bundle, or an order: something else to be done in the thread of a device.

    Attributes
    ----------
    bundle
        Name of the bundle; empty if an order has to do with none.
    inputs
        Tensors by name; those that are to be computed yet are computed in the device's thread.
    scan
        Whose turn it uses up.
    urgent
        Whether it goes before everything that is not, because it repeats what has failed already.
    order
        What to do.
    device
        The only device that may do it; None: any.
    """

    bundle: str
    inputs: Inputs
    scan: str
    urgent: bool = False
    order: Callable[[], object] | None = None
    device: str | None = None
    future: Future[Result] = field(default_factory=Future)

    @property
    def size(self) -> int:
        """Bytes of the inputs."""
        return sum(_FLOAT_BYTES * math.prod(value.shape) for value in self.inputs.values())

    @property
    def entries(self) -> int:
        """Length of the batch."""
        return next(iter(self.inputs.values())).shape[0]

    def is_like(self, other: "Job") -> bool:
        """Whether both can be computed in one batch."""
        return (
            self.bundle == other.bundle
            and self.order is None
            and other.order is None
            and all(self.inputs[name].shape[1:] == other.inputs[name].shape[1:] for name in self.inputs)
        )


class FairQueue:
    """Jobs of several scans, which take turns; a scan that has too many bytes waiting is held back when it adds more.

    Parameters
    ----------
    capacity
        Bytes that may wait for each scan; one job always fits.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: dict[str, deque[Job]] = {}
        self._urgent: deque[Job] = deque()
        self._closed = False
        self._condition = threading.Condition()

    def __len__(self) -> int:
        with self._condition:
            return sum(1 for _ in self._all())

    def put(self, job: Job) -> None:
        """Wait for room, and append.

        Raises
        ------
        EngineError
            The queue is closed.
        """
        with self._condition:
            while not self._closed and not job.urgent and not self._has_room(job):
                self._condition.wait()
            if self._closed:
                raise EngineError("the engine is closed")
            if job.urgent:
                self._urgent.append(job)
            else:
                self._waiting.setdefault(job.scan, deque()).append(job)
            self._condition.notify_all()
        job.future.add_done_callback(self._forget_if_cancelled)

    def put_back(self, jobs: list[Job]) -> None:
        """Let jobs that were taken be done by somebody else, before all others."""
        with self._condition:
            self._urgent.extendleft(reversed(jobs))
            self._condition.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether no more jobs are accepted."""
        return self._closed

    def _has_room(self, job: Job) -> bool:
        held = sum(other.size for other in self._waiting.get(job.scan, ()))
        return held == 0 or held + job.size <= self._capacity

    def _all(self) -> Iterator[Job]:
        yield from self._urgent
        for jobs in self._waiting.values():
            yield from jobs

    def take(self, device: str, limit: Callable[[Job], int], leave: Callable[[], bool]) -> list[Job]:
        """Wait for the job whose turn it is, and remove it together with those that can be computed along with it.

        Parameters
        ----------
        device
            For which the job is.
        limit
            Says how many entries a batch may have.
        leave
            Asked whenever something changes: whether to give up waiting.

        Returns
        -------
        list of Job
            Empty once the queue is closed, or its taker leaves.
        """
        with self._condition:
            while not self._closed and not leave() and self._next(device) is None:
                self._condition.wait()
            first = None if self._closed or leave() else self._next(device)
            if first is None:
                return []
            self._remove(first)
            if first.scan in self._waiting:  # to the end of the row of scans
                self._waiting[first.scan] = self._waiting.pop(first.scan)
            self._condition.notify_all()
        room = limit(first) - first.entries if first.inputs else 0
        if room <= 0:
            return [first]
        with self._condition:
            companions = []
            for job in list(self._all()):
                if job.is_like(first) and job.entries <= room:
                    companions.append(job)
                    room -= job.entries
                    self._remove(job)
            self._condition.notify_all()
            return [first, *companions]

    def _next(self, device: str) -> Job | None:
        return next((job for job in self._all() if job.device in (None, device)), None)

    def _remove(self, job: Job) -> None:
        if job in self._urgent:
            self._urgent.remove(job)
            return
        jobs = self._waiting.get(job.scan)
        if jobs and job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._waiting[job.scan]

    def _forget_if_cancelled(self, future: Future[Result]) -> None:
        """Make room for others. A callback that knew the job would keep its inputs as long as anybody has the future."""
        if future.cancelled():
            with self._condition:
                for job in [job for job in self._all() if job.future is future]:
                    self._remove(job)
                self._condition.notify_all()

    def wake(self) -> None:
        """Let takers ask again whether they should leave."""
        with self._condition:
            self._condition.notify_all()

    def close(self) -> None:
        """Accept no more jobs, and cancel those that wait."""
        with self._condition:
            self._closed = True
            waiting = list(self._all())
            self._urgent.clear()
            self._waiting.clear()
            self._condition.notify_all()
        for job in waiting:
            job.future.cancel()


def stack(jobs: list[Job]) -> Tensors:
    """Join the inputs of like jobs along the batch."""
    inputs = [settled(job.inputs) for job in jobs]
    if len(jobs) == 1:
        return inputs[0]
    return {name: torch.cat([each[name] for each in inputs]) for name in inputs[0]}


def unstack(jobs: list[Job], result: Result) -> list[Result]:
    """Split the outputs of joined jobs."""
    if len(jobs) == 1:
        return [result]
    lengths = [job.entries for job in jobs]
    parts = {name: tensor.split(lengths) for name, tensor in result.outputs.items()}
    return [
        Result({name: part[i] for name, part in parts.items()}, result.runtime, result.device, result.seconds)
        for i in range(len(jobs))
    ]
