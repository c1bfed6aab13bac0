"""Simulated scans have a truth: images beside it, what they miss, and whether aliasing is to be seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from ...models import metrics
from ...simulate.scan import truth_path
from ...wire.files import open_hdf5
from ...wire.items import Image
from .geometry import geometry_of, radiological
from .images import Plane, some
from .panel import Panel, Row, brightest, error_panels

VISIBLE_ALIASING = 0.02
"""Mean amplitude of ghosts, relative to the object (`models.metrics.ghost`), from which on they can be seen: at 0.01 of our
simulated heads none is found at any window. At 0.015 there are faint arcs of the scalp for who narrows the window, which no
picture here does; at the usual one nobody finds any. At 0.03 they show at the usual one, too."""
_MOST = 8
_PER_ROW = 2
Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """How far a plane is from the truth.

    Attributes
    ----------
    ssim, psnr
        As in `models.metrics`, the PSNR in dB.
    ghosts
        What is left of aliases, relative to the object; None where it cannot be measured.
    """

    ssim: float
    psnr: float
    ghosts: float | None = None

    @property
    def percent(self) -> str:
        """What is left of aliases in percent of the object, as it is printed; ``-`` where it cannot be measured."""
        return "-" if self.ghosts is None else f"{100 * self.ghosts:.1f}"

    @property
    def is_aliased(self) -> bool:
        """Whether aliasing is to be seen, of the number as it is printed: nobody is to read that 2.0 is less than 2."""
        return self.ghosts is not None and float(self.percent) >= 100 * VISIBLE_ALIASING

    def __str__(self) -> str:
        return f"SSIM {self.ssim:.3f}, PSNR {self.psnr:.1f} dB"

    @property
    def aliasing(self) -> str:
        """Say what is left of aliases."""
        if self.ghosts is None:
            return ""
        seen = "visible" if self.is_aliased else "not visible"
        return f"aliases {self.percent} % of the object: {seen} (from {100 * VISIBLE_ALIASING:g} %)"


def mean_score(scores: Sequence[Score]) -> Score:
    """Return the mean of several; of the ghosts the largest, since one aliased slice is one too many."""
    ghosts = [score.ghosts for score in scores if score.ghosts is not None]
    return Score(
        float(np.mean([score.ssim for score in scores])),
        float(np.mean([score.psnr for score in scores])),
        max(ghosts, default=None),
    )


def read_truth(scan: Path) -> Numbers | None:
    """Return the true images [dynamics, slices, y, x] of a simulated scan, None if there are none beside it.

    Raises
    ------
    FileError
        The file of the truth is damaged.
    """
    path = truth_path(scan)
    if not path.is_file():
        return None
    with open_hdf5(path, "truth of a simulated scan") as file:
        image = file.get("image")
        return np.asarray(image, np.float32) if isinstance(image, h5py.Dataset) and len(image.shape) == 4 else None


def matched(planes: Sequence[Plane], truth: Numbers) -> list[Numbers] | None:
    """Find the true image of every plane, by its counters; None where they do not tell.

    Parameters
    ----------
    planes
        All of one series.
    truth
        [dynamics, slices * partitions, y, x].
    """
    dynamics = sorted({_dynamic(plane.image) for plane in planes})
    places = sorted({(plane.image.slice, plane.z) for plane in planes})
    both = len({each[0] for each in dynamics}) > 1 and len({each[1] for each in dynamics}) > 1
    shapes = {(plane.image.data.shape[0], *plane.image.data.shape[2:]) for plane in planes}
    averages = {plane.image.average for plane in planes}
    sizes = len(dynamics), len(places), *truth.shape[2:]
    if both or len(averages) > 1 or sizes != truth.shape or shapes != {(1, *truth.shape[2:])}:
        return None
    return [
        truth[dynamics.index(_dynamic(plane.image)), places.index((plane.image.slice, plane.z))] for plane in planes
    ]


def _dynamic(image: Image) -> tuple[int, ...]:
    return image.repetition, image.phase, image.set, image.contrast


def fitted(image: Numbers, truth: Numbers) -> Numbers:
    """Bring an image to the scale of the truth, by least squares."""
    return image * np.float32((image * truth).sum() / max(float((image**2).sum()), np.finfo(np.float32).tiny))


def score(image: Numbers, truth: Numbers, acceleration: int) -> Score:
    """Compare a plane [y, x] with the truth, on its scale.

    Parameters
    ----------
    image, truth
        [y, x], with all of the encoded field of view along y if ghosts are to be measured.
    acceleration
        Distance of the measured lines; 1 where ghosts cannot be measured.
    """
    pair = torch.from_numpy(np.ascontiguousarray(image))[None], torch.from_numpy(np.ascontiguousarray(truth))[None]
    ghosts = float(metrics.ghost(*pair, acceleration)) if acceleration > 1 else None
    return Score(float(metrics.ssim(*pair)), float(metrics.psnr(*pair)), ghosts)


def compare(planes: Sequence[Plane], truths: Sequence[Numbers], acceleration: int) -> list[tuple[Numbers, Score]]:
    """Bring every plane to the scale of its truth and compare them.

    Parameters
    ----------
    planes, truths
        Beside each other.
    acceleration
        As in `score`.
    """
    found: list[tuple[Numbers, Score]] = []
    for plane, true in zip(planes, truths, strict=True):
        image = fitted(np.abs(plane.image.data[plane.channel, plane.z]).astype(np.float32), true)
        found.append((image, score(image, true, acceleration)))
    return found


def comparison_rows(
    titles: Sequence[str], planes: Sequence[Plane], compared: Sequence[tuple[Numbers, Score]], truths: Sequence[Numbers]
) -> list[Row]:
    """Make rows of images, their errors and the truth beside each other."""
    panels: list[Panel] = []
    for index in some(len(planes), _MOST):
        (image, figures), true = compared[index], truths[index]
        geometry = geometry_of(planes[index].image.getHead())
        image, turned, _ = radiological(image, geometry)
        true = radiological(true, geometry)[0]
        white = brightest(true)
        panels.append(
            Panel(
                image,
                f"{titles[index]}\n{figures}",
                (0.0, white),
                turned,
                warning=f"! {figures.aliasing}" if figures.is_aliased else "",
            )
        )
        panels += error_panels([image], true, white, turned)
        panels.append(Panel(true, "truth", (0.0, white), turned))
    return [Row(panels[start : start + 3 * _PER_ROW]) for start in range(0, len(panels), 3 * _PER_ROW)]
