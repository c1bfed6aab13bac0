"""A spool folder: which scans are in it, how they ended, and which of them need not be kept any longer.

::

    index.jsonl              what is known of each scan, a line for every event
    <scan>.stream            every byte received, a recorded stream
    <scan>.images            the images, as the messages that carry them
    <either>.partial         is being written, or was when the service was killed, or lacks what found no room

Files that are being written are locked, so that other processes know.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..wire import encode
from ..wire.items import Image

STREAM, IMAGES, PARTIAL = ".stream", ".images", ".partial"
_INDEX = "index.jsonl"
_DAY = 86400.0
_NUMBERS = frozenset({"bytes", "whole", "images", "sent", "tried"})
"""Fields of the index that are numbers; the others are texts."""
log: logging.Logger = logging.getLogger("isocenter.spool")


def make_folder(folder: Path) -> None:
    """Make a spool folder where there is none, for its owner alone.

    Raises
    ------
    OSError
        It cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


def close_to_others(folder: Path) -> None:
    """Close a folder that other users may read to them if it is empty, and else say that it is open.

    Raises
    ------
    OSError
        It belongs to somebody else.
    """
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        if any(folder.iterdir()):
            log.warning("the spool %s is open to other users: chmod 700 it, if nothing else is in it", folder)
        else:
            folder.chmod(0o700)


def create(path: Path) -> int:
    """Make a file that only its owner may read, lock it, and return its descriptor.

    Raises
    ------
    OSError
        It is there already, or cannot be made.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # not every file system has locks; only other processes miss them
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def sync_folder(folder: Path) -> None:
    """Bring the names of files to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a file; yields False if another process, or another part of this one, has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield False
        return
    except OSError as error:
        log.debug("files in %s cannot be locked: %s", path.parent, reason(error))
    try:
        yield True
    finally:
        os.close(descriptor)


def reason(error: OSError) -> str:
    """Say what the operating system says, without the path."""
    return os.strerror(error.errno) if error.errno else "the disk does not take it"


def now() -> str:
    """Return the time as it stands in the index."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Index:
    """What is known of each scan: lines of JSON, each with some fields of one scan. Later ones hold.

    Parameters
    ----------
    folder
        The spool.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _INDEX

    def append(self, scan: str, **fields: Any) -> None:
        """Add a line at once, whoever else adds one; a line that a crash has cut off stays by itself.

        Raises
        ------
        OSError
            It finds no room.
        """
        line = json.dumps({"scan": scan, **fields}).encode() + b"\n"
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the fields of each scan; lines that are cut off do not count."""
        entries: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        if self._path.is_file():
            with self._path.open("rb") as lines:
                for line in lines:
                    with contextlib.suppress(ValueError, RecursionError):
                        fields = json.loads(line)
                        if isinstance(fields, dict) and isinstance(fields.get("scan"), str):
                            entries[fields["scan"]] |= {
                                name: value for name, value in fields.items() if _is_sound(name, value)
                            }
        return entries


def _is_sound(name: str, value: object) -> bool:
    """Whether a field holds what is written there: lines may be damaged, or written by hand."""
    return isinstance(value, bool | int | float if name in _NUMBERS else str)


@dataclass(frozen=True)
class SpooledScan:
    """A scan in a spool.

    Attributes
    ----------
    scan
        Its id.
    fields
        What the index knows of it; empty if nothing.
    stream, images
        Its files; None where there is none.
    running
        Whether a service or a recovery works on it.
    """

    scan: str
    fields: dict[str, Any]
    stream: Path | None
    images: Path | None
    running: bool = False

    @property
    def state(self) -> str:
        """``running``, ``unfinished``, ``recovered``, ``fetched``, ``empty``, or how it ended.

        ``finished``, ``interrupted`` (the stream ended without its end marker), ``failed``, or ``undelivered``.
        """
        if self.running:
            return "running"
        for later in ("fetched", "recovered"):
            if self.fields.get(later):
                return later
        return str(self.fields.get("outcome", "unfinished"))

    @property
    def is_done(self) -> bool:
        """Whether its images were sent, as far as the service can tell, fetched, or made again, or there are none to be made."""
        return self.state in ("finished", "recovered", "fetched", "empty")

    @property
    def files(self) -> list[Path]:
        """Its files."""
        return [path for path in (self.stream, self.images) if path is not None]

    @property
    def changed(self) -> float:
        """When a file of it was last written, in seconds of the epoch; 0 if there is none any more."""
        return max((_status(path)[1] for path in self.files), default=0.0)

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(_status(path)[0] for path in self.files)


def read_spool(folder: Path) -> list[SpooledScan]:
    """Return the scans in a spool, the oldest first, with and without an entry in the index.

    Raises
    ------
    OSError
        There is no such folder.
    """
    found: defaultdict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):  # without .partial comes first, and stays
        name = path.name.removesuffix(PARTIAL)
        for kind in (STREAM, IMAGES):
            if name.endswith(kind) and path.is_file():
                found[name.removesuffix(kind)].setdefault(kind, path)
    entries = Index(folder).read()
    scans = [
        SpooledScan(
            scan, entries.get(scan, {}), files.get(STREAM), files.get(IMAGES), any(map(_is_locked, files.values()))
        )
        for scan, files in found.items()
    ]
    return sorted(scans, key=lambda scan: (scan.changed, scan.scan))


def keep_images(folder: Path, scan: str, images: Iterable[Image]) -> None:
    """Keep images in a spool, in the place of those that were there.

    Raises
    ------
    OSError
        They find no room.
    """
    path = folder / f"{scan}{IMAGES}"
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    descriptor = create(partial)
    with os.fdopen(descriptor, "wb") as file:
        for image in images:
            file.writelines(encode(image))
        file.flush()
        os.fsync(descriptor)
        partial.rename(path)
    sync_folder(folder)


def _is_locked(path: Path) -> bool:
    try:
        with locked(path) as free:
            return not free
    except OSError:  # it has just been finished or removed, or is not ours
        return False


def _status(path: Path) -> tuple[int, float]:
    """Size and time of a file, which may be gone by now."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0.0
    return status.st_size, status.st_mtime


