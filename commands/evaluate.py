"""Compare reconstructions of undersampled scans whose truth is known, by the metrics of `models.metrics`, and images.

Scans are fully sampled slices, simulated from the part of the template that no training sees, or from files; where one of the
bundles takes series, they are series, simulated hearts or those of files. Each is undersampled in every way asked for, gets coil
maps from its calibration lines, and is reconstructed by every method. Slices of one file are judged together, as a volume.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from rich.console import Console
from scipy import ndimage
from torch import Tensor

from ..engine import LoadedModel
from ..models.fourier import ifft
from ..models.metrics import Convention, fitted_scale, judge
from ..models.planar import center_crop
from ..simulate import sampling
from ..simulate.sampling import Request, SamplingError
from ..training.data import FullScan, simulated_scan
from ..training.files import FileScans
from ..training.recipe import SimulatedData, SimulatedSeries
from ..training.samples import calibrated_maps, true_image
from ..training.section import Truth
from ..wire.errors import DataError, OptionError
from .evaluated_methods import Method, all_methods, open_bundles
from .evaluation_picture import Pictured, draw
from .evaluation_report import Report, Result

_SEEDS = 2**33
"""Seeds of evaluated scans start here, far from those of training and validation."""

_BRAINS = SimulatedData(kind="simulated-brain", matrix=(160, 224), noise=(0.0005, 0.02))
_HEARTS = SimulatedSeries(kind="simulated-cine", matrix=(96, 160), noise=(0.0005, 0.02))
_MAPS_OF_TRUTH = 24
"""Calibration lines of the maps that combine the truth, where more are not asked for."""
_PICTURED = 3
_SMOOTHING, _MARGIN = 7, 3

Region = Literal["all", "object"]


@dataclass(frozen=True)
class Protocol:
    """How to undersample, and how to judge.

    Parameters
    ----------
    accelerations
        As the pattern takes them: the distance of equispaced lines, else samples of the grid for each one measured.
    acs
        Calibration lines: whole numbers, or fractions of all lines.
    scans
        Number of slices or series.
    sampling
        A pattern of `simulate.sampling`, or a file.
    seed
        Of scans, masks and the bootstrap.
    convention
        ``fastmri`` or ``slice``, as in `models.metrics.judge`.
    truth
        ``rss``, ``combined`` by coil maps, or ``auto``: ``combined`` where all bundles take maps.
    region
        What is judged: ``all`` pixels, or the ``object``.
    crop
        ``matrix``: the middle of the image that a reader gets, by the scan's header; ``none``; or pixels along y and x.
    fit_scale
        Whether images are scaled to fit the truth best before they are judged.
    reference
        The method that the others are compared with.
    """

    accelerations: list[float]
    acs: list[float]
    scans: int = 10
    sampling: str = "equispaced"
    seed: int = 1
    convention: Convention = "fastmri"
    truth: Truth | Literal["auto"] = "auto"
    region: Region = "all"
    crop: tuple[int, int] | Literal["matrix", "none"] = "matrix"
    fit_scale: bool = False
    reference: str = "SENSE"

    def truth_for(self, models: dict[str, LoadedModel]) -> Truth:
        """How the coils of the true image are combined: as the bundles do it, unless the option says otherwise."""
        if self.truth != "auto":
            return self.truth
        takes_maps = ["maps" in {spec.name for spec in model.manifest.inputs} for model in models.values()]
        return "combined" if all(takes_maps) else "rss"

    def describe(self, data: str, truth: Truth) -> dict[str, str]:
        """Return what a reader of the tables must know, by name."""
        auto = ", as the bundles combine coils" if self.truth == "auto" else ""
        return {
            "data": data,
            "sampling": f"{self.sampling}, slices of a volume alike, seed {self.seed}",
            "convention": {
                "fastmri": "fastmri (a value per volume: volume maximum, squared errors of the volume, SSIM mean over slices)",
                "slice": "slice (a value per slice, with its own maximum; of a series the mean over frames)",
            }[self.convention],
            "SSIM": "uniform 7 x 7 window, k1 = 0.01, k2 = 0.03",
            "truth": {
                "rss": "rss (root of the sum of squares of the fully sampled coil images)",
                "combined": "combined (fully sampled coil images, combined by ESPIRiT maps or the true ones)",
            }[truth]
            + auto,
            "pixels": {"all": "all of the crop", "object": "inside the object (threshold on the smoothed truth)"}[
                self.region
            ],
            "crop": {"matrix": "the image matrix of the header", "none": "none"}.get(
                str(self.crop), " x ".join(map(str, self.crop))
            ),
            "scale": "fitted to the truth by least squares" if self.fit_scale else "as reconstructed",
        }


def parse_protocol(
    *, accelerations: str, acs: str, scans: int, seed: int, crop: str, fit_scale: bool, reference: str, **names: str
) -> Protocol:
    """Read the options of the command line.

    Parameters
    ----------
    accelerations, acs
        Numbers, separated by commas.
    crop
        ``matrix``, ``none``, or a size such as ``320`` or ``320x256``.
    scans, seed, fit_scale, reference
        As in `Protocol`.
    names
        ``sampling``, ``convention``, ``truth`` and ``region``.

    Raises
    ------
    OptionError
        One is not valid; it is named.
    """
    accepted = {"convention": get_args(Convention), "truth": ("auto", *get_args(Truth)), "region": get_args(Region)}
    for name, values in accepted.items():
        if names[name] not in values:
            raise OptionError(f"{names[name]!r} is not known", where=f"option --{name}", accepted=", ".join(values))
    factors, lines = _numbers(accelerations, "--accelerations"), _numbers(acs, "--acs")
    if not all(factor >= 1 for factor in factors):
        raise OptionError(f"{accelerations!r}", where="option --accelerations", accepted="numbers from 1")
    if not all(0 < value < 1 or (value >= 1 and value == round(value)) for value in lines):
        raise OptionError(
            f"{acs!r}", where="option --acs", accepted="whole numbers of lines, or fractions of all lines"
        )
    size = crop.lower().split("x")
    if crop not in ("matrix", "none") and not (len(size) <= 2 and all(part.isdecimal() and int(part) for part in size)):
        raise OptionError(f"{crop!r}", where="option --crop", accepted="matrix, none, or a size such as 320 or 320x256")
    try:
        pattern = sampling.current_name(names["sampling"])
        for factor in factors:
            sampling.find_pattern(pattern).check(Request(2**30, 2**30, acceleration=factor))
    except SamplingError as error:
        raise OptionError(error.what, where="option --sampling", accepted=error.accepted) from error
    return Protocol(
        factors,
        lines,
        scans,
        pattern,
        seed,
        convention="slice" if names["convention"] == "slice" else "fastmri",
        truth="auto" if names["truth"] == "auto" else "rss" if names["truth"] == "rss" else "combined",
        region="object" if names["region"] == "object" else "all",
        crop="matrix" if crop == "matrix" else "none" if crop == "none" else (int(size[0]), int(size[-1])),
        fit_scale=fit_scale,
        reference=reference,
    )


def _numbers(text: str, option: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise OptionError(f"{text!r}", where=f"option {option}", accepted="numbers, separated by commas") from error
    if not values or not np.isfinite(values).all():
        raise OptionError(f"{text!r}", where=f"option {option}", accepted="numbers, separated by commas")
    return list(dict.fromkeys(values))


def run_evaluation(bundles: list[Path], data: str, protocol: Protocol, folder: Path, console: Console) -> Report:
    """Reconstruct everything, print the table, and write tables, CSV, JSON and ``images.png`` to ``folder``.

    Raises
    ------
    BundleError
        A bundle cannot be used.
    OptionError
        The reference is no method, or the folder cannot be written to.
    DataError
        There is nothing to compare.
    """
    models = open_bundles(bundles)
    methods = all_methods(models)
    if protocol.reference not in methods:
        raise OptionError(
            f"there is no method {protocol.reference!r}", where="option --reference", accepted=", ".join(methods)
        )
    _check_writable(folder)
    truth = protocol.truth_for(models)
    report = Report(protocol.describe(data, truth), protocol.reference, protocol.seed)
    pictures: list[Pictured] = []
    series = any("frames" in spec.axes for model in models.values() for spec in model.manifest.inputs)
    done = 0
    for number, scans in enumerate(_volumes(_scans(data, protocol, series, console))):
        pictures += _Volume(number, done, scans, protocol, truth, report).evaluate(methods)[:1]
        done += len(scans)
        console.print(f"scan {done} of {protocol.scans}", markup=False)
    if not report.results:
        raise DataError("\n".join(["nothing could be compared", *report.left_out]))
    report.settings["scans"] = (
        f"{done} {'series' if series else 'slices'} of {len({each.volume for each in report.results})} volumes"
    )
    for text in report.left_out:
        console.print(f"left out: {text}", markup=False)
    console.print(report.table())
    report.write(folder)
    draw(pictures[:_PICTURED], folder / "images.png")
    return report


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").touch()
    except OSError as error:
        raise OptionError(f"{folder} cannot be written to: {error.strerror}", where="option --output") from error


def _volumes(scans: Iterator[FullScan]) -> Iterator[list[FullScan]]:
    """Put scans of the same file and size together that follow on each other."""
    numbered = enumerate(scans)
    for _, group in groupby(
        numbered, key=lambda item: (item[1].volume or item[0], item[1].kspace.shape, item[1].matrix)
    ):
        yield [scan for _, scan in group]


class _Volume:
    """Slices or series that are judged together."""

    def __init__(
        self, number: int, first: int, scans: list[FullScan], protocol: Protocol, truth: Truth, report: Report
    ) -> None:
        self._number, self._first = number, first
        self._protocol, self._report = protocol, report
        truths = [self._cropped(_truth(scan, protocol, truth), scan) for scan in scans]
        seen = [index for index, image in enumerate(truths) if bool(image.any())]
        for index in sorted(set(range(len(scans))) - set(seen)):
            report.left_out.append(f"{self._name(scans[index])}: it is empty")
        self._scans, self._truths = [scans[index] for index in seen], [truths[index] for index in seen]
        self._inside = object_masks(self._truths) if protocol.region == "object" else [None] * len(seen)

    def _cropped(self, image: Tensor, scan: FullScan) -> Tensor:
        crop = self._protocol.crop
        return center_crop(image, scan.matrix if crop == "matrix" else None if crop == "none" else crop)

    def _name(self, scan: FullScan) -> str:
        return scan.name or f"scan {self._number + 1}"

    def evaluate(self, methods: dict[str, Method]) -> list[Pictured]:
        """Add the figures of all methods to the report; return what the picture can show."""
        if not self._scans:
            return []
        pictures = [
            self._compare(methods, acceleration, acs)
            for acs in self._protocol.acs
            for acceleration in self._protocol.accelerations
        ]
        shown = _pictured(self._protocol)
        return [picture for cell, picture in pictures if picture is not None and cell == shown]

    def _compare(
        self, methods: dict[str, Method], acceleration: float, acs: float
    ) -> tuple[tuple[float, float], Pictured | None]:
        cell, how = (acceleration, acs), f"R {acceleration:g}, ACS {acs:g}"
        try:
            measured, lines = self._mask(acceleration, acs)
        except SamplingError as error:
            self._leave_out(f"{how}: {error}")
            return cell, None
        kspaces = [
            _with_frames(scan.kspace) * (measured[:, :, None] if measured.dim() == 2 else measured)
            for scan in self._scans
        ]
        maps = [calibrated_maps(scan.kspace, lines, *([lines] if measured.dim() > 2 else [])) for scan in self._scans]
        images: dict[str, list[Tensor]] = {}
        for name, method in methods.items():
            try:
                images[name] = [
                    self._cropped(method(kspace, measured, own), scan)
                    for kspace, own, scan in zip(kspaces, maps, self._scans, strict=True)
                ]
            except Exception as error:  # noqa: BLE001 - a runtime raises what it likes, and it costs this volume only
                self._leave_out(f"{name}: {error}")
        figures = {name: self._judge(each, cell, name, measured) for name, each in images.items()}
        middle = len(self._scans) // 2
        frame = len(self._truths[middle]) // 2
        picture = Pictured(
            f"{self._name(self._scans[middle])}\n{how}",
            self._truths[middle][frame],
            {name: each[middle][frame] for name, each in images.items()},
            figures,
            measured[frame],
        )
        return cell, picture

    def _leave_out(self, text: str) -> None:
        entry = f"{self._scans[0].volume or self._name(self._scans[0])}, {text}"
        if entry not in self._report.left_out:
            self._report.left_out.append(entry)

    def _mask(self, acceleration: float, acs: float) -> tuple[Tensor, int]:
        """Return what is measured of every slice, [frames, ky] or [frames, ky, kx], and the number of calibration lines."""
        scan = self._scans[0]
        frames, height, width = _with_frames(scan.kspace).shape[1:]
        rows = None if scan.measured is None else scan.measured.numpy()
        lines = round(acs * (height if rows is None else int(rows.sum()))) if acs < 1 else int(acs)
        if not lines:
            raise SamplingError(
                f"a fraction of {acs:g} of {height} lines is none", accepted="one calibration line at least"
            )
        request = Request(height, width, frames, acceleration, lines, measured=rows)
        random = np.random.default_rng((self._protocol.seed, self._number))
        return torch.from_numpy(sampling.draw(self._protocol.sampling, request, random)), lines

    def _judge(
        self, images: list[Tensor], cell: tuple[float, float], method: str, measured: Tensor
    ) -> dict[str, float]:
        """Add the figures of a method's images to the report, and return those that the picture shows."""
        convention = self._protocol.convention
        if convention == "fastmri":
            parts = [slice(None)]
        else:
            parts = [slice(index, index + 1) for index in range(len(images))]
        shown: dict[str, float] = {}
        net = (
            measured.shape[1] if self._scans[0].measured is None else int(self._scans[0].measured.sum())
        ) / measured.shape[1]
        for number, part in enumerate(parts):
            image, truth = (torch.cat(each[part]).to(torch.float64) for each in (images, self._truths))
            inside = (
                None
                if self._protocol.region == "all"
                else torch.cat([each for each in self._inside[part] if each is not None])
            )
            if self._protocol.fit_scale:
                image = image * fitted_scale(image, truth, inside)
            figures = judge(image, truth, convention, inside)
            index = self._number if convention == "fastmri" else self._first + number
            scan = self._scans[part][0]
            volume = scan.volume or self._name(scan)
            self._report.results.append(
                Result(index, volume, *cell, method, net / float(measured.to(torch.float64).mean()), figures)
            )
            if number == len(parts) // 2:
                shown = figures
        return shown


