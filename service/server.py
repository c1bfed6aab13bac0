"""Accepts connections and gives each a session of its own."""

import errno
import logging
import os
import secrets
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ..engine import Engine
from ..flow.ledger import Ledger
from ..flow.threads import keep_to_one_core
from ..wire.errors import IsocenterError
from .admission import refusal
from .configuration import names_of_the_site, register_gadgets
from .farewell import Farewells, say_and_close
from .listening import listen
from .logs import show_names
from .memory import MUCH, return_freed_memory
from .session import Session
from .settings import Settings, reloaded
from .spool import Spool
from .transport import set_options
from .watch import Refused, Watch, write_to_log

log: logging.Logger = logging.getLogger("isocenter.server")

_ABORT_SECONDS = 10.0
_SPOOL_SECONDS = 10.0
_FAREWELL_SECONDS = 2.0
_PAUSE_SECONDS = 0.1
_TICK = 0.05
_NOT_OPENED = "the service could not open a session for this connection; its log tells more"
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


@dataclass(eq=False)
class _Slot:
    """A connection that is served: by a thread, in which its session is opened and run."""

    sock: socket.socket
    address: str
    scan_id: str
    thread: threading.Thread = field(default_factory=threading.current_thread)
    session: Session | None = None


class Server:
    """Listens as the settings say. ``serve`` runs until ``stop``; sessions run in threads.

    Whatever goes wrong with one connection, from its acceptance on, ends that connection.

    Parameters
    ----------
    settings
        Of the service.
    engine
        Shared by all sessions; whoever made it closes it.
    watch
        Told what goes on; without one, the log is.
    load_settings
        Reads the settings again, for ``reload``; without it, there is nothing to read.
    listeners
        What ``listen`` has returned for these settings, where somebody has opened the port already.

    Attributes
    ----------
    refused
        Connections that were not served, by the kind of reason.

    Raises
    ------
    OptionError
        A gadget of the settings cannot be used.
    OSError
        The address cannot be listened on.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        watch: Watch | None = None,
        load_settings: Callable[[], Settings] | None = None,
        listeners: Sequence[socket.socket] = (),
    ) -> None:
        register_gadgets(settings)
        self.settings: Settings = settings
        self.engine = engine
        self.watch: Watch = watch or Watch(write_to_log)
        self.memory: Ledger = Ledger(settings.memory)
        self.spool: Spool = Spool(settings, self.memory)
        self.refused: Counter[str] = Counter()
        self._load_settings = load_settings
        self._listeners = listeners or listen(settings.host, settings.port)
        self._wake_reader, self._wake_writer = socket.socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.setblocking(False)
        self._spare = _spare_descriptor()
        self._slots: set[_Slot] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._reload = threading.Event()

    @property
    def port(self) -> int:
        """Port that is listened on."""
        return self._listeners[0].getsockname()[1]

    @property
    def sessions(self) -> list[Session]:
        """Those that run."""
        with self._lock:
            return [slot.session for slot in self._slots if slot.session is not None]

    def serve(self) -> bool:
        """Accept connections until ``stop`` is called, then let running scans finish.

        Returns
        -------
        bool
            Whether all of them ended; a session that something holds up for good may not, and its peer is told.
        """
        self.spool.begin()
        with selectors.DefaultSelector() as selector:
            farewells = Farewells(selector)
            for listener in (*self._listeners, self._wake_reader):
                selector.register(listener, selectors.EVENT_READ)
            while not self._stopping.is_set():
                for key, _ in selector.select(farewells.timeout()):
                    self._serve_one(key.fileobj, farewells)  # type: ignore[arg-type]
            farewells.close()
        for listener in self._listeners:
            listener.close()
        all_ended = self._end_sessions()
        self.spool.finish(_SPOOL_SECONDS)
        self._wake_reader.close()
        self._wake_writer.close()
        log.info("stopped")
        return all_ended

    def stop(self) -> None:
        """Stop accepting, and let scans finish; called again, do not wait for them. Safe to call from a signal handler."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        self._wake()

    def reload(self) -> None:
        """Read the settings again, for the scans to come. Safe to call from a signal handler."""
        self._reload.set()
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # it was woken up already, or has ended
            self._wake_writer.send(b"\0")

    def _serve_one(self, sock: socket.socket, farewells: Farewells) -> None:
        """Look after what the selector says; nothing that happens here ends the service."""
        try:
            if sock in farewells:
                farewells.read(sock)
            elif sock is self._wake_reader:
                self._wake_reader.recv(1)
                if self._reload.is_set():
                    self._reload.clear()
                    self._reload_now()
            else:
                self._accept(sock, farewells)
        except Exception as error:  # noqa: BLE001 - others want to be served
            self._refused("failed", "", f"{type(error).__name__} while a connection was accepted")
            self._stopping.wait(_PAUSE_SECONDS)

    def _reload_now(self) -> None:
        if self._load_settings is None:
            log.warning("there is no settings file to be read again")
            return
        try:
            self.settings, changed, fixed = reloaded(self.settings, self._load_settings())
        except IsocenterError as error:
            log.error("the settings stay as they are: %s", error)
            return
        show_names(names_of_the_site(self.settings))
        log.info("settings are read again; changed: %s", ", ".join(changed) or "none")
        if fixed:
            log.warning("these settings need a restart: %s", ", ".join(fixed))

    def _accept(self, listener: socket.socket, farewells: Farewells) -> None:
        try:
            sock, address = listener.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                self._accept_with_spare(listener, farewells)
            else:
                self._refused("not accepted", "", f"a connection could not be accepted: {error.strerror}")
            return
        try:
            self._admit(sock, address[0], farewells)
        except Exception as error:  # noqa: BLE001 - one peer's trouble is not the others'
            self._refused("failed", address[0], f"no session could be opened: {type(error).__name__}")
            farewells.refuse(sock, _NOT_OPENED)

    def _accept_with_spare(self, listener: socket.socket, farewells: Farewells) -> None:
        """Tell a peer for which there is no file descriptor left, with the one that is kept for this."""
        self._refused("no descriptor", "", "no file descriptor is left for a connection")
        is_told = False
        if self._spare is not None:
            os.close(self._spare)
            with suppress(OSError):
                sock, _ = listener.accept()
                farewells.refuse(sock, "the service has no file descriptor left for another scan; try again later")
                farewells.close()  # its descriptor is the spare one
                is_told = True
        self._spare = _spare_descriptor()
        if not is_told:  # it would be asked for again at once, and in vain
            self._stopping.wait(_PAUSE_SECONDS)

    def _admit(self, sock: socket.socket, address: str, farewells: Farewells) -> None:
        set_options(sock)
        with self._lock:
            running = [slot.address for slot in self._slots]
        if refused := refusal(address, running, self.settings):
            self._refused(refused.kind, address, refused.reason)
            farewells.refuse(sock, refused.reason)
            return
        slot = _Slot(sock, address, new_scan_id())
        slot.thread = threading.Thread(
            target=self._serve_session, args=(slot,), name=f"session {slot.scan_id}", daemon=True
        )
        with self._lock:
            self._slots.add(slot)
        try:
            slot.thread.start()
        except BaseException:
            self._free(slot)
            raise

    def _serve_session(self, slot: _Slot) -> None:
        try:
            keep_to_one_core()
            slot.session = Session(
                slot.sock,
                self.settings,
                self.engine,
                slot.scan_id,
                memory=self.memory,
                spool=self.spool,
                watch=self.watch,
            )
            slot.session.serve()
        except BaseException as error:  # noqa: BLE001 - its own thread ends, no other
            self._refused("failed", slot.address, f"no session could be opened: {type(error).__name__}")
            say_and_close(slot.sock, _NOT_OPENED)
        finally:
            self._free(slot)

    def _free(self, slot: _Slot) -> None:
        with self._lock:
            self._slots.discard(slot)
        if self.memory.peak > MUCH and not self.memory.held:
            self.memory.peak = 0
            return_freed_memory()

    def _refused(self, kind: str, address: str, reason: str) -> None:
        self.refused[kind] += 1
        self.watch.tell(Refused("", kind, address, reason))

    def _end_sessions(self) -> bool:
        """Let scans finish, then abort them, then let go of those that something holds up; return whether all have ended."""
        with self._lock:
            slots = set(self._slots)
        limit = self.settings.shutdown_timeout
        if slots:
            log.info("stopping: waiting for %d scans", len(slots))
        for slot in slots:
            if slot.session is not None:
                slot.session.announce(f"the service is stopping; this scan has {limit:g} seconds to finish")
        late = _alive_after(limit, slots, self._hurry)
        for slot in late:
            if slot.session is not None:
                slot.session.log.warning("aborted: it did not finish before the service had to stop")
                slot.session.abort()
        stuck = _alive_after(_ABORT_SECONDS, late, None)
        for slot in stuck:
            if slot.session is not None:
                slot.session.abandon("the service was stopped before the scan was done")
        return not _alive_after(_FAREWELL_SECONDS, stuck, None)


def _alive_after(seconds: float, slots: Collection[_Slot], hurry: threading.Event | None) -> list[_Slot]:
    """Wait for sessions to end; return those that have not, or had not when somebody said to hurry."""
    end = time.monotonic() + seconds
    alive = list(slots)
    while alive and time.monotonic() < end and not (hurry is not None and hurry.is_set()):
        alive[0].thread.join(_TICK)
        alive = [slot for slot in alive if slot.thread.is_alive()]
    return alive


def _spare_descriptor() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def new_scan_id() -> str:
    """Name a scan by date, time and a random part."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(8)}"
