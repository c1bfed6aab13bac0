"""What a simulated scan is like: its protocol, and the geometry that follows from it."""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..wire.errors import nearest
from .errors import SimulationError
from .phantoms import PHANTOMS
from .sampling import PATTERNS, Request, SamplingError, acs_lines, draw, find_pattern, partial_fourier

NOISE_BANDWIDTH = 0.793
"""Receiver noise bandwidth relative to the reciprocal dwell time."""

TEMPLATE = "template"
"""The phantom that is no sum of ellipses."""

Calibration = Literal["embedded", "separate", "external", "interleaved", "none"]
Orientation = Literal["transverse", "sagittal", "coronal", "oblique", "flipped"]
PatientPosition = Literal["HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL"]
Counters = dict[str, int]
"""Values of MRD counters by name; those left out are 0."""


_MOST = 65535
"""MRD counts lines, samples, channels and images with 16 bits."""
_SAMPLE_BYTES = np.dtype(np.complex64).itemsize
_COPIES = 6
"""Copies of k-space that were found in memory at the peak, beside the readouts; some are of double precision."""
_CHOICES: dict[str, tuple[Any, ...]] = {
    "phantom": (*PHANTOMS, TEMPLATE),
    "orientation": get_args(Orientation),
    "patient_position": get_args(PatientPosition),
    "oversampling": (1, 2),
    "calibration": get_args(Calibration),
    "frame_counter": ("phase", "repetition"),
}
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("coils", "slices", "partitions", "frames", "repeats"), (1, _MOST)),
    **dict.fromkeys(("contrasts", "sets", "averages", "acceleration"), (1, _MOST)),
    **dict.fromkeys(("acs", "recon_matrix"), (0, _MOST)),
    **dict.fromkeys(("fov", "slice_thickness"), (0.001, 10_000.0)),
    **dict.fromkeys(("slice_gap", "recon_fov"), (0.0, 10_000.0)),
    **dict.fromkeys(("partial_fourier", "asymmetric_echo"), (0.5, 1.0)),
    "matrix": (8, _MOST),
    "offset": (-10_000.0, 10_000.0),
    "phase_resolution": (0.1, 1.0),
    "phase_oversampling": (0.3, 3.0),
    "partition_oversampling": (1.0, 3.0),
    "noise": (0.0, 1e6),
    "repetition_time": (0.0, 1e6),
    "seed": (0, 2**64),
}
"""The smallest and the largest value; of tuples, of each member."""


