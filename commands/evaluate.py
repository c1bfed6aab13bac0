"""Compare reconstructions of undersampled scans whose truth is known: SSIM, PSNR, NMSE, and images.

Scans are fully sampled slices, simulated from the part of the template that no training sees, or from files; where one of the
bundles takes series, they are series, simulated hearts or those of files. Each is undersampled in every way asked for, gets coil
maps from its calibration lines, and is reconstructed by every method. The truth is the root of the sum of squares of the fully
sampled coil images, without noise where it is known.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..bundle.folder import Bundle
from ..bundle.manifest import BundleError
from ..engine import LoadedModel
from ..flow.deferred import Deferred, settled
from ..gadgets.model_inputs import arrange_inputs, arrange_output
from ..models import metrics
from ..models.classical import RootSumOfSquares, Sense
from ..models.compressed_sensing import TotalVariation
from ..models.fourier import ifft
from ..simulate import sampling
from ..training.data import FullScan, simulated_scan
from ..training.files import FileScans
from ..training.recipe import SimulatedData, SimulatedSeries
from ..training.samples import block_of_lines, measured_maps

_SEEDS = 2**33
"""Seeds of evaluated scans start here, far from those of training and validation."""

_BRAINS = SimulatedData(kind="simulated-brain", matrix=(160, 224), noise=(0.0005, 0.02))
_HEARTS = SimulatedSeries(kind="simulated-cine", matrix=(96, 160), noise=(0.0005, 0.02))

Method = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From k-space [coils, frames, ky, kx], lines [frames, ky] and maps [coils, y, x] to magnitudes [frames, y, x]."""


@dataclass(frozen=True)
class Protocol:
    """How to undersample.

    Parameters
    ----------
    accelerations
        Distances of the measured lines.
    acs
        Numbers of calibration lines in the middle, measured in addition.
    scans
        Number of slices or series.
    sampling
        ``uniform`` or ``random`` lines.
    seed
        Of scans and masks.
    """

    accelerations: list[float]
    acs: list[int]
    scans: int
    sampling: str
    seed: int

    def mask(self, frames: int, lines: int, acceleration: float, acs: int, scan: int) -> Tensor:
        """Return the measured lines [frames, ky] of a scan; every frame has other ones.

        Raises
        ------
        ValueError
            ``sampling`` is neither uniform nor random.
        """
        if self.sampling == "uniform":
            spacing = max(round(acceleration), 1)
            return torch.from_numpy(sampling.uniform_frames(lines, spacing, acs, scan, frames))
        if self.sampling == "random":
            seeds = [self.seed + scan + 1000 * frame for frame in range(frames)]
            return torch.from_numpy(sampling.random_frames(lines, acceleration, acs, seeds))
        raise ValueError(f"sampling {self.sampling!r} is not known; accepted are uniform and random")


@dataclass(frozen=True)
class Result:
    """Figures of one reconstruction."""

    scan: int
    acceleration: float
    acs: int
    method: str
    ssim: float
    psnr: float
    nmse: float


