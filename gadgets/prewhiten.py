"""Prewhitening: decorrelate the channels' noise and scale it to unit variance."""

import numpy as np
import torch
from ismrmrd import ACQ_IS_NOISE_MEASUREMENT

from ..wire.items import Acquisition, header_of
from .gadget import Stream, gadget
from .kspace import Kspace
from .noise import NoiseCovariance, coil_names, noise_dependency
from .scan import Scan


@gadget
def prewhiten(items: Stream, scan: Scan, *, pass_nonconformant_data: bool = True) -> Stream:
    """Whiten with the noise covariance of the scan that the header depends on, or else of this scan's noise readouts.

    ``data <- sqrt(2 t / t_noise * bandwidth) * inv(L) @ data`` with the covariance ``L L^H`` (Pruessmann et al., MRM
    2001;46:638, appendix), so that real and imaginary part have unit variance. ``t`` are the dwell times.

    Parameters
    ----------
    items
        Noise readouts are used up; acquisitions and blocks are whitened.
    scan
        Its header names the noise scan; covariances are kept in its noise folder.
    pass_nonconformant_data
        Whether data whose channels do not match the noise goes on as it is (reported), or is left out (reported).
    """
    whitener = whitener_of(scan) if scan.plan is not None and scan.plan.whiten else Whitener(scan)
    for item in items:
        if isinstance(item, Acquisition) and item.is_flag_set(ACQ_IS_NOISE_MEASUREMENT):
            whitener.add_noise(item)
        elif isinstance(item, Acquisition):
            matrix = whitener.matrix(item.active_channels, header_of(item).sample_time_us)
            if matrix is not None:
                item.data[:] = matrix @ item.data
            if matrix is not None or not whitener.nonconformant or pass_nonconformant_data:
                yield item
        elif isinstance(item, Kspace) and item.whitened:
            yield item
        elif isinstance(item, Kspace):
            matrix = whitener.matrix(item.data.shape[0], item.central_header(0).sample_time_us)
            if matrix is not None:
                _whiten_block(item, torch.from_numpy(matrix).to(item.data.device))
            if matrix is not None or not whitener.nonconformant or pass_nonconformant_data:
                yield item
        else:
            yield item
    whitener.keep()


def whitener_of(scan: Scan) -> "Whitener":
    """Return the whitener that ``prewhiten`` shares with what is done early."""
    if scan.whitener is None:
        scan.whitener = Whitener(scan)
    return scan.whitener


def _whiten_block(kspace: Kspace, matrix: torch.Tensor) -> None:
    kspace.data = torch.tensordot(matrix, kspace.data, dims=1)
    if kspace.calibration is not None:
        kspace.calibration = torch.tensordot(matrix, kspace.calibration, dims=1)


class Whitener:
    """The whitening matrix of a scan, from an earlier noise scan or its own noise readouts."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.samples: list[np.ndarray] = []
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
        self.samples.append(np.array(acquisition.data))
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
        if not self.samples:
            return
        if {samples.shape[0] for samples in self.samples} != {self.samples[0].shape[0]}:
            self.scan.report("noise readouts", "noise readouts differ in their number of channels and are not used")
            self.samples.clear()
            return
        measured = NoiseCovariance.from_samples(self.samples, self.dwell_time, self.scan)
        self.samples.clear()
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
