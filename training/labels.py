"""Reference masks of a sampler's training, which take thousands of reconstructions each, so that they are made once and kept."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .batches import to_device
from .devices import Rank
from .folder import write_whole
from .sampler import SamplerTask
from .samples import TrainingSamples


def make_labels(task: SamplerTask, samples: TrainingSamples, folder: Path, rank: Rank) -> Callable[[int], Tensor]:
    """Make the reference masks that are not there yet, with the reconstructor as it is, each process its part.

    Returns
    -------
    Callable
        Reads the mask of a sample's index.
    """
    task.eval()
    for index in range(rank.index, len(samples), rank.count):
        path = _file(folder, index)
        if not path.is_file():
            label = task.label(to_device(samples[index], rank.device))
            write_whole(path, lambda file, label=label: torch.save(label, file))
    rank.wait()  # for the others' part
    return lambda index: torch.load(_file(folder, index), weights_only=True)


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.pt"
