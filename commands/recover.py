"""What ``isocenter recover`` does: find spooled scans whose images were not made or not sent, and make them again."""

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from ..flow.ledger import Ledger
from ..service.outside import only_the_log
from ..service.settings import Settings
from ..service.spooled import Index, SpooledScan, keep_images, locked, now, read_spool
from ..wire import ConfigFile
from ..wire.errors import FileError, IsocenterError
from ..wire.files import ImageWriter
from ..wire.items import Image
from ..wire.streams import RecordedStream, read_messages
from . import stamp
from .client import Client, ReplayResult, replay_stream

log: logging.Logger = logging.getLogger("isocenter.recover")

_NICENESS = 10
_STOP_SECONDS = 5.0
_MOST_TRIES = 3
"""How often a scan is tried that nobody names: one that cannot be recovered, or crashes the process, must not be for ever."""


def spool_of(settings: Settings) -> Path:
    """Return the folder of the spool.

    Raises
    ------
    FileError
        The settings name none, or there is none.
    """
    if settings.spool is None:
        raise FileError("the settings name no spool", accepted="--spool, or spool in the settings of --config")
    if not settings.spool.is_dir():
        raise FileError(f"there is no spool {settings.spool}")
    return settings.spool


def find(folder: Path, names: Collection[str] = ()) -> list[SpooledScan]:
    """Return these scans of a spool, or else all.

    Raises
    ------
    FileError
        One of them is not there.
    """
    scans = {scan.scan: scan for scan in read_spool(folder)}
    if missing := [name for name in names if name not in scans]:
        raise FileError(f"the spool {folder} has no scan {missing[0]}")
    return [scans[name] for name in names] or list(scans.values())


def needs_recovery(scan: SpooledScan) -> bool:
    """Whether a scan's images are neither sent nor spooled."""
    if scan.state in ("interrupted", "undelivered") and scan.images is not None:
        return False
    return scan.stream is not None and not scan.is_done and not scan.running


def _may_be_tried(scan: SpooledScan) -> bool:
    return scan.fields.get("tried", 0) < _MOST_TRIES


def describe(scan: SpooledScan) -> str:
    """Describe a scan in a line."""
    fields = scan.fields
    values = {
        "pipeline": fields.get("pipeline", ""),
        "peer": fields.get("peer", ""),
        "MB": f"{scan.size / 1e6:.1f}",
        "images": fields.get("images", ""),
        "sent": fields.get("sent", ""),
    }
    shown = "  ".join(f"{name} {value}" for name, value in values.items() if value != "")
    return f"{scan.scan:<36} {scan.state:<12} {fields.get('time', ''):<30} {shown}"


class Recovery:
    """Reconstructs spooled scans in this process, as the service would.

    Parameters
    ----------
    settings
        Of the service.
    """

    def __init__(self, settings: Settings) -> None:
        from ..service.configuration import register_gadgets
        from ..service.host import make_engine

        register_gadgets(settings)
        self._folder = spool_of(settings)
        self._settings = settings.model_copy(update={"spool": None})
        if stamp.missing(settings):
            from .prepare import prepare_bundles

            prepare_bundles(settings)
        self._engine = make_engine(settings)

    def __enter__(self) -> "Recovery":
        return self

    def __exit__(self, *_error: object) -> None:
        self._engine.close()

    def reconstruct(
        self,
        scan: SpooledScan,
        keep: Callable[[SpooledScan, list[Image]], None],
        on_text: Callable[[str], None],
        pipeline: str | None = None,
    ) -> ReplayResult | None:
        """Reconstruct a scan, keep its images, and note that in the index.

        Parameters
        ----------
        scan
            What to reconstruct.
        keep
            Called with the images.
        on_text
            Called with what the service says.
        pipeline
            Name of a pipeline in the place of the scan's own.

        Returns
        -------
        ReplayResult or None
            None if there is nothing in it to reconstruct.

        Raises
        ------
        IsocenterError, OSError
            No images could be made, or kept.
        """
        if scan.stream is None:
            raise FileError(f"the raw data of scan {scan.scan} are not in the spool")
        index = Index(self._folder)
        with locked(scan.stream) as free:
            if not free:
                raise FileError(f"scan {scan.scan} is running")
            index.append(scan.scan, tried=scan.fields.get("tried", 0) + 1)
            try:
                stream = RecordedStream(scan.stream)
            except FileError:  # there is no whole header
                stream = None
            result = None if stream is None else self._replay(scan.scan, stream, on_text, pipeline)
            if result is None or not (result.acquisitions or result.images):
                index.append(scan.scan, outcome="empty")
                return None
            if result.failed:
                raise IsocenterError("no image could be made of it")
            keep(scan, result.images)
            index.append(scan.scan, recovered=now(), images=len(result.images))
            return result

    def _replay(
        self, name: str, stream: RecordedStream, on_text: Callable[[str], None], pipeline: str | None
    ) -> ReplayResult:
        fallback = self._settings.default_pipeline if stream.configuration == b"" else None
        chosen = pipeline or fallback
        with self._connection(name) as sock:
            return replay_stream(
                Client(sock, on_text=on_text), stream, configuration=None if chosen is None else ConfigFile(chosen)
            )

    @contextmanager
    def _connection(self, name: str) -> Iterator[socket.socket]:
        """Connect to a session that runs in a thread."""
        from ..service.session import Session

        ours, theirs = socket.socketpair()
        session = Session(theirs, self._settings, self._engine, name, memory=Ledger(self._settings.memory))
        thread = threading.Thread(target=session.serve, name="recovery")
        thread.start()
        try:
            with ours:
                yield ours
        finally:
            thread.join()


