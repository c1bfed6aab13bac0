"""What a run draws after every epoch: its curves, and a validation sample beside its truth."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.fourier import ifft_planar
from ..models.planar import center_crop, coil_reduce, magnitude, root_sum_of_squares
from .folder import Row, write_whole
from .samples import Sample
from .section import Truth
from .task import Task

_ERROR = 5
"""How much brighter the error is shown."""
_CURVES = (("train_loss", "validation_loss"), ("ssim",), ("psnr",), ("nmse", "random_nrmse"), ("learning_rate",))


def draw_curves(rows: list[Row], path: Path) -> None:
    """Draw the figures over the epochs."""
    figure = _figure(4 * len(_CURVES), 3)
    for index, names in enumerate(_CURVES):
        axes = figure.add_subplot(1, len(_CURVES), index + 1)
        for name in names:
            points = [(row["epoch"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    write_whole(path, lambda file: figure.savefig(file, format="png"))


@torch.no_grad()
def draw_sample(task: Task, stack: Sample, path: Path) -> None:
    """Draw zero-filled image, network's image, truth, error and mask of a sample.

    Parameters
    ----------
    task
        In evaluation mode.
    stack
        Of one sample. Of a series the first and the middle frame are shown, and how the middle column changes in time.
    path
        PNG file.
    """
    kspace, mask = task.measured(stack)
    images = {
        "zero-filled": _zero_filled(kspace, stack, task.recipe.true_image),
        "network": task.magnitude(task(stack)),
        "truth": task.magnitude(task.truth(stack)),
    }
    images[f"error x {_ERROR}"] = _ERROR * (images["network"] - images["truth"]).abs()
    lines = mask.expand(*kspace.shape[:-1], 1)[0, 0, ..., 0].reshape(-1, *kspace.shape[-3:-1])
    rows = [{**_row(images, 0), "mask": lines[0]}]
    if len(lines) > 1:
        middle = len(lines) // 2
        rows.append({**_row(images, middle), "mask": lines[middle]})
        column = images["truth"].shape[-1] // 2
        over_time = {name: image[:, :, column].T for name, image in {**images, "mask": lines}.items()}
        rows.append({f"{name}, over time": image for name, image in over_time.items()})
    _draw(rows, float(images["truth"].max()), path)


def _zero_filled(kspace: Tensor, stack: Sample, truth: Truth) -> Tensor:
    """Return the magnitude [images, y, x] of the measured samples alone, combined and cropped as the truth is."""
    images = ifft_planar(kspace, [-3, -2])
    if truth == "rss":
        image = root_sum_of_squares(images)
    else:
        maps = stack["maps"]
        image = magnitude(coil_reduce(images, maps.unsqueeze(2) if images.dim() > maps.dim() else maps))
    height, width = stack["target"].shape[-3:-1]
    return center_crop(image, (height, width)).flatten(0, -3)


def _row(images: dict[str, Tensor], frame: int) -> dict[str, Tensor]:
    return {name: image[frame] for name, image in images.items()}


def _draw(rows: list[dict[str, Tensor]], white: float, path: Path) -> None:
    figure = _figure(3 * len(rows[0]), 3 * len(rows))
    for number, row in enumerate(rows):
        for index, (title, image) in enumerate(row.items()):
            axes = figure.add_subplot(len(rows), len(row), number * len(row) + index + 1)
            white_here = 1 if title.startswith("mask") else white
            aspect = "auto" if title.endswith("time") else "equal"  # time has no length
            axes.imshow(image.cpu().numpy(), cmap="gray", vmin=0, vmax=white_here, aspect=aspect)
            axes.set_title(title)
            axes.axis("off")
    write_whole(path, lambda file: figure.savefig(file, format="png"))


def _figure(width: float, height: float) -> Any:
    """Return a matplotlib figure that needs no display; its margins are given, since finding them takes longer than drawing."""
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=0.6 / width, right=1 - 0.1 / width, bottom=0.5 / height, top=1 - 0.4 / height, wspace=0.25, hspace=0.15
    )
    return figure
