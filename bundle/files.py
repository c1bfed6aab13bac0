"""Read the files of a folder that somebody else may have made: no links, no pipes, and nothing longer than expected."""

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from .manifest import BundleError


@contextmanager
def open_regular(path: Path) -> Generator[BufferedReader, None, None]:
    """Open a file for reading, if it is one: to open a pipe would wait for whoever writes into it, maybe for ever.

    Raises
    ------
    BundleError
        It is missing, a link, or something else than a file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(f"{path.name} is missing or a link, or cannot be read", where=_bundle(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{path.name} is no file", where=_bundle(path))
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_regular(path: Path, longest: int | None = None) -> bytes:
    """Return what is in a file.

    Parameters
    ----------
    path
        The file.
    longest
        Bytes that it may have; None: any number.

    Raises
    ------
    BundleError
        It is no file, cannot be read, or is too long.
    """
    with open_regular(path) as file:
        try:
            content = file.read() if longest is None else file.read(longest + 1)
        except OSError as error:
            raise BundleError(f"{path.name} cannot be read: {error.strerror}", where=_bundle(path)) from error
    if longest is not None and len(content) > longest:
        raise BundleError(f"{path.name} is too long", where=_bundle(path), accepted=f"{longest} bytes")
    return content


def _bundle(path: Path) -> str:
    return f"bundle {path.parent.name!r}"
