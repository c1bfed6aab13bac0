"""Simulated Cartesian scans: what the scanner would send, and what the image should be."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, pairwise
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
from ismrmrd import Acquisition, Waveform
from numpy.typing import NDArray

from ..wire.extras import need
from ..wire.home import available_memory
from .anatomy import template_kspace
from .coils import ORDER, coil_coefficients, coil_maps
from .errors import SimulationError
from .files import FileLayout, replacing, write_scan
from .header import header_xml
from .phantoms import PHANTOMS, Phantom, slice_kspace, volume_kspace
from .protocol import NOISE_BANDWIDTH, TEMPLATE, Counters, ScanProtocol, directions, slice_positions

TICK_MS = 2.5
_DWELL_US = 5.0
_NOISE_DWELL_US = 10.0
_NOISE_SAMPLES = 2048
_HEAD_HEIGHT_MM = 100.0


@dataclass(frozen=True)
class TrueImage:
    """What an image of a scan must look like.

    Attributes
    ----------
    counters
        MRD counters of the image, ``slice`` among them.
    data
        float32 [z, y, x]; root-sum-of-squares image of noise-free, complete data, by direct Fourier sums at its pixels. Where
        the scan measures noise, of data whitened with its true covariance, up to scale, as a reconstruction shows it.
    """

    counters: Counters
    data: NDArray[np.float32]


@dataclass
class SimulatedScan:
    """A scan and its truth.

    Attributes
    ----------
    header
        MRD header as XML.
    items
        Acquisitions and waveforms in the order of the scan.
    images
        The true images in the order of the scan; average is none of their counters.
    maps
        complex64 [slices, coils, y, x]; the coil maps at the pixels of the images.
    header_encoding, layout
        How the header is turned into bytes, and how the scan is laid out in a file.
    """

    protocol: ScanProtocol
    header: str
    items: list[Acquisition | Waveform]
    images: list[TrueImage]
    maps: NDArray[np.complex64] = field(repr=False)
    header_encoding: str = "utf-8"
    layout: FileLayout = field(default_factory=FileLayout)

    @property
    def truth(self) -> NDArray[np.float32]:
        """The true images of the protocol, [dynamics, slices * partitions, y, x]."""
        size = (self.protocol.image_matrix[1], self.protocol.image_matrix[0])
        own = [image.data for image in self.images if image.data.shape[1:] == size]
        return np.stack(own).reshape(-1, self.protocol.slices * self.protocol.partitions, *size)

    def save(self, path: Path) -> None:
        """Write an MRD file, and the truth and the maps to a file beside it, ``<name>.truth.h5``.

        Both take the place of older ones, once they are whole.

        Raises
        ------
        FileError
            They cannot be written.
        """
        with replacing(path) as scan, replacing(truth_path(path)) as truth:
            write_scan(scan, self.header.encode(self.header_encoding), self.items, self.layout)
            with h5py.File(truth, "w") as file:
                file["image"] = self.truth
                file["coil_maps"] = self.maps


TRUTH = ".truth.h5"
"""What the name of such a file ends with."""


def truth_path(path: Path) -> Path:
    """Return the file in which the truth of a simulated scan lies."""
    return path.with_suffix(TRUTH)


def check_host(protocol: ScanProtocol) -> None:
    """Make sure that a scan can be simulated on this host.

    Raises
    ------
    MissingExtraError
        Its phantom needs a package that is not installed.
    SimulationError
        There is not enough memory.
    """
    if protocol.phantom == TEMPLATE:
        need("nilearn", f"phantom {TEMPLATE!r}")
    there = available_memory()
    if protocol.memory > there:
        raise SimulationError(
            f"the scan needs {protocol.memory / 1e9:,.1f} GB of memory, and {there / 1e9:,.1f} GB are free here",
            accepted="a smaller matrix, or fewer coils, slices, partitions or frames",
        )


def simulate(protocol: ScanProtocol, on_image: Callable[[int, int], None] | None = None) -> SimulatedScan:
    """Simulate a scan with exact k-space of every coil.

    Parameters
    ----------
    protocol
        What to scan and how.
    on_image
        Called after each slice's k-space with how many are done, and of how many; what does not move is computed once.

    Raises
    ------
    SimulationError
        There is not enough memory.
    """
    check_host(protocol)
    random = np.random.default_rng(protocol.seed)
    on_slice = None if on_image is None else _counting(protocol, on_image)
    kspace = np.stack([_dynamic_kspace(protocol, counters, on_slice) for counters in protocol.dynamics])
    middle = np.abs(kspace[0, :, :, :, protocol.lines // 2]).max()
    mixing = protocol.noise * middle / 1000 * _noise_mixing(protocol.coils, random)
    items = list(_play(protocol, kspace, mixing, random))
    for counter, item in enumerate(items):
        item.scan_counter = counter
    if protocol.noise_scan and protocol.noise > 0:
        kspace = _whiten(kspace, mixing)
    images = [
        TrueImage({**counters, "slice": index}, true_image(protocol, kspace[dynamic, index]))
        for dynamic, counters in enumerate(protocol.dynamics)
        for index in range(protocol.slices)
    ]
    return SimulatedScan(protocol, header_xml(protocol), items, images, _maps(protocol))


def _counting(protocol: ScanProtocol, on_image: Callable[[int, int], None]) -> Callable[[], None]:
    """Return a function that tells after each slice how many are done, and of how many."""
    objects = [_phantom(protocol, counters) for counters in protocol.dynamics]
    total = protocol.slices * (1 + sum(before != after for before, after in pairwise(objects)))
    done = count(1)
    return lambda: on_image(next(done), total)


def _whiten(kspace: NDArray[np.complex64], mixing: NDArray[np.complex128]) -> NDArray[np.complex64]:
    """Apply the inverse Cholesky factor of the noise covariance to [frames, slices, coils, ...], scaled to determinant one."""
    factor = np.linalg.cholesky(mixing @ mixing.conj().T)
    factor = factor / np.exp(np.mean(np.log(np.diag(factor).real)))
    return np.einsum("cd,fsdzyx->fsczyx", np.linalg.inv(factor), kspace).astype(np.complex64)


def _periods(protocol: ScanProtocol) -> tuple[float, float]:
    return 4 * protocol.lines / protocol.matrix, 4.0


def _phantom(protocol: ScanProtocol, counters: Counters) -> Phantom | None:
    """Return the object in one dynamic image; None for the template."""
    if protocol.phantom == TEMPLATE:
        return None
    frame, other = counters[protocol.frame_counter], "repetition" if protocol.frame_counter == "phase" else "phase"
    return PHANTOMS[protocol.phantom]((frame + counters[other] / protocol.repeats) / protocol.frames)


def _dynamic_kspace(
    protocol: ScanProtocol, counters: Counters, on_slice: Callable[[], None] | None = None
) -> NDArray[np.complex64]:
    """Noise-free k-space of one dynamic image: complex64 [slices, coils, kz, ky, kx]."""
    signal = 0.5 ** counters["contrast"] * np.exp(1j * (2.0 * counters["contrast"] + 0.7 * counters["set"]))
    return (signal * _slices_kspace(protocol, _phantom(protocol, counters), on_slice)).astype(np.complex64)


@lru_cache(maxsize=1)  # what does not move looks the same in every dynamic image
def _slices_kspace(
    protocol: ScanProtocol, phantom: Phantom | None, on_slice: Callable[[], None] | None
) -> NDArray[np.complex64]:
    """K-space of an object [slices, coils, kz, ky, kx]; it may not be written to."""
    slices = []
    for z in slice_positions(protocol):
        slices.append(_coil_kspace(protocol, phantom, z / _HEAD_HEIGHT_MM))
        if on_slice is not None:
            on_slice()
    return np.stack(slices)


def _coil_kspace(protocol: ScanProtocol, phantom: Phantom | None, z: float) -> NDArray[np.complex64]:
    """Sum shifted object k-spaces by the coils' Fourier series."""
    periods = _periods(protocol)
    step_y, step_x = 2, 2 // protocol.oversampling
    rows, columns = np.arange(protocol.lines) - protocol.lines // 2, np.arange(protocol.samples) - protocol.samples // 2
    fine_y = np.arange(step_y * rows[0] - ORDER, step_y * rows[-1] + ORDER + 1)
    fine_x = np.arange(step_x * columns[0] - ORDER, step_x * columns[-1] + ORDER + 1)
    ky, kx = fine_y / periods[0], fine_x / periods[1]
    if phantom is None:
        fine = template_kspace(kx, ky, z)[None]
    elif protocol.partitions > 1:
        partitions = protocol.encoded_partitions
        kz = (np.arange(partitions) - partitions // 2) * protocol.partitions / (2 * partitions)
        fine = volume_kspace(phantom, kx, ky, kz) / (2 / protocol.partitions) / math.sqrt(partitions)
    else:
        fine = slice_kspace(phantom, kx, ky, z)[None]
    pixel = (2 / protocol.matrix) ** 2
    fine = fine / (pixel * math.sqrt(protocol.lines * protocol.samples))
    coefficients = coil_coefficients(protocol.coils, periods, z)
    kspace = np.zeros((protocol.coils, protocol.encoded_partitions, rows.size, columns.size), np.complex128)
    for a in range(2 * ORDER + 1):
        for b in range(2 * ORDER + 1):
            start_y, start_x = 2 * ORDER - a, 2 * ORDER - b
            shifted = fine[
                :, start_y : start_y + step_y * rows.size : step_y, start_x : start_x + step_x * columns.size : step_x
            ]
            kspace += coefficients[:, a, b, None, None, None] * shifted[:, : rows.size, : columns.size]
    return kspace.astype(np.complex64)


def true_image(protocol: ScanProtocol, kspace: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Root-sum-of-squares image [z, y, x] of complete data [coils, kz, ky, kx], by direct Fourier sums at its pixels."""
    for axis, (fov, pixels, wanted) in enumerate(
        zip(protocol.encoded_fov, protocol.image_matrix, protocol.image_fov, strict=True), start=1
    ):
        kspace = np.moveaxis(
            np.moveaxis(kspace, -axis, -1) @ _sums(kspace.shape[-axis], fov, pixels, wanted), -1, -axis
        )
    return np.sqrt((np.abs(kspace) ** 2).sum(0)).astype(np.float32)


def _sums(samples: int, encoded_fov: float, pixels: int, fov: float) -> NDArray[np.complex64]:
    """Unitary Fourier sums [k, pixel] of an axis; zero outside the encoded field of view.

    The middle of ``n`` samples or pixels is the one numbered ``n // 2``.
    """
    k = np.arange(samples) - samples // 2
    place = (np.arange(pixels) - pixels // 2) * fov / (pixels * encoded_fov)
    inside = (np.round(place, 9) >= -0.5) & (np.round(place, 9) < 0.5)
    sums = np.exp(2j * math.pi * np.outer(k, place)) * inside
    return (sums / math.sqrt(samples)).astype(np.complex64)


def _maps(protocol: ScanProtocol) -> NDArray[np.complex64]:
    periods = _periods(protocol)
    x, y = (
        ((np.arange(n) - n // 2) * 2 * fov / (n * protocol.fov)).astype(np.float64)
        for n, fov in zip(protocol.image_matrix[:2], protocol.image_fov[:2], strict=True)
    )
    heights = slice_positions(protocol) / _HEAD_HEIGHT_MM
    maps = [coil_maps(coil_coefficients(protocol.coils, periods, z), y, x, periods) for z in heights]
    return np.stack(maps).astype(np.complex64)


def _noise_mixing(coils: int, random: np.random.Generator) -> NDArray[np.complex128]:
    """Square root of a noise covariance with coil-dependent level and correlated neighbours."""
    level = 0.8 + 0.4 * random.random(coils)
    coupling = (
        0.15 * (random.standard_normal((coils, coils)) + 1j * random.standard_normal((coils, coils))) / math.sqrt(coils)
    )
    return level[:, None] * (np.eye(coils) + coupling)


def _noise(mixing: NDArray[np.complex128], samples: int, random: np.random.Generator) -> NDArray[np.complex128]:
    white = random.standard_normal((2, mixing.shape[1], samples))
    return mixing @ (white[0] + 1j * white[1])


def _play(
    protocol: ScanProtocol,
    kspace: NDArray[np.complex64],
    mixing: NDArray[np.complex128],
    random: np.random.Generator,
) -> Iterator[Acquisition | Waveform]:
    """Yield readouts in the order a scanner plays them: noise, separate calibration, then frame by frame."""
    clock = _Clock(protocol.repetition_time)
    if protocol.noise_scan:
        scale = math.sqrt(_DWELL_US / _NOISE_DWELL_US * NOISE_BANDWIDTH)
        noise = Acquisition.from_array(
            (scale * _noise(mixing, _NOISE_SAMPLES, random)).astype(np.complex64),
            sample_time_us=_NOISE_DWELL_US,
            acquisition_time_stamp=clock.tick(),
        )
        noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        yield noise
    order = [*range(1, protocol.slices, 2), *range(0, protocol.slices, 2)]
    calibration = protocol.calibration_points()
    if protocol.calibration in ("separate", "external"):
        for slice_index in order:
            for partition in range(protocol.encoded_partitions):
                for row in np.flatnonzero(calibration[partition]):
                    readout = _readout(protocol, kspace[0, slice_index, :, partition, row], mixing, random, clock)
                    _number(readout, protocol, slice_index, partition, int(row))
                    readout.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
                    yield readout
    for dynamic, counters in enumerate(protocol.dynamics):
        last_image = dynamic + 1 == len(protocol.dynamics)
        last_of_repetition = (
            last_image or protocol.dynamics[dynamic + 1]["repetition"] != counters["repetition"]
        ) and "repetition" in (protocol.frame_counter, "repetition" if protocol.repeats > 1 else "")
        imaging = protocol.imaging_points(counters[protocol.frame_counter])
        points = imaging | calibration if protocol.calibration == "embedded" else imaging
        for average in range(protocol.averages):
            last_average = average == protocol.averages - 1
            for slice_index in order:
                readouts: list[Acquisition] = []
                for partition in range(protocol.encoded_partitions):
                    for row in np.flatnonzero(points[partition]):
                        signal = kspace[dynamic, slice_index, :, partition, row]
                        readout = _readout(protocol, signal, mixing, random, clock)
                        _number(readout, protocol, slice_index, partition, int(row))
                        readout.idx.average = average
                        for name, value in counters.items():
                            setattr(readout.idx, name, value)
                        readouts.append(readout)
                _flag_lines(readouts, imaging, calibration, protocol)
                readouts[0].set_flag(ismrmrd.ACQ_FIRST_IN_SLICE)
                readouts[-1].set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
                if slice_index == order[-1] and last_average and last_of_repetition:
                    readouts[-1].set_flag(ismrmrd.ACQ_LAST_IN_REPETITION)
                if slice_index == order[-1] and last_average and last_image:
                    readouts[-1].set_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
                yield from _with_extras(protocol, readouts, random, clock)


class _Clock:
    """Counts acquisition time in the scanner's ticks."""

    def __init__(self, repetition_time: float) -> None:
        self.repetition_time = repetition_time
        self.readouts = 0

    def tick(self) -> int:
        self.readouts += 1
        return 16_000_000 + round(self.readouts * self.repetition_time / TICK_MS)


def _readout(
    protocol: ScanProtocol,
    signal: NDArray[np.complex64],
    mixing: NDArray[np.complex128],
    random: np.random.Generator,
    clock: _Clock,
) -> Acquisition:
    dropped = protocol.samples - round(protocol.samples * protocol.asymmetric_echo)
    data = (signal + _noise(mixing, protocol.samples, random)).astype(np.complex64)[:, dropped:]
    readout = Acquisition.from_array(
        data,
        sample_time_us=_DWELL_US,
        center_sample=protocol.samples // 2 - dropped,
        acquisition_time_stamp=clock.tick(),
    )
    readout.read_dir[:], readout.phase_dir[:], readout.slice_dir[:] = directions(protocol.orientation)
    return readout


def _number(readout: Acquisition, protocol: ScanProtocol, slice_index: int, partition: int, row: int) -> None:
    height = slice_positions(protocol)[slice_index]
    along = directions(protocol.orientation)[2]
    readout.position[:] = [start + height * step for start, step in zip(protocol.offset, along, strict=True)]
    readout.idx.kspace_encode_step_1 = row - protocol.first_line
    readout.idx.kspace_encode_step_2 = partition
    readout.idx.slice = slice_index
    readout.idx.user[5] = protocol.lines // 2 - protocol.first_line


def _flag_lines(
    readouts: list[Acquisition],
    imaging: NDArray[np.bool_],
    calibration: NDArray[np.bool_],
    protocol: ScanProtocol,
) -> None:
    """Flag embedded calibration lines; play every second readout backwards where the protocol says so."""
    for index, readout in enumerate(readouts):
        row = readout.idx.kspace_encode_step_1 + protocol.first_line
        place = readout.idx.kspace_encode_step_2, row
        if protocol.calibration == "embedded" and calibration[place]:
            both = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING
            readout.set_flag(both if imaging[place] else ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
        if protocol.reverse_every_second and index % 2:
            readout.data[:] = readout.data[:, ::-1].copy()
            readout.center_sample = readout.number_of_samples - readout.center_sample
            readout.set_flag(ismrmrd.ACQ_IS_REVERSE)


_EXTRA_FLAGS = (
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
)


def _with_extras(
    protocol: ScanProtocol,
    readouts: list[Acquisition],
    random: np.random.Generator,
    clock: _Clock,
) -> Iterator[Acquisition | Waveform]:
    """Put readouts that belong in no image, and an ECG, between the imaging readouts."""
    for index, readout in enumerate(readouts):
        if protocol.extra_readouts and index % 16 == 8:
            extra = Acquisition(readout.getHead(), np.full_like(readout.data, 1e3))
            extra.clear_all_flags()
            extra.set_flag(_EXTRA_FLAGS[index // 16 % len(_EXTRA_FLAGS)])
            extra.acquisition_time_stamp = clock.tick()
            yield extra
        if protocol.waveforms and index % 32 == 0:
            beat = (2000 + 500 * random.random((1, 16))).astype(np.uint32)
            stamp = readout.acquisition_time_stamp
            yield Waveform.from_array(beat, waveform_id=0, time_stamp=stamp, sample_time_us=2500.0)
        yield readout
