"""Noise covariances on disk, by measurement id and system.

A measurement's covariance is found by scans of the same system only, from whichever host they come: headers tell systems apart,
addresses do not. What was kept first stays for a day, for ids are unique and another measurement of the same id is a mistake or
a stranger's: it is kept beside the first, which images then say. After a day an id may have been given anew.
"""

import hashlib
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ..wire.errors import DataError
from .noise import NoiseCovariance
from .scan import Scan

HOLDS_SECONDS = 24 * 3600.0
"""How long the first measurement of an id stays."""
MOST_SYSTEMS = 16
"""Systems whose measurements of one id are kept."""

_DECIDING = ("deviceSerialNumber", "deviceID")
"""Whether a system is the same, these decide alone where both headers have them."""
_DESCRIBING = ("systemVendor", "systemModel", "stationName", "institutionName")
"""Else all of these must agree that both have. A field strength is written as 3 or as 2.89, so it decides nothing."""
_CERTAIN = 100
_AGAIN = "-again"
_writing = threading.Lock()

System = Mapping[str, str]


@dataclass(frozen=True)
class Kept:
    """A covariance on disk.

    Attributes
    ----------
    covariance
        What was measured.
    system
        On which system, as ``system_of`` names it; empty if that is not known.
    scan
        Name of the scan that brought it.
    time
        When, ISO 8601 in UTC.
    interrupted
        Whether that scan ended too early, so that more noise may have been meant to come.
    path
        Its file.
    """

    covariance: NoiseCovariance
    system: System
    scan: str
    time: str
    interrupted: bool
    path: Path

    @property
    def entry(self) -> str:
        """What it has in common with others of the same measurement and system."""
        return self.path.stem.removesuffix(_AGAIN)

    @property
    def is_again(self) -> bool:
        """Whether another measurement of the same id and system was there before."""
        return self.path.stem.endswith(_AGAIN)

    @property
    def is_old(self) -> bool:
        """Whether it need not stay."""
        return time.time() - self.path.stat().st_mtime > HOLDS_SECONDS


def system_of(scan: Scan) -> System:
    """Name the system by what the header has of it, written alike."""
    information = scan.header.acquisitionSystemInformation
    values = {name: getattr(information, name, None) for name in (*_DECIDING, *_DESCRIBING)}
    written = {name: " ".join(str(value or "").split()).casefold() for name, value in values.items()}
    return {name: value for name, value in written.items() if value}


def agreement(one: System, other: System) -> int | None:
    """Say in how much two descriptions of systems agree, 0 if they have nothing in common; None if they differ."""
    for name in _DECIDING:
        if name in one and name in other:
            return _CERTAIN if one[name] == other[name] else None
    common = one.keys() & other.keys()
    return len(common) if all(one[name] == other[name] for name in common) else None


def short_name(measurement_id: str) -> str:
    """Name a measurement where its id must not be seen: ids may hold numbers of patients."""
    return _hash(measurement_id)[:8]


