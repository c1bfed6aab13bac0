"""Readouts that are lost, broken, strays, or marked wrongly."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import ismrmrd
import numpy as np
from ismrmrd import Acquisition
from numpy.typing import NDArray

from ..errors import SimulationError
from ..scan import SimulatedScan, simulate
from .edit import (
    block,
    central,
    change_readouts,
    copy,
    edit_header,
    flag_edges,
    image_readouts,
    is_image,
    is_noise,
    is_reference,
    line,
    with_items,
)
from .registry import oddity

_VALUES = {"nan": math.nan, "inf": math.inf, "huge": 1e30}


def _flag(name: str) -> int:
    """Bit of an MRD flag by its name without ``ACQ_``, such as ``surfacecoilcorrectionscan_data``."""
    value = getattr(ismrmrd, f"ACQ_{name.upper().replace('-', '_')}", None)
    value = getattr(ismrmrd, f"ACQ_IS_{name.upper().replace('-', '_')}", None) if value is None else value
    if value is None:
        raise SimulationError(f"{name!r} is no MRD flag")
    return value


@oddity
def lines_lost(scan: SimulatedScan, random: np.random.Generator, *, count: int = 10) -> SimulatedScan:
    """Lines of an image never come; the FIRST and LAST flags do."""
    edges = ismrmrd.ACQ_FIRST_IN_SLICE, ismrmrd.ACQ_LAST_IN_SLICE
    readouts = [item for item in image_readouts(scan) if not any(item.is_flag_set(flag) for flag in edges)]
    if not 0 < count < len(readouts):
        raise SimulationError(f"the scan cannot lose {count} lines", accepted=f"1 to {len(readouts) - 1}")
    chosen = {id(readouts[index]) for index in random.choice(len(readouts), count, replace=False)}
    return with_items(scan, [item for item in scan.items if id(item) not in chosen])


@oddity
def ends_early(scan: SimulatedScan, _random: np.random.Generator, *, fraction: float = 0.7) -> SimulatedScan:
    """The scan is stopped, and nothing says so."""
    return with_items(scan, scan.items[: max(1, round(len(scan.items) * fraction))])


@oddity
def block_lost(scan: SimulatedScan, random: np.random.Generator) -> SimulatedScan:
    """One image of a series never comes."""
    blocks = sorted({block(readout) for readout in image_readouts(scan)})
    if len(blocks) < 2:
        raise SimulationError("the scan has one image")
    lost = blocks[random.integers(len(blocks))]
    return flag_edges(change_readouts(scan, lambda item: is_image(scan, item) and block(item) == lost, lambda _: ()))


@oddity
def elliptical_scanning(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """A 3-D scan leaves out the corners of k-space."""
    partitions, lines = scan.protocol.encoded_partitions, scan.protocol.lines
    if partitions == 1:
        raise SimulationError("the scan is 2-D")

    def outside(item: Acquisition) -> bool:
        if not is_image(scan, item):
            return False
        kz, ky = line(item)
        ky += scan.protocol.first_line
        return math.hypot(2 * (ky - lines // 2) / lines, 2 * (kz - partitions // 2) / partitions) > 1 + 1e-9

    return flag_edges(change_readouts(scan, outside, lambda _: ()))


@oddity
def stray_readout(
    scan: SimulatedScan,
    _random: np.random.Generator,
    *,
    channels: int = 0,
    samples: int = 0,
    place: int = 0,
    number: int = -1,
) -> SimulatedScan:
    """A readout with other numbers of channels or samples than the rest comes first, or at a place, with a line's number."""
    first = image_readouts(scan)[0]
    data = first.data[: channels or None, : samples or None]
    stray = copy(first, data, flags=0, center_sample=data.shape[1] // 2)
    if number >= 0:
        stray.idx.kspace_encode_step_1 = number
    return _insert(scan, stray, place)


@oddity
def one_channel_first(scan: SimulatedScan, random: np.random.Generator) -> SimulatedScan:
    """A stray readout with one channel comes first."""
    return stray_readout(scan, random, channels=1)


@oddity
def short_readout_first(scan: SimulatedScan, random: np.random.Generator) -> SimulatedScan:
    """A stray readout with half the samples comes first."""
    return stray_readout(scan, random, samples=image_readouts(scan)[0].number_of_samples // 2)


@oddity
def empty_readout(
    scan: SimulatedScan, _random: np.random.Generator, *, place: int = 10, number: int = -1, instead: bool = False
) -> SimulatedScan:
    """A readout without samples comes for the central line, or another, too or instead of it."""
    readouts = image_readouts(scan)
    middle = number if number >= 0 else readouts[0].idx.user[5]
    empty = [copy(r, r.data[:, :0], center_sample=0) for r in readouts if r.idx.kspace_encode_step_1 == middle][:1]
    if not empty:
        raise SimulationError(f"no line {middle} is measured")
    if instead:
        lost = next(r for r in readouts if r.idx.kspace_encode_step_1 == middle)
        return change_readouts(scan, lambda item: item is lost, lambda _: empty)
    empty[0].clear_all_flags()
    return _insert(scan, empty[0], place)


@oddity
def discarded_readout(scan: SimulatedScan, random: np.random.Generator) -> SimulatedScan:
    """All samples of a line are to be discarded, as its head says."""
    lost = _middle_readout(scan, random)
    return change_readouts(scan, lambda item: item is lost, lambda r: [copy(r, discard_pre=r.number_of_samples)])


@oddity
def broken_readout(scan: SimulatedScan, random: np.random.Generator, *, value: str = "nan") -> SimulatedScan:
    """A line holds a sample that is no number: nan, inf or huge."""
    lost = _middle_readout(scan, random)
    return change_readouts(scan, lambda item: item is lost, lambda r: [copy(r, _spoilt(r.data, value))])


@oddity
def broken_noise(
    scan: SimulatedScan, random: np.random.Generator, *, value: str = "nan", samples: int = 256
) -> SimulatedScan:
    """A noise readout holds a sample that is no number: nan, inf or huge."""
    channels = scan.protocol.coils
    if not scan.protocol.noise_scan:
        white = random.standard_normal((2, channels, samples))
        noise = Acquisition.from_array(_spoilt(white[0] + 1j * white[1], value), sample_time_us=10.0)
        noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        return _insert(scan, noise, 0)
    return change_readouts(scan, is_noise, lambda r: [copy(r, _spoilt(r.data, value))])


@oddity
def lines_repeated(scan: SimulatedScan, _random: np.random.Generator, *, times: int = 3) -> SimulatedScan:
    """Every line is measured several times in a row, and no counter says so."""
    odd = change_readouts(scan, lambda item: is_image(scan, item), lambda r: [copy(r) for _ in range(times)])
    return flag_edges(odd)


@oddity
def flagged(
    scan: SimulatedScan,
    _random: np.random.Generator,
    *,
    flag: str = "surfacecoilcorrectionscan_data",
    every: int = 1,
) -> SimulatedScan:
    """Lines of images, all or every few, carry a flag of other data."""
    bit, count = _flag(flag), iter(range(len(scan.items)))

    def mark(readout: Acquisition) -> list[Acquisition]:
        marked = copy(readout)
        if next(count) % every == 0:
            marked.set_flag(bit)
        return [marked]

    return change_readouts(scan, lambda item: is_image(scan, item), mark)


@oddity
def calibration_flag_on_centre(
    scan: SimulatedScan, _random: np.random.Generator, *, count: int = 16, both: bool = False
) -> SimulatedScan:
    """The central lines of an image are flagged as calibration, or as both kinds of calibration at once."""
    numbers = central([item.idx.kspace_encode_step_1 for item in image_readouts(scan)], count)

    def mark(readout: Acquisition) -> list[Acquisition]:
        marked = copy(readout)
        marked.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
        if both:
            marked.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
        return [marked]

    return change_readouts(scan, lambda i: is_image(scan, i) and i.idx.kspace_encode_step_1 in numbers, mark)


@oddity
def no_user_centre(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The readouts do not hold the middle of k-space, as Siemens' do in the sixth user counter."""

    def clear(readout: Acquisition) -> list[Acquisition]:
        plain = copy(readout)
        plain.idx.user[5] = 0
        return [plain]

    return change_readouts(scan, lambda item: is_image(scan, item) or is_reference(item), clear)


@oddity
def counted_backwards(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """Slices are numbered in the opposite direction."""
    last = scan.protocol.slices - 1
    if not last:
        raise SimulationError("the scan has one slice")
    odd = change_readouts(scan, lambda item: not is_noise(item), lambda r: [copy(r, slice=last - r.idx.slice)])
    images = [replace(i, counters={**i.counters, "slice": last - i.counters["slice"]}) for i in scan.images]
    return replace(odd, images=images)


@oddity
def oversampling_removed(scan: SimulatedScan, _random: np.random.Generator, *, only: str = "") -> SimulatedScan:
    """Readouts were cropped to the image's field of view before, all or those of ``image`` or ``reference``."""
    protocol = scan.protocol
    share = protocol.image_fov[0] / protocol.encoded_fov[0]
    if share >= 1 or protocol.asymmetric_echo < 1:
        raise SimulationError("the scan has no oversampling that can be removed")
    if only not in ("", "image", "reference"):
        raise SimulationError(f"only must be image or reference, got {only!r}")
    if only != "reference" and all(item.number_of_samples < protocol.samples for item in image_readouts(scan)):
        raise SimulationError("the oversampling is removed already")

    def chosen(item: Acquisition) -> bool:
        parts = {"image": is_image(scan, item), "reference": is_reference(item) and not is_image(scan, item)}
        return parts[only] if only else any(parts.values())

    def crop(readout: Acquisition) -> list[Acquisition]:
        wanted = share * readout.number_of_samples
        if not wanted:
            return [readout]
        if abs(wanted - round(wanted)) > 1e-6:
            raise SimulationError(f"the image's field of view is {wanted} pixels of a readout wide")
        first = readout.number_of_samples // 2 - round(wanted) // 2
        image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(readout.data, 1), norm="ortho"), 1)
        image = image[:, first : first + round(wanted)]
        data = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(image, 1), norm="ortho"), 1)
        return [copy(readout, data.astype(np.complex64), center_sample=round(wanted) // 2)]

    return change_readouts(scan, chosen, crop)


@oddity
def radial_trajectory(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The lines are spokes with their trajectories, and the header says Cartesian."""
    protocol = scan.protocol
    if protocol.encoded_partitions > 1 or protocol.acceleration > 1 or protocol.asymmetric_echo < 1:
        raise SimulationError("spokes are made of complete 2-D data")
    spokes: dict[int, Acquisition] = {}
    for _, group in groupby(sorted(image_readouts(scan), key=block), key=block):
        readouts = list(group)
        lines = np.zeros((protocol.coils, protocol.lines, protocol.samples), np.complex64)
        for readout in readouts:
            lines[:, readout.idx.kspace_encode_step_1 + protocol.first_line] = readout.data
        spokes |= {
            id(readout): copy(readout, data, points)
            for readout, (data, points) in zip(readouts, _spokes(lines, len(readouts)), strict=True)
        }
    return with_items(scan, [spokes.get(id(item), item) for item in scan.items])


def _spokes(kspace: NDArray[np.complex64], count: int) -> Iterator[tuple[NDArray[np.complex64], NDArray[np.float32]]]:
    """Samples [coils, samples] and trajectory [samples, 2] (cycles per pixel) of spokes, by Fourier sums over the image."""
    y, x = (np.arange(n) - n // 2 for n in kspace.shape[1:])
    rows, columns = (np.exp(2j * np.pi * np.outer(place, place) / place.size) for place in (y, x))
    image = rows @ kspace @ columns / (y.size * x.size)
    radius = (np.arange(x.size) - x.size // 2) / x.size
    for angle in np.arange(count) * math.pi / count:
        kx, ky = radius * math.cos(angle), radius * math.sin(angle)
        down, across = np.exp(-2j * np.pi * np.outer(ky, y)), np.exp(-2j * np.pi * np.outer(kx, x))
        samples = np.einsum("ky,cyx,kx->ck", down, image, across, optimize=True)
        yield samples.astype(np.complex64), np.stack([kx, ky], 1).astype(np.float32)


@oddity
def simultaneous_slices(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """Two slices lie on top of each other, and the header says multiband."""
    protocol = scan.protocol
    if protocol.slices != 2 or protocol.encoded_partitions > 1:
        raise SimulationError("simultaneous slices are made of two slices")
    other = {(*block(r)[:-2], *line(r)): r for r in image_readouts(scan) if r.idx.slice == 1}

    def add(readout: Acquisition) -> list[Acquisition]:
        partner = other.get((*block(readout)[:-2], *line(readout)))
        if readout.idx.slice == 1 or partner is None or partner.data.shape != readout.data.shape:
            return []
        return [copy(readout, readout.data + partner.data)]

    odd = flag_edges(change_readouts(scan, lambda item: is_image(scan, item), add))
    distance = protocol.slice_thickness + protocol.slice_gap
    element = (
        f"<multiband><spacing><dZ>{distance}</dZ></spacing><deltaKz>0.5</deltaKz><multiband_factor>2</multiband_factor>"
        "<calibration>separable2D</calibration><calibration_encoding>0</calibration_encoding></multiband>"
    )
    if protocol.acceleration > 1:
        return edit_header(odd, "</parallelImaging>", f"{element}</parallelImaging>")
    factors = "<kspace_encoding_step_1>1</kspace_encoding_step_1><kspace_encoding_step_2>1</kspace_encoding_step_2>"
    parallel = f"<parallelImaging><accelerationFactor>{factors}</accelerationFactor>{element}</parallelImaging>"
    return edit_header(odd, "</trajectory>", f"</trajectory>{parallel}")


@oddity
def second_encoding(scan: SimulatedScan, _random: np.random.Generator, *, matrix: int = 0) -> SimulatedScan:
    """An encoding space with another matrix, two thirds if none is given, comes first; each makes images of its own."""
    protocol = scan.protocol
    if protocol.noise_scan and protocol.noise > 0:
        raise SimulationError("the second encoding space is simulated without a noise scan")
    wanted = matrix or 2 * round(protocol.matrix / 3)
    other = simulate(replace(protocol, matrix=wanted, recon_matrix=(0, 0), noise_scan=False))
    first = [copy(item, encoding_space_ref=1) for item in other.items if isinstance(item, Acquisition)]
    encoding = other.header[other.header.index("<encoding>") : other.header.index("</encoding>")]
    odd = edit_header(scan, "</encoding>(?=<sequenceParameters>)", f"</encoding>{encoding}</encoding>")
    odd = with_items(odd, [*first, *scan.items])
    return replace(odd, images=[*scan.images, *other.images])


def _middle_readout(scan: SimulatedScan, random: np.random.Generator) -> Acquisition:
    """One of the image's readouts that carries no flag."""
    readouts = [item for item in image_readouts(scan) if item.flags == 0]
    if not readouts:
        raise SimulationError("every line carries a flag")
    return readouts[random.integers(len(readouts))]


def _insert(scan: SimulatedScan, readout: Acquisition, place: int) -> SimulatedScan:
    items = list(scan.items)
    items.insert(place if place >= 0 else len(items) + 1 + place, readout)
    return with_items(scan, items)


def _spoilt(data: NDArray[np.complex64], value: str) -> NDArray[np.complex64]:
    if value not in _VALUES:
        raise SimulationError(f"value must be one of {', '.join(_VALUES)}, got {value!r}")
    spoilt = np.array(data, np.complex64)
    spoilt[0, spoilt.shape[1] // 3] = _VALUES[value]
    return spoilt
