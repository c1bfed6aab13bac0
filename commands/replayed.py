"""The picture of a replay: its images, and beside them the truth and what they miss of it where the scan was simulated."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..gadgets.domain import describe_sampling, measure_acceleration
from ..gadgets.readouts import NOT_FOR_THE_IMAGE, flag_mask
from ..wire.errors import IsocenterError
from ..wire.files import open_hdf5
from ..wire.header import Encoding, parse_encodings, parse_header
from ..wire.items import Image
from .client import ReplayResult
from .picture import Row, Sheet, draw
from .picture.images import Plane, complaints, image_sheet, label_of, origin, planes, varying
from .picture.truth import Score, compare, comparison_rows, matched, mean_score, read_truth

_NOT_FOR_THE_IMAGE = flag_mask(*NOT_FOR_THE_IMAGE)
_IMAGE = ("slice", "contrast", "phase", "repetition", "set")
"""Counters of an image."""


@dataclass(frozen=True)
class Lines:
    """How the lines lie that one image was made from; of a volume, the points of ky and kz.

    Attributes
    ----------
    measured, of
        How many were measured, calibration lines among them, and how many there are.
    what
        What is counted.
    acceleration
        Outside the calibration lines; 1 where all were measured.
    uniform
        Whether the others lie at equal distances.
    """

    measured: int
    of: int
    what: str
    acceleration: float
    uniform: bool

    def __str__(self) -> str:
        factor = "complete" if self.measured == self.of else f"R {self.acceleration:.3g}"
        return f"{factor}, {self.measured} of {self.of} {self.what}"


def draw_replayed(path: Path, scan: Path, group: str, result: ReplayResult, say: Callable[[str], None]) -> None:
    """Draw what came back.

    Parameters
    ----------
    path
        The picture.
    scan, group
        What was sent. If it was simulated, the truth lies beside it, and images are compared with it.
    result
        What came back, one image at least.
    say
        Is told how far the images are from the truth.

    Raises
    ------
    FileError
        The picture cannot be written.
    """
    encoding, lines = read_lines(scan, group) if h5py.is_hdf5(scan) else (None, None)
    title = ", ".join(filter(None, (scan.name, origin(result.images[0]), str(lines or ""), latency(result))))
    rows, score = _against_truth(scan, result.images, ghost_distance(encoding, lines))
    if score is None:
        draw(image_sheet(result.images, title), path)
        return
    notes = list(dict.fromkeys(text for image in result.images for text in complaints(image)))
    draw(Sheet(title, rows, notes), path)
    say("; ".join(filter(None, (f"against the truth beside the scan: {score}", score.aliasing))))


def latency(result: ReplayResult) -> str:
    """Say how long the last image took."""
    return f"{1000 * result.arrivals[-1]:.0f} ms from the last readout to the last image" if result.arrivals else ""


def read_lines(scan: Path, group: str) -> tuple[Encoding | None, Lines | None]:
    """Return the first encoding of an MRD file and the lines of its first image; None where the file does not tell them."""
    with open_hdf5(scan, "MRD file") as file:
        try:
            own = file[group]
            encoding = parse_encodings(parse_header(np.asarray(own["xml"][()]).ravel()[0]))[0]
            heads = own["data"]["head"]
            steps = [heads["idx"][f"kspace_encode_step_{axis}"].astype(int) for axis in (2, 1)]
            images = np.stack([heads["idx"][name] for name in _IMAGE], axis=1)
            usable = (heads["flags"].astype(np.uint64) & np.uint64(_NOT_FOR_THE_IMAGE)) == 0
            usable &= heads["encoding_space_ref"] == 0
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, IsocenterError):
            return None, None
    usable &= (images == images[usable][:1]).all(axis=1)
    mask = _mask(encoding, *(each[usable] for each in steps))
    if not mask.any():
        return encoding, None
    measured, count, is_volume = int(mask.sum()), mask.numel(), mask.shape[0] > 1
    uniform = describe_sampling(mask.any(dim=0)).pattern == "uniform"
    # points that were chosen one by one have no distance: then how many were left out says it
    acceleration = count / measured if is_volume and not uniform else measure_acceleration(mask)
    return encoding, Lines(measured, count, "kz-ky points" if is_volume else "lines", acceleration, uniform)


def _mask(encoding: Encoding, partitions: NDArray[np.int_], lines: NDArray[np.int_]) -> Tensor:
    """Mark the places bool [kz, ky] of readouts on the encoded grid, by their counters."""
    sizes = encoding.encoded_matrix[2], encoding.encoded_matrix[1]
    mask = torch.zeros(sizes, dtype=torch.bool)
    places: list[NDArray[np.int_]] = []
    for axis, size, counters in zip((2, 1), sizes, (partitions, lines), strict=True):
        limit = encoding.limits.get(f"kspace_encoding_step_{axis}")
        centre = limit.center if limit is not None and limit.center is not None else size // 2
        places.append(counters + size // 2 - centre)
    inside = (places[0] >= 0) & (places[0] < sizes[0]) & (places[1] >= 0) & (places[1] < sizes[1])
    mask[torch.from_numpy(places[0][inside]), torch.from_numpy(places[1][inside])] = True
    return mask


def ghost_distance(encoding: Encoding | None, lines: Lines | None) -> int:
    """Distance of the lines where ghosts can be measured in the images: all of the field of view along y, slices; else 1."""
    if encoding is None or lines is None or not lines.uniform or encoding.encoded_matrix[2] > 1:
        return 1
    if not math.isclose(encoding.encoded_fov[1], encoding.recon_fov[1], rel_tol=1e-3):
        return 1
    return round(lines.acceleration)


def _against_truth(scan: Path, images: Sequence[Image], distance: int) -> tuple[list[Row], Score | None]:
    truth = read_truth(scan)
    magnitudes = [
        image for image in images if image.image_type in (0, ismrmrd.IMTYPE_MAGNITUDE, ismrmrd.IMTYPE_COMPLEX)
    ]
    if truth is None or len(magnitudes) < len(images) or len({image.image_series_index for image in images}) > 1:
        return [], None
    every: list[Plane] = planes(images)
    truths = matched(every, truth)
    if truths is None:
        return [], None
    compared = compare(every, truths, distance)
    counters = varying(every)
    rows = comparison_rows([label_of(plane, counters) for plane in every], every, compared, truths)
    return rows, mean_score([figures for _, figures in compared])
