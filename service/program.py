"""Programs of others as processes and connections: started or connected to, and ended with all that they have started."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ..gadgets.scan import Scan
from ..wire.errors import IsocenterError
from .logs import Logger
from .settings import Settings

_GUARD = Path(__file__).with_name("guard.py")
_CONNECT_ATTEMPTS = 10
_CONNECT_SECONDS = 2.0
_START_SECONDS = 60.0
_GOODBYE_SECONDS = 10.0
"""That a program may take to end after it has said that nothing more comes."""
_TERMINATE_SECONDS = 3.0
_KILL_SECONDS = 5.0
_TICK = 0.2
_LONGEST_LINE = 2**14

_running: set["Program"] = set()


class ExternalError(IsocenterError):
    """An external program could not be reached, or failed."""

    kind = "external"


def end_programs(scan: str | None = None) -> None:
    """End the programs of a scan, or all, without waiting for it. The scans then have what was made before.

    Parameters
    ----------
    scan
        Name of the scan.
    """
    for program in list(_running):
        if scan in (None, program.scan.name):
            program.end()


class Program:
    """A program at the other end of a connection; ``start`` or ``connect``, and in any case ``close``.

    Parameters
    ----------
    name
        For texts, such as ``FIRE module invert``.
    is_fire
        Whether our own runner reports its errors, without their texts.
    scan, settings
        Whom it works for.
    """

    def __init__(self, name: str, scan: Scan, settings: Settings, *, is_fire: bool = False) -> None:
        self.name = name
        self.is_fire = is_fire
        self.scan = scan
        self._settings = settings
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._output: _Output | None = None
        self._socket: socket.socket | None = None
        _running.add(self)

    def start(self, module: str, arguments: Sequence[str]) -> socket.socket:
        """Listen on a free port, start ``python -m MODULE PORT ARGUMENT...``, and wait until it connects.

        Raises
        ------
        ExternalError
            It does not.
        """
        try:
            with socket.create_server(("localhost", 0)) as listener:
                listener.settimeout(_TICK)
                command = [sys.executable, "-m", module, str(listener.getsockname()[1]), *arguments]
                with self._lock:
                    self._process = self._popen(command)
                assert self._process.stdout is not None
                self._output = _Output(self._process.stdout, self.name, self.scan.log, self._settings.log_private)
                return self._use(self._accept(listener))
        except OSError as error:
            raise ExternalError(f"{self.name} cannot be started: {error.strerror or type(error).__name__}") from error

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([*map(str, self._settings.python_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(  # noqa: S603 - only what the settings list gets here
            [sys.executable, "-I", "-S", str(_GUARD), *command],
            env={
                **os.environ,
                "PYTHONPATH": path,
                "PYTHONUNBUFFERED": "1",
                "GADGETRON_EXTERNAL_LOG_LEVEL": "WARNING",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _accept(self, listener: socket.socket) -> socket.socket:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and not self._ended.is_set():
            try:
                return listener.accept()[0]
            except TimeoutError:
                if self._has_ended():
                    raise ExternalError(f"{self.name} ended before it connected") from None
        raise ExternalError(
            f"{self.name} was ended"
            if self._ended.is_set()
            else f"{self.name} did not connect within {_START_SECONDS:g} seconds"
        )

    def connect(self, address: str, port: int) -> socket.socket:
        """Connect as Gadgetron does: ten attempts, two seconds apart.

        Raises
        ------
        ExternalError
            Nothing accepts the connection.
        """
        reason = ""
        for _ in range(_CONNECT_ATTEMPTS):
            try:
                return self._use(socket.create_connection((address, port), timeout=_CONNECT_SECONDS))
            except OSError as error:
                reason = error.strerror or "no answer"
            if self._ended.wait(_CONNECT_SECONDS):
                break
        raise ExternalError(f"{self.name} cannot be reached: {reason}")

    def _use(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        if self._ended.is_set():
            self._hang_up()
        return sock

    def end(self) -> None:
        """End it from another thread, without waiting; whoever waits for it is told."""
        self._ended.set()
        self._hang_up()
        self._signal(signal.SIGTERM)

    @property
    def was_ended(self) -> bool:
        """Whether it was ended from here."""
        return self._ended.is_set()

    def close(self, *, patiently: bool) -> int:
        """Hang up, and see to it that none of its processes is left.

        Parameters
        ----------
        patiently
            Whether it gets time to end by itself.

        Returns
        -------
        int
            The status with which it has ended by itself; 0 if it did not.
        """
        status = 0
        self._hang_up()
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            ended = self._ends_within(_GOODBYE_SECONDS if patiently else 0.0)
            if not ended:
                self._signal(signal.SIGTERM)
                self._ends_within(_TERMINATE_SECONDS)
            status = self._reap(self._process)
            if not ended or self.was_ended:
                status = 0
        if self._output is not None:
            self._output.stop()
        _running.discard(self)
        return status

    def _hang_up(self) -> None:
        """End the connection for all threads that use it."""
        sock = self._socket
        try:
            if sock is not None:
                sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            self.scan.log.debug("%s has hung up already", self.name)

    def _ends_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self._has_ended() and time.monotonic() < end:
            time.sleep(0.02)
        return self._has_ended()

    def _has_ended(self) -> bool:
        """Whether the process has ended; it is left as it is, so that its group keeps the number."""
        assert self._process is not None
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _signal(self, number: int) -> None:
        """Send a signal to the program and all that it has started."""
        with self._lock:
            if self._process is not None:
                os.killpg(self._process.pid, number)

    def _reap(self, process: subprocess.Popen[bytes]) -> int:
        self._signal(signal.SIGKILL)
        with self._lock:
            self._process = None
        assert process.stdin is not None
        process.stdin.close()
        try:
            return process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self.scan.log.warning("%s cannot be killed", self.name)
            return 0


class _Output:
    """Reads what a program prints, in a thread: shown where the log may show it, counted otherwise."""

    def __init__(self, pipe: IO[bytes], name: str, log: Logger, private: bool) -> None:
        self._pipe = pipe
        self._name = name
        self._log = log
        self._private = private
        self._lines = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, name="program output", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        rest = b""
        while True:
            if not poll.poll(1000 * _TICK):
                if self._stopped:
                    break
                continue
            data = os.read(self._pipe.fileno(), _LONGEST_LINE)
            *lines, rest = (rest + data).split(b"\n")
            if not data or len(rest) >= _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._take(line)
            if not data:
                break
        self._pipe.close()

    def _take(self, line: bytes) -> None:
        self._lines += bool(line)
        if line and self._private:
            self._log.info("%s prints: %s", self._name, line.decode("utf-8", "replace"))

    def stop(self) -> None:
        """Read what is there, but wait no longer for more."""
        self._stopped = True
        self._thread.join(2 * _TICK)
        if self._lines and not self._private:
            self._log.info("%s has printed %d lines, which 'log_private' would show", self._name, self._lines)
