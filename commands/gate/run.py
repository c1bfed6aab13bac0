"""Try a bundle on the battery, judge it, and put the report card into it."""

import math
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ...bundle.folder import Bundle, relative_error
from ...bundle.manifest import Gate
from ...bundle.minisign import SecretKey
from ...engine import LoadedModel
from ...export.card import attach_card
from ...models.metrics import ghost
from ...models.noise_level import noise_level
from ...training.files.folder import FileScans
from ...training.section import Truth
from ...wire import extras
from ...wire.errors import OptionError
from ..evaluation.methods import Method, all_methods, open_bundles
from ..evaluation.picture import Pictured
from ..evaluation.protocol import Protocol
from ..evaluation.report import Report, Result
from ..evaluation.volume import Volume
from ..frame import print_table, working
from ..outputs import check_folder
from ..progress import bars
from .battery import FULL, SHORT, Battery, Case, cases, scaled
from .card import Findings, make_card
from .criteria import NOT_COMPARED, SENSE, Comparison, judge

_PICTURED = 4


def run_gate(folder: Path, data: Path | None, *, short: bool, key: SecretKey | None, console: Console) -> Bundle:
    """Try a bundle, print the verdicts, and write the report card into it.

    Parameters
    ----------
    folder
        The bundle's, or its name.
    data
        Folder of fully sampled files that nothing was fitted to; None: there are none, and nothing passes.
    short
        Whether to take the short battery, which shows that everything runs; nothing passes it.
    key
        Signs the bundle again.

    Raises
    ------
    BundleError
        The bundle cannot be used or written.
    OptionError
        It reconstructs series, or the folder that it is in cannot be written to.
    FileError
        The folder has no files that can be used.
    MissingExtraError
        nilearn, which the simulated brains of the battery are made of, is not installed.
    """
    extras.need("nilearn", "the gate")
    ((name, model),) = open_bundles([folder]).items()
    if any("frames" in spec.axes for spec in model.manifest.inputs):
        raise OptionError(f"bundle {name!r} reconstructs series", where="option --gate", accepted="bundles of slices")
    check_folder(model.bundle.folder.parent, "option --gate")
    measured = None if data is None else FileScans(data)
    with working():
        return _try(name, model, measured, SHORT if short else FULL, key, console)


def _try(
    name: str, model: LoadedModel, measured: FileScans | None, battery: Battery, key: SecretKey | None, console: Console
) -> Bundle:
    trial = _Trial(name, all_methods({name: model}), Protocol([], []).truth_for({name: model}), battery)
    with bars() as shown:
        for number, case in enumerate(cases(battery, measured)):
            shown.update("cases tried", number)
            console.print(trial.compare(case), markup=False)
    for factor in battery.scales:
        trial.scale(factor)
    verdicts = judge(trial.comparisons, trial.deviations)
    passed = battery is not SHORT and all(verdict.passed for verdict in verdicts)
    files = {each.scan for each in trial.comparisons if each.group == "scans"}
    gate = Gate(passed=passed, battery=battery.name, scans=len(files), date=datetime.now(UTC).date().isoformat())
    findings = Findings(name, gate, verdicts, trial.comparisons, trial.deviations, trial.report.left_out)
    bundle = attach_card(model.bundle, make_card(findings, model.manifest, trial.pictures), key)
    _print(findings, console)
    return bundle


