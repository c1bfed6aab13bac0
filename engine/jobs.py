"""What jobs compute and what comes of it: inputs, results, batches of them, and the answer that is waited for."""

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from ..flow.deferred import Deferred
from ..wire.errors import IsocenterError

Tensors = Mapping[str, Tensor]
Inputs = Mapping[str, Tensor | Deferred]


class EngineError(IsocenterError):
    """The engine cannot take or finish a job."""

    kind = "engine"


class DeviceLostError(EngineError):
    """A device is gone, through no fault of what it ran."""

    kind = "device lost"


@dataclass(frozen=True)
class Result:
    """What came of a job.

    Attributes
    ----------
    outputs
        float32 on the CPU by name, with the axes of the manifest.
    runtime, device
        What computed them, and where.
    seconds
        How long the runtime took for the whole batch that the job was part of.
    parts
        How many entries the runtime was given at once, one time after the other: several only where memory was short.
    first, last
        Which of these entries, counted from 1, are the job's.
    stands_in
        Why ``device`` computed it in place of another one, such as ``cuda:0 is lost``; empty if it did not.
    """

    outputs: dict[str, Tensor]
    runtime: str
    device: str
    seconds: float
    parts: tuple[int, ...] = (1,)
    first: int = 1
    last: int = 1
    stands_in: str = ""

    @property
    def batch(self) -> str:
        """How it was batched, such as ``3-4 of 4``: sums are taken in another order in batches of another length."""
        mine = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{mine} of {'+'.join(map(str, self.parts))}"


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

    def answer(self, outcome: object) -> None:
        """Give the outcome."""
        if isinstance(outcome, Result):
            self.set_result(outcome)
        else:
            assert isinstance(outcome, BaseException)
            self.set_exception(outcome)

    def refuse(self, reason: object) -> None:
        """Give an error of its own: whoever raises one ties the frames of its callers to it."""
        self.set_exception(copy.copy(reason) if isinstance(reason, IsocenterError) else EngineError(str(reason)))

    def end(self) -> None:
        """Say that the job will not be done."""
        if self._has_begun:  # before its device was lost
            self.set_exception(CancelledError())
        else:
            super().cancel()
            self.set_running_or_notify_cancel()


def entries(inputs: Inputs) -> int:
    """Return the length of the batch; one if there are no inputs."""
    return next((value.shape[0] for value in inputs.values()), 1)


def likeness(inputs: Inputs) -> Hashable:
    """Return what is equal for inputs of a bundle that can be computed in one batch: all shapes beyond the batch."""
    return frozenset([(name, *value.shape[1:]) for name, value in inputs.items()])


def stack(jobs: Sequence[Tensors]) -> Tensors:
    """Join like inputs along the batch, the first axis of each: [n1, ...] and [n2, ...] to [n1 + n2, ...]."""
    if len(jobs) == 1:
        return jobs[0]
    return {name: torch.cat([each[name] for each in jobs]) for name in jobs[0]}


def unstack(jobs: Sequence[Tensors], result: Result) -> list[Result]:
    """Split the outputs [n1 + n2, ...] of joined jobs to [n1, ...] and [n2, ...], with each job's place in the batch.

    Parameters
    ----------
    jobs
        The inputs that were joined, in their order.
    result
        Of all of them.
    """
    if len(jobs) == 1:
        return [result]
    lengths = [entries(inputs) for inputs in jobs]
    parts = {name: torch.split(tensor, lengths) for name, tensor in result.outputs.items()}
    ends = list(accumulate(lengths))
    return [
        replace(
            result,
            outputs={name: part[index] for name, part in parts.items()},
            first=end - length + 1,
            last=end,
        )
        for index, (length, end) in enumerate(zip(lengths, ends, strict=True))
    ]
