"""What a simulated scan is like: its protocol, and the geometry that follows from it."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from . import sampling
from .phantoms import PHANTOMS

NOISE_BANDWIDTH = 0.793
"""Receiver noise bandwidth relative to the reciprocal dwell time."""

TEMPLATE = "template"
"""The phantom that is no sum of ellipses."""

Calibration = Literal["embedded", "separate", "external", "interleaved", "none"]
Orientation = Literal["transverse", "sagittal", "coronal", "oblique"]


@dataclass(frozen=True)
class ScanProtocol:
    """What to scan and how. Lengths are in mm, times in ms.

    Attributes
    ----------
    phantom
        ``brain``, ``shepp-logan`` or ``heart``, whose k-space is exact, or ``template``: slices of the MNI152 template, each
        of another head (extra ``train``).
    matrix
        Pixels along x and y of the image.
    partitions
        More than one makes a 3-D scan.
    oversampling
        Of the readout: 1 or 2.
    acs, calibration
        Number of calibration lines, and how they are measured.
    random
        Random instead of uniform undersampling.
    partial_fourier, asymmetric_echo, phase_resolution
        Fraction of lines, samples, or k-space extent along y that is measured.
    phase_oversampling
        How much larger the encoded field of view along y is.
    frames, frame_counter
        Dynamic frames, and the MRD counter they are numbered by.
    noise
        Standard deviation of real and imaginary part, relative to the mean signal of the central line's maximum over 1000.
    reverse_every_second, extra_readouts, waveforms
        Readouts played backwards; navigators, phase correction, feedback and dummies among them; an ECG beside them.
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
    oversampling: int = 2
    acceleration: int = 1
    acs: int = 24
    calibration: Calibration = "embedded"
    random: bool = False
    partial_fourier: float = 1.0
    asymmetric_echo: float = 1.0
    phase_resolution: float = 1.0
    phase_oversampling: float = 1.0
    frames: int = 1
    frame_counter: Literal["phase", "repetition"] = "phase"
    averages: int = 1
    noise: float = 1.0
    noise_scan: bool = True
    repetition_time: float = 5.0
    reverse_every_second: bool = False
    extra_readouts: bool = False
    waveforms: bool = False
    seed: int = 1
    measurement_id: str = "simulated_1"

    def __post_init__(self) -> None:
        if self.phantom not in (*PHANTOMS, TEMPLATE):
            raise ValueError(f"phantom {self.phantom!r} is not known; there are {', '.join((*PHANTOMS, TEMPLATE))}")
        if self.phantom == TEMPLATE and (self.partitions > 1 or self.frames > 1):
            raise ValueError(f"phantom {TEMPLATE!r} is one of still 2-D slices")
        if self.oversampling not in (1, 2):
            raise ValueError(f"readout oversampling must be 1 or 2, got {self.oversampling}")
        if (
            min(self.matrix, self.coils, self.slices, self.partitions, self.frames, self.averages, self.acceleration)
            < 1
        ):
            raise ValueError("matrix, coils, slices, partitions, frames, averages and acceleration must be at least 1")

    @property
    def lines(self) -> int:
        """Rows of the encoded grid."""
        extra = self.matrix * (self.phase_oversampling - 1)
        return self.matrix + 2 * round(extra / 2)

    @property
    def samples(self) -> int:
        """Columns of the encoded grid."""
        return self.matrix * self.oversampling

    @property
    def first_line(self) -> int:
        """Row of the grid that is line 0 of the scan."""
        rows = np.flatnonzero(self.measurable_lines())
        return int(rows[0])

    def measurable_lines(self) -> NDArray[np.bool_]:
        """Mark the rows within the measured extent of k-space, before acceleration."""
        extent = sampling.acs_lines(self.lines, round(self.lines * self.phase_resolution))
        return extent & sampling.partial_fourier(self.lines, self.partial_fourier)

    def imaging_lines(self, frame: int) -> NDArray[np.bool_]:
        """Mark the rows measured for the image in one frame."""
        if self.random:
            lines = sampling.random(self.lines, self.acceleration, self.acs, self.seed + frame)
        else:
            offset = frame % self.acceleration if self.calibration == "interleaved" else 0
            lines = sampling.uniform(self.lines, self.acceleration, offset)
        return lines & self.measurable_lines()

    def calibration_lines(self) -> NDArray[np.bool_]:
        """Mark the rows measured for calibration."""
        if self.acceleration == 1 or self.calibration in ("none", "interleaved"):
            return np.zeros(self.lines, bool)
        return sampling.acs_lines(self.lines, self.acs) & self.measurable_lines()


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
    }[orientation]
