"""Whether a bundle was made for a scan: its domain against the header and the data."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..bundle.manifest import Manifest
from .kspace import Kspace
from .scan import Scan

_BODY_PARTS = {"head": "brain"}
"""Names of the DICOM standard that mean the same here."""


@dataclass(frozen=True)
class Misfit:
    """One respect in which a block lies outside what a bundle was made for; ``aliases`` if the image will be folded for it."""

    text: str
    aliases: bool = False

    def __str__(self) -> str:
        return self.text


_ONE_SIDED = 6
"""Lines of a random pattern that only one side of k-space must have, farther out than the other reaches, to be partial Fourier:
n of them are on one side by chance with a probability of 2^(1 - n)."""


@dataclass(frozen=True)
class Sampling:
    """How the lines of a plane were undersampled.

    Attributes
    ----------
    acs
        Adjacent lines that were measured around the middle.
    acceleration
        Lines per measured line outside the calibration lines, between the first and the last that were measured.
    pattern
        ``full``, ``uniform`` or ``random``.
    partial_fourier
        Extent in k-space, as a fraction of what it would be if both sides reached as far as the farther one.
    """

    acs: int
    acceleration: float
    pattern: str
    partial_fourier: float


def describe_sampling(mask: Tensor) -> Sampling:
    """Describe which lines were measured.

    Parameters
    ----------
    mask
        bool [ky].
    """
    rows = [int(row) for row in torch.nonzero(mask.cpu()).flatten()]
    count, middle = mask.numel(), mask.numel() // 2
    if not rows:
        return Sampling(0, float(count), "random", 0.0)
    present = set(rows)
    low = high = middle
    while low - 1 in present:
        low -= 1
    while high in present:
        high += 1
    if middle not in present:
        low = high
    outside = [row for row in rows if row < low], [row for row in rows if row >= high]
    inner = _gaps(outside[0]) + _gaps(outside[1])
    gaps = _gaps([*outside[0], low]) + _gaps([high - 1, *outside[1]]) if high > low else inner
    # the grid of a uniform scan goes on within the calibration lines, so the gaps at their edges can be smaller
    uniform = bool(inner) and len(set(inner)) == 1 and max(gaps) == inner[0]
    acceleration = float(inner[0]) if uniform else sum(gaps) / max(len(gaps), 1)
    pattern = "full" if acceleration <= 1 else "uniform" if uniform else "random"
    shorter, longer = sorted((middle - rows[0], rows[-1] + 1 - middle))
    beyond = sum(row < middle - shorter or row >= middle + shorter for row in rows)
    by_chance = shorter + max(gaps, default=1) >= longer or (pattern == "random" and beyond < _ONE_SIDED)
    symmetry = 1.0 if by_chance else shorter / longer
    return Sampling(high - low, max(acceleration, 1.0), pattern, (1 + symmetry) / 2)


def measured_echo(kspace: Kspace) -> float:
    """Return the length of the readouts, as a fraction of what it were if both sides of the echo were as long as the longer one.

    1 where headers do not tell.
    """
    header = kspace.central_header(0)
    before = header.center_sample - header.discard_pre
    after = header.number_of_samples - header.discard_post - header.center_sample
    shorter, longer = sorted((before, after))
    return (1 + shorter / longer) / 2 if shorter >= 0 < longer else 1.0


def _gaps(lines: list[int]) -> list[int]:
    return [after - before for before, after in pairwise(lines)]


def measure_acceleration(mask: Tensor) -> float:
    """Return how many times fewer lines were measured than there are, where k-space was covered at all.

    Partial Fourier and the missing corners of elliptical scanning are no acceleration, lost lines are.

    Parameters
    ----------
    mask
        bool [kz, ky], the lines that were measured, at least one.
    """
    patterns, counts = torch.unique(mask[mask.any(dim=1)].cpu(), dim=0, return_counts=True)
    along_ky = [describe_sampling(pattern).acceleration for pattern in patterns]
    # calibration lines fill a few partitions more densely than the rest
    typical = float(torch.tensor(along_ky).repeat_interleave(counts).median())
    return typical * (describe_sampling(mask.any(dim=1)).acceleration if mask.shape[0] > 1 else 1.0)


def rounded_acceleration(mask: Tensor) -> float:
    """Return the largest acceleration of the frames, to one decimal.

    Parameters
    ----------
    mask
        bool [frames, kz, ky]; frames without a line do not count.
    """
    acceleration = max((measure_acceleration(frame) for frame in mask if bool(frame.any())), default=1.0)
    # rounded, it must not become that of a complete scan
    return max(round(acceleration, 1), 1.1) if acceleration > 1 else 1.0


def misfits(manifest: Manifest, kspace: Kspace, scan: Scan) -> list[Misfit]:
    """Say in what respects a block lies outside what a bundle was made for.

    Parameters
    ----------
    manifest
        Of the bundle. What its domain leaves open is not checked.
    kspace
        The block.
    scan
        Its header has the field strength and the part of the body.

    Returns
    -------
    list of Misfit
        One entry for every respect; empty if it fits.
    """
    domain = manifest.domain
    coils, frames, partitions, lines, samples = kspace.data.shape
    sampling = describe_sampling(kspace.mask[0].any(dim=0))
    acceleration = rounded_acceleration(kspace.mask)
    found = [
        _outside("coils", coils, domain.coils),
        _outside("lines", lines, domain.matrix),
        _outside("samples", samples, domain.matrix),
        _outside("frames", frames, domain.frames),
        _outside("lines per measured line", _net_acceleration(kspace.mask), domain.net_acceleration),
        _outside("calibration lines", calibration_lines(kspace), domain.acs),
        _outside("partial Fourier", round(sampling.partial_fourier, 3), domain.partial_fourier),
        _outside("extent of the echo", round(measured_echo(kspace), 3), domain.partial_fourier),
        _outside("field strength in tesla", _field_strength(scan), domain.field_strength_t),
    ]
    if domain.sampling and sampling.pattern not in ("full", *domain.sampling):
        found.append(f"{sampling.pattern} undersampling, accepted is {' or '.join(domain.sampling)}")
    if domain.dimensions and not _dimensions(kspace) & set(domain.dimensions):
        found.append(f"a {min(_dimensions(kspace))} scan, accepted is {' or '.join(domain.dimensions)}")
    part = _body_part(scan)
    if domain.anatomy and part and part not in domain.anatomy:
        found.append(f"body part {part!r}, accepted is {' or '.join(domain.anatomy)}")
    sizes = {"coils": coils, "frames": frames, "kz": partitions, "ky": lines, "kx": samples}
    for spec in manifest.inputs:
        found += [_outside(axis, sizes[axis], limits) for axis, limits in spec.limits.items() if axis in sizes]
    reasons = [Misfit(reason) for reason in dict.fromkeys(found) if reason]
    limits = domain.acceleration
    if limits is not None and (reason := _outside("acceleration", acceleration, limits)):
        reasons.insert(0, Misfit(reason, aliases=acceleration > limits[1] == 1))
    return reasons


def uncalibrated(manifest: Manifest, kspace: Kspace, scan: Scan) -> str:
    """Say in what respects a block lies outside what the uncertainty of a bundle was calibrated on; empty if it does not."""
    if manifest.uncertainty is None:
        return "it was not calibrated"
    calibrated = manifest.model_copy(update={"domain": manifest.uncertainty.domain})
    reasons = "; ".join(map(str, misfits(calibrated, kspace, scan)))
    return reasons and f"it was not calibrated for this scan ({reasons})"


def _outside(name: str, value: float | None, limits: tuple[float, float] | None) -> str:
    if value is None or limits is None or limits[0] <= value <= limits[1]:
        return ""
    accepted = f"{limits[0]:g} to {limits[1]:g}" if limits[0] < limits[1] else f"{limits[0]:g}"
    return f"{name} {value:g}, accepted is {accepted}"


def _net_acceleration(mask: Tensor) -> float:
    """Lines per measured line of the frame with the fewest, to one decimal, where k-space was covered; [frames, kz, ky]."""
    counts = [int(count) for count in mask.flatten(1).sum(dim=1) if count]
    places = mask.any(dim=0).nonzero()
    extent = (places.amax(dim=0) - places.amin(dim=0) + 1).prod() if counts else 1
    return round(float(extent) / min(counts, default=1), 1)


def calibration_lines(kspace: Kspace) -> int:
    """Return the number of adjacent lines around the middle of k-space, of the first frame or measured for calibration."""
    own = describe_sampling(kspace.mask[0].any(dim=0)).acs
    if kspace.calibration is None:
        return own
    return max(own, int((kspace.calibration[0] != 0).any(dim=0).any(dim=1).sum()))


def _dimensions(kspace: Kspace) -> set[str]:
    """What a bundle may be made for to take this block; frames and fully sampled partitions can be taken one by one."""
    kinds = {"2d+t", "2d"} if kspace.data.shape[1] > 1 else {"2d"}
    if kspace.data.shape[2] == 1:
        return kinds
    return {"3d", *kinds} if kspace.partitions_alike else {"3d"}


def _field_strength(scan: Scan) -> float | None:
    return getattr(scan.header.acquisitionSystemInformation, "systemFieldStrength_T", None)


def _body_part(scan: Scan) -> str:
    part = str(getattr(scan.header.studyInformation, "bodyPartExamined", None) or "").lower()
    return _BODY_PARTS.get(part, part)
