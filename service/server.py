"""Accepts connections and gives each a session of its own."""

import logging
import secrets
import selectors
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime

from ..engine import Engine
from ..flow.ledger import Ledger
from ..flow.threads import keep_to_one_core
from ..wire import Close, Text, encode
from .configuration import register_gadgets
from .session import Session
from .settings import Settings
from .spool import Spool
from .watch import Connected, Watch, write_to_log

log = logging.getLogger("isocenter.server")


class Server:
    """Listens as the settings say. ``serve`` runs until ``stop``; sessions run in threads.

    Parameters
    ----------
    settings
        Of the service.
    engine
        Shared by all sessions; whoever made it closes it.
    watch
        Told what goes on; without one, the log is.

    Raises
    ------
    OptionError
        A gadget of the settings cannot be used.
    OSError
        The address cannot be listened on.
    """

    def __init__(self, settings: Settings, engine: Engine, watch: Watch | None = None) -> None:
        register_gadgets(settings)
        self.settings = settings
        self.engine = engine
        self.watch = watch or Watch(write_to_log)
        self.memory = Ledger(settings.memory)
        self.spool = Spool(settings, self.memory)
        self._listeners = _listen(settings.host, settings.port)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._pool = ThreadPoolExecutor(
            settings.max_connections, thread_name_prefix="session", initializer=keep_to_one_core
        )
        self._sessions: dict[Session, Future[None]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    @property
    def port(self) -> int:
        """Port that is listened on."""
        return self._listeners[0].getsockname()[1]

    def serve(self) -> bool:
        """Accept connections until ``stop`` is called, then let running scans finish.

        Returns
        -------
        bool
            Whether all of them ended; a session that an external program holds up may not.
        """
        self.spool.begin()
        with selectors.DefaultSelector() as selector:
            for listener in (*self._listeners, self._wake_reader):
                selector.register(listener, selectors.EVENT_READ)
            while not self._stopping.is_set():
                for key, _ in selector.select():
                    if key.fileobj is not self._wake_reader:
                        self._accept(key.fileobj)  # type: ignore[arg-type]
        for listener in (*self._listeners, self._wake_reader):
            listener.close()
        all_ended = self._wait_for_sessions()
        self.spool.finish(_SPOOL_SECONDS)
        self._wake_writer.close()
        return all_ended

    def stop(self) -> None:
        """Stop accepting; safe to call from a signal handler or another thread."""
        self._stopping.set()
        self._wake_writer.send(b"\0")

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, peer = listener.accept()
        except OSError as error:
            log.warning("a connection could not be accepted: %s", error)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with self._lock:
            if len(self._sessions) >= self.settings.max_connections:
                log.warning("refused %s: %d scans are running", peer[0], len(self._sessions))
                _refuse(
                    sock,
                    f"{len(self._sessions)} scans are running already, which is this service's limit; try again later",
                )
                return
            scan_id = new_scan_id()
            self.watch.tell(Connected(scan_id, peer[0]))
            session = Session(
                sock, self.settings, self.engine, scan_id, memory=self.memory, spool=self.spool, watch=self.watch
            )
            self._sessions[session] = self._pool.submit(self._run, session)

    def _run(self, session: Session) -> None:
        session.run()
        with self._lock:
            del self._sessions[session]

    def _wait_for_sessions(self) -> bool:
        deadline = time.monotonic() + self.settings.shutdown_timeout
        with self._lock:
            running = dict(self._sessions)
        if running:
            log.info("stopping: waiting for %d scans", len(running))
        _, late = wait(running.values(), max(0.0, deadline - time.monotonic()))
        for session, future in running.items():
            if future in late:
                limit = self.settings.shutdown_timeout
                session.log.warning("aborted: it did not finish within %g seconds of the stop", limit)
                session.abort()
        _, stuck = wait(late, _ABORT_SECONDS)
        self._pool.shutdown(wait=not stuck)
        log.info("stopped")
        return not stuck


_ABORT_SECONDS = 10.0
_SPOOL_SECONDS = 10.0


def new_scan_id() -> str:
    """Name a scan by date, time and a random part."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(8)}"


def _listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host, so that ``localhost`` serves IPv4 and IPv6 on one port."""
    listeners: list[socket.socket] = []
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    failures: list[OSError] = []
    for family, kind, protocol, _, address in sorted(infos, key=lambda info: info[0]):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = listeners[0].getsockname()[1] if listeners else port
            sock.bind((address[0], chosen, *address[2:]))
            sock.listen(128)
        except OSError as error:
            sock.close()
            failures.append(error)
            continue
        listeners.append(sock)
    if not listeners or (failures and any(failure.errno not in _NO_SUCH_ADDRESS for failure in failures)):
        for sock in listeners:
            sock.close()
        raise OSError(f"cannot listen on {host}:{port}: {failures[0] if failures else 'no address'}")
    return listeners


_NO_SUCH_ADDRESS = (97, 99)
"""EAFNOSUPPORT and EADDRNOTAVAIL: the host has a name for IPv6 but no IPv6."""


def _refuse(sock: socket.socket, reason: str) -> None:
    """Say why, then close; the bytes fit the socket's buffer, so that nothing waits."""
    with sock:
        message = b"".join(bytes(part) for part in (*encode(Text(f"[Isocenter] ERROR: {reason}\n")), *encode(Close())))
        try:
            sock.settimeout(1.0)
            sock.sendall(message)
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            log.debug("a refused client was gone already: %s", error)
