"""Whether what a command will write can be written, found out before its work."""

import tempfile
from pathlib import Path

from ..wire.errors import OptionError

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".svg", ".pdf")


def check_folder(folder: Path, where: str) -> None:
    """Make sure that something can be written to a folder, which need not be there yet.

    Parameters
    ----------
    folder
        That will be made, or is there.
    where
        What names it, such as ``--output``.

    Raises
    ------
    OptionError
        It cannot be made, or nothing can be written to it.
    """
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise OptionError(f"folder {folder} cannot be written to: {error.strerror}", where=where) from error


def check_file(path: Path, where: str) -> None:
    """Make sure that a file can be written, whose folder must be there.

    Raises
    ------
    OptionError
        It cannot, or is a folder or a device.
    """
    if path.exists():
        if not path.is_file():
            raise OptionError(f"{path} is {'a folder' if path.is_dir() else 'no plain file'}", where=where)
        try:
            path.open("ab").close()
        except OSError as error:
            raise OptionError(f"{path} cannot be written: {error.strerror}", where=where) from error
    elif not path.parent.is_dir():
        raise OptionError(f"{path} cannot be written: there is no folder {path.parent}", where=where)
    else:
        check_folder(path.parent, where)


def check_picture(path: Path, where: str) -> None:
    """Make sure that a picture can be written: the file, and its format by the end of its name.

    Raises
    ------
    OptionError
        It cannot.
    """
    if path.suffix.lower() not in _PICTURES:
        raise OptionError(f"{path} has no ending of a picture", where=where, accepted=", ".join(_PICTURES))
    check_file(path, where)
