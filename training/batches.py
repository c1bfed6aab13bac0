"""Batches of samples of several shapes.

Scans differ in coils, size and frames, and what pads them to one shape changes what a network makes of them (normalisation,
convolutions at the edge). So a batch is a list of stacks, each of the samples of one shape, and what is minimised is the mean
over all of its samples.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .samples import Sample

Batch = list[Sample]
"""Stacks of samples: each a dictionary like a sample, its tensors [samples, ...]."""


def stack_by_shape(samples: list[Sample]) -> Batch:
    """Stack the samples of a batch that have one shape, in the order in which the shapes come."""
    groups: dict[tuple[tuple[str, torch.Size], ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple((name, value.shape) for name, value in sample.items()), []).append(sample)
    return [{name: torch.stack([one[name] for one in group]) for name in group[0]} for group in groups.values()]


def count(batch: Batch) -> int:
    """Return the number of samples in a batch."""
    return sum(len(stack["target"]) for stack in batch)


def mean_over_samples(batch: Batch, loss: Callable[[Sample], Tensor]) -> Tensor:
    """Return the mean over the samples of a batch, of a loss that is the mean over those of a stack."""
    parts = [len(stack["target"]) * loss(stack) for stack in batch]
    return torch.stack(parts).sum() / count(batch)
