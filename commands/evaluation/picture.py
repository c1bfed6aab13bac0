"""The picture of an evaluation: images of all methods, their errors, and what was measured."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..picture import Panel, Row, Sheet, draw, error_panels


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


def draw_pictured(rows: list[Pictured], path: Path) -> None:
    """Draw two rows for each slice: the truth and the images, and below what was measured and their errors.

    Raises
    ------
    FileError
        The picture cannot be written.
    """
    draw(Sheet("", [row for pictured in rows for row in _rows(pictured)]), path)


def _rows(pictured: Pictured) -> list[Row]:
    truth = pictured.truth.numpy()
    white = float(truth.max())
    width = truth.shape[-1]
    measured = pictured.measured
    pattern = measured if measured.dim() == 2 else measured[:, None].expand(-1, width)
    lines = f"measured: {int(measured.sum())} of {measured.numel()} {'lines' if measured.dim() == 1 else 'points'}"
    images = {name: image.numpy() for name, image in pictured.images.items()}
    values = {
        name: f"{name}\nSSIM {figures['ssim']:.3f}, PSNR {figures['psnr']:.1f} dB"
        for name, figures in pictured.figures.items()
    }
    shown = [Panel(image, values[name], (0.0, white)) for name, image in images.items()]
    sampling = Panel(pattern.to(torch.float32).numpy(), lines, (0.0, 1.0), legend="")
    errors = error_panels(list(images.values()), truth, white, None)
    heading = ", ".join(pictured.title.splitlines())
    return [
        Row([Panel(np.asarray(truth), "truth", (0.0, white)), *shown], heading),
        Row([sampling, *errors]),
    ]
