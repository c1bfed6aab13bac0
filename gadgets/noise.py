"""Noise covariances: computed from noise readouts, kept on disk by measurement id, turned into a whitening matrix."""

import hashlib
import math
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..wire.errors import DataError
from .scan import Scan

DEFAULT_BANDWIDTH = 0.793
"""Receiver noise bandwidth relative to the reciprocal dwell time where the header does not say."""


_DEAD = 1e-10
"""Variance relative to the largest below which a channel is dead."""
_SINGULAR = 1e-6
"""Least eigenvalue of the correlation between channels; those of arrays of many coils lie above 1e-3."""


@dataclass(frozen=True)
class NoiseCovariance:
    """Noise statistics of a measurement.

    Attributes
    ----------
    matrix
        complex128 [coils, coils], covariance of the complex noise.
    dwell_time
        Sample time of the noise readouts in microseconds; 0 if it is not known.
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
        if not isinstance(bandwidth, int | float) or not math.isfinite(bandwidth) or bandwidth <= 0:
            bandwidth = DEFAULT_BANDWIDTH
        return cls(products / (count - 1), dwell_time, float(bandwidth), coil_names(scan))

    def fault(self) -> str:
        """Say why nothing can be whitened with it; empty if it is sound."""
        matrix = self.matrix
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
            return f"has the shape {matrix.shape}"
        if not np.isfinite(matrix).all():
            return "holds NaN or infinite values"
        largest = np.abs(matrix).max()
        if not np.allclose(matrix, matrix.conj().T, rtol=0, atol=1e-4 * largest):
            return "is not Hermitian"
        variances = np.diag(matrix).real
        if largest == 0 or variances.min() < 0:
            return "has no noise in any channel" if largest == 0 else "has negative variances"
        if len(self.coil_names) not in (0, matrix.shape[0]):
            return f"names {len(self.coil_names)} coils for {matrix.shape[0]} channels"
        level = np.sqrt(np.diag(self._revived()).real)
        if np.linalg.eigvalsh(self._revived() / np.outer(level, level)).min() < _SINGULAR:
            return "is singular (channels that are copies of each other?)"
        return ""

    @property
    def dead(self) -> list[int]:
        """Channels without any noise."""
        variances = np.diag(self.matrix).real
        return np.flatnonzero(variances <= _DEAD * variances.max()).tolist()

    def _revived(self) -> NDArray[np.complex128]:
        """Covariance in which dead channels have the median noise of the others.

        A channel that was dead in the noise scan is scaled like the others: if it is dead in the scan, too, it stays zero, and
        if not, its signal is not lost.
        """
        matrix, dead = self.matrix.copy(), self.dead
        if dead:
            level = np.median(np.delete(np.diag(matrix).real, dead))
            matrix[dead] = matrix[:, dead] = 0
            matrix[dead, dead] = level
        return matrix

    def whitening(self, dwell_time: float, names: tuple[str, ...] = ()) -> NDArray[np.complex64]:
        """Whitening matrix for data of another dwell time; real and imaginary part of its noise get unit variance.

        Parameters
        ----------
        dwell_time
            Sample time of the data in microseconds. Where one of the two is not known, they count as equal.
        names
            Order of the coils of the data; the covariance is sorted to it if both name the same coils.

        Returns
        -------
        ndarray
            complex64 [coils, coils], ``sqrt(2 t / t_noise * bandwidth) * inv(L)`` with ``covariance = L L^H``.
        """
        matrix = self._revived()
        if self.coil_names != names and sorted(self.coil_names) == sorted(names) and len(set(names)) == len(names):
            order = [self.coil_names.index(name) for name in names]
            matrix = matrix[np.ix_(order, order)]
        known = all(math.isfinite(time) and time > 0 for time in (dwell_time, self.dwell_time))
        scale = math.sqrt(2 * dwell_time / self.dwell_time * self.bandwidth) if known else 1.0
        return (scale * np.linalg.inv(np.linalg.cholesky(matrix))).astype(np.complex64)

    def save(self, folder: Path, measurement_id: str) -> None:
        """Keep for later scans; the file appears whole or not at all.

        Raises
        ------
        OSError
            It cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as file:
            partial = Path(file.name)
            names = np.array(self.coil_names, str)
            try:
                np.savez(
                    file, matrix=self.matrix, dwell_time=self.dwell_time, bandwidth=self.bandwidth, coil_names=names
                )
                file.close()
                partial.replace(_path(folder, measurement_id))
            except OSError:
                partial.unlink(missing_ok=True)
                raise

    @classmethod
    def load(cls, folder: Path, measurement_id: str) -> "NoiseCovariance | None":
        """Return what was kept for a measurement, None if there is nothing.

        Raises
        ------
        DataError
            What was kept cannot be read, or cannot be used.
        """
        path = _path(folder, measurement_id)
        fault = "cannot be read"
        try:
            if not path.is_file():
                return None
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                names = tuple(str(name) for name in file["coil_names"])
                matrix = np.asarray(file["matrix"], np.complex128)
                kept = cls(matrix, float(file["dwell_time"]), float(file["bandwidth"]), names)
        except (OSError, ValueError, TypeError, AttributeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            kept = None
        else:
            fault = kept.fault()
            if not fault and not (math.isfinite(kept.bandwidth) and kept.bandwidth > 0):
                fault = f"has a bandwidth of {kept.bandwidth:g}"
        if kept is None or fault:
            raise DataError(f"the stored noise covariance of measurement {measurement_id!r} {fault}", kind="noise")
        return kept


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
