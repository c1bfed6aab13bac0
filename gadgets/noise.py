"""Noise covariances: computed from noise readouts, and turned into a whitening matrix.

The noise of the channels, x [coils], is complex and has zero mean. Its covariance ``Psi = E[x x^H]`` is estimated from n samples
as ``sum x x^H / (n - 1)``. With the Cholesky factor of ``Psi = L L^H``, ``inv(L) x`` has the covariance 1: its channels are
independent of each other (Pruessmann et al., MRM 2001;46:638, appendix A). Two factors bring that to the data:

- ``sqrt(2)``, as a complex variance of 1 is one of 1/2 in each of the real and the imaginary part, and images in units of SNR
  want 1 in each (Kellman and McVeigh, MRM 2005;54:1439).
- ``sqrt(t / t_noise * bandwidth)``, as the variance of white noise is proportional to the bandwidth of the receiver, the
  reciprocal of the dwell time: data of dwell time t has ``t_noise / t`` times the variance of the noise scan. The receiver's
  filter is no rectangle: of the noise scan's band ``1 / t_noise`` it passes the fraction ``bandwidth``, while the image lies in
  the middle of its band, where all is passed.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scan import Scan

DEFAULT_BANDWIDTH = 0.793
"""Receiver noise bandwidth relative to the reciprocal dwell time where the header does not say."""


_DEAD = 1e-10
"""Variance relative to the largest below which a channel is dead."""
_TINY = 1e-30
"""Variance whose reciprocal is too large for a float32; so is its own."""
_SINGULAR = 1e-6
"""Least eigenvalue of the correlation between channels; those of arrays of many coils lie above 1e-3."""
_MOST_DEPENDENCIES = 16


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
    samples
        How many it was estimated from; 0 if that is not known.
    """

    matrix: NDArray[np.complex128]
    dwell_time: float
    bandwidth: float
    coil_names: tuple[str, ...] = ()
    samples: int = 0

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
            Its header has the noise bandwidth and, if they are as many as the channels, the names of the coils.
        """
        system = scan.header.acquisitionSystemInformation
        bandwidth = getattr(system, "relativeReceiverNoiseBandwidth", None)
        if not isinstance(bandwidth, int | float) or not math.isfinite(bandwidth) or bandwidth <= 0:
            bandwidth = DEFAULT_BANDWIDTH
        names = coil_names(scan, len(products))
        return cls(products / (count - 1), dwell_time, float(bandwidth), names, count)

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
        if not (math.isfinite(self.bandwidth) and self.bandwidth > 0):
            return f"has a bandwidth of {self.bandwidth:g}"
        if not (math.isfinite(self.dwell_time) and self.dwell_time >= 0):
            return f"has a dwell time of {self.dwell_time:g}"
        if not _TINY < variances.max() < 1 / _TINY:
            return f"has variances of {variances.max():g}"
        level = np.sqrt(np.diag(self._revived()).real)
        if np.linalg.eigvalsh(self._revived() / np.outer(level, level)).min() < _SINGULAR:
            return "is singular (channels that are copies of each other?)"
        return ""

    def misfit(self, channels: int, names: Sequence[str]) -> str:
        """Say why it is not the noise of data with these channels and names of coils; empty if it is.

        Noise of more coils than the data has fits where all are named, and each by a name of its own.

        Parameters
        ----------
        channels
            Of the data.
        names
            Of its coils, in the order of the channels; empty if they are not known.
        """
        if self._can_be_brought_to(names):
            return ""
        if names and self.coil_names and set(names) != set(self.coil_names):
            return "data has coils that the noise was not measured with"
        own = self.matrix.shape[0]
        return "" if own == channels else f"data has {channels} channels but the noise {own}"

    def _can_be_brought_to(self, names: Sequence[str]) -> bool:
        both = (names, self.coil_names)
        return bool(names) and set(names) <= set(self.coil_names) and all(len(set(each)) == len(each) for each in both)

    @property
    def digest(self) -> str:
        """SHA-256 of its numbers, in hexadecimal: equal where data is whitened alike."""
        numbers = np.ascontiguousarray(self.matrix, "<c16").tobytes()
        return hashlib.sha256(numbers + np.array([self.dwell_time, self.bandwidth], "<f8").tobytes()).hexdigest()

    def equals(self, other: "NoiseCovariance") -> bool:
        """Whether both are the same measurement, but for rounding."""
        alike = self.matrix.shape == other.matrix.shape and self.coil_names == other.coil_names
        times = np.allclose([self.dwell_time, self.bandwidth], [other.dwell_time, other.bandwidth])
        return alike and times and np.allclose(self.matrix, other.matrix, rtol=0, atol=1e-6 * np.abs(self.matrix).max())

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

    def whitening(self, dwell_time: float, names: Sequence[str] = ()) -> NDArray[np.complex64]:
        """Whitening matrix for data of another dwell time; real and imaginary part of its noise get unit variance.

        Parameters
        ----------
        dwell_time
            Sample time of the data in microseconds. Where one of the two is not known, they count as equal.
        names
            Coils of the data; if they are among those of the covariance, this is brought to them and their order.

        Returns
        -------
        ndarray
            complex64 [coils, coils], ``sqrt(2 t / t_noise * bandwidth) * inv(L)`` with ``covariance = L L^H``. Where a dwell
            time is not known, the factor is 1: the channels are decorrelated, and alike, but not of unit variance.

        Raises
        ------
        numpy.linalg.LinAlgError
            The covariance is not positive definite, which ``fault`` would have said.
        """
        matrix = self._revived()
        if self._can_be_brought_to(names):
            order = [self.coil_names.index(name) for name in names]
            matrix = matrix[np.ix_(order, order)]
        known = all(math.isfinite(time) and time > 0 for time in (dwell_time, self.dwell_time))
        scale = math.sqrt(2 * dwell_time / self.dwell_time * self.bandwidth) if known else 1.0
        return (scale * np.linalg.inv(np.linalg.cholesky(matrix))).astype(np.complex64)


def coil_names(scan: Scan, channels: int) -> tuple[str, ...]:
    """Names of the coils in the order of so many channels; empty if the header does not name as many."""
    system = scan.header.acquisitionSystemInformation
    names = [label.coilName for label in getattr(system, "coilLabel", None) or []]
    return tuple(names) if all(names) and len(names) == channels else ()


def noise_dependencies(scan: Scan) -> list[str]:
    """Measurement ids of the noise scans that the header refers to."""
    information = scan.header.measurementInformation
    dependencies = getattr(information, "measurementDependency", None) or []
    found = [str(each.measurementID or "").strip() for each in dependencies if _is_noise(each)]
    return list(dict.fromkeys(filter(None, found)))[:_MOST_DEPENDENCIES]


def _is_noise(dependency: object) -> bool:
    return str(getattr(dependency, "dependencyType", "")).strip().lower() == "noise"
