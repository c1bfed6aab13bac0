"""What Gadgetron starts with ``<execute name="isocenter.gadgets" target="external" type="python"/>``.

The process that Gadgetron starts hands the scan over to a resident service, which has torch and the models loaded; where
there is none, it starts one for this scan. It imports nothing but the standard library, so that it is up at once.
"""

import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

DEFAULT_ADDRESS = "localhost:9012"
_CONFIG, _HEADER, _QUERY, _RESPONSE = 2, 3, 6, 7
_CLOSE = struct.pack("<H", 4)
_QUESTION = b"isocenter::version"
_CHUNK = 2**20
_LAST_PORT, _DIGITS = 65535, 5
_RESIDENT_SECONDS = 5.0
"""That a resident service may take to say that it is one."""

log: logging.Logger = logging.getLogger("isocenter.external")


def external(connection: Any) -> None:
    """Run an external node's configuration in the resident service at ``ISOCENTER_ADDRESS`` (default localhost:9012).

    Parameters
    ----------
    connection
        The ``gadgetron.external.Connection`` that Gadgetron's Python launcher made; configuration and header are read.
    """
    gadgetron: socket.socket = connection.socket.socket
    service = connect_resident() or start_private()
    with service:
        service.sendall(_message(_CONFIG, connection.raw_bytes.config) + _message(_HEADER, connection.raw_bytes.header))
        upstream = threading.Thread(target=_copy, args=(gadgetron, service), daemon=True)
        upstream.start()
        _copy_without_close(service, gadgetron)


def resident_address() -> tuple[str, int]:
    """Return host and port of the resident service, from ``ISOCENTER_ADDRESS``.

    Raises
    ------
    SystemExit
        It names none, which the log says in a sentence: status 2.
    """
    address = os.environ.get("ISOCENTER_ADDRESS") or DEFAULT_ADDRESS
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and len(port) <= _DIGITS and 0 < int(port) <= _LAST_PORT):
        log.error(
            "variable ISOCENTER_ADDRESS: %r is no address; accepted: host:port, such as %s", address, DEFAULT_ADDRESS
        )
        raise SystemExit(2)
    return host.strip("[]"), int(port)


def connect_resident() -> socket.socket | None:
    """Connect to the resident service; None if there is none, or something else answers there."""
    host, port = resident_address()
    end = time.monotonic() + _RESIDENT_SECONDS
    try:
        service = socket.create_connection((host, port), timeout=_RESIDENT_SECONDS)
    except OSError:
        return None
    try:
        service.sendall(struct.pack("<HQQQ", _QUERY, 0, 1, len(_QUESTION)) + _QUESTION)
        number, _, length = struct.unpack("<HQQ", _read(service, 18, end))
        answer = _read(service, min(length, 4096), end)
    except (OSError, struct.error):
        service.close()
        return None
    if number != _RESPONSE or not answer.startswith(b"isocenter"):
        log.warning("%s:%s is not an Isocenter service", host, port)
        service.close()
        return None
    service.settimeout(None)
    return service


def start_private() -> socket.socket:
    """Start a service for one scan and return a connection to it."""
    log.warning(
        "no resident service: loading everything for this scan; start `isocenter serve --port 9012` to avoid this"
    )
    ours, theirs = socket.socketpair()
    with theirs:
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "isocenter.commands.cli", "session", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.DEVNULL,
        )
    return ours


def _message(number: int, body: bytes) -> bytes:
    return struct.pack("<HI", number, len(body)) + body


def _read(source: socket.socket, count: int, end: float) -> bytes:
    """Read so many bytes before the end of a time, however they come."""
    data = b""
    while len(data) < count:
        source.settimeout(max(0.001, end - time.monotonic()))
        part = source.recv(count - len(data))
        if not part:
            raise ConnectionResetError("the connection ended inside a message")
        data += part
    return data


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until either end closes."""
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError as error:
        log.info("stopped forwarding to the service: %s", error)


def _copy_without_close(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until the source closes; its last message is CLOSE, which Gadgetron's launcher sends itself."""
    held = b""
    while data := source.recv(_CHUNK):
        data = held + data
        target.sendall(data[:-2])
        held = data[-2:]
    if held != _CLOSE:
        target.sendall(held)
