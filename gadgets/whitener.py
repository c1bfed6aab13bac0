"""The whitening matrix of a scan."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..wire.errors import DataError
from ..wire.items import Acquisition, header_of
from .noise import NoiseCovariance, coil_names, noise_dependencies
from .noise_store import Kept, NoiseStore, agreement, short_name, system_of
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
        self.nonconformant: bool = False
        """Whether the latest data is not whitened though there is noise, which does not fit it or cannot be used."""
        self.interrupted = False
        """Whether the stream has ended too early."""
        self._store = None if scan.noise_folder is None else NoiseStore(scan.noise_folder)
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
        self._has_misfit = False
        self._matrix: NDArray[np.complex64] | None = None
        self._own: NoiseCovariance | None = None
        self._written: NoiseCovariance | None = None
        self._source: dict[str, str] = {}
        """Where the noise comes from that data is whitened with, as notes for the images."""
        self._doubts: dict[str, str] = {}
        """Why the noise of the earlier scan may not be this scan's, by kind."""
        self._measurement = ""
        self._earlier = self._from_earlier_scan()

    def _from_earlier_scan(self) -> list[Kept]:
        """Return what is kept of the first noise scan that the header names and that is of use."""
        missing = []
        if self._store is None:
            return []
        for identifier in noise_dependencies(self.scan):
            try:
                if kept := self._store.find(identifier, system_of(self.scan)):
                    self._measurement, self._doubts = identifier, self._doubts_of(kept)
                    return kept
            except DataError as error:
                self._tell("noise store", f"{error} and is not used")
                missing.append(str(error))
            else:
                missing.append(f"noise measurement {short_name(identifier)}, which the header names, is not kept here")
        if missing:
            self._problem = f"{'; '.join(missing)}, and the scan has no noise readouts"
        return []

    def _doubts_of(self, kept: list[Kept]) -> dict[str, str]:
        doubts, own = {}, system_of(self.scan)
        if (own or kept[0].system) and not agreement(own, kept[0].system):
            doubts["noise system"] = "whether the noise was measured on this system, the headers do not tell"
        if any(each.is_again for each in kept):
            doubts["noise again"] = "noise was measured more than once under the id that the header names, and differs"
        if kept[0].interrupted:
            doubts["noise interrupted"] = "the scan that measured the noise was interrupted"
        return doubts

    def add_noise(self, acquisition: Acquisition) -> None:
        """Add a noise readout; samples that are NaN or infinite in any channel stay out, and so do such channels."""
        if not self._has_sums(acquisition.data.shape[0]):
            return
        with np.errstate(invalid="ignore"):  # a signalling NaN
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
            self._remark("noise channels", f"noise readouts of more than {_MOST_CHANNELS} channels are not used")
            return False
        if not self._account.keep(size):
            self._problem = self._problem or "there is no memory for the noise covariance"
            self._remark("noise memory", f"noise readouts are not used: {self._account.ledger.shortage(size)}")
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
            names = coil_names(self.scan, channels)
            known = self._known()
            fitting = [each for each in known if not each.misfit(channels, names)]
            if fitting:
                self._decide(fitting[0], dwell_time, names)
            elif known:
                self._decided = self._has_misfit = True
                self._problem = known[0].misfit(channels, names)
        fits = self._matrix is not None and self._matrix.shape[0] == channels
        return self._matrix if fits else None

    def _known(self) -> list[NoiseCovariance]:
        """Return the noise that there is, best first: that of the earlier scan unless it is in doubt."""
        earlier, own = [each.covariance for each in self._earlier], filter(None, [self._own])
        return [*own, *earlier] if self._doubts else [*earlier, *own]

    def _decide(self, covariance: NoiseCovariance, dwell_time: float, names: Sequence[str]) -> None:
        self._decided = True
        self._matrix = covariance.whitening(dwell_time, names)
        self._source = {"NoiseSource": "noise readouts of this scan"}
        for kept in self._earlier:
            if kept.covariance is covariance:
                self._source = {"NoiseSource": f"measurement {self._measurement}", "NoiseTime": kept.time}
                for kind, doubt in self._doubts.items():
                    self._remark(kind, doubt)
        self._source |= {"NoiseSamples": str(covariance.samples or "unknown"), "NoiseHash": covariance.digest}
        if dead := covariance.dead:
            numbers = ", ".join(map(str, dead))
            remark = f"channel {numbers} has no noise in the noise readouts (dead?) and is scaled like the others"
            self._remark("noise channels", remark)
        if self._bad and covariance is self._own:
            self._remarks.append(f"{self._bad} of {self._all} noise samples were NaN or infinite and are left out")

    def _remark(self, kind: str, text: str) -> None:
        """Tell the client, and readers of the images."""
        if text not in self._remarks:
            self._remarks.append(text)
        self._tell(kind, text)

    def settle(self, channels: int) -> dict[str, str]:
        """Say that data goes on as it is now, so that none is treated differently later.

        Returns
        -------
        dict
            Notes for its images: where its noise comes from (``NoiseSource`` and others of that beginning), and what a reader
            must know of it (``Noise``).
        """
        self._decided = True
        self.nonconformant = False
        if self._matrix is not None and self._matrix.shape[0] == channels:
            remarks = {"Noise": "; ".join(self._remarks)} if self._remarks else {}
            return self._source | remarks
        problem = self._problem
        if self._matrix is not None:
            problem = f"data has {channels} channels but the noise {self._matrix.shape[0]}"
        if not problem:
            return {"NoiseSource": "none"}
        self.nonconformant = bool(self._sums) or self._matrix is not None or self._has_misfit
        text = f"not prewhitened: {problem}"
        self._tell("noise", f"data is {text}")
        return {"NoiseSource": "none", "Noise": text}

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
            self._remark("noise readouts", remark)
        fault = ""
        if sums.samples < max(2, _SAMPLES_PER_CHANNEL * chosen):
            fault = f"there are only {sums.samples} usable noise samples for {chosen} channels"
        else:
            own = NoiseCovariance.from_sums(sums.products, sums.samples, sums.dwell_time, self.scan)
            if fault := own.fault():
                fault = f"the noise covariance {fault}"
            else:
                self._own = own
                self._save(own, for_others=channels is None and not self._decided and not self.scan.plan.has_data)
        if fault:
            self._problem = fault
            self._tell("noise covariance", f"{fault}; it is not used")

    def _save(self, own: NoiseCovariance, *, for_others: bool) -> None:
        """Keep on disk; a scan that measured more than noise needs no word of it if that is refused."""
        information = self.scan.header.measurementInformation
        identifier = str(getattr(information, "measurementID", None) or "").strip()
        if not identifier or self._store is None:
            return
        try:
            written = self._store.keep(identifier, own, self.scan, interrupted=self.interrupted, before=self._written)
        except DataError as error:
            text = f"the noise is not kept for later scans: {error}"
            if for_others:
                self._tell("noise store", text)
            else:
                self.scan.log.info("%s", text)
        except OSError as error:
            reason = error.strerror or "the disk does not take it"
            self._tell("noise folder", f"the noise covariance cannot be kept for later scans: {reason}")
        else:
            self._written = own if written else None

    def _tell(self, kind: str, text: str) -> None:
        """Report once."""
        if text not in self._told:
            self._told.add(text)
            self.scan.report(kind, text)
