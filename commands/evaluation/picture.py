"""The picture of an evaluation: images of all methods, their errors, and what was measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ERRORS = 5
"""Errors are shown so many times as bright as images."""


@dataclass(frozen=True)
class Pictured:
    """What the picture shows of one slice.

    Attributes
    ----------
    title
        Where it comes from and how it was undersampled.
    truth
        [y, x].
    images
        [y, x] by method.
    figures
        Of the scan that the slice is from, by method.
    measured
        bool [ky] or [ky, kx].
    """

    title: str
    truth: Tensor
    images: dict[str, Tensor]
    figures: dict[str, dict[str, float]]
    measured: Tensor


def draw(rows: list[Pictured], path: Path) -> None:
    """Draw two lines of images for each slice: the truth and the images, and below what was measured and their errors."""
    from matplotlib.figure import Figure

    columns = max(len(row.images) for row in rows) + 1
    figure = Figure(figsize=(2.6 * columns, 5.6 * len(rows)), layout="tight")
    for index, row in enumerate(rows):
        top = float(row.truth.max())

        def show(line: int, column: int, image: Tensor, title: str, largest: float, *, first: int = 2 * index) -> None:
            axes: Any = figure.add_subplot(2 * len(rows), columns, (first + line) * columns + column + 1)
            axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=largest)
            axes.axis("off")
            axes.set_title(title, fontsize=8)

        width = row.truth.shape[-1]
        pattern = row.measured if row.measured.dim() == 2 else row.measured[:, None].expand(-1, width)
        show(0, 0, row.truth, f"truth\n{row.title}", top)
        show(1, 0, pattern.to(torch.uint8), f"measured: {int(row.measured.sum())} of {row.measured.numel()}", 1)
        for column, (name, image) in enumerate(row.images.items(), start=1):
            value = row.figures[name]
            show(0, column, image, f"{name}\nSSIM {value['ssim']:.3f}, {value['psnr']:.1f} dB", top)
            show(1, column, _ERRORS * (image - row.truth).abs(), f"error x {_ERRORS}", top)
    figure.savefig(path, dpi=110)
