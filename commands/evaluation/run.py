"""Run an evaluation: all scans, all ways of undersampling, all methods."""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console

from ...engine import LoadedModel
from ...export.shipped import SHIPPED
from ...training.data import FullScan, simulated_scan
from ...training.files.folder import FileScans
from ...training.recipe import SimulatedData, SimulatedSeries
from ...training.section import Truth
from ...wire import extras
from ...wire.errors import DataError, OptionError
from ..frame import print_table, working
from ..outputs import check_folder
from ..progress import Bars, bars
from ..shipped import NAMES
from .methods import TUNED, Method, all_methods, open_bundles
from .picture import Pictured, draw_pictured
from .protocol import Protocol
from .report import Report
from .volume import Volume

FIRST_SEED = 2**33
"""Seeds of evaluated scans start here, far from those of training and validation."""

_BRAINS = SimulatedData(kind="simulated-brain", matrix=(160, 224), noise=(0.0005, 0.02))
_HEARTS = SimulatedSeries(kind="simulated-cine", matrix=(96, 160), noise=(0.0005, 0.02))
_PICTURED = 3
_OUR_SERIES = {name for name, shipped in SHIPPED.items() if "2d+t" in shipped.domain.dimensions}


def run_evaluation(bundles: list[Path], data: str, protocol: Protocol, folder: Path, console: Console) -> Report:
    """Reconstruct everything, print the table, and write tables, CSV, JSON and ``images.png`` to ``folder``.

    Raises
    ------
    BundleError
        A bundle cannot be used.
    OptionError
        The reference is no method, or the folder cannot be written to.
    MissingExtraError
        Brains are to be simulated without nilearn.
    DataError
        There is nothing to compare, or no image of a bundle.
    """
    # ours may have to be built: first is found out whether there is something to compare on
    others = open_bundles([bundle for bundle in bundles if str(bundle) not in NAMES])
    if data == "simulated" and not (_of_series(others) or any(str(bundle) in _OUR_SERIES for bundle in bundles)):
        extras.need("nilearn", "evaluating on simulated brains")
    models = open_bundles(bundles)
    series = _of_series(models)
    methods = all_methods(models)
    names = [*methods, *(TUNED if protocol.tune else ())]
    if protocol.reference not in names:
        raise OptionError(
            f"there is no method {protocol.reference!r}", where="option --reference", accepted=", ".join(names)
        )
    refused = "leave-out" if protocol.leave_out else "stop"
    files = None if data == "simulated" else FileScans(Path(data), series=series, refused=refused)
    check_folder(folder, "option --output")
    truth = protocol.truth_for(models)
    report = Report(protocol.describe(data, truth), protocol.reference, protocol.seed)
    with working(), bars() as shown:
        scans = _simulated(protocol, series=series) if files is None else _of_files(files, protocol, report, console)
        unit = "series" if series else "slices"
        _evaluate(scans, methods, protocol, truth, report, folder, unit, console, shown)
    if nothing := sorted(models.keys() - {result.method for result in report.results}):
        raise DataError(f"no image of {', '.join(nothing)} could be judged; {folder / 'table.md'} says why")
    return report


def _of_series(models: dict[str, LoadedModel]) -> bool:
    return any("frames" in spec.axes for model in models.values() for spec in model.manifest.inputs)


def _evaluate(
    scans: Iterator[FullScan],
    methods: dict[str, Method],
    protocol: Protocol,
    truth: Truth,
    report: Report,
    folder: Path,
    unit: str,
    console: Console,
    shown: Bars,
) -> None:
    """Reconstruct all scans by all methods, and write what came out."""
    pictures: list[Pictured] = []
    kept = folder / "reconstructions" if protocol.keep_images else None
    files: set[str] = set()
    done = 0
    for number, together in enumerate(_volumes(scans)):
        volume = Volume(number, done, together, protocol, truth, report)
        if volume.file in files:
            volume.file = f"{number:03d}-{volume.file}"
        files.add(volume.file)
        for acceleration, acs in protocol.cells:
            picture = volume.compare(methods, acceleration, acs, kept)
            if picture is not None and (acceleration, acs) == _pictured(protocol) and len(pictures) < _PICTURED:
                pictures.append(picture)
        done += len(together)
        shown.update("scans compared", done, protocol.scans)
    if not report.results:
        raise DataError("\n".join(["nothing could be compared", *report.left_out]))
    judged = len({result.volume for result in report.results})
    report.settings["scans"] = f"{done} {unit}, {judged} volumes"
    report.note_strengths()
    for text in report.warnings():
        console.print(text, markup=False)
    print_table(report.table(), console)
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder)
    draw_pictured(pictures, folder / "images.png")


def _volumes(scans: Iterator[FullScan]) -> Iterator[list[FullScan]]:
    """Put scans of the same file and size together that follow on each other."""
    numbered = enumerate(scans)
    for _, group in groupby(
        numbered, key=lambda item: (item[1].volume or item[0], item[1].kspace.shape, item[1].matrix)
    ):
        yield [scan for _, scan in group]


def _simulated(protocol: Protocol, *, series: bool) -> Iterator[FullScan]:
    settings = _HEARTS if series else _BRAINS
    for index in range(protocol.scans):
        yield simulated_scan(settings, FIRST_SEED + 1000 * protocol.seed + index, "test")


def _of_files(scans: FileScans, protocol: Protocol, report: Report, console: Console) -> Iterator[FullScan]:
    console.print(scans.report[0], markup=False)
    report.remarks += [line.strip() for line in scans.report[1:]]
    count = min(protocol.scans, len(scans))
    chosen = spread(count, len(scans))
    if protocol.convention == "fastmri":
        report.remarks += _remarks_on_parts(scans, chosen)
    yield from map(scans.scan, chosen)


def spread(count: int, of: int) -> list[int]:
    """Choose scans from all parts of the volumes, not their edges first."""
    return [(2 * part + 1) * of // (2 * count) for part in range(count)]


def _remarks_on_parts(scans: FileScans, chosen: list[int]) -> list[str]:
    """Say if volumes are judged by some of their slices only, so that figures are not those of whole volumes."""
    whole = Counter(scans.volume(index) for index in range(len(scans)))
    parts = Counter(scans.volume(index) for index in chosen)
    cut = sum(count < whole[volume] for volume, count in parts.items())
    if not cut:
        return []
    return [
        f"{cut} of {len(parts)} volumes are judged by some of their slices only, as {len(chosen)} of {len(scans)} were asked "
        "for (--scans): maximum, errors and SSIM are those of these slices"
    ]


def _pictured(protocol: Protocol) -> tuple[float, float]:
    """Return the acceleration and number of calibration lines that the picture shows: 4 where there is such."""
    if protocol.from_file:
        return protocol.cells[0]
    acceleration = 4.0 if 4.0 in protocol.accelerations else protocol.accelerations[-1]
    return acceleration, protocol.acs[len(protocol.acs) // 2]