class _Trial:
    """A bundle on its way through the battery."""

    def __init__(self, name: str, methods: dict[str, Method], truth: Truth, battery: Battery) -> None:
        self.name = name
        self.comparisons: list[Comparison] = []
        self.deviations: dict[float, float] = {}
        self.pictures: list[Pictured] = []
        self.report = Report({}, SENSE, 1)
        self._methods = methods
        self._truth: Truth = truth
        self._typical = (*battery.usual, "equispaced")
        self._first: Case | None = None

    def compare(self, case: Case) -> str:
        """Reconstruct by all methods; return a line that says how far the bundle leads."""
        self._first = self._first or case
        before = len(self.report.results)
        shown = self._reconstruct(case, self._methods)
        results = {result.method: result for result in self.report.results[before:]}
        if shown is None or SENSE not in results:
            return f"{case.group}: {case.scan.name}: left out"
        comparison = self._comparison(case, shown, results)
        self.comparisons.append(comparison)
        if (case.acceleration, case.acs, case.sampling) == self._typical and len(self.pictures) < _PICTURED:
            self.pictures.append(shown)
        return f"{comparison.where}: {comparison.lead('psnr'):+.2f} dB to {comparison.best}"

    def _reconstruct(self, case: Case, methods: dict[str, Method]) -> Pictured | None:
        # ghosts lie parts of the whole field of view apart
        protocol = Protocol(
            [case.acceleration], [case.acs], sampling=case.sampling, region="object", crop="none", truth=self._truth
        )
        volume = Volume(len(self.comparisons), 0, [case.scan], protocol, self._truth, self.report)
        return volume.compare(methods, case.acceleration, case.acs, None)

    def _comparison(self, case: Case, shown: Pictured, results: dict[str, Result]) -> Comparison:
        classical = {name: result.figures for name, result in results.items() if name not in (self.name, *NOT_COMPARED)}
        best = max(figures["psnr"] for figures in classical.values())
        own = results.get(self.name)
        return Comparison(
            case.group,
            case.scan.name,
            case.acceleration,
            case.acs,
            case.sampling,
            {} if own is None else own.figures,
            classical,
            ghosts=None if own is None else _ghosts(case, shown, self.name),
            headroom=_headroom(case, shown.truth, best, results[SENSE].net_acceleration),
            finite=own is not None and bool(torch.isfinite(shown.images[self.name]).all()),
            outside="" if own is None else own.outside_domain,
        )

    def scale(self, factor: float) -> None:
        """Multiply the first scan, and note how far the bundle's image is from the image multiplied."""
        if self._first is None:
            return
        method = {self.name: self._methods[self.name]}
        case = self._first
        images = [
            self._reconstruct(Case(case.group, scan, case.acceleration, case.acs, case.sampling), method)
            for scan in (case.scan, scaled(case.scan, factor))
        ]
        usual, other = (None if shown is None else shown.images.get(self.name) for shown in images)
        self.deviations[factor] = (
            math.inf if usual is None or other is None else relative_error({"image": other / factor}, {"image": usual})
        )


def _headroom(case: Case, truth: Tensor, best: float, net_acceleration: float) -> float:
    """Return by how much the best PSNR could rise before the noise of the truth itself is all that is left of the error.

    The error in a pixel is the noise that was not measured along with the image: its real part, of the lines that are missing.
    """
    if case.scan.clean is not None:
        return math.inf
    kspace = torch.view_as_real(case.scan.kspace)[None, :, None]
    noise = float(noise_level(kspace, torch.ones(1, 1, kspace.shape[3])))
    left = noise**2 / 2 * (1 - 1 / net_acceleration)
    return 10 * math.log10(float(truth.max()) ** 2 / left) - best if left > 0 else math.inf


def _ghosts(case: Case, shown: Pictured, name: str) -> tuple[float, float] | None:
    if case.sampling != "equispaced":
        return None
    own, sense = (
        float(ghost(shown.images[method][None], shown.truth[None], int(case.acceleration))) for method in (name, SENSE)
    )
    return own, sense


def _print(findings: Findings, console: Console) -> None:
    table = Table("criterion", "accepted", "found", "", "where it is worst")
    for each in findings.verdicts:
        table.add_row(each.criterion, each.accepted, each.found, "passed" if each.passed else "failed", each.where)
    print_table(table, console)
    for text in findings.left_out:
        console.print(f"left out: {text}", markup=False)
    console.print(findings.headline, markup=False)