@dataclass(frozen=True)
class ScanProtocol:
    """What to scan and how. Lengths are in mm, times in ms. The object is drawn in units of half of ``fov``.

    Attributes
    ----------
    phantom
        ``brain``, ``shepp-logan`` or ``heart``, whose k-space is exact, or ``template``: slices of the MNI152 template, each
        of another head (extra ``train``).
    matrix
        Pixels along x and y of ``fov``, as measured.
    partitions
        More than one makes a 3-D scan.
    orientation, offset, patient_position
        How the slices lie, the middle of their stack from the isocentre in patient coordinates (LPS), and how the patient lies.
    recon_matrix, recon_fov
        Pixels and field of view of the image along x and y, where they are not those measured; it is zero where it lies outside
        the encoded field of view. 0 for ``matrix`` and ``fov``.
    oversampling
        Of the readout: 1 or 2.
    acs, calibration
        Number of calibration lines, and how they are measured.
    sampling
        How lines are chosen: a pattern of ``simulate.sampling``, or a file. Patterns of points are for scans with partitions,
        whose readouts they choose in the plane of ky and kz. Lines of ``equispaced`` go through the middle of k-space, and move
        on from frame to frame only where calibration is interleaved.
    partial_fourier, asymmetric_echo, phase_resolution
        Fraction of lines, samples, or k-space extent along y that is measured.
    phase_oversampling, partition_oversampling
        How much larger than ``fov`` the encoded field of view along y is, smaller below 1; and than the slab along z.
    frames, frame_counter
        Dynamic frames, and the MRD counter they are numbered by.
    repeats
        How often the frames are scanned, numbered by the other of ``phase`` and ``repetition``.
    contrasts, sets
        Echoes, each with half the signal of that before it and another phase; and sets, which differ in phase alone.
    noise
        Standard deviation of real and imaginary part, relative to the mean signal of the central line's maximum over 1000.
    reverse_every_second, extra_readouts, waveforms
        Readouts played backwards; navigators, phase correction, feedback and dummies among them; an ECG beside them.
    measurement_id
        As a Gadgetron takes it apart to store what a scan leaves to later ones: device, subject, study and measurement.
    """

    phantom: str = "brain"
    matrix: int = 256
    coils: int = 8
    slices: int = 1
    partitions: int = 1
    fov: float = 240.0
    slice_thickness: float = 5.0
    slice_gap: float = 1.0
    orientation: Orientation = "transverse"
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    patient_position: PatientPosition = "HFS"
    recon_matrix: tuple[int, int] = (0, 0)
    recon_fov: tuple[float, float] = (0.0, 0.0)
    oversampling: int = 2
    acceleration: int = 1
    acs: int = 24
    calibration: Calibration = "embedded"
    sampling: str = "equispaced"
    partial_fourier: float = 1.0
    asymmetric_echo: float = 1.0
    phase_resolution: float = 1.0
    phase_oversampling: float = 1.0
    partition_oversampling: float = 1.0
    frames: int = 1
    frame_counter: Literal["phase", "repetition"] = "phase"
    repeats: int = 1
    contrasts: int = 1
    sets: int = 1
    averages: int = 1
    noise: float = 1.0
    noise_scan: bool = True
    repetition_time: float = 5.0
    reverse_every_second: bool = False
    extra_readouts: bool = False
    waveforms: bool = False
    seed: int = 1
    measurement_id: str = "simulator_phantom_1_1"

    def __post_init__(self) -> None:
        for name, accepted in _CHOICES.items():
            value = getattr(self, name)
            if value not in accepted:
                near = nearest(str(value), map(str, accepted))
                raise SimulationError(f"{name} {value!r} is not known{near}", accepted=", ".join(map(str, accepted)))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            for each in value if isinstance(value, tuple) else (value,):
                if not low <= each <= high:  # nor is NaN
                    raise SimulationError(f"{name} is {each}", accepted=f"{low} to {high}")
        for name in ("lines", "samples", "encoded_partitions"):
            if not 1 <= getattr(self, name) <= _MOST:
                raise SimulationError(f"the encoded grid has {getattr(self, name)} {name}", accepted=f"1 to {_MOST}")
        if not self.measurement_id.isprintable():
            raise SimulationError("measurement_id has control characters in it", accepted="letters, digits and signs")
        if self.phantom == TEMPLATE and (self.partitions > 1 or self.frames > 1):
            raise SimulationError(f"phantom {TEMPLATE!r} is one of still 2-D slices")
        if find_pattern(self.sampling).points and self.partitions == 1:
            raise self._no_readouts()
        if (calibrated := self.calibration_lines()).any() and calibrated.sum() < self.acs:
            rows, middle = np.flatnonzero(self.measurable_lines()), self.lines // 2
            before, after = middle - int(rows[0]), int(rows[-1]) + 1 - middle
            most = 2 * min(before, after) + (after > before)
            raise SimulationError(
                f"{self.acs} calibration lines around the middle reach beyond the lines that are measured",
                where="acs",
                accepted=f"0 to {most}",
            )

    @property
    def lines(self) -> int:
        """Rows of the encoded grid."""
        return round(self.matrix * self.phase_oversampling)

    @property
    def samples(self) -> int:
        """Columns of the encoded grid."""
        return self.matrix * self.oversampling

    @property
    def encoded_partitions(self) -> int:
        """Planes of the encoded grid."""
        return round(self.partitions * self.partition_oversampling)

    @property
    def memory(self) -> int:
        """Bytes that simulating takes, about: k-space of all images, copies of it on the way, and the readouts."""
        images = self.repeats * self.frames * self.sets * self.contrasts * self.slices
        samples = images * self.coils * self.encoded_partitions * self.lines * self.samples
        return samples * _SAMPLE_BYTES * (_COPIES + self.averages)

    @property
    def encoded_fov(self) -> tuple[float, float, float]:
        """Encoded field of view along x, y and z."""
        depth = self.encoded_partitions * self.slice_thickness
        return self.fov * self.oversampling, self.fov * self.lines / self.matrix, depth

    @property
    def image_matrix(self) -> tuple[int, int, int]:
        """Pixels of an image along x, y and z."""
        return self.recon_matrix[0] or self.matrix, self.recon_matrix[1] or self.matrix, self.partitions

    @property
    def image_fov(self) -> tuple[float, float, float]:
        """Field of view of an image along x, y and z."""
        return self.recon_fov[0] or self.fov, self.recon_fov[1] or self.fov, self.partitions * self.slice_thickness

    @property
    def dynamics(self) -> list[Counters]:
        """Counters of the images of one slice in the order of the scan."""
        other = "repetition" if self.frame_counter == "phase" else "phase"
        ranges = [range(count) for count in (self.repeats, self.frames, self.sets, self.contrasts)]
        names = (other, self.frame_counter, "set", "contrast")
        return [dict(zip(names, values, strict=True)) for values in product(*ranges)]

    @property
    def first_line(self) -> int:
        """Row of the grid that is line 0 of the scan."""
        rows = np.flatnonzero(self.measurable_lines())
        return int(rows[0])

    def measurable_lines(self) -> NDArray[np.bool_]:
        """Mark the rows within the measured extent of k-space, before acceleration."""
        extent = acs_lines(self.lines, round(self.lines * self.phase_resolution))
        return extent & partial_fourier(self.lines, self.partial_fourier)

    def imaging_lines(self, frame: int) -> NDArray[np.bool_]:
        """Mark the rows [ky] measured for the image in one frame, in any partition."""
        return np.asarray(self.imaging_points(frame).any(axis=0))

    def imaging_points(self, frame: int) -> NDArray[np.bool_]:
        """Mark the points [kz, ky] measured for the image in one frame: rows of all partitions, or points of the plane."""
        return self._imaging_points[frame % self.frames]

    @cached_property
    def _imaging_points(self) -> NDArray[np.bool_]:
        """Points of all frames [frames, kz, ky]; those of patterns with a budget have the calibration data among them.

        So must those of a file, unless they are measured beside the image.
        """
        rows = self.measurable_lines()
        acs = min(self.acs, int(rows.sum())) if find_pattern(self.sampling).budget else 0
        if self.sampling not in PATTERNS and self.calibration == "embedded" and self.calibration_lines().any():
            acs = self.acs
        request = Request(self.lines, self.encoded_partitions, self.frames, self.acceleration, acs, 0, rows)
        random = np.random.default_rng(self.seed)
        alike = self.sampling == "equispaced" and self.calibration != "interleaved"
        measured = draw(self.sampling, request, random, alike=alike)
        if measured.ndim == 2:
            return np.repeat(measured[:, None], self.encoded_partitions, axis=1)
        if self.partitions == 1:
            raise self._no_readouts()
        return measured.swapaxes(1, 2)

    def _no_readouts(self) -> SamplingError:
        return SamplingError(
            f"the pattern {self.sampling!r} is of points in a plane, and the readouts of a 2-D scan are complete along kx",
            accepted="a pattern of lines, or partitions: points are then of ky and kz",
        )

    def calibration_lines(self) -> NDArray[np.bool_]:
        """Mark the rows measured for calibration."""
        if self.acceleration == 1 or self.calibration in ("none", "interleaved"):
            return np.zeros(self.lines, bool)
        return acs_lines(self.lines, self.acs) & self.measurable_lines()

    def calibration_points(self) -> NDArray[np.bool_]:
        """Mark the points [kz, ky] measured for calibration: rows of all partitions, or a block if the pattern is of points."""
        partitions = np.ones(self.encoded_partitions, bool)
        if find_pattern(self.sampling).points:
            partitions = acs_lines(self.encoded_partitions, min(self.acs, self.encoded_partitions))
        return partitions[:, None] & self.calibration_lines()


def slice_positions(protocol: ScanProtocol) -> NDArray[np.floating]:
    """Offsets of the slices from the isocentre along the slice direction, in mm."""
    spacing = protocol.slice_thickness + protocol.slice_gap
    return (np.arange(protocol.slices) - (protocol.slices - 1) / 2) * spacing


def directions(orientation: Orientation) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Read, phase and slice direction in patient coordinates (LPS)."""
    c, s = math.cos(math.radians(25)), math.sin(math.radians(25))
    return {
        "transverse": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
        "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0)),
        "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
        "oblique": ((1.0, 0.0, 0.0), (0.0, c, s), (0.0, -s, c)),
        "flipped": ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    }[orientation]
