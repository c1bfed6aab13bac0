"""A volume in an evaluation: its truth, what is measured of it, its reconstructions and their figures."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ...gadgets.domain import describe_sampling
from ...models.fourier import ifft
from ...models.metrics import SSIM_WINDOW, fitted_scale, judge
from ...models.planar import center_crop
from ...simulate import sampling
from ...simulate.sampling import Request, SamplingError
from ...training.data import FullScan, with_frames
from ...training.samples import block_of_lines, maps_of_middle, maps_of_truth, measured_maps, true_image
from ...training.section import Truth
from ...wire.errors import DataError
from .methods import TUNED, BundleMethod, Method
from .picture import Pictured
from .protocol import Protocol
from .report import Report, Result
from .tuning import best_strength

_SMOOTHING, _MARGIN = 7, 3


@dataclass(frozen=True)
class _Slice:
    """A slice or series: number, scan, true image [frames, y, x], and the pixels of it that count, None for all."""

    number: int
    scan: FullScan
    truth: Tensor
    inside: Tensor | None


class Volume:
    """Slices or series that are judged together.

    Parameters
    ----------
    number, first
        Number of the volume and of its first slice, from 0.
    scans
        Its slices or series, all of one size.
    protocol, truth
        How to undersample and judge, and how the coils of the truth are combined.
    report
        Receives the figures, and what had to be left out.

    Attributes
    ----------
    file
        Name of the files that images are kept in: that of the file the scans are from.
    """

    def __init__(
        self, number: int, first: int, scans: list[FullScan], protocol: Protocol, truth: Truth, report: Report
    ) -> None:
        self.number = number
        self._protocol, self._report = protocol, report
        self.name: str = scans[0].volume or scans[0].name or f"scan {number + 1}"
        self.file: str = Path(self.name.replace(" ", "-")).stem + ".h5"
        truths = [self._cropped(_truth(scan, truth), scan) for scan in scans]
        insides = object_masks(truths) if protocol.region_for(truth) == "object" else [None] * len(scans)
        self._slices: list[_Slice] = []
        if problem := self._misfit(scans[0], truths[0]):
            report.leave_out(f"{self.name}: {problem}")
            return
        for index, (scan, image, inside) in enumerate(zip(scans, truths, insides, strict=True), start=first):
            if bool(image.any()):
                self._slices.append(_Slice(index, scan, image, inside))
            else:
                report.leave_out(f"{scan.name or self.name}: it is empty")

    def _misfit(self, scan: FullScan, truth: Tensor) -> str:
        """Say why images of this size cannot be judged; empty where they can be."""
        crop, size = self._protocol.crop, tuple(scan.kspace.shape[-2:])
        if isinstance(crop, tuple) and (crop[0] > size[0] or crop[1] > size[1]):
            return f"the crop of {crop[0]} x {crop[1]} is larger than its {size[0]} x {size[1]} pixels"
        if min(truth.shape[-2:]) < SSIM_WINDOW:
            return f"its {truth.shape[-2]} x {truth.shape[-1]} pixels are fewer than the window of SSIM"
        return ""

    def _cropped(self, image: Tensor, scan: FullScan) -> Tensor:
        crop = self._protocol.crop
        return center_crop(image, scan.matrix if crop == "matrix" else None if crop == "none" else crop)

    def _judgeable(self, image: Tensor, scan: FullScan) -> Tensor:
        """Return what is judged of an image; one that is not finite would spoil the means of all."""
        if not bool(image.isfinite().all()):
            raise DataError("its image has pixels that are not finite")
        return self._cropped(image, scan)

    def compare(
        self, methods: dict[str, Method], acceleration: float, acs: float, folder: Path | None
    ) -> Pictured | None:
        """Reconstruct by all methods, and add their figures to the report.

        Parameters
        ----------
        methods
            By name.
        acceleration, acs
            One of the protocol's cells; the results of a file tell those of its mask.
        folder
            Where the images are written; None: nowhere.

        Returns
        -------
        Pictured or None
            What a picture can show; None where nothing was reconstructed.
        """
        how = _label(acceleration, acs)
        if not self._slices:
            return None
        try:
            measured, lines = self._mask(acceleration, acs)
        except SamplingError as error:
            self._report.leave_out(
                f"{self.name}: {error}" if self._protocol.from_file else f"{self.name}, {how}: {error}"
            )
            return None
        net = self._share_of_lines() / float(measured.to(torch.float64).mean())
        if self._protocol.from_file:
            acceleration, acs = round(net, 2), lines
            how = _label(acceleration, acs)
        kspace = with_frames(self._slices[0].scan.kspace)
        outside = {
            name: method.outside_domain(kspace, measured)
            for name, method in methods.items()
            if isinstance(method, BundleMethod)
        }
        strengths = self._tune(measured, lines) if self._protocol.tune else {}
        tuned = {name: TUNED[name][0](strength) for name, strength in strengths.items()}
        images = self._reconstruct({**methods, **tuned}, measured, lines)
        if folder is not None:
            self._keep(images, folder, f"R{acceleration:g}-acs{acs:g}")
        figures = {
            name: self._judge(
                each,
                Result(0, self.name, acceleration, acs, name, net, {}, outside.get(name, ""), strengths.get(name)),
            )
            for name, each in images.items()
        }
        middle = len(self._slices) // 2
        shown = self._slices[middle]
        frame = len(shown.truth) // 2
        return Pictured(
            f"{shown.scan.name or self.name}\n{how}",
            shown.truth[frame],
            {name: each[middle][frame] for name, each in images.items() if middle in each and figures[name]},
            {name: each for name, each in figures.items() if each},
            measured[frame],
        )

    def _tune(self, measured: Tensor, lines: int) -> dict[str, float]:
        """Return the strength of every classical method that gives the volume's images the largest PSNR."""

        def figure(name: str, make: Callable[[float], Method], strength: float) -> float:
            images = self._reconstruct({name: make(strength)}, measured, lines)[name]
            return self._figures(images, list(images))["psnr"] if images else -math.inf

        return {name: best_strength(partial(figure, name, make), start) for name, (make, start) in TUNED.items()}

    def _share_of_lines(self) -> float:
        rows = self._slices[0].scan.measured
        return 1.0 if rows is None else float(rows.to(torch.float64).mean())

    def _mask(self, acceleration: float, acs: float) -> tuple[Tensor, int]:
        """Return what is measured of every slice, [frames, ky] or [frames, ky, kx], and the number of calibration lines."""
        scan = self._slices[0].scan
        frames, height, width = with_frames(scan.kspace).shape[1:]
        rows = None if scan.measured is None else scan.measured.numpy()
        if self._protocol.from_file:
            mask = sampling.draw(
                self._protocol.sampling, Request(height, width, frames, measured=rows), np.random.default_rng()
            )
            return torch.from_numpy(mask), _calibration_lines(mask)
        lines = round(acs * (height if rows is None else int(rows.sum()))) if acs < 1 else int(acs)
        if not lines:
            raise SamplingError(f"a fraction of {acs:g} of {height} lines is none", accepted="at least one line")
        request = Request(height, width, frames, acceleration, lines, measured=rows)
        random = np.random.default_rng((self._protocol.seed, self.number))
        return torch.from_numpy(sampling.draw(self._protocol.sampling, request, random)), lines

    def _reconstruct(self, methods: dict[str, Method], measured: Tensor, lines: int) -> dict[str, dict[int, Tensor]]:
        """Return the images [frames, y, x] of every method by the position of the slice, without those that failed."""
        images: dict[str, dict[int, Tensor]] = {name: {} for name in methods}
        pattern = measured[:, :, None] if measured.dim() == 2 else measured
        for position, each in enumerate(self._slices):
            kspace = with_frames(each.scan.kspace) * pattern
            try:
                maps = _maps(each.scan, measured, lines)
            except DataError as error:
                self._report.leave_out(f"{each.scan.name or self.name}: {error}")
                continue
            for name, method in methods.items():
                try:
                    images[name][position] = self._judgeable(method(kspace, measured, maps), each.scan)
                except Exception as error:  # noqa: BLE001 - a runtime raises what it likes, and it costs this scan only
                    self._report.leave_out(f"{each.scan.name or self.name}, {name}: {_last_line(error)}")
        return images

    def _judge(self, images: dict[int, Tensor], result: Result) -> dict[str, float]:
        """Add the figures of a method to the report; return those of the volume, or of its middle slice."""
        convention, every = self._protocol.convention, range(len(self._slices))
        shown: dict[str, float] = {}
        for part in [list(every)] if convention == "fastmri" else [[position] for position in every]:
            if not images.keys() >= set(part):
                continue
            figures = self._figures(images, part)
            number = self.number if convention == "fastmri" else self._slices[part[0]].number
            self._report.results.append(replace(result, scan=number, figures=figures))
            if convention == "fastmri" or part[0] == len(every) // 2:
                shown = figures
        return shown

    def _figures(self, images: dict[int, Tensor], part: list[int]) -> dict[str, float]:
        """Judge some of the slices together."""
        slices = [self._slices[position] for position in part]
        image = torch.cat([images[position] for position in part]).to(torch.float64)
        truth = torch.cat([each.truth for each in slices]).to(torch.float64)
        pixels = [each.inside for each in slices if each.inside is not None]
        inside = torch.cat(pixels) if pixels else None
        if self._protocol.fit_scale:
            image = image * fitted_scale(image, truth, inside)
        return judge(image, truth, self._protocol.convention, inside)

    def _keep(self, images: dict[str, dict[int, Tensor]], folder: Path, cell: str) -> None:
        """Write the truth and all images [slices, x, y], frames one after the other, as fastMRI's evaluation reads them."""
        truth = {position: each.truth for position, each in enumerate(self._slices)}
        for method, slices in {"truth": truth, **images}.items():
            place = folder / re.sub(r"[^\w.-]+", "-", method) / ("" if method == "truth" else cell)
            place.mkdir(parents=True, exist_ok=True)
            with h5py.File(place / self.file, "w") as file:
                key = "reconstruction_rss" if method == "truth" else "reconstruction"
                every = torch.cat([*slices.values()]) if slices else torch.zeros(0, 1, 1)
                file[key] = every.mT.numpy()  # fastMRI has the readout first