class NoiseStore:
    """A folder of noise covariances.

    Parameters
    ----------
    folder
        Made when something is kept, for its owner only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, measurement_id: str, system: System) -> list[Kept]:
        """Return what was kept of a measurement on this system, the one to be used first; empty if there is nothing.

        Raises
        ------
        DataError
            There is something, but it is damaged, of another system, or of several of which the scan does not name its own.
        """
        name = f"noise measurement {short_name(measurement_id)}"
        found, faults = self._read_all(measurement_id)
        _, chosen = _closest(found, system)
        if faults and all(
            each.is_again for each in chosen
        ):  # another one's noise does not take the place of a damaged one
            raise DataError(f"the stored {name} {faults[0]}", kind="noise")
        if not chosen and found:
            raise DataError(f"{name} was kept by another system only", kind="noise")
        if len({each.entry for each in chosen}) > 1:
            raise DataError(f"{name} was kept by several systems, of which the header names none", kind="noise")
        return chosen

    def keep(
        self,
        measurement_id: str,
        covariance: NoiseCovariance,
        scan: Scan,
        *,
        interrupted: bool = False,
        before: NoiseCovariance | None = None,
    ) -> bool:
        """Keep a measurement for later scans; its file appears whole or not at all.

        Parameters
        ----------
        measurement_id
            What later headers name.
        covariance
            Sound noise.
        scan
            That brought it.
        interrupted
            Whether the scan ended too early.
        before
            What this scan itself has written before, with less of its noise.

        Returns
        -------
        bool
            Whether it was written: not if the same measurement is kept already.

        Raises
        ------
        OSError
            It cannot be written.
        DataError
            The covariance is not sound, another one is kept of this measurement already, or those of too many systems are.
        """
        if fault := covariance.fault():
            raise DataError(f"the noise covariance {fault}", kind="noise")
        system = system_of(scan)
        with _writing:
            first = self._first(measurement_id, system)
            stays = first is not None and not (first.interrupted or first.is_old or _is_of(first, before))
            if first is not None and stays and first.covariance.equals(covariance):
                return False
            path = self._path(measurement_id, system) if first is None else first.path
            again = path.with_name(f"{path.stem}{_AGAIN}.npz")
            if not stays:
                again.unlink(missing_ok=True)
            self._write(again if stays else path, covariance, system, scan.name, interrupted)
        if stays:
            raise DataError(
                f"measurement {short_name(measurement_id)} was measured before with other noise, which scans that depend on "
                "it go on using",
                kind="noise",
            )
        return True

    def _first(self, measurement_id: str, system: System) -> Kept | None:
        """Return the first measurement on this very system, None if there is room for one.

        Raises
        ------
        DataError
            There is no room: those of too many systems are kept.
        """
        found, _ = self._read_all(measurement_id)
        # a system that nobody names is the same as others of that sort, and never one that has a name
        degree, closest = _closest([each for each in found if bool(each.system) == bool(system)], system)
        firsts = [each for each in closest if not each.is_again]
        if len(firsts) == 1 and (degree > 0 or not system):
            return firsts[0]
        if len({each.entry for each in found}) >= MOST_SYSTEMS:
            raise DataError(f"it is kept of {MOST_SYSTEMS} other systems already", kind="noise")
        return None

    def _path(self, measurement_id: str, system: System) -> Path:
        """File of a measurement: hashes, since ids come from outside and are no file names."""
        of_system = _hash(json.dumps(dict(system), sort_keys=True))[:16]
        return self._folder / f"{_hash(measurement_id)[:32]}-{of_system}.npz"

    def _read_all(self, measurement_id: str) -> tuple[list[Kept], list[str]]:
        """Return all that is kept of a measurement, and what is the matter with files that cannot be used."""
        found: list[Kept] = []
        faults: list[str] = []
        try:
            paths = sorted(self._folder.glob(f"{_hash(measurement_id)[:32]}*.npz"))
        except OSError:
            return [], ["cannot be read"]
        for path in paths:
            try:
                found.append(_read(path))
            except DataError as error:
                faults.append(error.what)
        return found, faults

    def _write(self, path: Path, covariance: NoiseCovariance, system: System, scan: str, interrupted: bool) -> None:
        content = io.BytesIO()
        np.savez(
            content,
            matrix=covariance.matrix,
            dwell_time=covariance.dwell_time,
            bandwidth=covariance.bandwidth,
            coil_names=np.array(covariance.coil_names, str),
            samples=covariance.samples,
            system=json.dumps(dict(system), sort_keys=True),
            scan=scan,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            interrupted=interrupted,
        )
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder, suffix=".partial")  # 0600
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content.getbuffer())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _is_of(kept: Kept, before: NoiseCovariance | None) -> bool:
    return before is not None and kept.covariance.digest == before.digest


def _closest(found: list[Kept], system: System) -> tuple[int, list[Kept]]:
    """Return those whose system agrees most with another, first measurements first, and in how much it does."""
    degrees = [agreement(each.system, system) for each in found]
    most = max((degree for degree in degrees if degree is not None), default=0)
    chosen = [each for each, degree in zip(found, degrees, strict=True) if degree == most]
    return most, sorted(chosen, key=lambda each: each.is_again)


def _read(path: Path) -> Kept:
    """Read a file of this version, or of those that did not keep where a covariance comes from.

    Raises
    ------
    DataError
        It is damaged.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            covariance = NoiseCovariance(
                np.asarray(file["matrix"], np.complex128),
                float(file["dwell_time"]),
                float(file["bandwidth"]),
                tuple(str(name) for name in file["coil_names"]),
                int(file["samples"]) if "samples" in file else 0,
            )
            system = json.loads(str(file["system"])) if "system" in file else {}
            scan = str(file["scan"]) if "scan" in file else ""
            interrupted = bool(file["interrupted"]) if "interrupted" in file else False
            kept = str(file["time"]) if "time" in file else _time_of(path)
            datetime.fromisoformat(kept)
            system = {str(name): str(value) for name, value in system.items()}
        fault = covariance.fault()
    except Exception as error:  # whatever numpy, zipfile and json raise on a damaged file
        raise DataError("cannot be read", kind="noise") from error
    if fault:
        raise DataError(fault, kind="noise")
    return Kept(covariance, system, scan, kept, interrupted, path)


def _time_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
