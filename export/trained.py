"""What the recipe in a checkpoint of this project's training says of its bundle; it is read as a plain dictionary."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, cast

from ..bundle.manifest import BundleError, Domain
from ..models.networks.registry import Network
from ..wire.entries import validated
from .options import Direction, ExportOptions

CHOICES = ("base", "budget")
"""What a sampler is asked with, beside its weights: the manifest has it among the configuration."""

_ANATOMY = {"simulated-brain": "brain", "simulated-cine": "heart"}
_LINES = (
    *("uniform", "random", "equispaced", "equispaced-exact", "kt-interleaved"),
    *("bernoulli", "uniform-random", "variable-density", "golden-offset", "vista"),
)
"""Patterns that undersample the phase direction alone."""
_PATHS = {"file": 1, "folder": 1, "validation_folder": 1, "cache": 1, "start_from": 2}
"""Entries that are paths on the machine of the training, and how many of their last names may be passed on."""


def completed(options: ExportOptions, network: Network, training: Mapping[str, Any]) -> ExportOptions:
    """Return the options with what a checkpoint says of its training, where the user says nothing.

    Parameters
    ----------
    options
        The user's.
    network
        That was trained.
    training
        Its recipe, what was ``seen`` in the training, counted as the service counts it, and the ``sources`` of its data, packages
        with version and licences; empty for weights from elsewhere.
    """
    recipe = training.get("recipe", {})
    domain = _domain(network, recipe, training.get("seen", {})) if recipe else {}
    given = {name: getattr(options.domain, name) for name in options.domain.model_fields_set}
    update: dict[str, Any] = {"domain": validated(Domain, domain | given, "domain of the training", BundleError)}
    if recipe and "training_data" not in options.model_fields_set:
        update["training_data"] = _training_data(recipe, training.get("sources", ()))
    if recipe and network.output == "logits" and options.matrix is None:
        update["matrix"] = _matrix(recipe)
    return options.model_copy(update=update)


def _domain(network: Network, recipe: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    data = recipe.get("data", {})
    domain: dict[str, Any] = {name: tuple(data[name]) for name in ("coils", "matrix") if name in data}
    domain |= {name: tuple(seen[name]) for name in ("coils", "matrix") if name in seen}
    if data.get("kind") in _ANATOMY:
        domain["anatomy"] = (_ANATOMY[data["kind"]],)
    if network.task == "sampling" or "acceleration" not in seen:
        return domain
    patterns = tuple(pattern for pattern in seen["sampling"] if pattern != "full")
    return {**domain, "acceleration": tuple(seen["acceleration"]), "acs": tuple(seen["acs"]), "sampling": patterns}


def _training_data(recipe: Mapping[str, Any], sources: Sequence[Mapping[str, str]]) -> str:
    """Say in words what the weights were fitted to."""
    data = recipe.get("data", {})
    details = [f"{data['samples']} scans"] if "samples" in data else []
    details += [
        f"{name} {' to '.join(map(str, dict.fromkeys(data[name])))}" for name in ("matrix", "coils") if name in data
    ]
    details += [f"folder {PurePath(data['folder']).name}"] if "folder" in data else []
    what = f"{data.get('kind', 'not stated')} ({', '.join(details)})" if details else data.get("kind", "not stated")
    start = recipe.get("start_from")
    before = f", from weights of {_shortened(start, 2)}" if start else ""
    if sources:
        what += " from " + ", ".join(f"{each['package']} {each['version']} ({each['licences']})" for each in sources)
    return f"{what}; recipe {recipe.get('name', 'without a name')}, seed {recipe.get('seed', 'not stated')}{before}"


def _matrix(recipe: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the one size that a sampler works for, where the recipe says it."""
    sizes = recipe.get("data", {}).get("matrix", ())
    return (sizes[0], sizes[0]) if len(set(sizes)) == 1 else None


def shareable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe as it may be passed on: of paths on the machine of the training, the last name is left."""
    result: dict[str, Any] = {}
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            result[name] = shareable(value)
        else:
            result[name] = _shortened(value, _PATHS[name]) if name in _PATHS else value
    return result


def _shortened(value: Any, names: int) -> Any:
    if isinstance(value, list | tuple):
        return [_shortened(each, names) for each in value]
    return "/".join(PurePath(value).parts[-names:]) if isinstance(value, str) else value


def undersampled(network: Network, recipe: Mapping[str, Any]) -> tuple[Direction, ...]:
    """Return the directions that a recipe's masks undersample: the phase direction, or those of the network for points."""
    kinds = recipe.get("masks", {}).get("kinds", ())
    return ("ky",) if all(kind in _LINES for kind in kinds) else cast("tuple[Direction, ...]", network.undersampled)


def choices(recipe: Mapping[str, Any]) -> dict[str, int]:
    """Return how many middle lines a sampler always has, ``base``, and how many others it chooses, ``budget``."""
    sampler = recipe.get("sampler") or {}
    return {name: sampler[name] for name in CHOICES if name in sampler}
