"""Coil sensitivity maps: S_c of ``y_c = F (S_c x)``, of unit norm over the coils, ``sum_c |S_c|^2 = 1``, where there is signal.

They are a promise (``flow.deferred``): the lines that they are made of are copied now, the computing is left to whoever has time.
"""

import time
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..flow.deferred import Deferred
from ..models.coil_maps import adaptive, espirit
from ..models.fourier import ifft
from ..wire.errors import DataError
from .gadget import FromChain, FromClient, Stream, gadget
from .kspace import Kspace
from .scan import Scan

FEWEST_LINES = 4
"""Adjacent calibration lines that coil maps need."""
_MOST_HOLES = 0.15
"""Fraction of a calibration region that may be missing."""


@dataclass(frozen=True)
class MapsOptions:
    """The options of ``estimate_coil_maps``."""

    method: str = "espirit"
    calibration_size: int = 24
    kernel: int = 6
    crop: float | Literal["auto"] = "auto"


@gadget(takes=(Kspace,), early=lambda work, _scan, options: replace(work, maps=MapsOptions(**options)))
def estimate_coil_maps(
    items: Stream,
    scan: Scan,
    *,
    method: Literal["espirit", "adaptive"] = "espirit",
    calibration_size: Annotated[int, Field(ge=4, le=1024), FromClient()] = 24,
    kernel: Annotated[int, Field(ge=2, le=8)] = 6,
    crop: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto",
    begin_maps: Annotated[bool, FromChain] = True,
) -> Stream:
    """Estimate coil maps from the calibration lines, or from the fully sampled middle of k-space.

    Parameters
    ----------
    items
        Blocks; others pass by.
    scan
        Told when a block has too little calibration data; such a block takes the maps before, if they fit, or goes on without.
    method
        ``espirit`` (Uecker et al., MRM 2014;71:990), or ``adaptive`` (Walsh et al., MRM 2000;43:682): less exact, defined
        everywhere, about twice as fast.
    calibration_size
        Largest extent of the calibration region along each axis.
    kernel, crop
        Largest edge of ESPIRiT's patches, and the eigenvalue below which maps are zero; ``auto``: as large as cuts off air alone.
    begin_maps
        Whether the maps are made as soon as they can be; else only for a bundle that asks for them.
    """
    options = MapsOptions(method, calibration_size, kernel, crop)
    latest: dict[tuple[int, int], Kspace] = {}
    for item in items:
        if isinstance(item, Kspace):
            place = item.encoding_index, int(item.central_headers[0].idx.slice)
            before = latest.get(place)
            if item.coil_maps is None and before is not None and _same_lines(before, item):
                item.coil_maps = before.coil_maps
            _note_gaps(item, calibration_size, scan)
            try:
                item.coil_maps = item.coil_maps or defer_maps(item, options, scan, begin=begin_maps)
                latest[place] = item
            except DataError as error:
                _borrow(item, before, str(error), scan)
        yield item


def _note_gaps(kspace: Kspace, size: int, scan: Scan) -> None:
    """Say that separate calibration lines have gaps, as maps made from the others are less exact."""
    if kspace.calibration is None or kspace.encoding.calibration_mode in ("embedded", ""):
        return  # of embedded lines, accumulate says what is missing
    lines = _mask_of(kspace.calibration).cpu()
    missing = int((~lines[_region(lines, size)]).sum())
    if missing:
        text = f"{missing} calibration lines are missing; coil maps are made from the others and are less exact"
        kspace.notes["Calibration"] = "; ".join(filter(None, [kspace.notes.get("Calibration", ""), text]))
        scan.report("calibration lines", text)


def _same_lines(before: Kspace, kspace: Kspace) -> bool:
    """Whether two blocks have the very same calibration lines, and so the same maps."""
    return kspace.calibration is not None and before.calibration is kspace.calibration


