"""Weights of a run: where they start from, and what is kept for evaluation, export and a next stage."""

from pathlib import Path
from typing import Any

import torch

from .folder import Row, RunFolder, read_checkpoint, write_whole
from .packages import packages
from .recipe import Recipe, RecipeError, Sampler, TextureData
from .sampler import SamplerTask
from .seen import Seen
from .task import Task
from .textures import sources


def start_from(task: Task, checkpoint: Path) -> None:
    """Take the weights that have a place of their shape in the network.

    Raises
    ------
    RecipeError
        There are none, or the file is no checkpoint.
    """
    places = task.state_dict()
    weights = read_checkpoint(checkpoint)["state_dict"]
    fitting = {name: value for name, value in weights.items() if name in places and places[name].shape == value.shape}
    if not fitting:
        raise RecipeError(f"{checkpoint} has no weights for network {task.recipe.network!r}")
    task.load_state_dict(fitting, strict=False)


def write_weights(task: Task, folder: RunFolder, row: Row, seen: Seen) -> None:
    """Write the weights of an epoch, its figures, the recipe and what was seen, without the optimiser's state.

    A sampler's run writes two files: one for the sampler, and one for the network that reconstructs, as if it had been
    trained by a recipe of its own.
    """
    recipe = task.recipe.model_dump(mode="json")
    trained_by = {"packages": packages(), "seen": seen, **_sources(task.recipe)}
    _write(folder.weights, task.network, recipe, row, trained_by)
    if isinstance(task, SamplerTask):
        own = {name: recipe["sampler"][name] for name in ("network", "configuration", "scaling")}
        own["masks"] = {**recipe["masks"], **_chosen(task.settings, recipe["configuration"])}
        _write(folder.reconstructor, task.reconstructor, {**recipe, **own, "sampler": None}, row, trained_by)


def _sources(recipe: Recipe) -> dict[str, list[dict[str, str]]]:
    """Say which packages, of which version and licences, the data come from, where they come from packages."""
    return {"sources": sources(recipe.data.file)} if isinstance(recipe.data, TextureData) else {}


def _chosen(sampler: Sampler, configuration: dict[str, Any]) -> dict[str, Any]:
    """Say what a sampler chooses as the masks of a recipe say it."""
    lines = configuration.get("lines", sampler.budget) + sampler.base
    return {
        "kinds": ["variable-density"],
        "accelerations": [lines / (sampler.base + sampler.budget)],
        "acs": [sampler.base, sampler.base],
    }


def _write(path: Path, network: torch.nn.Module, recipe: dict[str, Any], row: Row, trained_by: dict[str, Any]) -> None:
    content = {
        "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        "hyper_parameters": {"recipe": recipe, **trained_by},
        "validation": {name: value for name, value in row.items() if name != "seconds"},
    }
    write_whole(path, lambda file: torch.save(content, file))
