"""Noise covariances: computed from noise readouts, kept on disk by measurement id, turned into a whitening matrix."""

import hashlib
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .scan import Scan

DEFAULT_BANDWIDTH = 0.793
"""Receiver noise bandwidth relative to the reciprocal dwell time where the header does not say."""


@dataclass(frozen=True)
class NoiseCovariance:
    """Noise statistics of a measurement.

    Attributes
    ----------
    matrix
        complex128 [coils, coils], covariance of the complex noise.
    dwell_time
        Sample time of the noise readouts in microseconds.
    bandwidth
        Relative receiver noise bandwidth.
    coil_names
        Names of the coils from the header, in the order of the matrix; empty if it has none.
    """

    matrix: NDArray[np.complex128]
    dwell_time: float
    bandwidth: float
    coil_names: tuple[str, ...] = ()

    @classmethod
    def from_sums(
        cls, products: NDArray[np.complex128], count: int, dwell_time: float, scan: Scan
    ) -> "NoiseCovariance":
        """Estimate from the sum of the products of ``count`` samples; the mean is not removed, as in Gadgetron.

        Parameters
        ----------
        products
            complex128 [coils, coils], the sum of ``x x^H`` over all samples x [coils].
        count
            How many samples there were, at least two.
        dwell_time
            Their sample time in microseconds.
        scan
            Its header has the noise bandwidth and the names of the coils.
        """
        system = scan.header.acquisitionSystemInformation
        bandwidth = getattr(system, "relativeReceiverNoiseBandwidth", None)
        return cls(products / (count - 1), dwell_time, float(bandwidth or DEFAULT_BANDWIDTH), coil_names(scan))

    def whitening(self, dwell_time: float, names: tuple[str, ...] = ()) -> NDArray[np.complex64]:
        """Matrix [coils, coils] after which real and imaginary part of the noise have unit variance and no correlation.

        Parameters
        ----------
        dwell_time
            Sample time of the imaging readouts in microseconds; 0 if unknown.
        names
            Coil names of the imaging scan; a permutation of those of the noise scan reorders the covariance.

        Raises
        ------
        numpy.linalg.LinAlgError
            The covariance is not positive definite: a channel without signal, or fewer samples than channels.
        """
        matrix = self.matrix
        if names and len(set(names)) == len(names) and sorted(names) == sorted(self.coil_names):
            order = [self.coil_names.index(name) for name in names]
            matrix = matrix[np.ix_(order, order)]
        known = dwell_time > 0 and self.dwell_time > 0
        scale = math.sqrt(2 * dwell_time / self.dwell_time * self.bandwidth) if known else 1.0
        return (scale * np.linalg.inv(np.linalg.cholesky(matrix))).astype(np.complex64)

    def save(self, folder: Path, measurement_id: str) -> None:
        """Keep for later scans; the file appears whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as file:
            names = np.array(self.coil_names, str)
            np.savez(file, matrix=self.matrix, dwell_time=self.dwell_time, bandwidth=self.bandwidth, coil_names=names)
        Path(file.name).replace(_path(folder, measurement_id))

    @classmethod
    def load(cls, folder: Path, measurement_id: str) -> "NoiseCovariance | None":
        """Return what was kept for a measurement, None if there is nothing."""
        path = _path(folder, measurement_id)
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            names = tuple(str(name) for name in file["coil_names"])
            return cls(file["matrix"], float(file["dwell_time"]), float(file["bandwidth"]), names)


def _path(folder: Path, measurement_id: str) -> Path:
    """File of a measurement: a hash, since ids come from outside and are no file names."""
    return folder / f"{hashlib.sha256(measurement_id.encode()).hexdigest()[:32]}.npz"


def coil_names(scan: Scan) -> tuple[str, ...]:
    """Names of the coils in the order of the channels, as far as the header tells."""
    system = scan.header.acquisitionSystemInformation
    names = [label.coilName for label in getattr(system, "coilLabel", None) or []]
    return tuple(names) if all(names) else ()


def noise_dependency(scan: Scan) -> str | None:
    """Measurement id of the noise scan that the header refers to."""
    information = scan.header.measurementInformation
    for dependency in getattr(information, "measurementDependency", None) or []:
        if str(dependency.dependencyType).lower() == "noise":
            return dependency.measurementID
    return None
