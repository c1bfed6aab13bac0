"""Run a recipe: train, resume, keep checkpoints, curves and sample images."""

import csv
import functools
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from ..models.networks.registry import NETWORKS
from .batches import stack_by_shape
from .data import FullScan, simulated_scan
from .files import FileScans
from .masks import Masks
from .recipe import FileData, Recipe, RecipeError
from .sampler import SamplerTask
from .samples import Sample, TrainingSamples
from .start import find_weights
from .task import ReconstructionTask

_TEST_SEEDS = 2**32
"""Seeds of held-out scans start here; those of training scans end below."""


def datasets(
    recipe: Recipe, label: Callable[[Sample], Tensor] | None = None, memory: float = math.inf
) -> tuple[TrainingSamples, TrainingSamples]:
    """Return training and validation samples, each keeping ``memory`` bytes; ``label`` is for the former."""
    masks, network = recipe.masks, recipe.network
    if recipe.sampler is not None:
        # it undersamples itself; coil maps come from the lines that it always has
        masks = Masks(kinds=("uniform",), accelerations=(1,), acs=(recipe.sampler.base, recipe.sampler.base))
        network = recipe.sampler.network
    with_maps = bool({"maps", "image"} & set(NETWORKS[network].inputs))
    samples = functools.partial(
        TrainingSamples,
        with_maps=with_maps,
        with_true_maps="maps" in recipe.loss,
        chosen_later=recipe.sampler is not None,
        memory=memory,
    )
    if not isinstance(recipe.data, FileData):
        data = recipe.data
        sources: list[tuple[Callable[[int], FullScan], int]] = [
            (lambda index: simulated_scan(data, recipe.seed * 10**6 + index, "train"), data.samples),
            (lambda index: simulated_scan(data, _TEST_SEEDS + index, "test"), data.validation_samples),
        ]
    else:
        scans = [
            FileScans(folder, recipe.data.kind, recipe.data.slices, series=NETWORKS[network].task == "2d+t")
            for folder in (recipe.data.folder, recipe.data.validation_folder)
        ]
        sources = [(each.scan, len(each)) for each in scans]
    (train, count), (validate, validation_count) = sources
    return (
        samples(train, count, masks, recipe.seed, fresh=True, label=label),
        samples(validate, validation_count, masks, recipe.seed + 1, fresh=False),
    )


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    devices: str = "auto",
    workers: int = 0,
    memory: float = 8.0,
    progress: bool = True,
) -> Path:
    """Train and return the best checkpoint.

    Parameters
    ----------
    recipe
        What to train.
    folder
        Receives ``checkpoints/``, ``metrics.csv``, ``curves.png``, ``samples/epoch-*.png`` and ``weights.pt``, which holds
        the weights of the best epoch, the recipe and the validation's figures, and nothing else.
    resume
        Go on from ``checkpoints/last.ckpt``.
    devices
        Lightning's ``devices``: ``auto`` or a number of GPUs.
    workers
        Processes that make samples; 0: the training's own.
    memory
        Gigabytes of samples kept in memory by all of these; what does not fit is made or read anew in every epoch.
    progress
        Whether to show a progress bar.
    """
    lightning.seed_everything(recipe.seed, verbose=False)
    task = ReconstructionTask(recipe) if recipe.sampler is None else SamplerTask(recipe)
    for start in recipe.start_from:
        _start_from(task, find_weights(start))
    labels = task.labels() if isinstance(task, SamplerTask) else None
    # they are made by the network that reconstructs, which is in this process, perhaps on a GPU
    workers = 0 if labels is not None else workers
    training, validation = datasets(recipe, labels, 1e9 * memory / (max(workers, 1) + 1))
    checkpoints = ModelCheckpoint(
        folder / "checkpoints", "best", monitor="validation_loss", save_last=True, enable_version_counter=False
    )
    trainer = lightning.Trainer(
        max_epochs=recipe.epochs,
        accelerator="auto",
        devices=devices if devices == "auto" else int(devices),
        default_root_dir=folder,
        logger=CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1),
        callbacks=[checkpoints, _Pictures(folder, validation[0])],
        log_every_n_steps=1,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(
        task,
        DataLoader(
            training,
            recipe.batch,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=stack_by_shape,
        ),
        DataLoader(validation, 1, collate_fn=stack_by_shape),
        ckpt_path=str(last) if resume and last.is_file() else None,
        weights_only=True,
    )
    best = Path(checkpoints.best_model_path)
    if trainer.is_global_zero:
        figures = _figures(folder / "metrics.csv")
        write_weights(best, folder / "weights.pt", figures)
        if recipe.sampler is not None:
            write_weights(best, folder / "reconstructor.pt", figures, "reconstructor.")
    return best


