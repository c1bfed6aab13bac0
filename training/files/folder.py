"""Fully sampled scans from a folder of files: which files there are, what is said of them, and what is left out."""

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from ...wire.errors import FileError, IsocenterError
from ...wire.home import default_home
from ..data import FullScan
from ..recipe import FileData
from .layouts import Layout, find_layout, load_layouts
from .prepared import PreparedFile

log: logging.Logger = logging.getLogger("isocenter.training.files")

_MOST_LINES = 20
_PATIENCE = 10.0
"""Seconds after which it is said how far the preparation is."""


class FileScans:
    """The scans of all files in a folder and its sub-folders, one after the other, in the order of their paths.

    Parameters
    ----------
    folder
        Folder with files; their layouts are recognised, see ``layouts``.
    slices
        Slices from the middle of each volume; None: all.
    series
        Whether the phases or repetitions of a slice are frames of one scan; otherwise each is a scan of its own.
    cache
        Folder in which scans are prepared; by default ``cache`` in ``ISOCENTER_HOME``.
    layouts
        Modules with further layouts.
    expected
        Layout that files are said to have; others are read as well, and that is said.
    refused
        What becomes of files that cannot be used: ``stop`` raises with all of them, ``leave-out`` goes on without.

    Attributes
    ----------
    files
        Those that are used.
    report
        What there is, what was left out and why, and what else is to be known, a line each.

    Raises
    ------
    FileError
        The folder has no files that can be used, or one cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        slices: int | None = None,
        *,
        series: bool = False,
        cache: Path | None = None,
        layouts: Sequence[str] = (),
        expected: str = "files",
        refused: Literal["stop", "leave-out"] = "stop",
    ) -> None:
        self.folder = folder
        self.files: list[PreparedFile] = []
        self._remarks: dict[str, list[Path]] = {}
        known = load_layouts(layouts)
        found = list(self._find(known))
        if not found:
            suffixes = ", ".join(sorted({f"*{suffix}" for entry in known for suffix in entry.suffixes}))
            raise FileError(f"{folder} has no files {suffixes}{'' if folder.is_dir() else ': it is no folder'}")
        errors = []
        first_of: dict[tuple[str, ...], Path] = {}
        """Where scans are found first, by their digests."""
        for path in self._with_progress(found):
            try:
                layout = find_layout(path, known)
                file = PreparedFile(path, layout, cache or default_home() / "cache", series=series, slices=slices)
            except IsocenterError as error:
                errors.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            else:
                digests = tuple(entry.digest for entry in file.index.scans)
                if digests in first_of:  # a copy or a link, which would count twice
                    remark = f"left out: its scans are those of {first_of[digests].relative_to(folder)}"
                    self._remarks.setdefault(remark, []).append(path)
                    continue
                self._note(file, expected)
                if digests:
                    first_of[digests] = path
                    self.files.append(file)
        if len(errors) == 1 and refused == "stop":
            raise FileError(errors[0])
        if errors and refused == "stop":
            raise FileError("\n".join([f"{len(errors)} files cannot be used:", *_some(errors)]))
        self._remarks |= {f"left out: {error}": [] for error in errors}
        if not self.files:
            raise FileError("\n".join([f"{folder} has no scans that can be used", *self._lines()]))
        self._chosen = [(file, number) for file in self.files for number in _middle(file, slices)]
        layouts_found = Counter(file.layout.name for file in self.files)
        what = ", ".join(f"{count} {name}" for name, count in sorted(layouts_found.items()))
        first = f"{folder}: {_count(len(self), 'scan')} of {_count(len(self.files), 'file')} ({what})"
        self.report: list[str] = [first, *self._lines()]

    def __len__(self) -> int:
        return len(self._chosen)

    def scan(self, index: int) -> FullScan:
        """Return one slice or series, mapped into memory."""
        file, number = self._chosen[index]
        return file.scan(number)

    def volume(self, index: int) -> str:
        """Return the ``volume`` of a scan, which is not read for it."""
        file, number = self._chosen[index]
        return file.volume(number)

    @property
    def digest(self) -> str:
        """Digest of all scans, and of how they are cut."""
        entries = (file.index.scans[number].model_dump_json() for file, number in self._chosen)
        return hashlib.sha256("\n".join(entries).encode()).hexdigest()

    def _find(self, known: Sequence[Layout]) -> Iterator[Path]:
        """Files of the folder and its sub-folders, by their paths; notes those that are left out."""
        suffixes = {suffix for entry in known for suffix in entry.suffixes}
        paths: list[Path] = []
        seen: set[Path] = set()
        for parent, folders, names in os.walk(self.folder, onerror=self._unreadable, followlinks=True):
            if (here := Path(parent).resolve()) in seen:  # a link back
                folders.clear()
                continue
            seen.add(here)
            paths += [Path(parent) / name for name in names if Path(name).suffix.lower() in suffixes]
        for path in sorted(paths):
            if path.name.startswith("."):
                self._remarks.setdefault("left out: hidden files", []).append(path)
            elif not path.name.endswith(".truth.h5"):
                yield path

    def _with_progress(self, paths: Sequence[Path]) -> Iterator[Path]:
        said = time.monotonic()
        for count, path in enumerate(paths):
            if time.monotonic() - said > _PATIENCE:
                log.info("%s: %d of %d files are prepared", self.folder, count, len(paths))
                said = time.monotonic()
            yield path

    def _unreadable(self, error: OSError) -> None:
        if Path(error.filename) != self.folder:
            self._remarks.setdefault(f"left out: {error.strerror}", []).append(Path(error.filename))

    def _note(self, file: PreparedFile, expected: str) -> None:
        remarks = list(file.index.remarks)
        if expected not in ("files", file.layout.name):
            remarks.append(f"read as {file.layout.name}, not as {expected}")
        for remark in remarks:
            self._remarks.setdefault(remark, []).append(file.path)

    def _lines(self) -> list[str]:
        """Remarks, each once with the files that it is about."""
        lines = []
        for text, paths in self._remarks.items():
            names = [str(path.relative_to(self.folder)) for path in paths[:1]]
            more = [f"and {_count(len(paths) - 1, 'other file')}"] * (len(paths) > 1)
            lines.append("  " + ": ".join([" ".join([*names, *more]), text] if names else [text]))
        return _some(lines)


def _some(lines: list[str]) -> list[str]:
    """The first of many lines, and how many there are besides."""
    others = len(lines) - _MOST_LINES
    return lines if others <= 0 else [*lines[:_MOST_LINES], f"  and {_count(others, 'other')}"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _middle(file: PreparedFile, slices: int | None) -> list[int]:
    """Numbers of the scans of a file's middle slices."""
    scans = file.index.scans
    every = sorted({entry.slice for entry in scans})
    if slices is None or slices >= len(every):
        return list(range(len(scans)))
    start = (len(every) - slices) // 2
    wanted = set(every[start : start + slices])
    return [number for number, entry in enumerate(scans) if entry.slice in wanted]