def defer_maps(kspace: Kspace, options: MapsOptions, scan: Scan, *, begin: bool = True) -> Deferred:
    """Return the maps of a block from the calibration lines that it has now; they are begun, or left to whoever needs them.

    The map of a single coil is one everywhere, for which no calibration lines are needed.

    Parameters
    ----------
    kspace
        The block.
    options
        How maps are made.
    scan
        Its engine computes them; its ``seconds`` count how long that took.
    begin
        Whether the engine computes them as soon as it can.

    Returns
    -------
    Deferred
        complex64 [coils, kz, ky, kx] in image space, on the grid of the block.

    Raises
    ------
    DataError
        There are too few calibration lines.
    """
    coils, _, *shape = kspace.data.shape
    if coils == 1:
        return Deferred.known(torch.ones((1, *shape), dtype=torch.complex64))
    region, mask = calibration_region(kspace, options.calibration_size)

    def estimate() -> Tensor:
        start = time.perf_counter()
        maps = _estimate_on(scan, region, tuple(shape), options, mask)
        scan.seconds["estimate_coil_maps"] += time.perf_counter() - start
        return maps

    seconds = scan.engine.deadline * shape[0] if scan.engine is not None else None
    maps = Deferred(estimate, (coils, *shape), seconds=seconds)
    if begin and scan.engine is not None:
        scan.engine.begin(maps, scan=scan.name)
    return maps


def _estimate_on(
    scan: Scan, region: Tensor, shape: tuple[int, ...], options: MapsOptions, measured: Tensor | None
) -> Tensor:
    """Compute maps on the scan's device, or if that fails on the CPU: the maps of a card that is lost would be lost with it."""
    if scan.device.type != "cpu":
        try:
            lines = None if measured is None else measured.to(scan.device)
            return estimate_maps(region.to(scan.device), shape, options, lines).cpu()
        except RuntimeError:  # no memory is left there, or it is lost
            scan.log.warning("coil maps cannot be computed on %s; the CPU does it", scan.device, exc_info=True)
    return estimate_maps(region, shape, options, measured)


def _borrow(kspace: Kspace, before: Kspace | None, problem: str, scan: Scan) -> None:
    """Give a block without calibration lines the maps of the block before of its slice, if they fit; and say so."""
    kspace.maps_problem = "; ".join(filter(None, [kspace.maps_problem, problem]))
    maps = before.coil_maps if before is not None else None
    if maps is None or maps.shape != (kspace.data.shape[0], *kspace.data.shape[2:]):
        return

    def report() -> Tensor:
        scan.report("calibration", f"{problem}; the maps of the block before are used")
        return maps.get()

    kspace.coil_maps = Deferred(report, maps.shape)
    kspace.notes["Calibration"] = f"{problem}; coil maps of an earlier image of this slice were used"


def estimate_maps(region: Tensor, shape: tuple[int, ...], options: MapsOptions, mask: Tensor | None = None) -> Tensor:
    """Estimate maps; plane by plane where the calibration data covers all partitions.

    Parameters
    ----------
    region
        complex64 [coils, kz, ky, kx], the middle of k-space.
    shape
        Size (z, y, x) of the maps.
    options
        The method and what it needs.
    mask
        bool [kz, ky], which lines of the region were measured; None: all.

    Returns
    -------
    Tensor
        complex64 [coils, z, y, x].
    """
    partitions, lines, samples = shape

    def maps(data: Tensor, planes: int) -> Tensor:
        size = (planes, lines, samples)
        if options.method == "espirit":
            return espirit(data, size, kernel=options.kernel, crop=options.crop, mask=mask)
        return adaptive(data, size)

    if 1 < partitions == region.shape[1] and mask is None:
        planes = ifft(region, [1])
        return torch.cat([maps(planes[:, z : z + 1], 1) for z in range(partitions)], dim=1)
    return maps(region, partitions)


@dataclass(frozen=True)
class Region:
    """The block of calibration data that maps are made of.

    Attributes
    ----------
    z, y
        Its partitions and lines on the grid.
    separate
        Whether it lies in the calibration lines, rather than in those of the image.
    """

    z: slice
    y: slice
    separate: bool


def find_region(kspace: Kspace, size: int) -> Region:
    """Find the largest fully sampled block around the middle of k-space; arguments and errors as of ``calibration_region``."""
    own = kspace.mask.any(dim=0)
    found = [Region(*_middle_rectangle(own.cpu(), size), separate=False)]
    if kspace.calibration is not None:
        found.insert(0, Region(*_region(_mask_of(kspace.calibration), size), separate=True))
    best = max(found, key=lambda one: (_enough((one.z, one.y), own), _area((one.z, one.y)), one.separate))
    if not _enough((best.z, best.y), own):
        count = best.y.stop - best.y.start
        raise DataError(
            f"coil maps need at least {FEWEST_LINES} adjacent calibration lines in the middle of k-space, found {count}"
        )
    return best


