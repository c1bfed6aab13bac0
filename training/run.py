"""Run a recipe: begin or go on, on one device or several."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.networks.registry import NETWORKS
from ..wire import extras
from .data import FullScan, simulated_scan, textured_scan
from .devices import Rank, arithmetic, check_precision, choose_devices
from .files.folder import training_and_validation
from .folder import RunFolder
from .labels import make_labels
from .loop import Loop
from .masks import Masks
from .processes import run_on
from .progress import tell
from .recipe import FileData, Recipe, RecipeError, SimulatedData, TextureData
from .sampler import SamplerTask
from .samples import TrainingSamples
from .start import find_weights
from .task import ReconstructionTask, Task
from .textures import load_textures, sources
from .weights import start_from

_TEST_SEEDS = 2**32
"""Seeds of held-out scans start here; those of training scans end below."""


def datasets(recipe: Recipe, memory: float = math.inf) -> tuple[TrainingSamples, TrainingSamples]:
    """Return training and validation samples, each keeping ``memory`` bytes."""
    masks, network = recipe.masks, recipe.network
    if recipe.sampler is not None:
        # it undersamples itself; coil maps come from the lines that it always has
        masks = Masks(kinds=("equispaced",), accelerations=(1,), acs=(recipe.sampler.base, recipe.sampler.base))
        network = recipe.sampler.network
    with_maps = bool({"maps", "image"} & set(NETWORKS[network].inputs))
    samples = functools.partial(
        TrainingSamples,
        with_maps=with_maps,
        truth=recipe.true_image,
        with_true_maps="maps" in recipe.loss,
        chosen_later=recipe.sampler is not None,
        memory=memory,
    )
    training, validation = _sources(recipe)
    return (
        samples(training.scan, training.count, masks, recipe.seed, content=training.content, fresh=True),
        samples(validation.scan, validation.count, masks, recipe.seed + 1, content=validation.content, fresh=False),
    )


@dataclass(frozen=True)
class _Source:
    """Where scans come from: each by its index, how many, and what tells them from others where the recipe does not."""

    scan: Callable[[int], FullScan]
    count: int
    content: str = ""


def _sources(recipe: Recipe) -> list[_Source]:
    """Return where the scans of training and of validation come from."""
    if isinstance(recipe.data, FileData):
        scans = training_and_validation(recipe.data, series=NETWORKS[(recipe.sampler or recipe).network].task == "2d+t")
        return [_Source(each.scan, len(each), each.digest) for each in scans]
    data, seed = recipe.data, recipe.seed * 10**6
    if isinstance(data, TextureData):
        training, validation = load_textures(data.file)
        content = str(sources(data.file))
        return [
            _Source(lambda index: textured_scan(data, training, seed + index), data.samples, content),
            _Source(
                lambda index: textured_scan(data, validation, _TEST_SEEDS + index), data.validation_samples, content
            ),
        ]
    return [
        _Source(lambda index: simulated_scan(data, seed + index, "train"), data.samples),
        _Source(lambda index: simulated_scan(data, _TEST_SEEDS + index, "test"), data.validation_samples),
    ]


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    devices: str = "auto",
    workers: int = 0,
    memory: float = 8.0,
    progress: bool = True,
) -> Path:
    """Train and return the file with the best epoch's weights.

    Parameters
    ----------
    recipe
        What to train.
    folder
        Receives what `folder.py` lists: ``weights.pt``, which holds the weights of the best epoch, the recipe and that
        epoch's figures, and nothing else; ``metrics.csv``, ``curves.png``, ``samples/`` and ``checkpoints/last.ckpt``.
    resume
        Go on with the run in the folder, exactly where it was interrupted, or up to more epochs. Of one that is finished
        nothing changes.
    overwrite
        Begin anew in a folder that has a run.
    devices
        ``auto``, ``cpu``, a number of devices, or a list of GPUs such as ``0,1``; the batch is divided among them.
    workers
        Processes that make samples, for each device; 0: the training's own.
    memory
        Gigabytes of samples kept in memory by all of these; what does not fit is made or read anew in every epoch.
    progress
        Whether to tell how it goes.

    Raises
    ------
    RecipeError
        The recipe, the data, the devices or the folder do not allow it.
    MissingExtraError
        The data are made by a package that is not installed.
    KeyboardInterrupt
        It was interrupted; the message says how to go on.
    """
    run, chosen = check_run(recipe, folder, resume=resume, overwrite=overwrite, devices=devices)
    if resume:
        done = run.epochs_done()
        if done >= recipe.epochs:
            if not run.weights.is_file():
                raise RecipeError(
                    f"the run in {folder} is finished, but {run.weights} is missing",
                    accepted="--overwrite, which begins anew",
                )
            tell(f"the run in {folder} is finished: {done} epochs are done, and the recipe wants {recipe.epochs}")
            return run.weights
    share = 1e9 * memory / (len(chosen) * (max(workers, 1) + 1))
    with run.alone():
        run_on(chosen, _fit, recipe, run, resume, share, workers, progress)
    return run.weights


def check_run(
    recipe: Recipe, folder: Path, *, resume: bool, overwrite: bool, devices: str
) -> tuple[RunFolder, list[torch.device]]:
    """Make sure, before anything is done, that a recipe can be trained here; parameters and errors are those of ``train``."""
    run = RunFolder(folder)
    if resume and overwrite:
        raise RecipeError("a run is either gone on with or begun anew", accepted="--resume or --overwrite")
    if isinstance(recipe.data, SimulatedData):
        extras.need("nilearn", f"data of the kind {recipe.data.kind!r}")
    sampler = recipe.sampler.start_from if recipe.sampler is not None else None
    for checkpoint in () if resume else (*recipe.start_from, *([sampler] if sampler else [])):
        find_weights(checkpoint)
    run.check_folder()
    chosen = choose_devices(devices, recipe.batch)
    check_precision(recipe.precision, chosen[0])
    if resume:
        run.check_resumable(recipe)
    elif not overwrite:
        run.check_free()
    return run, chosen


def _fit(
    rank: Rank, recipe: Recipe, folder: RunFolder, resume: bool, memory: float, workers: int, progress: bool
) -> None:
    """Train as one of the processes."""
    try:
        with arithmetic(recipe.precision, rank.device):
            _train(rank, recipe, folder, resume, memory, workers, progress)
    except (RuntimeError, ValueError) as error:
        # sizes that do not fit, memory that does not suffice: the recipe's author can mend it
        raise RecipeError(f"training {recipe.network!r} failed: {error}") from error


def _train(
    rank: Rank, recipe: Recipe, folder: RunFolder, resume: bool, memory: float, workers: int, progress: bool
) -> None:
    torch.manual_seed(recipe.seed)
    task: Task = ReconstructionTask(recipe) if recipe.sampler is None else SamplerTask(recipe)
    _check_statistics(task, rank)
    state = folder.state() if resume else None
    for checkpoint in recipe.start_from if state is None else ():
        start_from(task, find_weights(checkpoint))
    task = task.to(rank.device)
    with rank.first():  # it prepares the files
        training, validation = datasets(recipe, memory)
    if state is not None:
        _check_content(state, folder, training, validation)
    if rank.index == 0:
        folder.begin(recipe, anew=not resume)
    rank.wait()
    if isinstance(task, SamplerTask) and task.settings.icd:
        training.label = make_labels(task, training, folder.labels, rank)
    loop = Loop(task, rank, folder, training, validation, workers=workers, progress=progress)
    if state is not None:
        loop.resume(state)
    loop.run()


def _check_content(
    state: dict[str, Any], folder: RunFolder, training: TrainingSamples, validation: TrainingSamples
) -> None:
    """Refuse to go on with other scans than those of the run so far."""
    names = ("training", "validation")
    pairs = zip(names, state["data"], (training.content, validation.content), strict=True)
    if other := [name for name, before, now in pairs if before != now]:
        raise RecipeError(
            f"the scans for {' and '.join(other)} are others than when the run in {folder.path} began",
            where="data",
            accepted="files as they were; for others a folder of its own, with start_from: [weights.pt of this run]",
        )


def _check_statistics(task: Task, rank: Rank) -> None:
    """Refuse several devices where the result depends on what one of them sees."""
    if rank.count > 1 and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in task.modules()):
        raise RecipeError(
            f"network {task.recipe.network!r} normalises over the batch, of which each of {rank.count} devices has a part "
            "only",
            where="--devices",
            accepted="one device for such a network",
        )
