"""The picture of a replay: its images, and beside them the truth and what they miss of it where the scan was simulated."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import torch

from ..gadgets.domain import describe_sampling
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


@dataclass(frozen=True)
class Lines:
    """How the lines of a scan's slice lie.

    Attributes
    ----------
    measured, of
        How many were measured, calibration lines among them, and how many there are.
    acceleration
        Outside the calibration lines.
    uniform
        Whether the others lie at equal distances.
    """

    measured: int
    of: int
    acceleration: float
    uniform: bool

    def __str__(self) -> str:
        factor = f"R {self.acceleration:.3g}" if self.acceleration > 1 else "complete"
        return f"{factor}, {self.measured} of {self.of} lines"


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
    """Return the first encoding of an MRD file and the lines of its first slice; None where the file does not tell them."""
    with open_hdf5(scan, "MRD file") as file:
        try:
            own = file[group]
            encoding = parse_encodings(parse_header(np.asarray(own["xml"][()]).ravel()[0]))[0]
            heads = own["data"]["head"]
            lines, slices = heads["idx"]["kspace_encode_step_1"].astype(int), heads["idx"]["slice"].astype(int)
            usable = (heads["flags"].astype(np.uint64) & np.uint64(_NOT_FOR_THE_IMAGE)) == 0
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, IsocenterError):
            return None, None
    usable &= slices == slices[usable][:1]
    count = encoding.encoded_matrix[1]
    limit = encoding.limits.get("kspace_encoding_step_1")
    centre = limit.center if limit is not None and limit.center is not None else count // 2
    places = np.unique(lines[usable]) + count // 2 - centre
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.from_numpy(places[(places >= 0) & (places < count)])] = True
    sampling = describe_sampling(mask)
    return encoding, Lines(int(mask.sum()), count, sampling.acceleration, sampling.pattern == "uniform")


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
