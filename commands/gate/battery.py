"""What a bundle is tried on at the gate: scans from files, and made-up ones of other anatomies, noise, turns, coils and sizes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...models.fourier import fft, ifft
from ...simulate.scan import ScanProtocol, simulate
from ...training.data import FullScan, simulated_scan
from ...training.files.folder import FileScans
from ...training.recipe import SimulatedData, SimulatedSeries
from ...training.samples import maps_of_truth, true_image
from ..evaluation.run import FIRST_SEED, spread
from ..evaluation.volume import object_masks
from .criteria import SCANS_GROUP

RANDOM_LINES = "variable-density"
_PLANE = [-2, -1]


@dataclass(frozen=True)
class Battery:
    """Sizes and numbers of what is tried.

    Attributes
    ----------
    name
        ``full``, or ``short``, which takes seconds and which nothing passes.
    ways
        Acceleration, calibration lines and pattern, for every scan from files, and for made-up brains.
    usual
        Acceleration and calibration lines of all else.
    snr
        Medians of the object over the standard deviation of the added noise in the image's real part.
    turns
        Quarters of a turn.
    scales
        Factors by which a scan is multiplied.
    coils, sizes
        Numbers of coils; smallest lengths of both axes of the matrix.
    brains, matrix
        How many made-up brains, and the lengths of axes of what has no size of its own.
    most_scans
        Scans from files, evenly spread where there are more.
    """

    name: str
    ways: tuple[tuple[float, int, str], ...]
    usual: tuple[float, int]
    snr: tuple[float, ...]
    turns: tuple[int, ...]
    scales: tuple[float, ...]
    coils: tuple[int, ...]
    sizes: tuple[int, ...]
    brains: int
    matrix: tuple[int, int]
    most_scans: int


FULL = Battery(
    name="full",
    ways=(
        *((acceleration, acs, "equispaced") for acs in (24, 12) for acceleration in (3.0, 4.0, 6.0)),
        *((4.0, acs, RANDOM_LINES) for acs in (24, 12)),
    ),
    usual=(4.0, 24),
    snr=(40.0, 20.0, 10.0, 5.0),
    turns=(1, 2, 3),
    scales=(1e-6, 1e-3, 1e3, 1e6),
    coils=(1, 2, 4, 8, 16, 32),
    sizes=(96, 128, 160, 256, 320),
    brains=2,
    matrix=(192, 224),
    most_scans=12,
)
SHORT = Battery(
    name="short",
    ways=((3.0, 12, "equispaced"), (2.0, 12, RANDOM_LINES)),
    usual=(3.0, 12),
    snr=(10.0,),
    turns=(1,),
    scales=(1e-6, 1e6),
    coils=(1, 6),
    sizes=(40,),
    brains=1,
    matrix=(48, 48),
    most_scans=3,
)


@dataclass(frozen=True)
class Case:
    """A scan of the battery, and how it is undersampled."""

    group: str
    scan: FullScan
    acceleration: float
    acs: int
    sampling: str = "equispaced"


def cases(battery: Battery, measured: FileScans | None) -> Iterator[Case]:
    """Make up or read all scans.

    Parameters
    ----------
    battery
        What is tried.
    measured
        Fully sampled files, which the bundle has never seen; None: there are none.
    """
    files = [] if measured is None else list(_file_scans(battery, measured))
    brains = [_brain(battery.matrix, FIRST_SEED + index, f"brain {index + 1}") for index in range(battery.brains)]
    for group, scans in ((SCANS_GROUP, files), ("brains", brains)):
        for scan in scans:
            yield from (Case(group, scan, *way) for way in battery.ways)
    complete = [scan for scan in files if scan.measured is None] or brains[:1]
    for scan in complete:
        noisy = [("noise", add_noise(scan, snr)) for snr in battery.snr]
        turned = [("turns", turn(scan, quarters)) for quarters in battery.turns]
        yield from (Case(group, each, *battery.usual) for group, each in (*noisy, *turned))
    for coils in battery.coils:
        scan = _brain(battery.matrix, FIRST_SEED + 100 + coils, f"{coils} coils", (coils, coils))
        yield Case("coils", scan, *battery.usual)
    for size in battery.sizes:
        scan = _brain((size, size + size // 4), FIRST_SEED + 200 + size, "brain")
        yield Case("sizes", replace(scan, name=_size(scan)), *battery.usual)
        odd = _odd(scan)
        yield Case("sizes", replace(odd, name=_size(odd)), *battery.usual)
    for scan in (_heart(battery.matrix), _phantom(battery.matrix[0]), *map(_without_a_coil, complete[:1])):
        yield Case("anatomies", scan, *battery.usual)


def scaled(scan: FullScan, factor: float) -> FullScan:
    """Multiply a scan."""
    return replace(scan, kspace=scan.kspace * factor, clean=None if scan.clean is None else scan.clean * factor)


def add_noise(scan: FullScan, snr: float) -> FullScan:
    """Add white noise; the truth stays that of the scan as it was.

    Parameters
    ----------
    scan
        Its own noise comes on top.
    snr
        Median of the true image in the object, over the standard deviation of the added noise in the real part of an image that
        is combined by maps of unit norm.
    """
    clean = scan.kspace if scan.clean is None else scan.clean
    maps = maps_of_truth(scan)
    truth = true_image(ifft(clean, _PLANE), maps, "combined").abs()[None]
    level = float(truth[object_masks([truth])[0]].median()) / snr
    random = np.random.default_rng(int(snr))
    noise = level * torch.complex(*torch.from_numpy(random.standard_normal((2, *clean.shape), np.float32)))
    return replace(scan, kspace=scan.kspace + noise, clean=clean, maps=maps, name=f"{scan.name}, SNR {snr:g}")


def turn(scan: FullScan, quarters: int) -> FullScan:
    """Turn a scan by quarters of a turn, so that other pixels alias."""

    def turned(kspace: Tensor) -> Tensor:
        return fft(torch.rot90(ifft(kspace, _PLANE), quarters, _PLANE).contiguous(), _PLANE)

    return FullScan(
        turned(scan.kspace),
        None if scan.clean is None else turned(scan.clean),
        None if scan.maps is None else torch.rot90(scan.maps, quarters, _PLANE).contiguous(),
        name=f"{scan.name}, turned by {90 * quarters} degrees",
    )


def _file_scans(battery: Battery, scans: FileScans) -> Iterator[FullScan]:
    for index in spread(min(battery.most_scans, len(scans)), len(scans)):
        scan = scans.scan(index)
        yield replace(scan, name=Path(scan.name).name, volume="")


def _brain(matrix: tuple[int, int], seed: int, name: str, coils: tuple[int, int] = (4, 12)) -> FullScan:
    data = SimulatedData(kind="simulated-brain", matrix=matrix, coils=coils, noise=(0.001, 0.01))
    return replace(simulated_scan(data, seed, "test"), name=name)


def _heart(matrix: tuple[int, int]) -> FullScan:
    """The first frame of a made-up series of a heart."""
    data = SimulatedSeries(kind="simulated-cine", matrix=matrix, coils=(8, 8), frames=(2, 2), noise=(0.001, 0.01))
    series = simulated_scan(data, FIRST_SEED, "test")
    clean = None if series.clean is None else series.clean[:, 0]
    return FullScan(series.kspace[:, 0], clean, series.maps, name="heart")


def _phantom(size: int) -> FullScan:
    """The Shepp-Logan phantom, whose k-space is exact."""
    protocol = ScanProtocol(phantom="shepp-logan", matrix=size, oversampling=1, noise=0.2, noise_scan=False)
    lines = [item.data for item in simulate(protocol).items]
    return FullScan(torch.from_numpy(np.stack(lines, axis=1)), name="Shepp-Logan phantom")


def _without_a_coil(scan: FullScan) -> FullScan:
    """A scan without the signal of one of its coils."""
    alive = torch.ones(len(scan.kspace), 1, 1)
    alive[1] = 0
    kspace, clean = scan.kspace * alive, None if scan.clean is None else scan.clean * alive
    return FullScan(kspace, clean, name=f"{scan.name}, a coil without signal")


def _odd(scan: FullScan) -> FullScan:
    """Leave out the first row and column of k-space: the middle stays the middle, and lengths are odd."""
    return FullScan(scan.kspace[:, 1:, 1:], None if scan.clean is None else scan.clean[:, 1:, 1:])


def _size(scan: FullScan) -> str:
    return " x ".join(map(str, scan.kspace.shape[-2:]))
