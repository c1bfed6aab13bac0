"""What an evaluation writes: figures of every scan, their statistics, differences to a reference, as tables, CSV and JSON."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ...models.metrics import METRICS

_RESAMPLES = 2000
_FORMS = {"ssim": "{:.3f}", "psnr": "{:.1f}", "nmse": "{:.4f}", "nrmse": "{:.3f}", "hfen": "{:.3f}"}
_TITLES = {"ssim": "SSIM", "psnr": "PSNR [dB]", "nmse": "NMSE", "nrmse": "NRMSE", "hfen": "HFEN"}

_MARK = "(!)"
"""Stands beside a bundle where it was run outside of what it was made for."""

Cell = tuple[float, float, str]
"""Acceleration, calibration lines (or fraction) and method."""


@dataclass(frozen=True)
class Result:
    """Figures of one reconstruction of a volume, a series or, by the convention ``slice``, a slice.

    Attributes
    ----------
    scan
        Number of the scan, from 0.
    volume
        Where it comes from.
    acceleration, acs, method
        As asked for.
    net_acceleration
        Samples of the grid for each one that was measured, the calibration region counted, padding not.
    figures
        Metrics by name.
    outside_domain
        In what respects it lies outside what the bundle was made for; empty if it fits.
    strength
        Of a method that was tuned to the truth of this scan; else None.
    """

    scan: int
    volume: str
    acceleration: float
    acs: float
    method: str
    net_acceleration: float
    figures: dict[str, float]
    outside_domain: str = ""
    strength: float | None = None

    def row(self) -> dict[str, Any]:
        """Return a row of the table of all results."""
        return {**{name: value for name, value in asdict(self).items() if name != "figures"}, **self.figures}


@dataclass
class Report:
    """All results, and how they came about.

    Attributes
    ----------
    settings
        What was compared how, by name, in the order in which it is told.
    reference
        The method that the others are compared with.
    seed
        Of the resampling.
    results
        One for every scan and method.
    left_out
        What could not be reconstructed or judged, and why.
    remarks
        What else is to be known of the data.
    """

    settings: dict[str, str]
    reference: str
    seed: int
    results: list[Result] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def leave_out(self, text: str) -> None:
        """Note what is left out, once."""
        if text not in self.left_out:
            self.left_out.append(text)

    def note_strengths(self) -> None:
        """Say which strengths were found, where methods were tuned."""
        found: dict[str, list[float]] = {}
        for result in self.results:
            if result.strength is not None:
                found.setdefault(result.method, []).append(result.strength)
        if found:
            ranges = (f"{name} {min(each):.2g} to {max(each):.2g}" for name, each in found.items())
            self.settings["strengths"] = f"found on the truth of every scan for the largest PSNR: {'; '.join(ranges)}"

    def cells(self) -> dict[Cell, list[Result]]:
        """Group the results of the same acceleration, calibration lines and method, sorted by the first two."""
        groups: dict[Cell, list[Result]] = {}
        for result in self.results:
            groups.setdefault((result.acceleration, result.acs, result.method), []).append(result)
        return dict(sorted(groups.items(), key=lambda item: item[0][:2]))

    def write(self, folder: Path) -> None:
        """Write ``table.md``, ``results.csv`` (every scan), ``summary.csv`` and ``results.json`` (all of it)."""
        (folder / "table.md").write_text(self._markdown(), encoding="utf-8")
        summary, differences = self.summary(), self.differences()
        _write_csv(folder / "results.csv", [result.row() for result in self.results])
        _write_csv(folder / "summary.csv", [_flat(row) for row in summary])
        content = {
            "settings": self.settings,
            "reference": self.reference,
            "summary": summary,
            "differences": differences,
            "results": [result.row() for result in self.results],
            "left_out": self.left_out,
            "remarks": self.remarks,
        }
        text = json.dumps(finite(content), indent=1, allow_nan=False)
        (folder / "results.json").write_text(text + "\n", encoding="utf-8")

    def summary(self) -> list[dict[str, Any]]:
        """Number of results, mean, median and standard deviation of every metric, for every cell of the table."""
        return [
            {
                **dict(zip(("acceleration", "acs", "method"), cell, strict=True)),
                "net_acceleration": float(np.mean([result.net_acceleration for result in group])),
                "count": len(group),
                "outside_domain": "; ".join(
                    dict.fromkeys(each.outside_domain for each in group if each.outside_domain)
                ),
                **{name: _statistics([result.figures[name] for result in group]) for name in METRICS},
            }
            for cell, group in self.cells().items()
        ]

    def differences(self) -> list[dict[str, Any]]:
        """Mean difference to the reference on the same scans, with a 95 % bootstrap interval over volumes."""
        cells, rows = self.cells(), []
        for (acceleration, acs, method), group in cells.items():
            reference = {result.scan: result for result in cells.get((acceleration, acs, self.reference), [])}
            pairs = [(result, reference[result.scan]) for result in group if result.scan in reference]
            if method == self.reference or not pairs:
                continue
            volumes = [result.volume for result, _ in pairs]
            rows.append(
                {
                    "acceleration": acceleration,
                    "acs": acs,
                    "method": method,
                    "count": len(pairs),
                    "outside_domain": _outside_domain(group),
                    **{
                        name: difference_interval(
                            [one.figures[name] - other.figures[name] for one, other in pairs], volumes, self.seed
                        )
                        for name in METRICS
                    },
                }
            )
        return rows

    def warnings(self) -> list[str]:
        """Return what a reader of the tables must know: what was left out, runs of bundles outside their domain, remarks."""
        outside: dict[tuple[str, str], list[str]] = {}
        for row in self.summary():
            if row["outside_domain"]:
                cells = outside.setdefault((row["method"], row["outside_domain"]), [])
                cells.append(f"R {row['acceleration']:g} with ACS {row['acs']:g}")
        return [
            *(f"left out: {text}" for text in self.left_out),
            *(
                f"{_MARK} {method} was not made for {', '.join(cells)}: {reasons}; a service falls back, or marks its images"
                for (method, reasons), cells in outside.items()
            ),
            *(f"remark: {text}" for text in self.remarks),
        ]

    def table(self) -> Table:
        """Return the means for a terminal."""
        table = Table("R", "ACS", "method", "n", *(_TITLES[name] for name in METRICS), title="Means")
        for row in self.summary():
            table.add_row(*_row_head(row), *(_FORMS[name].format(row[name]["mean"]) for name in METRICS))
        return table

    def _markdown(self) -> str:
        lines = [f"- {name}: {value}" for name, value in self.settings.items()]
        lines += [f"- {text}" for text in self.warnings()]
        lines += ["", "Mean / median / standard deviation over n results:", ""]
        head = ["R", "ACS", "method", "n", *(_TITLES[name] for name in METRICS)]
        rows = [[*_row_head(row), *(_cell(row[name], _FORMS[name]) for name in METRICS)] for row in self.summary()]
        lines += grid(head, rows)
        differences = self.differences()
        if differences:
            lines += [
                "",
                f"Mean difference to {self.reference} on the same scans, and its 95 % bootstrap interval:",
                "",
            ]
            lines += grid(head, [[*_row_head(row), *_intervals(row)] for row in differences])
        return "\n".join(lines) + "\n"


def difference_interval(values: Sequence[float], volumes: Sequence[str], seed: int) -> dict[str, float]:
    """Return a mean and its 95 % bootstrap interval (percentiles, Efron, Tibshirani 1993, chapter 13).

    Parameters
    ----------
    values
        Differences.
    volumes
        What volume each comes from: volumes are drawn with replacement, with all of their slices, which are alike.
    seed
        Of the draws.

    Returns
    -------
    dict
        ``mean``, ``low`` and ``high``; the last two are not a number where there is one volume only.
    """
    numbers = np.asarray(values, np.float64)
    names, which = np.unique(np.asarray(volumes), return_inverse=True)
    low = high = math.nan
    if len(names) > 1 and np.isfinite(numbers).all():
        sums, counts = np.bincount(which, numbers), np.bincount(which)
        drawn = np.random.default_rng(seed).integers(len(names), size=(_RESAMPLES, len(names)))
        means: NDArray[np.float64] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
        low, high = (float(value) for value in np.percentile(means, (2.5, 97.5)))
    return {"mean": float(numbers.mean()), "low": low, "high": high}


def _outside_domain(group: list[Result]) -> str:
    """Return the reasons of all, each once."""
    return "; ".join(dict.fromkeys(result.outside_domain for result in group if result.outside_domain))


def _statistics(values: list[float]) -> dict[str, float]:
    measures: dict[str, Callable[[Any], Any]] = {"mean": np.mean, "median": np.median, "std": np.std}
    with np.errstate(invalid="ignore"):  # the PSNR of an image without error is infinite
        return {name: float(measure(values)) for name, measure in measures.items()}


def _row_head(row: dict[str, Any]) -> list[str]:
    mark = f" {_MARK}" if row["outside_domain"] else ""
    return [f"{row['acceleration']:g}", f"{row['acs']:g}", row["method"] + mark, str(row["count"])]


def _cell(values: dict[str, float], form: str) -> str:
    return " / ".join(form.format(values[name]) for name in ("mean", "median", "std"))


def _intervals(row: dict[str, Any]) -> list[str]:
    signed = {name: form.replace(":", ":+") for name, form in _FORMS.items()}
    return [
        signed[name].format(row[name]["mean"])
        + (
            ""
            if math.isnan(row[name]["low"])
            else " ({} to {})".format(*(signed[name].format(row[name][end]) for end in ("low", "high")))
        )
        for name in METRICS
    ]


def grid(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Give every statistic a column of its own."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat.update(
            {f"{name}_{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys() if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def finite(value: Any) -> Any:
    """Replace what JSON cannot hold by null, such as the PSNR of an image without error."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
