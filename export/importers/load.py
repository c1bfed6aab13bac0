"""Make a network from a checkpoint: find the layout, infer the configuration, compare every tensor, load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...models.networks.registry import NETWORKS, Network
from ...wire.errors import nearest
from .errors import CheckpointError
from .files import Checkpoint, read_checkpoint
from .layout import State
from .layouts import LAYOUTS

_NAMED = 8
"""Tensors that are named of those that do not fit."""
_OWN_PREFIX = "network."
"""What the names in checkpoints of this project's own training begin with."""


@dataclass(frozen=True)
class ImportedNetwork:
    """A network with a checkpoint's weights.

    Parameters
    ----------
    module
        The network, in evaluation mode.
    configuration
        How it was built.
    hyperparameters
        What the training program wrote.
    """

    module: nn.Module
    configuration: dict[str, Any]
    hyperparameters: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of this project's training; empty for checkpoints of others."""
        recipe = self.hyperparameters.get("recipe")
        return recipe if isinstance(recipe, dict) and "network" in recipe else {}


def find_network(name: str) -> Network:
    """Return a network's entry.

    Raises
    ------
    CheckpointError
        There is none of that name.
    """
    if name not in NETWORKS:
        raise CheckpointError(
            f"network {name!r} is not known{nearest(name, NETWORKS)}", accepted=", ".join(sorted(NETWORKS))
        )
    return NETWORKS[name]


def load_network(
    name: str, path: Path, configuration: dict[str, Any] | None = None, checkpoint_entry: str | None = None
) -> ImportedNetwork:
    """Make a network with a checkpoint's weights.

    Parameters
    ----------
    name
        Of the network.
    path
        Checkpoint of this project's training, of the network's published program, or one with the names used here.
    configuration
        Takes precedence over what the checkpoint says.
    checkpoint_entry
        That has the weights, where there are several.

    Raises
    ------
    CheckpointError
        The checkpoint cannot be read, or does not fit; the first tensors in question are named.
    OptionError
        The network has no such configuration, which is found out before the checkpoint is read.
    """
    entry = find_network(name)
    _outline(name, configuration or {})
    checkpoint = read_checkpoint(path, checkpoint_entry)
    state, inferred = _translate(name, checkpoint, configuration or {})
    complete = {**inferred, **(configuration or {})}
    check_state(_outline(name, complete), state, path)
    module = entry.build(**complete)
    load_state(module, state, path)
    return ImportedNetwork(module.eval(), {**entry.configuration, **complete}, checkpoint.hyperparameters)


def _outline(name: str, configuration: dict[str, Any]) -> nn.Module:
    """Make a network without its tensors' values, which takes no memory.

    Raises
    ------
    CheckpointError
        It cannot be made so.
    OptionError
        It has no such configuration.
    """
    try:
        with torch.device("meta"):
            return find_network(name).build(**configuration)
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise CheckpointError(f"network {name!r} cannot be built with {configuration}: {error}") from error


def _translate(name: str, checkpoint: Checkpoint, configuration: dict[str, Any]) -> tuple[State, dict[str, Any]]:
    """Return the tensors by their names here, and what the checkpoint says about the configuration."""
    weights_of = find_network(name).weights_of or name
    if all(key.startswith(_OWN_PREFIX) for key in checkpoint.tensors):
        recipe = checkpoint.hyperparameters.get("recipe", {})
        if recipe.get("network", name) not in (name, weights_of):
            raise CheckpointError(f"{checkpoint.path} is a checkpoint of network {recipe['network']!r}, not {name!r}")
        own = {key.removeprefix(_OWN_PREFIX): tensor for key, tensor in checkpoint.tensors.items()}
        return own, dict(recipe.get("configuration", {}))
    failures = []
    for layout in LAYOUTS.get(weights_of, ()):
        try:
            return layout.read(checkpoint)
        except CheckpointError as error:
            failures.append(error)
    if failures and not _has_names_of(name, checkpoint, configuration):
        raise CheckpointError("; or, as another layout: ".join(str(error) for error in failures))
    return dict(checkpoint.tensors), {}


def _has_names_of(name: str, checkpoint: Checkpoint, configuration: dict[str, Any]) -> bool:
    """Whether any tensor has a name that the network uses here."""
    return bool(_outline(name, configuration).state_dict().keys() & checkpoint.tensors.keys())


def load_state(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load tensors into a module; parameters and errors are those of ``check_state``."""
    check_state(module, state, path)
    module.load_state_dict(state, strict=False)


def check_state(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Make sure that tensors are those of a module.

    Raises
    ------
    CheckpointError
        A tensor is missing, unexpected, of another shape, or not finite; the first are named.
    """
    expected = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    problems = [f"missing: {name} {tuple(expected[name].shape)}" for name in expected if name not in state]
    problems += [f"unexpected: {name} {tuple(state[name].shape)}" for name in state if name not in expected]
    for name, tensor in state.items():
        if name in expected and tensor.shape != expected[name].shape:
            problems.append(f"{name} has shape {tuple(tensor.shape)}, the network needs {tuple(expected[name].shape)}")
        elif tensor.is_floating_point() and not torch.isfinite(tensor).all():
            problems.append(f"{name} has values that are not finite")
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise CheckpointError(f"{path} does not fit the network: {'; '.join(problems[:_NAMED])}{more}")