def training_and_validation(data: FileData, *, series: bool) -> tuple[FileScans, FileScans]:
    """Return the scans of a recipe's two folders, and log what is to be known of them.

    Raises
    ------
    FileError
        A file cannot be used, or is in both.
    """
    training, validation = (
        FileScans(
            folder,
            data.slices,
            series=series,
            cache=data.cache,
            layouts=data.layouts,
            expected=data.kind,
            refused=data.refused,
        )
        for folder in (data.folder, data.validation_folder)
    )
    for line in (*training.report, *validation.report):
        log.info("%s", line)
    for text in shared_by(training, validation):
        log.warning("warning: %s", text)
    return training, validation


def shared_by(training: FileScans, validation: FileScans) -> list[str]:
    """Say which scans and patients are in both.

    Raises
    ------
    FileError
        A file is in both.
    """
    paths = {file.path.resolve() for file in training.files} & {file.path.resolve() for file in validation.files}
    if paths:
        raise FileError(
            f"{_count(len(paths), 'file')} would be for training and for validation, such as {min(paths)}",
            accepted="a data.folder and a data.validation_folder that have no file in common, sub-folders included",
        )
    said = []
    for name, what in (("digest", "the same scan"), ("patient", "a scan of the same patient")):
        ours, theirs = (_by(name, scans) for scans in (training, validation))
        pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
        if pairs:
            first, second = pairs[0]
            count = f" ({len(pairs)} of them)" if len(pairs) > 1 else ""
            said.append(f"{what} is in training and validation{count}: {first} and {second}")
    return said


def _by(name: str, scans: FileScans) -> dict[str, Path]:
    """Files by the digests of their scans, or of their patients."""
    if name == "patient":
        return {file.index.patient: file.path for file in scans.files if file.index.patient}
    return {entry.digest: file.path for file in scans.files for entry in file.index.scans}
