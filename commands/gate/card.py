"""The report card: what the gate found, as Markdown, JSON and a picture."""

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...bundle.manifest import CARD_DATA, CARD_PICTURE, CARD_TEXT, Gate, Manifest
from ...export.card import Card, of_what
from ..evaluation.picture import Pictured, draw_pictured
from ..evaluation.report import finite, grid
from .criteria import Comparison, Verdict


@dataclass(frozen=True)
class Findings:
    """All that the gate found of a bundle."""

    name: str
    gate: Gate
    verdicts: Sequence[Verdict]
    comparisons: Sequence[Comparison]
    deviations: dict[float, float]
    left_out: Sequence[str]

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        tried = f"{len(self.comparisons)} comparisons of the {self.gate.battery} battery, {self.gate.scans} scans from files"
        if self.gate.passed:
            return f"{self.name} passed the gate: {tried}"
        failed = sum(not verdict.passed for verdict in self.verdicts)
        reason = (
            f"{failed} of {len(self.verdicts)} criteria are not met" if failed else "the short battery passes nothing"
        )
        return f"{self.name} did not pass the gate ({reason}): {tried}"


def make_card(findings: Findings, manifest: Manifest, pictures: list[Pictured]) -> Card:
    """Write a report card.

    Parameters
    ----------
    findings
        What it tells.
    manifest
        Of the bundle, by which it is recognised when it is built again.
    pictures
        What the picture shows.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CARD_PICTURE
        draw_pictured(pictures, path)
        picture = path.read_bytes()
    files = {CARD_DATA: _data(findings, manifest), CARD_TEXT: _text(findings).encode(), CARD_PICTURE: picture}
    return Card(findings.gate, files)


def _data(findings: Findings, manifest: Manifest) -> bytes:
    content = {
        "of": of_what(manifest),
        "gate": findings.gate.model_dump(),
        "tools": manifest.provenance.tools,
        "verdicts": [asdict(verdict) for verdict in findings.verdicts],
        "comparisons": [asdict(comparison) for comparison in findings.comparisons],
        "scale_deviations": {f"{factor:g}": value for factor, value in findings.deviations.items()},
        "left_out": list(findings.left_out),
    }
    return (json.dumps(finite(content), indent=1, allow_nan=False) + "\n").encode()


def _text(findings: Findings) -> str:
    lines = [
        f"# {findings.headline}",
        "",
        f"On {findings.gate.date}. What the figures mean is told in docs/quality.md.",
        "",
    ]
    lines += grid(
        ["criterion", "accepted", "found", "", "where it is worst"],
        [
            [each.criterion, each.accepted, each.found, "passed" if each.passed else "**failed**", each.where]
            for each in findings.verdicts
        ],
    )
    lines += ["", "Median / least lead in PSNR over the best classical method, and median lead in SSIM:", ""]
    lines += grid(
        ["what", "n", "lead [dB]", "lead in SSIM", "ghosts / SENSE's"],
        [_group_row(*item) for item in _groups(findings)],
    )
    lines += ["", "Every comparison:", ""]
    head = [
        "what",
        "scan",
        "R",
        "lines",
        "sampling",
        "PSNR [dB]",
        "SSIM",
        "best classical",
        "SENSE",
        "ghosts / SENSE's",
    ]
    lines += grid(head, [_row(each) for each in findings.comparisons])
    lines += [f"- left out: {text}" for text in findings.left_out]
    return "\n".join(lines) + "\n"


def _groups(findings: Findings) -> list[tuple[str, list[Comparison]]]:
    names = dict.fromkeys(each.group for each in findings.comparisons)
    return [(name, [each for each in findings.comparisons if each.group == name]) for name in names]


def _group_row(name: str, comparisons: list[Comparison]) -> list[str]:
    leads = [each.lead("psnr") for each in comparisons]
    similar = [each.lead("ssim") for each in comparisons]
    ghosts = [each.ghosts for each in comparisons if each.ghosts is not None]
    largest = " / ".join(f"{max(values):.3f}" for values in zip(*ghosts, strict=True)) or "-"
    return [
        name,
        str(len(comparisons)),
        f"{statistics.median(leads):+.2f} / {min(leads):+.2f}",
        f"{statistics.median(similar):+.4f}",
        largest,
    ]


def _row(comparison: Comparison) -> list[str]:
    own, best = comparison.figures, comparison.best
    figures = [f"{own['psnr']:.2f}", f"{own['ssim']:.4f}"] if own else ["failed", "failed"]
    mark = " (!)" if comparison.outside else ""
    return [
        comparison.group,
        f"{comparison.scan}{mark}",
        f"{comparison.acceleration:g}",
        str(comparison.acs),
        comparison.sampling,
        *figures,
        f"{best} {comparison.classical[best]['psnr']:.2f}",
        f"{comparison.classical['SENSE']['psnr']:.2f}",
        "-" if comparison.ghosts is None else " / ".join(f"{value:.3f}" for value in comparison.ghosts),
    ]
