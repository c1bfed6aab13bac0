"""What jobs compute and what comes of it: inputs, results, and batches of them."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..flow.deferred import Deferred, settled
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


def entries(inputs: Inputs) -> int:
    """Return the length of the batch; one if there are no inputs."""
    return next((value.shape[0] for value in inputs.values()), 1)


def likeness(inputs: Inputs) -> Hashable:
    """Return what is equal for inputs of a bundle that can be computed in one batch: all shapes beyond the batch."""
    return frozenset([(name, *value.shape[1:]) for name, value in inputs.items()])


def stack(jobs: Sequence[Inputs]) -> Tensors:
    """Join like inputs along the batch; what is to be computed yet is computed here."""
    inputs = [settled(each) for each in jobs]
    if len(inputs) == 1:
        return inputs[0]
    return {name: torch.cat([each[name] for each in inputs]) for name in inputs[0]}


def unstack(jobs: Sequence[Inputs], result: Result) -> list[Result]:
    """Split the outputs of joined jobs."""
    if len(jobs) == 1:
        return [result]
    lengths = [entries(inputs) for inputs in jobs]
    parts = {name: tensor.split(lengths) for name, tensor in result.outputs.items()}
    return [
        Result({name: part[i] for name, part in parts.items()}, result.runtime, result.device, result.seconds)
        for i in range(len(jobs))
    ]