def listing(settings: Settings, names: Collection[str], *, everything: bool) -> list[str]:
    """Describe these scans, or all: those whose images were not sent, or everything."""
    shown = [describe(scan) for scan in find(spool_of(settings), names) if everything or not scan.is_done]
    return shown or ["there is no scan in the spool" if everything else "the images of every scan were sent or fetched"]


def recover(
    settings: Settings, names: Collection[str], outfile: Path, say: Callable[[str], None], pipeline: str | None = None
) -> bool:
    """Reconstruct these scans, or all that need it, and write their images to HDF5; tell whether all of them could be.

    Raises
    ------
    IsocenterError, OSError
        The spool, the settings or the bundles cannot be used.
    """
    found = find(spool_of(settings), names)
    scans = found if names else _due(found, say)
    if not scans:
        say("there is nothing to reconstruct")
        return True

    def keep(scan: SpooledScan, images: list[Image]) -> None:
        _write(images, outfile, scan.scan, say)

    with Recovery(settings) as recovery:
        recovered = [_recover_one(recovery, scan, keep, say, say, pipeline) for scan in scans]
    return all(recovered)


def _due(found: list[SpooledScan], say: Callable[[str], None]) -> list[SpooledScan]:
    """Return the scans that need recovery and may be tried; say which others have no images yet, or images that wait."""
    needy = [scan for scan in found if needs_recovery(scan)]
    if given_up := [scan.scan for scan in needy if not _may_be_tried(scan)]:
        say(f"tried {_MOST_TRIES} times and left; name it to try again: {', '.join(given_up)}")
    others = [scan for scan in found if scan.images is not None and not (scan.is_done or scan.running)]
    if waiting := [scan.scan for scan in others if scan not in needy]:
        say(f"images that were not sent are in the spool, for --images: {', '.join(waiting)}")
    return [scan for scan in needy if _may_be_tried(scan)]


def _recover_one(
    recovery: Recovery,
    scan: SpooledScan,
    keep: Callable[[SpooledScan, list[Image]], None],
    say: Callable[[str], None],
    on_text: Callable[[str], None],
    pipeline: str | None = None,
) -> bool:
    try:
        if recovery.reconstruct(scan, keep, on_text, pipeline) is None:
            say(f"scan {scan.scan} has nothing in it that could be reconstructed")
    except (IsocenterError, OSError) as error:
        say(f"scan {scan.scan} is not recovered: {error}")
        return False
    except Exception as error:
        log.exception("scan %s is not recovered", scan.scan)
        say(f"scan {scan.scan} is not recovered: {type(error).__name__}, an error of its own")
        return False
    return True


def fetch(settings: Settings, names: Collection[str], outfile: Path, say: Callable[[str], None]) -> None:
    """Write the images that the spool has of these scans to HDF5.

    Raises
    ------
    FileError
        No scan is named, one is not there or has no images, or they cannot be written.
    """
    if not names:
        raise FileError("no scan is named", accepted="the ids of scans; --list-all shows them")
    for scan in find(spool_of(settings), names):
        if scan.images is None:
            raise FileError(f"the spool has no images of scan {scan.scan}")
        images = (message for message in read_messages(scan.images) if isinstance(message, Image))
        _write(images, outfile, scan.scan, say)
        Index(spool_of(settings)).append(scan.scan, fetched=now())


def _write(images: Iterable[Image], outfile: Path, group: str, say: Callable[[str], None]) -> None:
    writer, count = ImageWriter(outfile, group, say), 0
    for image in images:
        writer.write(image)
        count += 1
    writer.close()
    say(f"{count} images in {outfile}, group {group!r}")


def recover_beside_service(settings: Settings) -> None:
    """Recover what earlier services left, at low priority; the images stay in the spool, what is said in the log."""
    os.nice(_NICENESS)
    with only_the_log():
        try:
            _recover_into_spool(settings)
        except (IsocenterError, OSError) as error:
            log.error("earlier scans are not recovered: %s", error)


def _recover_into_spool(settings: Settings) -> None:
    folder = spool_of(settings)
    names = [scan.scan for scan in find(folder) if needs_recovery(scan) and _may_be_tried(scan)]
    if not names:
        return

    def keep(scan: SpooledScan, images: list[Image]) -> None:
        keep_images(folder, scan.scan, images)
        log.info("the scan was recovered; its %d images are in the spool", len(images), extra={"scan": scan.scan})

    with Recovery(settings) as recovery:
        for name in names:
            # another service may have done it by now
            for scan in (scan for scan in find(folder) if scan.scan == name and needs_recovery(scan)):
                _recover_one(recovery, scan, keep, partial(log.info, "%s", extra={"scan": name}), lambda _text: None)


@contextmanager
def beside_service(settings: Settings) -> Iterator["subprocess.Popen[bytes] | None"]:
    """Recover in a program of its own while a service runs, if the settings ask for it: a scan may crash it without harm."""
    if settings.spool is None or not settings.recover_at_start:
        yield None
        return
    try:
        process = _start(settings)
    except OSError as error:
        log.error("earlier scans are not recovered: %s", error)
        yield None
        return
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)


def _start(settings: Settings) -> "subprocess.Popen[bytes]":
    file = os.memfd_create("settings")  # in memory alone, and yet a plain file for the program
    try:
        os.write(file, settings.model_dump_json().encode())
        command = [sys.executable, "-m", "isocenter.commands.cli", "recover", "--beside-service"]
        return subprocess.Popen(  # noqa: S603 - this program
            [*command, "--config", f"/dev/fd/{file}"], stdin=subprocess.DEVNULL, stdout=sys.__stderr__, pass_fds=(file,)
        )
    finally:
        os.close(file)
