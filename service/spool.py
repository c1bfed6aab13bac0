"""Keeps a scan's raw data and images on a disk while it runs, and never costs the scan.

Each file is written by a thread of its own from a bounded queue. A disk that is full, gone or too slow ends the keeping, not the
scan: what was written stays, a beginning of the stream that can be read, and the scan says so.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..flow.channel import Channel, Stopped
from ..flow.ledger import Ledger
from ..wire import Header, Message, encode
from ..wire.conversation import DATA
from ..wire.items import Image
from .settings import Settings
from .spooled import IMAGES, PARTIAL, STREAM, Index, close_to_others, create, make_folder, now, reason, sync_folder

log: logging.Logger = logging.getLogger("isocenter.spool")

_SYNC_BYTES = 64 * 2**20
_SYNC_SECONDS = 5.0
_SLOW_SECONDS = 5.0
"""Seconds that the disk may take for one write before a scan says that its raw data may be lost."""
_STUCK_SECONDS = 30.0
"""Seconds after which further scans are not given to it."""
_PATIENCE = 1.0
"""Seconds that a scan waits for room in the queue of a disk that cannot keep up; they come back ten times as slowly."""
_MOMENT = 0.05
_TIDY_SECONDS = 10.0
_OPENING_BYTES = 64 * 2**20
"""Bytes that may come before a scan's header and wait for it."""
_BEGINNINGS = (Header, *DATA)
"""What makes a conversation a scan; questions and probes are not kept."""


class Spool:
    """The spool of a service.

    Parameters
    ----------
    settings
        Of the service; without a folder in them, nothing is kept.
    memory
        Bytes that all scans may hold together, what waits for the disk among them.
    """

    def __init__(self, settings: Settings, memory: Ledger | None = None) -> None:
        self._settings = settings
        self._memory = memory
        self._threads: dict[threading.Thread, _File | None] = {}
        self._lock = threading.Lock()
        self._tidying = threading.Lock()

    def begin(self) -> None:
        """Make the folder, say what is wrong with it, and remove what need not be kept any longer, in a thread."""
        if self._settings.spool is not None:
            self._start(self._make_folder, None)

    def recording(self, scan_id: str, peer: str = "") -> "Recording":
        """Return the recording of a new scan; the disk is not touched before there is something to keep."""
        return Recording(self, self._settings.spool, scan_id, peer)

    def file(self, path: Path, what: str, scan_id: str) -> "_File":
        """Return a file of a scan, which is not there yet."""
        return _File(path, what, Ledger(self._settings.spool_queue_bytes, whole=self._memory), scan_id)

    def start(self, file: "_File", write: Callable[[], None]) -> None:
        """Run what writes a file in a thread."""
        with self._lock:
            stuck = any(other is not None and other.silence > _STUCK_SECONDS for other in self._threads.values())
        if stuck:
            file.give_up("the disk does not answer")
            return
        try:
            self._start(write, file)
        except RuntimeError:  # the process can have no more threads
            file.give_up("the service can start no thread for it")

    def _start(self, write: Callable[[], None], file: "_File | None") -> None:
        def write_and_tidy() -> None:
            try:
                write()
                self._tidy()
            finally:
                with self._lock:
                    del self._threads[threading.current_thread()]

        thread = threading.Thread(target=write_and_tidy, name="spool", daemon=True)
        with self._lock:
            thread.start()
            self._threads[thread] = file

    def _make_folder(self) -> None:
        folder = self._settings.spool
        assert folder is not None
        try:
            make_folder(folder)
            close_to_others(folder)
        except OSError as error:
            log.warning("the spool %s cannot be used: %s", folder, reason(error))

    def _tidy(self) -> None:
        folder = self._settings.spool
        assert folder is not None
        if not self._tidying.acquire(timeout=_TIDY_SECONDS):
            return
        try:
            self._settings.retention.tidy(folder)
        except OSError as error:
            log.warning("the spool %s cannot be tidied: %s", folder, reason(error))
        finally:
            self._tidying.release()

    def finish(self, seconds: float) -> None:
        """Wait until everything is on the disk, or the time is over."""
        end = time.monotonic() + seconds
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