def calibration_region(kspace: Kspace, size: int) -> tuple[Tensor, Tensor | None]:
    """Return a copy of the largest fully sampled block around the middle of k-space.

    Parameters
    ----------
    kspace
        Its calibration lines, or its own averaged over the frames: whichever give the larger block.
    size
        Most samples along each axis; of partitions there may be more, if all were measured.

    Returns
    -------
    Tensor
        complex64 [coils, kz, ky, kx]; lines that are missing are zero.
    Tensor or None
        bool [kz, ky], which lines were measured; None: all.

    Raises
    ------
    DataError
        Fewer than four lines around the middle were measured completely.
    """
    width = min(size, kspace.data.shape[-1])
    start = kspace.data.shape[-1] // 2 - width // 2
    x = slice(start, start + width)
    region = find_region(kspace, size)
    z, y = region.z, region.y
    if region.separate and kspace.calibration is not None:
        lines = _mask_of(kspace.calibration)[z, y]
        return kspace.calibration[:, z, y, x].clone(), None if bool(lines.all()) else lines
    weight = kspace.mask[:, z, y].sum(dim=0).clamp(min=1)
    return kspace.data[:, :, z, y, x].sum(dim=1) / weight[:, :, None], None


def _region(mask: Tensor, size: int) -> tuple[slice, slice]:
    """Largest rectangle of measured lines around the middle, or the whole region where only a few lines of it are missing.

    A run of lines that ends at a gap lies beside the middle of k-space, and maps that are made from it are wrong.
    """
    lines = mask.cpu()
    window = tuple(_span(lines.any(dim=1 - axis), size) for axis in (0, 1))
    part = lines[window[0], window[1]]
    corners = bool(part.numel()) and bool(part[0, 0] & part[0, -1] & part[-1, 0] & part[-1, -1])
    if corners and float(part.float().mean()) >= 1 - _MOST_HOLES:
        return window[0], window[1]
    return _middle_rectangle(lines, size)


def _span(mask: Tensor, size: int) -> slice:
    """From the first to the last measured line, at most ``size`` around the middle."""
    rows = torch.nonzero(mask).flatten()
    if not rows.numel():
        return slice(0, 0)
    first = mask.numel() // 2 - size // 2
    return slice(max(int(rows[0]), first), max(min(int(rows[-1]) + 1, first + size), 0))


def _mask_of(calibration: Tensor) -> Tensor:
    """Which lines [kz, ky] there are: one that was measured is not zero in the middle."""
    kx = calibration.shape[-1]
    return (calibration[..., kx // 2 - 2 : kx // 2 + 2] != 0).any(dim=0).any(dim=-1)


def _enough(region: tuple[slice, slice], lines: Tensor) -> bool:
    z, y = region
    return z.stop > z.start and y.stop - y.start >= min(FEWEST_LINES, lines.shape[1])


def _area(region: tuple[slice, slice]) -> int:
    z, y = region
    return (z.stop - z.start) * (y.stop - y.start)


def _middle_rectangle(mask: Tensor, size: int) -> tuple[slice, slice]:
    """Largest rectangle (kz, ky) of measured lines around the middle; with all partitions if that leaves enough lines.

    Elliptical regions and scans have no corners, so that each extent along kz leaves another one along ky.
    """
    lines = mask
    partitions = lines.shape[0]
    middle = partitions // 2
    best = (slice(0, partitions), _extent(lines.all(dim=0), size))
    if _enough(best, lines):
        return best
    for reach in range(min(middle, size // 2) + 1):
        z = slice(middle - reach, min(partitions, middle + max(reach, 1), middle + size - size // 2))
        region = z, _extent(lines[z].all(dim=0), size)
        if _area(region) > _area(best):
            best = region
    return best


def _extent(mask: Tensor, size: int) -> slice:
    """Longest run of measured lines that contains the middle, cut to ``size`` around it."""
    middle = mask.numel() // 2
    line = mask.cpu()
    below, above = (
        int(torch.cumprod(line[:middle].flip(0).int(), 0).sum()),
        int(torch.cumprod(line[middle:].int(), 0).sum()),
    )
    half = size // 2
    return slice(middle - min(below, half), middle + min(above, size - half))
