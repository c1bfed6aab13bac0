"""Tells systemd how far the service is, where systemd has started it with ``Type=notify``."""

import os
import socket
from contextlib import suppress

_START_SECONDS = 1800
"""That a start may go on after a message: bundles are being built."""


def notify(*, ready: bool = False, stopping: bool = False, status: str = "") -> None:
    """Send a message to ``NOTIFY_SOCKET``, as sd_notify(3) does; nothing happens where there is none.

    Parameters
    ----------
    ready, stopping
        What begins now: serving without making scans wait, or stopping.
    status
        For ``systemctl status``. Until the service is ready, a status also says that it needs more time.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    lines = [f"STATUS={status}"] if status else []
    if ready:
        lines.append("READY=1")
    elif stopping:
        lines.append("STOPPING=1")
    else:
        lines.append(f"EXTEND_TIMEOUT_USEC={_START_SECONDS * 1_000_000}")
    if address:
        place = f"\0{address[1:]}" if address.startswith("@") else address  # an abstract one
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), place)