def run_evaluation(bundles: list[Path], data: str, protocol: Protocol, folder: Path, console: Console) -> list[Result]:
    """Reconstruct everything, print the table, and write ``results.csv``, ``table.md`` and ``images.png`` to ``folder``."""
    models = {path.name: LoadedModel(Bundle.open(path), torch.device("cpu"), "auto") for path in bundles}
    series = any("frames" in spec.axes for model in models.values() for spec in model.manifest.inputs)
    methods: dict[str, Method] = {
        "zero-filled": _zero_filled,
        "SENSE": _classical(Sense()),
        "CS (TV)": _classical(TotalVariation()),
        **{name: _bundle(model) for name, model in models.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    rows: list[list[Tensor]] = []
    for number, scan in enumerate(_scans(data, protocol, series)):
        full = _with_frames(scan.kspace)
        clean = scan.kspace if scan.clean is None else scan.clean
        truth = torch.linalg.vector_norm(ifft(_with_frames(clean), [-2, -1]), dim=0)
        for acs in protocol.acs:
            for acceleration in protocol.accelerations:
                lines = protocol.mask(full.shape[1], full.shape[2], acceleration, acs, number)
                kspace = full * lines[:, :, None]
                maps = measured_maps(block_of_lines(full, lines))
                images = {name: method(kspace, lines, maps) for name, method in methods.items()}
                results += [
                    Result(number, acceleration, acs, name, *_figures(image, truth)) for name, image in images.items()
                ]
                if (acceleration, acs) == _pictured(protocol):
                    rows.append([*images.values(), truth])
        console.print(f"scan {number + 1} of {protocol.scans}", markup=False)
    table = _table(results)
    console.print(table)
    (folder / "table.md").write_text(_markdown(results), encoding="utf-8")
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Result.__dataclass_fields__)
        writer.writerows([getattr(result, name) for name in Result.__dataclass_fields__] for result in results)
    _draw([*methods, "truth"], rows[:3], folder / "images.png")
    return results


def _pictured(protocol: Protocol) -> tuple[float, int]:
    """Return the acceleration and number of calibration lines that the picture shows: 4 where there is such."""
    acceleration = 4.0 if 4.0 in protocol.accelerations else protocol.accelerations[-1]
    return acceleration, protocol.acs[len(protocol.acs) // 2]


def _with_frames(kspace: Tensor) -> Tensor:
    """View [coils, (frames,) ky, kx] with frames."""
    return kspace if kspace.dim() == 4 else kspace[:, None]


def _scans(data: str, protocol: Protocol, series: bool) -> Iterator[FullScan]:
    if data == "simulated":
        settings = _HEARTS if series else _BRAINS
        for index in range(protocol.scans):
            yield simulated_scan(settings, _SEEDS + 1000 * protocol.seed + index, "test")
        return
    folder = Path(data)
    first = next((path for path in sorted(folder.glob("*.h5")) if not path.name.endswith(".truth.h5")), None)
    if first is None:
        raise ValueError(f"--data is {data!r}; accepted is 'simulated' or a folder with *.h5 files")
    scans = FileScans(folder, _kind(first), None, series=series)
    for index in range(min(protocol.scans, len(scans))):
        yield scans.scan(index)


def _kind(path: Path) -> Literal["fastmri", "mrd"]:
    with h5py.File(path) as file:
        return "fastmri" if "kspace" in file else "mrd"


def _figures(image: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """SSIM, PSNR and NMSE, the mean over frames, after the scale that fits best, as methods may combine coils differently."""
    image = image * ((image * truth).sum() / image.square().sum().clamp_min(1e-30))
    ssim, psnr, nmse = (float(measure(image, truth).mean()) for measure in (metrics.ssim, metrics.psnr, metrics.nmse))
    return ssim, psnr, nmse


def _zero_filled(kspace: Tensor, lines: Tensor, maps: Tensor) -> Tensor:
    del lines, maps
    return RootSumOfSquares()(_planar(kspace))[:, 0]


def _planar(x: Tensor) -> Tensor:
    """View complex [coils, frames, y, x] as [frames, coils, kz, y, x, 2]."""
    return torch.view_as_real(x.transpose(0, 1).contiguous())[:, :, None]


def _classical(module: torch.nn.Module) -> Method:
    def reconstruct(kspace: Tensor, lines: Tensor, maps: Tensor) -> Tensor:
        with torch.inference_mode():
            every = _planar(maps[:, None].expand(kspace.shape))
            image = module(_planar(kspace), lines[:, None].to(torch.float32), every)
        return torch.linalg.vector_norm(image[:, 0], dim=-1)

    return reconstruct


def _bundle(model: LoadedModel) -> Method:
    def reconstruct(kspace: Tensor, lines: Tensor, maps: Tensor) -> Tensor:
        block = block_of_lines(kspace, lines)
        block.coil_maps = Deferred.known(maps[:, None])
        output = model.infer(settled(arrange_inputs(model.manifest, block)))
        if "image" not in output:
            raise BundleError(f"bundle {model.manifest.name!r} returns no image")
        return arrange_output(model.manifest, output["image"], block)[:, 0].abs()

    return reconstruct


def _groups(results: list[Result]) -> dict[tuple[float, int, str], list[Result]]:
    groups: dict[tuple[float, int, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.acceleration, result.acs, result.method), []).append(result)
    return groups


def _cells(group: list[Result]) -> list[str]:
    """Mean, median and standard deviation of SSIM, PSNR and NMSE."""
    cells = []
    for name, form in (("ssim", "{:.3f}"), ("psnr", "{:.1f}"), ("nmse", "{:.4f}")):
        values = np.array([getattr(result, name) for result in group])
        cells.append(" / ".join(form.format(value) for value in (values.mean(), np.median(values), values.std())))
    return cells


_COLUMNS = ("R", "ACS", "method", "SSIM mean / median / std", "PSNR [dB]", "NMSE")


def _table(results: list[Result]) -> Table:
    table = Table(*_COLUMNS)
    for (acceleration, acs, method), group in sorted(_groups(results).items(), key=lambda item: item[0][:2]):
        table.add_row(f"{acceleration:g}", str(acs), method, *_cells(group))
    return table


def _markdown(results: list[Result]) -> str:
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    for (acceleration, acs, method), group in sorted(_groups(results).items(), key=lambda item: item[0][:2]):
        lines.append("| " + " | ".join([f"{acceleration:g}", str(acs), method, *_cells(group)]) + " |")
    return "\n".join(lines) + "\n"


def _draw(names: list[str], rows: list[list[Tensor]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(names), 2.9 * len(rows)), layout="tight")
    for row, images in enumerate(rows):
        top = float(images[-1].max())
        for column, (name, image) in enumerate(zip(names, images, strict=True)):
            axes = figure.add_subplot(len(rows), len(names), row * len(names) + column + 1)
            axes.imshow(image[len(image) // 2].numpy(), cmap="gray", vmin=0, vmax=top)
            axes.axis("off")
            value = _figures(image, images[-1])
            axes.set_title(name if name == "truth" else f"{name}\nSSIM {value[0]:.3f}, {value[1]:.1f} dB", fontsize=8)
    figure.savefig(path, dpi=110)
