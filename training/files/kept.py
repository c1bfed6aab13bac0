"""What the cache of prepared scans holds, and what of it has not been used for long."""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...wire.errors import FileError
from .prepared import INDEX

_NAME = re.compile(r".+-[0-9a-f]{16}")
_DAY_SECONDS = 86400.0


@dataclass(frozen=True)
class Kept:
    """What is kept of one file.

    Attributes
    ----------
    folder
        Its folder in the cache.
    size
        Bytes on disk.
    unused_days
        Days since a training or an evaluation has used it.
    """

    folder: Path
    size: int
    unused_days: float


def kept(cache: Path) -> list[Kept]:
    """List what a cache holds, the longest unused first; other folders in it are passed over.

    Raises
    ------
    FileError
        The folder cannot be read.
    """
    try:
        found = list(_entries(cache)) if cache.exists() else []
    except OSError as error:
        raise FileError(f"the cache {cache} cannot be read: {error.strerror}") from error
    return sorted(found, key=lambda entry: -entry.unused_days)


def remove(entry: Kept) -> None:
    """Delete what is kept of a file; whoever uses it at the moment goes on, or prepares it anew.

    Raises
    ------
    FileError
        It cannot be deleted.
    """
    try:
        (entry.folder / INDEX).unlink(missing_ok=True)  # first, so that what is left of it belongs to nothing
        shutil.rmtree(entry.folder)
    except OSError as error:
        raise FileError(f"{entry.folder} cannot be deleted: {error.strerror}") from error


def _entries(cache: Path) -> Iterator[Kept]:
    for folder in cache.iterdir():
        files = list(folder.iterdir()) if _NAME.fullmatch(folder.name) and folder.is_dir() else []
        states = [file.stat() for file in files if file.suffix == ".npy" or file.name == INDEX]
        if states and len(states) == len(files):
            used = max(state.st_mtime for state in states)
            yield Kept(folder, sum(state.st_size for state in states), (time.time() - used) / _DAY_SECONDS)