def _start_from(task: ReconstructionTask | SamplerTask, checkpoint: Path) -> None:
    """Take the weights that have a place of their shape in the network."""
    places = task.state_dict()
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    fitting = {name: value for name, value in weights.items() if name in places and places[name].shape == value.shape}
    if not fitting:
        raise RecipeError(f"{checkpoint} has no weights for network {task.recipe.network!r}")
    task.load_state_dict(fitting, strict=False)


def write_weights(checkpoint: Path, path: Path, figures: dict[str, float], prefix: str = "network.") -> None:
    """Write the weights of one of a checkpoint's networks, and the recipe, without the optimiser's state."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = {
        f"network.{key.removeprefix(prefix)}": value
        for key, value in content["state_dict"].items()
        if key.startswith(prefix)
    }
    recipe = content["hyper_parameters"]
    if prefix != "network.":
        own = {name: recipe["recipe"]["sampler"][name] for name in ("network", "configuration", "scaling")}
        recipe = {"recipe": {**recipe["recipe"], **own, "sampler": None}}
    torch.save({"state_dict": weights, "hyper_parameters": recipe, "validation": figures}, path)


def _figures(table: Path) -> dict[str, float]:
    """Return the validation's figures of the epoch with the smallest loss."""
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("validation_loss")]
    best = min(rows, key=lambda row: float(row["validation_loss"]))
    return {name: float(best[name]) for name in ("epoch", "validation_loss", "ssim", "psnr", "nmse")}


class _Pictures(Callback):
    """Draws the curves and one held-out slice, or first frame, after every epoch."""

    def __init__(self, folder: Path, sample: Sample) -> None:
        self._folder = folder
        self._sample = sample

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        batch = {name: value[None].to(pl_module.device) for name, value in self._sample.items()}
        with torch.no_grad():
            image = pl_module.magnitude(pl_module(batch))[0].cpu()
        truth = pl_module.magnitude(pl_module.truth(batch))[0].cpu()
        path = self._folder / "samples" / f"epoch-{trainer.current_epoch:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        _draw_images({"network": image, "truth": truth, "error x 5": 5 * (image - truth).abs()}, path)
        _draw_curves(self._folder / "metrics.csv", self._folder / "curves.png")


def _draw_images(images: dict[str, torch.Tensor], path: Path) -> None:
    figure = _figure(4.0 * len(images), 4.2)
    for index, (title, image) in enumerate(images.items()):
        axes = figure.add_subplot(1, len(images), index + 1)
        axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(title)
        axes.axis("off")
    figure.savefig(path)


def _draw_curves(table: Path, path: Path) -> None:
    """Draw the columns of Lightning's table over the epochs, where it exists already."""
    if not table.is_file():
        return
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = _figure(10, 4)
    for index, names in enumerate((("train_loss", "validation_loss"), ("ssim",), ("psnr",))):
        axes = figure.add_subplot(1, 3, index + 1)
        for name in names:
            points = [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
            axes.plot(*zip(*points, strict=True) if points else ([], []), label=name)
        axes.set_xlabel("epoch")
        axes.legend()
    figure.savefig(path)


def _figure(width: float, height: float) -> Any:
    """Return a matplotlib figure that needs no display."""
    return importlib.import_module("matplotlib.figure").Figure(figsize=(width, height), layout="tight")
