"""Opens the port, without anything that takes long to import: clients may connect before the service is loaded."""

import errno
import socket

_NO_SUCH_ADDRESS = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""The host has a name for IPv6 but no IPv6."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host, so that ``localhost`` serves IPv4 and IPv6 on one port.

    Raises
    ------
    OSError
        There is no such address, or it is taken.
    """
    listeners: list[socket.socket] = []
    try:
        infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
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
        raise OSError(f"cannot listen on {host}:{port}: {failures[0].strerror if failures else 'no address'}")
    return listeners
