"""Check a TorchScript file before anything of it runs, and write anew what was checked.

Loading such a file runs code: methods that restore objects. And torch finds the parts of the archive in its own way, which need
not be the way of whoever checked it. So every part is read and checked here, and torch gets an archive that is made of these.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Mapping

from .manifest import BundleError
from .script_code import check_code
from .script_data import check_data

_MIB = 2**20
_TEXT_BYTES = 8 * _MIB
"""Longest file of code or pickle. The largest network that comes with Isocenter has 0.2 MB of code in all."""
_ALL_TEXT_BYTES = 64 * _MIB
_PARTS = 100_000
_TENSOR = re.compile(r"(data|constants)/\d{1,9}")
_CODE = re.compile(r"code/(\w+/)*\w+\.py", re.ASCII)
_PICKLES = ("data.pkl", "constants.pkl")
_PLAIN = {"version": re.compile(rb"\d{1,3}\s*"), "byteorder": re.compile(rb"little")}
_IGNORED = re.compile(r"\.data/\w+|code/.*\.debug_pkl|traced_inputs(\.pkl|/\d{1,9})", re.ASCII)
"""What nothing depends on: it is left out."""


def checked_torchscript(content: bytes) -> bytes:
    """Return an archive of the parts of this one, if nothing in them does more than compute.

    Parameters
    ----------
    content
        A TorchScript file.

    Raises
    ------
    BundleError
        It is no TorchScript file, uses an operator that is not on the list, or its pickles name what they may not.
    """
    parts = _read_parts(content)
    tensors = {name: len(part) for name, part in parts.items() if _TENSOR.fullmatch(name)}
    for name, part in parts.items():
        if _CODE.fullmatch(name):
            check_code(_text(name, part), name)
        elif name in _PICKLES:
            folder = name.removesuffix(".pkl")
            own = {key.partition("/")[2]: size for key, size in tensors.items() if key.startswith(f"{folder}/")}
            check_data(part, name, own)
        elif name in _PLAIN and not _PLAIN[name].fullmatch(part):
            raise BundleError(f"its {name} is not known")
    return _write(parts)


def _text(name: str, part: bytes) -> str:
    try:
        return part.decode("ascii")
    except UnicodeDecodeError as error:
        raise BundleError("it has characters that torch does not write", where=name) from error


def _read_parts(content: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            _check_entries(entries)
            if sum(entry.compress_size for entry in entries) > len(content):
                raise BundleError("its parts overlap")
            return {
                name: _read(archive, entry)
                for entry in entries
                if not _IGNORED.fullmatch(name := entry.filename.partition("/")[2])
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError, OverflowError) as error:
        raise BundleError("it is damaged, or no TorchScript file") from error


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename.partition("/")[2] for entry in entries]
    if len({entry.filename.partition("/")[0] for entry in entries}) != 1 or len(entries) > _PARTS:
        raise BundleError("it is no TorchScript file")
    if len({name.casefold() for name in names}) < len(names):
        raise BundleError("it has two parts of the same name")
    needed = {*_PICKLES, "version"}
    if not needed <= set(names):
        raise BundleError("it is no TorchScript file: " + ", ".join(sorted(needed - set(names))) + " is missing")
    for entry, name in zip(entries, names, strict=True):
        known = name in _PICKLES or name in _PLAIN or _IGNORED.fullmatch(name) or _CODE.fullmatch(name)
        if not known and not _TENSOR.fullmatch(name):
            raise BundleError(f"it has a part {name!r}, which TorchScript does not")
        if _TENSOR.fullmatch(name) and entry.compress_type != zipfile.ZIP_STORED:
            raise BundleError(f"{name} is compressed, as torch does not write it")
    text = [entry.file_size for entry, name in zip(entries, names, strict=True) if not _TENSOR.fullmatch(name)]
    if max(text) > _TEXT_BYTES or sum(text) > _ALL_TEXT_BYTES:
        raise BundleError("its code is too long", accepted=f"{_TEXT_BYTES // _MIB} MiB in a file")


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def _write(parts: Mapping[str, bytes]) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name, part in parts.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), part)
    return output.getvalue()