@dataclass(frozen=True)
class Retention:
    """What a spool keeps: None is for ever, or without limit.

    Attributes
    ----------
    days
        That a scan is kept whose images were sent, or made again.
    unfinished_days
        That any other scan is kept.
    size
        Bytes of all scans; where they are more, scans go whose images were sent, or made again, the oldest first.
    """

    days: float | None = None
    unfinished_days: float | None = None
    size: int | None = None

    def tidy(self, folder: Path) -> None:
        """Remove what is too old or too much, and note it; never what is being written.

        Raises
        ------
        OSError
            The folder cannot be read.
        """
        if not self._has_work(folder):
            return
        index, total, kept = Index(folder), 0, list[SpooledScan]()
        for scan in read_spool(folder):
            days = self.days if scan.is_done else self.unfinished_days
            if days is not None and not scan.running and time.time() - scan.changed > days * _DAY:
                _remove(scan, index, "age")
            else:
                total += scan.size
                kept.append(scan)
        for scan in kept:
            if self.size is not None and total > self.size and scan.is_done:
                total -= scan.size
                _remove(scan, index, "size")
        if self.size is not None and total > self.size:
            log.warning(
                "the spool %s holds %.1f MB, more than the %.1f MB that it may: scans that are running, unfinished or failed "
                "are not removed for their size",
                folder,
                total / 1e6,
                self.size / 1e6,
            )

    def _has_work(self, folder: Path) -> bool:
        """Whether anything may have to be removed, told without the index."""
        limits = [days for days in (self.days, self.unfinished_days) if days is not None]
        if not limits and self.size is None:
            return False
        statuses = [_status(path) for path in folder.iterdir() if path.name != _INDEX]
        oldest = min((changed for _, changed in statuses), default=time.time())
        is_old = bool(limits) and time.time() - oldest > min(limits) * _DAY
        return is_old or (self.size is not None and sum(size for size, _ in statuses) > self.size)


def _remove(scan: SpooledScan, index: Index, why: str) -> None:
    try:
        for path in scan.files:
            path.unlink(missing_ok=True)
        index.append(scan.scan, deleted=now(), reason=why)
    except OSError as error:  # the others go all the same
        log.warning("scan %s cannot be removed from the spool: %s", scan.scan, reason(error), extra={"scan": scan.scan})
    else:
        log.info("scan %s was removed from the spool by its %s", scan.scan, why, extra={"scan": scan.scan})