class Recording:
    """What a session tells the spool of its scan. Nothing here raises, or waits for the disk for longer than a moment.

    Parameters
    ----------
    spool
        Of the service.
    folder
        Where files go; None keeps nothing.
    scan_id, peer
        Stand in the index.
    """

    def __init__(self, spool: Spool, folder: Path | None, scan_id: str, peer: str) -> None:
        self._spool = spool
        self._folder = folder
        self._scan_id = scan_id
        self._fields: dict[str, Any] = {"time": now(), "peer": peer}
        self._indexed: dict[str, Any] = {}
        self._raw = None if folder is None else spool.file(folder / f"{scan_id}{STREAM}", "raw data", scan_id)
        self._images: _File | None = None
        self._image_count = 0
        self._begun = False
        self._ended = threading.Event()
        self._moment = _MOMENT

    @property
    def keeps_raw_data(self) -> bool:
        """Whether what still comes is worth receiving though the scan has failed."""
        return self._begun and self._raw is not None and not self._raw.problem

    @property
    def keeps_images(self) -> bool:
        """Whether images are worth making though the client is gone."""
        return self._begun and not any(file.problem for file in self._files())

    def _files(self) -> "list[_File]":
        return [file for file in (self._raw, self._images) if file is not None]

    def write(self, data: memoryview) -> None:
        """Keep bytes that were received; they are copied."""
        if self._raw is None:
            return
        if not self._begun and self._raw.accepted > _OPENING_BYTES:
            self._raw.give_up("too much came before its header")
        self._raw.write(data)

    def follow(self, messages: list[Message]) -> None:
        """Take note of what the bytes were: once they belong to a scan, they go to the disk."""
        if self._raw is None or self._begun or not any(isinstance(message, _BEGINNINGS) for message in messages):
            return
        self._begun = True
        self._spool.start(self._raw, self._write_raw)

    def image(self, image: Image) -> None:
        """Keep an image."""
        if self._folder is None or not self._begun:
            return
        if self._images is None:
            self._images = self._spool.file(self._folder / f"{self._scan_id}{IMAGES}", "images", self._scan_id)
            self._spool.start(self._images, self._write_images)
        self._image_count += 1
        self._images.write(b"".join(encode(image)))

    def problems(self) -> list[str]:
        """Say what is not kept; what was given to the disk just now has a moment to get there."""
        files = self._files() if self._begun else []
        for file in files:
            if not file.settle(self._moment):
                self._moment = 0.0
        return [text for file in files if (text := file.complaint())]

    def note(self, **fields: Any) -> None:
        """Add to the scan's entry in the index."""
        self._fields = {**self._fields, **fields}

    def end(self, **fields: Any) -> str:
        """Finish the files, and return where the raw data are; empty if they are not kept."""
        self.note(**fields, images=self._image_count)
        for file in self._files():
            file.finish(kept=self._begun)
        self._ended.set()
        return str(self._raw.path) if self._raw is not None and self._begun and not self._raw.problem else ""

    def _write_raw(self) -> None:
        assert self._raw is not None
        with self._raw as raw:  # locked until the index says how the scan ended
            self._index()
            raw.copy(self._index)
            self._ended.wait()
            self.note(bytes=raw.written, whole=not raw.problem)
            self._index()

    def _write_images(self) -> None:
        assert self._images is not None
        with self._images as images:
            images.copy(lambda: None)

    def _index(self) -> None:
        """Write what the index does not have yet."""
        fields = self._fields
        new = {name: value for name, value in fields.items() if self._indexed.get(name) != value}
        if new and self._folder is not None:
            self._indexed = fields
            try:
                Index(self._folder).append(self._scan_id, **new)
            except OSError as error:
                log.warning("the spool's index cannot be written: %s", reason(error), extra={"scan": self._scan_id})


