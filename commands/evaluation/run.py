"""Run an evaluation: all scans, all ways of undersampling, all methods."""

import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console

from ...training.data import FullScan, simulated_scan
from ...training.files.folder import FileScans
from ...training.recipe import SimulatedData, SimulatedSeries
from ...wire.errors import DataError, OptionError
from .methods import TUNED, all_methods, open_bundles
from .picture import Pictured, draw
from .protocol import Protocol
from .report import Report
from .volume import Volume

_SEEDS = 2**33
"""Seeds of evaluated scans start here, far from those of training and validation."""

_BRAINS = SimulatedData(kind="simulated-brain", matrix=(160, 224), noise=(0.0005, 0.02))
_HEARTS = SimulatedSeries(kind="simulated-cine", matrix=(96, 160), noise=(0.0005, 0.02))
_PICTURED = 3


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
    names = [*methods, *(TUNED if protocol.tune else ())]
    if protocol.reference not in names:
        raise OptionError(
            f"there is no method {protocol.reference!r}", where="option --reference", accepted=", ".join(names)
        )
    _check_writable(folder)
    truth = protocol.truth_for(models)
    report = Report(protocol.describe(data, truth), protocol.reference, protocol.seed)
    pictures: list[Pictured] = []
    series = any("frames" in spec.axes for model in models.values() for spec in model.manifest.inputs)
    kept = folder / "reconstructions" if protocol.keep_images else None
    files: set[str] = set()
    done = 0
    for number, scans in enumerate(_volumes(_scans(data, protocol, series, console))):
        volume = Volume(number, done, scans, protocol, truth, report)
        if volume.file in files:
            volume.file = f"{number:03d}-{volume.file}"
        files.add(volume.file)
        for acceleration, acs in protocol.cells:
            picture = volume.compare(methods, acceleration, acs, kept)
            if picture is not None and (acceleration, acs) == _pictured(protocol) and len(pictures) < _PICTURED:
                pictures.append(picture)
        done += len(scans)
        console.print(f"scan {done} of {protocol.scans}", markup=False)
    if not report.results:
        raise DataError("\n".join(["nothing could be compared", *report.left_out]))
    judged = len({result.volume for result in report.results})
    report.settings["scans"] = f"{done} {'series' if series else 'slices'}, {judged} volumes"
    report.note_strengths()
    for text in report.left_out:
        console.print(f"left out: {text}", markup=False)
    console.print(report.table())
    report.write(folder)
    draw(pictures, folder / "images.png")
    return report


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OptionError(f"{folder} cannot be written to: {error.strerror}", where="option --output") from error


def _volumes(scans: Iterator[FullScan]) -> Iterator[list[FullScan]]:
    """Put scans of the same file and size together that follow on each other."""
    numbered = enumerate(scans)
    for _, group in groupby(
        numbered, key=lambda item: (item[1].volume or item[0], item[1].kspace.shape, item[1].matrix)
    ):
        yield [scan for _, scan in group]


def _scans(data: str, protocol: Protocol, series: bool, console: Console) -> Iterator[FullScan]:
    if data == "simulated":
        settings = _HEARTS if series else _BRAINS
        for index in range(protocol.scans):
            yield simulated_scan(settings, _SEEDS + 1000 * protocol.seed + index, "test")
        return
    scans = FileScans(Path(data), series=series)
    for line in scans.report:
        console.print(line, markup=False)
    count = min(protocol.scans, len(scans))
    for part in range(count):  # from all parts of the volumes, not their edges first
        yield scans.scan((2 * part + 1) * len(scans) // (2 * count))


def _pictured(protocol: Protocol) -> tuple[float, float]:
    """Return the acceleration and number of calibration lines that the picture shows: 4 where there is such."""
    if protocol.from_file:
        return protocol.cells[0]
    acceleration = 4.0 if 4.0 in protocol.accelerations else protocol.accelerations[-1]
    return acceleration, protocol.acs[len(protocol.acs) // 2]
