"""The whitening matrix of a scan."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..wire.errors import DataError
from ..wire.items import Acquisition, header_of
from .noise import NoiseCovariance, coil_names, noise_dependency
from .scan import Scan

_SAMPLES_PER_CHANNEL = 2
"""Fewer noise samples make a covariance that is singular, or nearly so."""
_MOST_CHANNELS = 1024
"""Noise of more channels than any receiver has is not used: its time grows with their cube."""
_COPIES = 4
"""Matrices of the size of the sums that are made of them: covariance, the one without dead channels, the whitening one."""


@dataclass
class _Sums:
    """What the noise readouts of one number of channels add up to: as large as the covariance, however many come."""

    products: NDArray[np.complex128]
    samples: int = 0
    dwell_time: float = 0.0


class Whitener:
    """The whitening matrix of a scan, from an earlier noise scan or its own noise readouts.

    It is decided once: all data of a scan is whitened alike, or none.
    """

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.nonconformant = False
        """Whether the latest data is not whitened though there is noise, which does not fit it or cannot be used."""
        self._sums: dict[int, _Sums] = {}
        self._account = scan.ledger.account("noise")
        self._kept_samples = 0
        self._bad = self._all = 0
        self._told: set[str] = set()
        self._remarks: list[str] = []
        """What is to be known of data that is whitened."""
        self._problem = ""
        """Why data is not whitened though it was meant to be."""
        self._decided = False
        self._matrix: NDArray[np.complex64] | None = None
        self._measured: NoiseCovariance | None = None
        self._earlier = self._from_earlier_scan()

    def _from_earlier_scan(self) -> NoiseCovariance | None:
        identifier = noise_dependency(self.scan)
        if identifier is None or self.scan.noise_folder is None:
            return None
        try:
            covariance = NoiseCovariance.load(self.scan.noise_folder, identifier)
        except DataError as error:
            self._tell("noise store", f"{error} and is not used")
            self._problem = f"{error}, and the scan has no noise readouts"
            return None
        if covariance is None:
            named = f"the noise scan {identifier!r} that the header names"
            self._problem = f"{named} is not on disk, and the scan has no noise readouts"
        return covariance

    def add_noise(self, acquisition: Acquisition) -> None:
        """Add a noise readout; samples that are NaN or infinite in any channel stay out, and so do such channels."""
        if not self._has_sums(acquisition.data.shape[0]):
            return
        data = acquisition.data.astype(np.complex128)
        finite = np.isfinite(data)
        data[~finite.any(axis=1)] = 0
        usable = np.isfinite(data).all(axis=0)
        self._all += usable.size
        if not finite.all():
            self._bad += usable.size - int(usable.sum())
            self._tell("noise samples", "noise readouts hold NaN or infinite samples, which are left out")
            data = data[:, usable]
        sums = self._sums[data.shape[0]]
        sums.products += data @ data.conj().T
        sums.samples += data.shape[1]
        dwell_time = header_of(acquisition).sample_time_us
        if not sums.dwell_time and np.isfinite(dwell_time) and dwell_time > 0:
            sums.dwell_time = float(dwell_time)
        if self._decided and self._matrix is None and not self._problem:
            self._problem = "noise readouts came only after the first data, so none is"
            self._tell("noise", f"{self._problem} prewhitened")

    def _has_sums(self, channels: int) -> bool:
        """Take memory for the sums of so many channels, unless it is there; False, with a word, if it cannot be taken."""
        if channels in self._sums:
            return True
        size = 16 * _COPIES * channels**2
        if channels > _MOST_CHANNELS:
            self._problem = self._problem or f"noise readouts of more than {_MOST_CHANNELS} channels are not used"
            self._tell("noise channels", f"noise readouts of more than {_MOST_CHANNELS} channels are not used")
            return False
        if not self._account.keep(size):
            self._problem = self._problem or "there is no memory for the noise covariance"
            self.scan.report("noise memory", f"noise readouts are not used: {self._account.ledger.shortage(size)}")
            return False
        self._sums[channels] = _Sums(np.zeros((channels, channels), np.complex128))
        return True

    def close(self) -> None:
        """Give back all memory that is counted."""
        self._account.close()

    def matrix(self, channels: int, dwell_time: float) -> NDArray[np.complex64] | None:
        """Whitening matrix complex64 [channels, channels] for data of this dwell time in microseconds, or None.

        It is that of the first data for which there is noise.
        """
        if not self._decided:
            self.keep(channels)
            known = [each for each in (self._earlier, self._measured) if each is not None]
            if known:
                fitting = [each for each in known if each.matrix.shape[0] == channels]
                self._decide((fitting or known)[0], dwell_time)
        fits = self._matrix is not None and self._matrix.shape[0] == channels
        return self._matrix if fits else None

    def _decide(self, covariance: NoiseCovariance, dwell_time: float) -> None:
        self._decided = True
        self._matrix = covariance.whitening(dwell_time, coil_names(self.scan))
        if dead := covariance.dead:
            numbers = ", ".join(map(str, dead))
            remark = f"channel {numbers} has no noise in the noise readouts (dead?) and is scaled like the others"
            self._remarks.append(remark)
            self._tell("noise channels", remark)
        if self._bad and covariance is self._measured:
            self._remarks.append(f"{self._bad} of {self._all} noise samples were NaN or infinite and are left out")

    def settle(self, channels: int) -> str:
        """Say that data goes on as it is now, so that none is treated differently later.

        Returns
        -------
        str
            What a reader of the images must know of their noise; empty if there is nothing.
        """
        self._decided = True
        self.nonconformant = False
        if self._matrix is not None and self._matrix.shape[0] == channels:
            return "; ".join(self._remarks)
        problem = self._problem
        if self._matrix is not None:
            problem = f"data has {channels} channels but the noise {self._matrix.shape[0]}"
        if not problem:
            return ""
        self.nonconformant = bool(self._sums) or self._matrix is not None
        text = f"not prewhitened: {problem}"
        self._tell("noise", f"data is {text}")
        return text

    def keep(self, channels: int | None = None) -> None:
        """Make the covariance of this scan's noise readouts, and keep it on disk for scans that depend on it.

        Parameters
        ----------
        channels
            Of the data, whose noise readouts are wanted where these differ; without it, or where there are none, the most
            samples win.
        """
        samples = sum(sums.samples for sums in self._sums.values())
        if samples == self._kept_samples:
            return
        self._kept_samples = samples
        most = max(self._sums, key=lambda count: self._sums[count].samples)
        chosen = channels if channels in self._sums else most
        sums = self._sums[chosen]
        if len(self._sums) > 1:
            remark = f"noise readouts have {' or '.join(map(str, sorted(self._sums)))} channels; those with {chosen} are used"
            self._remarks.append(remark)
            self._tell("noise readouts", remark)
        fault = ""
        if sums.samples < max(2, _SAMPLES_PER_CHANNEL * chosen):
            fault = f"there are only {sums.samples} usable noise samples for {chosen} channels"
        else:
            measured = NoiseCovariance.from_sums(sums.products, sums.samples, sums.dwell_time, self.scan)
            if fault := measured.fault():
                fault = f"the noise covariance {fault}"
            else:
                self._measured = measured
                self._save(measured)
        if fault:
            self._problem = fault
            self._tell("noise covariance", f"{fault}; it is not used")

    def _save(self, measured: NoiseCovariance) -> None:
        information = self.scan.header.measurementInformation
        identifier = getattr(information, "measurementID", None)
        if not identifier or self.scan.noise_folder is None:
            return
        try:
            measured.save(self.scan.noise_folder, identifier)
        except OSError as error:
            reason = error.strerror or "the disk does not take it"
            self._tell("noise folder", f"the noise covariance cannot be kept for later scans: {reason}")

    def _tell(self, kind: str, text: str) -> None:
        """Report once."""
        if text not in self._told:
            self._told.add(text)
            self.scan.report(kind, text)
