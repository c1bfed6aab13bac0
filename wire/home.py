"""Where Isocenter keeps what it makes, and how much memory there is for it."""

import os
import re
from contextlib import suppress
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def default_home() -> Path:
    """Folder for bundles, noise covariances, pipelines and prepared scans: ``ISOCENTER_HOME``, or ``~/.isocenter``."""
    return Path(os.environ.get("ISOCENTER_HOME", Path.home() / ".isocenter"))


def available_memory() -> int:
    """Bytes of memory that a program can still have: of the host, or of the control group (container) that it runs in."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    free = [pages * size]
    with suppress(OSError):
        free += [1024 * int(found) for found in re.findall(r"MemAvailable:\s*(\d+) kB", _MEMINFO.read_text())]
    with suppress(OSError, ValueError):  # "max" for no limit
        free.append(int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text()))
    return max(0, min(free))
