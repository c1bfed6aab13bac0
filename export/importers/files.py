"""Read checkpoints of any kind without running code from them."""

import collections
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

from .errors import CheckpointError
from .tensorflow import read_tensorflow

_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "params")
"""Keys under which training programs keep the tensors."""


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


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a PyTorch file (also Lightning's), a NumPy archive, or a TensorFlow checkpoint (folder, prefix or index).

    Names lose what ``DataParallel`` puts in front.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, of no known kind, or would run code while it is read.
    """
    if path.is_dir() or path.suffix == ".index" or path.with_name(path.name + ".index").is_file():
        values = {name: torch.from_numpy(np.array(value)) for name, value in read_tensorflow(path).items()}
        return Checkpoint(path, values)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    content = _read_numpy(path) if path.suffix == ".npz" else _read_torch(path)
    hyperparameters = content.get("hyper_parameters") or content.get("hparams")
    tensors = _tensors(content)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; its entries are {', '.join(map(str, content))[:300]}")
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


def _tensors(content: dict[str, Any]) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, dict):
            return _tensors(inner)
    return {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
