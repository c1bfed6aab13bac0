"""Where Isocenter keeps what it makes, and how much memory there is for it."""

import os
import re
from contextlib import suppress
from pathlib import Path

from .errors import OptionError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]")
_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def default_home() -> Path:
    """Folder for bundles, noise covariances, pipelines and prepared scans: ``ISOCENTER_HOME``, or ``~/.isocenter``.

    Raises
    ------
    OptionError
        It names no folder.
    """
    try:
        return named_folder(os.environ.get("ISOCENTER_HOME") or "~/.isocenter")
    except ValueError as error:
        raise OptionError(str(error), where="variable ISOCENTER_HOME", accepted="folder") from error


def named_folder(text: str) -> Path:
    """Return the whole path of a folder that settings or the environment name.

    Parameters
    ----------
    text
        ``~`` at its beginning is the user's home. What begins neither with it nor with ``/`` starts from the folder in which the
        program was started.

    Raises
    ------
    ValueError
        It names none, or nobody knows whose home is meant. Nothing expands variables, and a folder called ``$HOME`` is not meant.
    """
    if not text.strip():
        raise ValueError("an empty text names no folder")
    if _CONTROL.search(text):
        raise ValueError(f"{text!r} has control characters")
    if _VARIABLE.search(text):
        raise ValueError(f"{text!r} has a variable, which nothing expands")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"the home folder in {text!r} is not known") from error


def available_memory() -> int:
    """Bytes of memory that a program can still have: of the host, or of the control group (container) that it runs in."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    free = [pages * size]
    with suppress(OSError):
        free += [1024 * int(found) for found in re.findall(r"MemAvailable:\s*(\d+) kB", _MEMINFO.read_text())]
    with suppress(OSError, ValueError):  # "max" for no limit
        free.append(int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text()))
    return max(0, min(free))
