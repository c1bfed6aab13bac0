"""Scans that were read, checked and transformed once, kept in a cache on disk and mapped into memory from there.

Each file has a folder in the cache with an array per scan (NumPy's format) and ``index.json``, which is written last and says
what they were made of. An entry that does not belong to the file as it is now, or to another version, or that lacks a part, is
made anew. All is written beside its place and moved there, so that processes may share it; any of it may be deleted at any time.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from ...wire.errors import FileError
from ..data import FullScan
from ..section import Section
from .full_scans import full_scans
from .layouts import Block, Layout, Reading, refusing

_FORMAT = 5
"""Of the cache, and of the checks: one more whenever they change what is made of a file."""


INDEX = "index.json"


class ScanEntry(Section):
    """What the index says of a scan: its array complex64 [coils, (frames,) ky, kx], and the attributes of its ``FullScan``."""

    array: str
    size: int
    digest: str
    slice: int
    volume: str
    name: str
    measured: tuple[int, int] | None
    """First measured line and the one after the last."""
    matrix: tuple[int, int] | None


class Index(Section):
    """What was made of a file."""

    stamp: str
    layout: str
    patient: str
    """Digest of what identifies the patient; empty where the file does not tell."""
    remarks: tuple[str, ...]
    scans: tuple[ScanEntry, ...]


class PreparedFile:
    """A file's scans.

    Parameters
    ----------
    path
        The file.
    layout
        Its layout.
    series, slices
        See ``Reading``.
    cache
        Folder of the cache.

    Raises
    ------
    FileError
        The file cannot be used, or the cache not be written.
    """

    def __init__(self, path: Path, layout: Layout, cache: Path, *, series: bool, slices: int | None) -> None:
        self.path = path
        self.layout = layout
        self._series = series
        self._slices = slices
        key = _digest(f"{path.resolve()}|{layout.name}|{series}|{slices}".encode())
        self._folder = cache / f"{path.stem}-{key[:16]}"
        self._seen: set[int] = set()
        """Scans whose arrays were compared with their digests."""
        self.index: Index = self._load() or self._prepare()

    def scan(self, number: int) -> FullScan:
        """Map one scan into memory."""
        entry = self.index.scans[number]
        kspace = self._array(entry, number) if self._is_whole(entry) else None
        if kspace is None:
            self.index = self._prepare()
            entry = self.index.scans[number]
            kspace = self._array(entry, number)
        if kspace is None:
            raise FileError(
                f"the cache {self._folder} does not keep what is written to it", accepted="another data.cache"
            )
        measured = None
        if entry.measured is not None:
            measured = torch.zeros(kspace.shape[-2], dtype=torch.bool)
            measured[slice(*entry.measured)] = True
        name = f"{self.path.name}, {entry.name}"
        return FullScan(
            torch.from_numpy(kspace), measured=measured, matrix=entry.matrix, name=name, volume=self.volume(number)
        )

    def volume(self, number: int) -> str:
        """Return what tells the volume of a scan apart: the file, and its part."""
        part = self.index.scans[number].volume
        return f"{self.path}, {part}" if part else str(self.path)

    def _array(self, entry: ScanEntry, number: int) -> NDArray[np.complex64] | None:
        """Map an array, None if it is damaged; it is read for that once."""
        try:
            array = np.load(self._folder / entry.array, mmap_mode="c")  # what is written to it stays in memory
        except (OSError, ValueError):
            return None
        if number not in self._seen and _digest(array) != entry.digest:
            return None
        self._seen.add(number)
        return array

    def _is_whole(self, entry: ScanEntry) -> bool:
        path = self._folder / entry.array
        return path.is_file() and path.stat().st_size == entry.size

    def _load(self) -> Index | None:
        """Return the index, if the cache has what was made of the file as it is now."""
        try:
            index = Index.model_validate_json((self._folder / INDEX).read_bytes())
        except (OSError, ValidationError):
            return None
        if index.stamp != self._stamp() or not all(self._is_whole(entry) for entry in index.scans):
            return None
        with suppress(OSError):  # of a cache that may only be read
            os.utime(self._folder / INDEX)  # its last use
        return index

    def _stamp(self) -> str:
        """What the scans depend on: the file's size and time, and the versions of this, of the service and of the adapter."""
        try:
            state = self.path.stat()
        except OSError as error:
            raise FileError(f"{self.path} cannot be read: {os.strerror(error.errno or 0)}") from error
        return f"{state.st_size} {state.st_mtime_ns} {_FORMAT} {_version()} {self.layout.version}"

    def _prepare(self) -> Index:
        stamp, reading = self._stamp(), Reading(self.path, self._series, self._slices)
        entries: list[ScanEntry] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for block in self._blocks(reading):
                entries += [self._write(*made, len(entries) + at) for at, made in enumerate(full_scans(block, reading))]
            patient = _digest(reading.patient.encode()) if reading.patient.strip() else ""
            index = Index(
                stamp=stamp,
                layout=self.layout.name,
                patient=patient,
                remarks=tuple(reading.remarks),
                scans=tuple(_by_volume(entries)),
            )
            _put(self._folder / INDEX, lambda file: file.write(index.model_dump_json(indent=1).encode()))
        except OSError as error:
            raise FileError(
                f"{self.path} cannot be prepared in the cache {self._folder.parent}: {error.strerror or error}",
                accepted="a folder with room that can be written to, as data.cache",
            ) from error
        self._seen.clear()
        return index

    def _blocks(self, reading: Reading) -> Iterator[Block]:
        with refusing(self.path, self.layout.name):
            yield from self.layout.read(reading)

    def _write(self, number: int, scan: FullScan, at: int) -> ScanEntry:
        array, path = np.ascontiguousarray(scan.kspace.numpy()), self._folder / f"{at:05d}.npy"
        _put(path, lambda file: np.save(file, array))
        rows = None if scan.measured is None else np.flatnonzero(scan.measured.numpy())
        return ScanEntry(
            array=path.name,
            size=path.stat().st_size,
            digest=_digest(array),
            slice=number,
            volume=scan.volume,
            name=scan.name,
            measured=None if rows is None else (int(rows[0]), int(rows[-1]) + 1),
            matrix=scan.matrix,
        )


def _put(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place and move it there, so that nobody ever sees a part of it."""
    file = NamedTemporaryFile("wb", dir=path.parent, delete=False)  # noqa: SIM115
    try:
        with file:
            write(file)
        Path(file.name).replace(path)
    finally:
        Path(file.name).unlink(missing_ok=True)


def _by_volume(entries: list[ScanEntry]) -> list[ScanEntry]:
    """Volumes one after the other in the order of their first scans, slices ascending."""
    first: dict[str, int] = {}
    for at, entry in enumerate(entries):
        first.setdefault(entry.volume, at)
    return sorted(entries, key=lambda entry: (first[entry.volume], entry.slice))


def _digest(content: bytes | NDArray[np.complex64]) -> str:
    data = content if isinstance(content, bytes) else content.reshape(-1).view(np.uint8).data
    return hashlib.sha256(data).hexdigest()


def _version() -> str:
    try:
        return version("isocenter")
    except PackageNotFoundError:  # run from a checkout
        return ""
