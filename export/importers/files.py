"""Read checkpoints of any kind without running code from them."""

import collections
import logging
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...wire.errors import nearest
from .errors import CheckpointError
from .tensorflow import read_tensorflow

log: logging.Logger = logging.getLogger("isocenter.export")

_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "params")
"""Keys under which training programs keep the tensors."""
_SAME_NAMES = 0.5
"""Part of the tensors' names from which on two entries are weights of one network, such as those of a step and their average."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Parameters
    ----------
    path
        Where it was read.
    tensors
        Its tensors by name.
    hyperparameters
        What the training program wrote beside them.
    """

    path: Path
    tensors: dict[str, Tensor]
    hyperparameters: dict[str, Any] = field(default_factory=dict)


_SETTINGS_CLASSES = (
    "dotmap.DotMap",
    "dotmap.dotmap.DotMap",
    "argparse.Namespace",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_STAND_INS: list[Any] = [(collections.OrderedDict, name) for name in _SETTINGS_CLASSES]
"""Classes of settings that pickles may name, and the harmless one that is made instead."""


def read_checkpoint(path: Path, entry: str | None = None) -> Checkpoint:
    """Read a PyTorch file (also Lightning's), a NumPy archive, or a TensorFlow checkpoint (folder, prefix or index).

    Names lose what ``DataParallel`` puts in front. Where several entries have weights of the network, such as those of the last
    step and their average, the log tells which are taken, and how to take the others.

    Parameters
    ----------
    path
        The file.
    entry
        That has the weights; None: the first of those under which training programs keep them, or else the file itself.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, of no known kind, or would run code while it is read; or it has no such entry.
    """
    if path.is_dir() or path.suffix == ".index" or path.with_name(path.name + ".index").is_file():
        values = {name: torch.from_numpy(np.array(value)) for name, value in read_tensorflow(path).items()}
        return Checkpoint(path, values if entry is None else _entry(path, values, entry))
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    content = _read_numpy(path) if path.suffix == ".npz" else _read_torch(path)
    hyperparameters = content.get("hyper_parameters") or content.get("hparams")
    tensors = _usual(path, content) if entry is None else _entry(path, content, entry)
    return Checkpoint(path, tensors, dict(hyperparameters) if isinstance(hyperparameters, dict) else {})


def _read_numpy(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle make its reader fail in any way
        forbidden = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if forbidden:
            raise CheckpointError(
                f"{path} holds more than tensors and settings ({forbidden[1]}), and is not read because that could run code"
            ) from error
        raise CheckpointError(
            f"{path} is no checkpoint that can be read",
            accepted="weights.pt of a run, a file of torch.save, an .npz file, or a checkpoint of TensorFlow",
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}", accepted="a state dict")
    return content


def _usual(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights that are taken where nobody says which, and log which others there are."""
    tensors, entries = _tensors(content), _entries(content)
    if not tensors:
        found = f"its entries are {', '.join(map(str, content))[:300]}" if content else "it is empty"
        how = (
            f"; 'checkpoint_entry: {next(iter(entries))}' in the export configuration takes that one" if entries else ""
        )
        raise CheckpointError(f"{path} holds no weights where they are looked for: {found}{how}")
    taken = next((name for name in _WRAPPERS if name in entries), None)
    others = [name for name, each in entries.items() if name != taken and _are_alike(tensors, each)]
    if others:
        log.warning(
            "%s holds weights of this network in %s: those of %s are taken; 'checkpoint_entry: %s' in the export configuration "
            "takes others",
            path,
            " and ".join(map(repr, filter(None, (taken, *others)))),
            "the file itself" if taken is None else repr(taken),
            others[0],
        )
    return tensors


def _are_alike(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return len(tensors.keys() & others.keys()) >= _SAME_NAMES * len(tensors)


def _entry(path: Path, content: dict[str, Any], entry: str) -> dict[str, Tensor]:
    """Return the weights of an entry."""
    entries = _entries(content)
    if entry not in entries:
        raise CheckpointError(
            f"{path} has no entry {entry!r} with weights{nearest(entry, entries)}",
            where="checkpoint_entry",
            accepted=", ".join(entries) or "none: leave it out, as no entry has",
        )
    return entries[entry]


def _entries(content: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Return the entries that have weights, by their names."""
    found = {str(name): _tensors(value) for name, value in content.items() if isinstance(value, dict)}
    return {name: tensors for name, tensors in found.items() if tensors}


def _tensors(content: dict[str, Any]) -> dict[str, Tensor]:
    """Return tensors by their names, without the count that PyTorch keeps beside an average of weights."""
    for wrapper in _WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, dict):
            return _tensors(inner)
    return {
        str(name).removeprefix("module."): value
        for name, value in content.items()
        if isinstance(value, Tensor) and name != "n_averaged"
    }
