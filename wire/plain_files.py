"""Read the files that users name: plain ones only, and no longer than a text of that kind ever is."""

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from .errors import FileError

LONGEST = 16 * 2**20
"""Bytes of a text: settings, a pipeline, a recipe, a key."""


@contextmanager
def open_plain(path: Path, *, follow: bool = True) -> Generator[BufferedReader, None, None]:
    """Open a plain file for reading. To open a pipe would wait for whoever writes into it, maybe for ever.

    Parameters
    ----------
    path
        The file.
    follow
        Whether it may be a link to one.

    Raises
    ------
    FileError
        It is missing, or something else, or cannot be read.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        is_link = getattr(error, "errno", None) == errno.ELOOP and not follow
        reason = "it is a link" if is_link else getattr(error, "strerror", None) or error
        raise FileError(f"{path} cannot be read: {reason}") from error
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe" if stat.S_ISFIFO(kind) else "a device"
        raise FileError(f"{path} cannot be read: it is {what}", accepted="a plain file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_plain(path: Path, *, longest: int | None = LONGEST, follow: bool = True) -> bytes:
    """Return what is in a plain file.

    Parameters
    ----------
    path
        The file.
    longest
        Bytes that it may have; None: any number.
    follow
        Whether it may be a link.

    Raises
    ------
    FileError
        As `open_plain`, or it is too long.
    """
    with open_plain(path, follow=follow) as file:
        try:
            content = file.read() if longest is None else file.read(longest + 1)
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror}") from error
    if longest is not None and len(content) > longest:
        raise FileError(f"{path} cannot be read: it is too long", accepted=f"up to {_size(longest)}")
    return content


def _size(count: int) -> str:
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count} bytes"