def _scans(data: str, protocol: Protocol, series: bool, console: Console) -> Iterator[FullScan]:
    if data == "simulated":
        settings = _HEARTS if series else _BRAINS
        for index in range(protocol.scans):
            yield simulated_scan(settings, _SEEDS + 1000 * protocol.seed + index, "test")
        return
    scans = FileScans(Path(data), series=series)
    for line in scans.report:
        console.print(line, markup=False)
    for index in range(min(protocol.scans, len(scans))):
        yield scans.scan(index)


def _pictured(protocol: Protocol) -> tuple[float, float]:
    """Return the acceleration and number of calibration lines that the picture shows: 4 where there is such."""
    acceleration = 4.0 if 4.0 in protocol.accelerations else protocol.accelerations[-1]
    return acceleration, protocol.acs[len(protocol.acs) // 2]


def _with_frames(kspace: Tensor) -> Tensor:
    """View [coils, (frames,) ky, kx] with frames."""
    return kspace if kspace.dim() == 4 else kspace[:, None]


def _truth(scan: FullScan, protocol: Protocol, truth: Truth) -> Tensor:
    """Return the true image [frames, y, x], without noise where that is known."""
    images = ifft(_with_frames(scan.kspace if scan.clean is None else scan.clean), [-2, -1])
    maps = torch.zeros(0)
    if truth == "combined":
        most = max([_MAPS_OF_TRUTH, *(int(acs) for acs in protocol.acs)])
        maps = calibrated_maps(scan.kspace, min(most, scan.kspace.shape[-2])) if scan.maps is None else scan.maps
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
    smooth = [ndimage.uniform_filter(np.sqrt(truth.numpy()), (0, _SMOOTHING, _SMOOTHING)) for truth in truths]
    threshold = _otsu(np.concatenate([each.ravel() for each in smooth]))
    plane = np.ones((1, 3, 3), bool)
    masks = []
    for each in smooth:
        filled = np.stack([ndimage.binary_fill_holes(frame) for frame in each > threshold])
        masks.append(torch.from_numpy(ndimage.binary_dilation(filled, plane, iterations=_MARGIN)))
    return masks


def _otsu(values: np.ndarray) -> float:
    """Return the threshold between two classes of values whose variance between the classes is largest."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    between = below * above * (sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)) ** 2
    return float(edges[1:-1][between.argmax()])
