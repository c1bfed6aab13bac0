"""What a bundle must reach to pass the gate: every threshold, and how it is applied."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MEDIAN_PSNR, MEDIAN_SSIM = 1.0, 0.005
"""Median lead over the best classical method of each comparison, of the scans from files as they were measured: dB, and SSIM."""
HEADROOM = 2.0
"""dB between the best classical method and what the noise of the truth itself allows; with less, no lead can be asked for, and
the comparison does not count in the medians."""
LEAST_PSNR = -0.2
"""Lead in dB over the best classical method, and over SENSE, in every comparison."""
SCALE_DEVIATION = 1e-3
"""Largest deviation of the image, relative to its maximum, when the scan is multiplied by any factor of the battery."""
GHOSTS = 0.005
"""Amplitude of ghosts, relative to the object, beyond that of SENSE (`models.metrics.ghost`)."""
SCANS = 3
"""Scans from files that must have been judged."""

SENSE = "SENSE"
NOT_COMPARED = ("zero-filled",)
SCANS_GROUP = "scans"
"""The comparisons of scans from files as they were measured."""


@dataclass(frozen=True)
class Comparison:
    """A scan that was undersampled in one way and reconstructed by the bundle and the classical methods.

    Attributes
    ----------
    group, scan
        What part of the battery it is of, and what scan.
    acceleration, acs, sampling
        How lines were left out.
    figures
        Metrics by name, of the bundle; empty where it failed.
    classical
        The same by method.
    ghosts
        Of the bundle and of SENSE, of equispaced lines; None of others.
    headroom
        dB from the best classical method to what the noise of the truth allows; infinite where the truth has none.
    finite
        Whether all pixels of the bundle's image are finite.
    outside
        In what respects it lies outside of what the bundle was made for; a service falls back then.
    """

    group: str
    scan: str
    acceleration: float
    acs: int
    sampling: str
    figures: dict[str, float]
    classical: dict[str, dict[str, float]]
    ghosts: tuple[float, float] | None = None
    headroom: float = math.inf
    finite: bool = True
    outside: str = ""

    @property
    def where(self) -> str:
        """What was compared, in a few words."""
        return f"{self.group}: {self.scan}, R {self.acceleration:g}, {self.acs} lines, {self.sampling}"

    @property
    def best(self) -> str:
        """The classical method whose PSNR is highest."""
        return max(self.classical, key=lambda name: self.classical[name]["psnr"])

    def lead(self, metric: str) -> float:
        """How much larger than the best classical value the bundle's is; minus infinity where it failed."""
        if not self.figures or math.isnan(self.figures[metric]):
            return -math.inf
        return self.figures[metric] - max(figures[metric] for figures in self.classical.values())

    @property
    def lead_over_sense(self) -> float:
        """The same in dB over SENSE alone."""
        if not self.figures or math.isnan(self.figures["psnr"]):
            return -math.inf
        return self.figures["psnr"] - self.classical[SENSE]["psnr"]


@dataclass(frozen=True)
class Verdict:
    """One criterion, what was found and where it was worst."""

    criterion: str
    accepted: str
    found: str
    passed: bool
    where: str = ""


def judge(comparisons: Sequence[Comparison], scale_deviations: dict[float, float]) -> list[Verdict]:
    """Apply every criterion.

    Parameters
    ----------
    comparisons
        All of the battery. Those outside of what the bundle was made for count as failed among the scans from files, where there
        may be none; elsewhere the service falls back, and only what the bundle returns must be finite.
    scale_deviations
        Deviation of the image by the factor that the scan was multiplied by.
    """
    scans = [each for each in comparisons if each.group == SCANS_GROUP]
    counted = [each for each in comparisons if not each.outside]
    with_room = [each for each in scans if each.headroom >= HEADROOM]
    return [
        _enough_scans(scans),
        _median("median lead in PSNR over the best classical method", with_room, "psnr", MEDIAN_PSNR, "{:+.2f} dB"),
        _median("median lead in SSIM over the best classical method", with_room, "ssim", MEDIAN_SSIM, "{:+.4f}"),
        _least("least lead in PSNR over the best classical method", ((each.lead("psnr"), each) for each in counted)),
        _least("least lead in PSNR over SENSE", ((each.lead_over_sense, each) for each in counted)),
        _most_ghosts([each for each in counted if each.ghosts is not None]),
        _scale(scale_deviations),
        _none(
            "comparisons that failed, or whose image is not finite", [each for each in comparisons if not each.finite]
        ),
        _none("scans from files outside of what it was made for", [each for each in scans if each.outside]),
    ]


def _enough_scans(scans: Sequence[Comparison]) -> Verdict:
    count = len({each.scan for each in scans})
    return Verdict("scans from files", f"at least {SCANS}", str(count), count >= SCANS)


def _median(criterion: str, comparisons: Sequence[Comparison], metric: str, least: float, form: str) -> Verdict:
    accepted = f"at least {form.format(least)}"
    if not comparisons:
        return Verdict(criterion, accepted, "nothing that allows a lead", passed=False)
    median = statistics.median(each.lead(metric) for each in comparisons)
    return Verdict(criterion, accepted, f"{form.format(median)} of {len(comparisons)}", median >= least)


def _least(criterion: str, leads: Iterable[tuple[float, Comparison]]) -> Verdict:
    accepted = f"at least {LEAST_PSNR:+.2f} dB"
    found = list(leads)
    if not found:
        return Verdict(criterion, accepted, "nothing was compared", passed=False)
    value, worst = min(found, key=lambda each: each[0])
    return Verdict(criterion, accepted, f"{value:+.2f} dB", value >= LEAST_PSNR, worst.where)


def _most_ghosts(comparisons: Sequence[Comparison]) -> Verdict:
    criterion, accepted = "most ghosts beyond SENSE's", f"at most {GHOSTS:.3f}"
    beyond = [(own - sense, each) for each in comparisons for own, sense in [each.ghosts or (0.0, 0.0)]]
    if not beyond:
        return Verdict(criterion, accepted, "nothing was compared", passed=False)
    value, worst = max(beyond, key=lambda each: each[0])
    return Verdict(criterion, accepted, f"{value:+.4f}", value <= GHOSTS, worst.where)


def _scale(deviations: dict[float, float]) -> Verdict:
    criterion, accepted = "deviation by scale", f"at most {SCALE_DEVIATION:.0e}"
    if not deviations:
        return Verdict(criterion, accepted, "nothing was compared", passed=False)
    factor = max(deviations, key=lambda each: deviations[each])
    value = deviations[factor]
    return Verdict(criterion, accepted, f"{value:.1e}", value <= SCALE_DEVIATION, f"factor {factor:g}")


def _none(criterion: str, comparisons: Sequence[Comparison]) -> Verdict:
    where = comparisons[0].where if comparisons else ""
    return Verdict(criterion, "none", str(len(comparisons)), not comparisons, where)
