"""Read the files of a folder that somebody else may have made: no links, no pipes, and nothing longer than expected."""

from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from ..wire.errors import FileError
from ..wire.plain_files import open_plain, read_plain
from .manifest import BundleError


@contextmanager
def open_regular(path: Path) -> Generator[BufferedReader, None, None]:
    """Open a file for reading, if it is one.

    Raises
    ------
    BundleError
        It is missing, a link, or something else than a file.
    """
    with _in_bundle(path), open_plain(path, follow=False) as file:
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
    with _in_bundle(path):
        return read_plain(path, longest=longest, follow=False)


@contextmanager
def _in_bundle(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except FileError as error:
        what = error.what.replace(str(path), path.name)
        raise BundleError(what, where=f"bundle {path.parent.name!r}", accepted=error.accepted) from error
