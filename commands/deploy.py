"""Write the files with which a host runs the service under systemd, with the paths of this installation."""

import sys
from pathlib import Path

from ..wire.errors import OptionError

_FILES = Path(__file__).parent.parent / "deploy"
_PROGRAM = "/opt/isocenter/.venv/bin/isocenter"
"""The program as the unit in the repository has it."""


def deployment(folder: Path, *, replace: bool = False) -> dict[Path, str]:
    """Return what is to be written to a folder: unit, user, environment and settings.

    Parameters
    ----------
    folder
        It need not be there.
    replace
        Whether files that somebody has edited may be replaced.

    Returns
    -------
    dict of Path to str
        The text of each file.

    Raises
    ------
    OptionError
        Files of these names are there, say something else, and may not be replaced.
    OSError
        One that is there cannot be read.
    """
    program = Path(sys.executable).with_name("isocenter")
    files = {
        folder / source.name: source.read_text(encoding="utf-8").replace(_PROGRAM, str(program))
        for source in sorted(_FILES.iterdir())
        if source.is_file()
    }
    differ = [path.name for path, text in files.items() if path.exists() and path.read_bytes() != text.encode()]
    if differ and not replace:
        raise OptionError(
            f"{folder} has {', '.join(differ)} already, which differ from what would be written",
            where="FOLDER",
            accepted="another folder, or --replace",
        )
    return files