class _File:
    """A file that a thread of its own writes, as a context: entering makes it, and locks it until it is left.

    Parameters
    ----------
    path
        Its name once it is complete; before, it ends in ``.partial``.
    what
        Is in it, for messages.
    queue
        Bytes that may wait for the disk.
    scan_id
        For the log.

    Attributes
    ----------
    problem
        Why it is not complete; empty if it is, or may be yet.
    accepted, written
        Bytes.
    """

    def __init__(self, path: Path, what: str, queue: Ledger, scan_id: str) -> None:
        self.path = path
        self.problem: str = ""
        self.accepted: int = 0
        self.written: int = 0
        self._partial = path.with_name(path.name + PARTIAL)
        self._what = what
        self._scan_id = scan_id
        self._channel: Channel[bytes] = Channel(queue.account("spool"))
        self._patience = _PATIENCE
        self._waited = time.monotonic()
        self._finished = False
        self._descriptor: int | None = None
        self._busy_since: float | None = None
        self._progress = threading.Condition()

    def write(self, data: memoryview | bytes) -> None:
        """Queue a copy of the bytes; where there is no room for long, the file is given up."""
        if self.problem or self._finished:
            return
        if self._put(bytes(data)):
            self.accepted += len(data)
        elif not self._finished:
            self._complain(self.accepted, "the disk cannot keep up")
            self._channel.finish()  # what waits is still written

    def _put(self, data: bytes) -> bool:
        if self._channel.put(data, len(data), timeout=0):
            return True
        start = time.monotonic()
        patience = min(_PATIENCE, self._patience + (start - self._waited) / 10)
        taken = self._channel.put(data, len(data), timeout=patience)
        self._waited = time.monotonic()
        self._patience = max(0.0, patience - (self._waited - start))
        return taken

    def finish(self, *, kept: bool) -> None:
        """Say that nothing more comes; what waits is written if it is to be kept."""
        self._finished = True
        if kept:
            self._channel.finish()
        else:
            self._channel.stop()

    def give_up(self, why: str) -> None:
        """Write no more, and say so; what is written stays."""
        self._complain(self.written, why)
        self._channel.stop()
        with self._progress:
            self._progress.notify_all()

    def _complain(self, kept: int, why: str) -> None:
        if not self.problem:
            part = f"only the first {kept} bytes of the {self._what} of this scan are kept"
            self.problem = f"{part if kept else f'the {self._what} of this scan are not kept'}: {why}"
            log.warning("%s (%s)", self.problem, self._partial, extra={"scan": self._scan_id})

    def settle(self, seconds: float) -> bool:
        """Wait until what was queued so far is written or given up; False if that takes longer."""
        goal = self.accepted
        with self._progress:
            return self._progress.wait_for(lambda: self.written >= goal or bool(self.problem), seconds)

    @property
    def silence(self) -> float:
        """Seconds for which the disk has not answered."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def complaint(self) -> str:
        """Say what is wrong with it, if something is."""
        if self.problem or self.silence <= _SLOW_SECONDS:
            return self.problem
        return f"the {self._what} of this scan may not be kept: the disk does not answer"

    def __enter__(self) -> "_File":
        if self.problem:
            return self
        self._busy_since = time.monotonic()
        try:
            make_folder(self.path.parent)
            self._descriptor = create(self._partial)
            sync_folder(self.path.parent)
        except OSError as error:
            self.give_up(reason(error))
        self._busy_since = None
        return self

    def __exit__(self, *_error: object) -> None:
        if self._descriptor is None:
            return
        if not self.written:
            self._partial.unlink(missing_ok=True)
        os.close(self._descriptor)

    def copy(self, after_each: Callable[[], None]) -> None:
        """Write what is queued until it is finished, and call ``after_each`` time; a fault of the disk gives the file up."""
        if self._descriptor is None:
            return
        try:
            self._copy(self._descriptor, after_each)
            if not self.problem:
                self._complete(self._descriptor)
        except Stopped:
            pass  # it was given up by the end that queues, which has said so
        except OSError as error:
            self.give_up(reason(error))
        finally:
            self._busy_since = None

    def _copy(self, descriptor: int, after_each: Callable[[], None]) -> None:
        unsynced, synced = 0, time.monotonic()
        while True:
            self._busy_since = None
            try:
                data = self._channel.take(_SYNC_SECONDS if unsynced else None)
            except TimeoutError:
                data = b""
            except StopIteration:
                return
            self._busy_since = time.monotonic()
            unsynced += self._append(descriptor, data)
            if unsynced >= _SYNC_BYTES or (unsynced and time.monotonic() - synced > _SYNC_SECONDS):
                os.fsync(descriptor)
                unsynced, synced = 0, time.monotonic()
            after_each()

    def _append(self, descriptor: int, data: bytes) -> int:
        rest = memoryview(data)
        while rest:
            count = os.write(descriptor, rest)
            self.written += count
            rest = rest[count:]
        if not os.fstat(descriptor).st_nlink:  # the folder was removed, and what is written now goes with it
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        with self._progress:
            self._progress.notify_all()
        return len(data)

    def _complete(self, descriptor: int) -> None:
        self._busy_since = time.monotonic()
        os.fsync(descriptor)
        self._partial.rename(self.path)
        sync_folder(self.path.parent)
