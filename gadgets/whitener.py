"""The whitening matrix of a scan."""

import numpy as np

from ..wire.items import Acquisition, header_of
from .noise import NoiseCovariance, coil_names, noise_dependency
from .scan import Scan


class Whitener:
    """The whitening matrix of a scan, from an earlier noise scan or its own noise readouts."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self._products: np.ndarray | None = None
        """Sum of the products of the noise samples: as large as the covariance, however many readouts come."""
        self._count = 0
        self._mixed = False
        self.dwell_time = 0.0
        self.nonconformant = False
        self.covariance = self._from_earlier_scan()
        self._matrix: np.ndarray | None = None

    def _from_earlier_scan(self) -> NoiseCovariance | None:
        identifier = noise_dependency(self.scan)
        if identifier is None or self.scan.noise_folder is None:
            return None
        covariance = NoiseCovariance.load(self.scan.noise_folder, identifier)
        if covariance is None:
            self.scan.log.info("the noise scan that the header names is not on disk; using noise readouts of this scan")
        return covariance

    def add_noise(self, acquisition: Acquisition) -> None:
        """Add a noise readout to the covariance."""
        data = acquisition.data.astype(np.complex128)
        products = data @ data.conj().T
        if self._products is None:
            self._products = products
        elif self._products.shape == products.shape:
            self._products += products
        else:
            self._mixed = True
        self._count += data.shape[1]
        self.dwell_time = header_of(acquisition).sample_time_us

    def matrix(self, channels: int, dwell_time: float) -> np.ndarray | None:
        """Whitening matrix, fixed by the first imaging data; None where there is no usable noise."""
        if self._matrix is None and not self.nonconformant:
            self.keep()
            if self.covariance is not None:
                self._matrix = self._invert(self.covariance, dwell_time)
        if self._matrix is not None and self._matrix.shape[0] != channels:
            self.nonconformant = True
            expected = self._matrix.shape[0]
            self.scan.report(
                "noise channels", f"data has {channels} channels but the noise {expected}: not prewhitened"
            )
            return None
        return self._matrix

    def _invert(self, covariance: NoiseCovariance, dwell_time: float) -> np.ndarray | None:
        try:
            return covariance.whitening(dwell_time, coil_names(self.scan))
        except np.linalg.LinAlgError:
            self.nonconformant = True
            self.scan.report(
                "noise covariance", "the noise covariance is singular (a dead channel?): data is not prewhitened"
            )
            return None

    def keep(self) -> None:
        """Compute the covariance of this scan's noise readouts, and keep it on disk for scans that depend on it."""
        products, count, mixed = self._products, self._count, self._mixed
        self._products, self._count, self._mixed = None, 0, False
        if products is None or count < 2:
            return
        if mixed:
            self.scan.report("noise readouts", "noise readouts differ in their number of channels and are not used")
            return
        measured = NoiseCovariance.from_sums(products, count, self.dwell_time, self.scan)
        self.covariance = self.covariance or measured
        information = self.scan.header.measurementInformation
        identifier = getattr(information, "measurementID", None)
        if identifier and self.scan.noise_folder is not None:
            try:
                measured.save(self.scan.noise_folder, identifier)
            except OSError as error:
                self.scan.report(
                    "noise folder", f"the noise covariance cannot be kept for later scans: {error.strerror}"
                )
