"""Batches of samples of several shapes, and their order.

Scans differ in coils, size and frames, and what pads them to one shape changes what a network makes of them (normalisation,
convolutions at the edge). So a batch is a list of stacks, each of the samples of one shape, and what is minimised is the mean
over all of its samples.

The order is a function of the seed and the epoch alone. A step of the optimiser takes the same samples, whether the run was
resumed, on however many devices, in however many batches.
"""

import signal
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..wire.errors import IsocenterError
from .devices import Rank
from .recipe import Recipe
from .samples import Sample, TrainingSamples

Batch = list[Sample]
"""Stacks of samples: each a dictionary like a sample, its tensors [samples, ...]."""
_ORDER = 2**31
"""No epoch has this number: the order has nothing in common with the masks, whose seed has the epoch here."""


def stack_by_shape(samples: list[Sample], names: frozenset[str]) -> Batch:
    """Stack the samples of a batch that have one shape, in the order in which the shapes come.

    Parameters
    ----------
    samples
        The samples; there may be none.
    names
        What of them is needed. LOUPE needs no coils, so that stacks may have samples of several numbers of coils.
    """
    groups: dict[tuple[torch.Size, ...], Batch] = {}
    for sample in samples:
        needed = {name: value for name, value in sample.items() if name in names}
        groups.setdefault(tuple(value.shape for value in needed.values()), []).append(needed)
    return [{name: torch.stack([one[name] for one in group]) for name in group[0]} for group in groups.values()]


def size(stack: Sample) -> int:
    """Return the number of samples in a stack."""
    return len(stack["target"])


def to_device(stack: Sample, device: torch.device) -> Sample:
    """Move a stack to a device."""
    return {name: value.to(device, non_blocking=True) for name, value in stack.items()}


class Order(Sampler[list[int]]):
    """The batches of an epoch, or the part of one process in each.

    Parameters
    ----------
    count
        Number of samples.
    recipe
        Its seed, and the size of its batches.
    rank
        Whose part.
    """

    def __init__(self, count: int, recipe: Recipe, rank: Rank) -> None:
        self._count = count
        self._seed = recipe.seed
        self._batch = recipe.batch
        self._window = recipe.batch * recipe.accumulate
        self._rank = rank
        self._epoch = 0
        self._done = 0

    @property
    def steps(self) -> int:
        """Steps of the optimiser in an epoch."""
        return -(-self._count // self._window)

    def samples_of(self, step: int) -> int:
        """Return the number of samples that a step of the epoch takes, on all devices; the last takes what is left."""
        return min(self._window, self._count - step * self._window)

    def batches_of(self, step: int) -> int:
        """Return the number of batches in a step."""
        return -(-self.samples_of(step) // self._batch)

    def start(self, epoch: int, done: int) -> None:
        """Begin an epoch, or go on after as many of its steps."""
        self._epoch, self._done = epoch, done

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self._seed, self._epoch, _ORDER)).permutation(self._count).tolist()
        for first in range(self._done * self._window, self._count, self._batch):
            yield order[first : first + self._batch][self._rank.index :: self._rank.count]


class _Told(Dataset["Sample | Exception"]):
    """Samples, or why one cannot be made: errors keep their words on the way from a loader's process."""

    def __init__(self, samples: TrainingSamples) -> None:
        self._samples = samples

    def __getitem__(self, index: int) -> Sample | Exception:
        try:
            return self._samples[index]
        except (IsocenterError, OSError) as error:
            return error


class _Stack:
    """Stacks what a loader drew."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def __call__(self, drawn: list[Sample | Exception]) -> Batch | Exception:
        errors = [one for one in drawn if isinstance(one, Exception)]
        return errors[0] if errors else stack_by_shape([one for one in drawn if isinstance(one, dict)], self._names)


class Batches:
    """Loads the batches of one epoch after the other.

    Parameters
    ----------
    samples
        The samples.
    order
        Which of them, and when.
    names
        What of them is needed.
    device
        Where they go.
    workers
        Processes that make samples; 0: this one.
    """

    def __init__(
        self,
        samples: TrainingSamples,
        order: Iterable[list[int]],
        names: frozenset[str],
        device: torch.device,
        workers: int = 0,
    ) -> None:
        self._loader = DataLoader(
            _Told(samples),
            batch_sampler=order,
            collate_fn=_Stack(names),
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_interruptions_to_the_parent,
            pin_memory=device.type == "cuda",
        )

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch


def _leave_interruptions_to_the_parent(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