def _last_line(error: Exception) -> str:
    """Return what a runtime says at the end of a long account of where it failed."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _label(acceleration: float, acs: float) -> str:
    return f"R {acceleration:g}, ACS {acs:g}"


def _calibration_lines(mask: sampling.Mask) -> int:
    """Return the lines around the middle that a file's mask measures in all frames; of points, the length of such a block."""
    if not mask.any():
        raise SamplingError("the mask measures nothing")
    every: NDArray[np.bool_] = np.asarray(mask.all(axis=0))
    if every.ndim == 1:
        return describe_sampling(torch.from_numpy(every)).acs
    height, width = mask.shape[1:]
    blocks = (Request(height, width, acs=acs).calibration_block for acs in range(1, height + 1))
    acs = sum(1 for _ in takewhile(lambda block: bool(every[block].all()), blocks))
    if not acs:
        raise SamplingError("the mask lacks the middle of k-space", accepted="one that measures a block around it")
    return acs


def _maps(scan: FullScan, measured: Tensor, acs: int) -> Tensor:
    """Return the coil maps [coils, y, x] that what was measured gives."""
    if measured.dim() > 2:
        return maps_of_middle(scan.kspace, acs)
    return measured_maps(block_of_lines(scan.kspace, measured))


def _truth(scan: FullScan, truth: Truth) -> Tensor:
    """Return the true image [frames, y, x], without noise where that is known."""
    images = ifft(with_frames(scan.kspace if scan.clean is None else scan.clean), [-2, -1])
    maps = maps_of_truth(scan) if truth == "combined" else torch.zeros(0)
    return true_image(images, maps, truth).abs()


def object_masks(truths: list[Tensor]) -> list[Tensor]:
    """Mark the object in the slices of a volume.

    The smoothed truth is cut at Otsu's threshold of its square root (IEEE Trans. Syst. Man Cybern. 1979;9:62), holes are filled,
    and a margin of 3 pixels is added.

    Parameters
    ----------
    truths
        float32 [frames, y, x] each.

    Returns
    -------
    list
        bool like them.
    """
    smooth = [np.stack([_smoothed(frame) for frame in truth.numpy()]) for truth in truths]
    threshold = _otsu(np.concatenate([each.ravel() for each in smooth]))
    return [torch.from_numpy(np.stack([_solid(frame > threshold) for frame in each])) for each in smooth]


def _smoothed(image: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(ndimage.uniform_filter(np.sqrt(image), _SMOOTHING))


def _solid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    filled = np.asarray(ndimage.binary_fill_holes(mask))
    return np.asarray(ndimage.binary_dilation(filled, np.ones((3, 3), bool), iterations=_MARGIN), bool)


def _otsu(values: NDArray[np.floating]) -> float:
    """Return the threshold between two classes of values whose variance between the classes is largest."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    between = below * above * (sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)) ** 2
    return float(edges[1:-1][between.argmax()])
