"""Debian packages as sources of data: fetched by address, known by their SHA-256, and read without Debian's tools."""

import hashlib
import io
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..wire.errors import IsocenterError

MIRROR = "https://deb.debian.org/debian"
_BLOCK = 1 << 20
_SECONDS = 60.0
_PARTIAL_CONTENT = 206
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60

Told = Callable[[str, int, int], None]
"""Is told how far something is: its name, how much is done, and how much there is."""


class SourceError(IsocenterError):
    """Data to train on cannot be fetched or read."""

    kind = "source"


@dataclass(frozen=True)
class Package:
    """A package of one version.

    Attributes
    ----------
    name, version
        As Debian has them.
    path
        Where it lies on a mirror.
    size
        In bytes.
    sha256
        Of the file, in hexadecimal digits.
    licences
        Of its images, as its file ``copyright`` names them.
    held_out
        Names of pictures that are for validation alone.
    """

    name: str
    version: str
    path: str
    size: int
    sha256: str
    licences: str
    held_out: tuple[str, ...] = ()


def find(package: Package, folder: Path) -> Path:
    """Return a package that is in a folder already, by whatever version's name.

    Raises
    ------
    SourceError
        It is not there, or is another file.
    """
    found = sorted(folder.glob(f"{package.name}_*.deb"))
    for path in found:
        if digest(path) == package.sha256:
            return path
    wanted = f"{package.name} {package.version} with the SHA-256 {package.sha256}"
    if found:
        raise SourceError(f"{found[0]} is damaged or of another version", accepted=wanted)
    raise SourceError(f"the package {package.name} is not in {folder}", accepted=wanted)


def fetch(package: Package, folder: Path, told: Told, mirror: str = MIRROR) -> Path:
    """Fetch a package, going on where an earlier try ended; what is there already is not fetched again.

    Parameters
    ----------
    package
        Which.
    folder
        Receives it; need not exist.
    told
        Is told how many bytes there are.
    mirror
        Address of a mirror of Debian.

    Returns
    -------
    Path
        The file, whose SHA-256 is right.

    Raises
    ------
    SourceError
        It cannot be fetched, or is another file.
    """
    path = folder / Path(package.path).name
    if path.is_file() and digest(path) == package.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    address = f"{mirror.rstrip('/')}/{package.path}"
    try:
        _download(address, partial, package, told)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise SourceError(
            f"{address} cannot be fetched: {reason}",
            accepted=f"another --mirror, or --packages with a folder that has {path.name}",
        ) from error
    if digest(partial) != package.sha256:
        partial.unlink()
        raise SourceError(f"{address} is another file than was expected", accepted=f"the SHA-256 {package.sha256}")
    partial.replace(path)
    return path


def _download(address: str, partial: Path, package: Package, told: Told) -> None:
    there = partial.stat().st_size if partial.is_file() else 0
    if there >= package.size:
        partial.unlink()
        there = 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={there}-"} if there else {})  # noqa: S310  (the mirror is who calls to choose)
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310  (as above)
        goes_on = answer.status == _PARTIAL_CONTENT
        there = there if goes_on else 0
        with partial.open("ab" if goes_on else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                there += len(block)
                told(package.name, there, package.size)
    if there < package.size:
        raise ConnectionError(f"the connection ended after {there} of {package.size} bytes")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of a package's files, in its order.

    Parameters
    ----------
    path
        The package, an ``ar`` archive with a ``data.tar`` in it (deb(5)).
    wanted
        Whether a file of a name, such as ``usr/share/doc/NAME/copyright``, is to be read.

    Raises
    ------
    SourceError
        It is no such package.
    """
    try:
        with path.open("rb") as package, tarfile.open(fileobj=io.BytesIO(_data(package)), mode="r:*") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isfile() and wanted(name):
                    content = archive.extractfile(member)
                    assert content is not None  # it is a file
                    yield name, content.read()
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise SourceError(f"{path} is no Debian package, or is damaged: {error}") from error


def _data(package: BinaryIO) -> bytes:
    """Return the archive of a package's files."""
    if package.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("it does not begin as one")
    while header := package.read(_AR_HEADER):
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            return package.read(size)
        package.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("it has no data.tar")
