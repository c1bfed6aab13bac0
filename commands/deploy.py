"""Write the files with which a host runs the service under systemd, with the paths of this installation."""

import sys
from pathlib import Path

_FILES = Path(__file__).parent.parent / "deploy"
_PROGRAM = "/opt/isocenter/.venv/bin/isocenter"
"""The program as the unit in the repository has it."""


def write_deployment(folder: Path) -> list[Path]:
    """Write unit, user, environment and settings to a folder, and return them.

    Parameters
    ----------
    folder
        Made if need be; files of these names in it are replaced.

    Raises
    ------
    OSError
        It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("isocenter")
    written: list[Path] = []
    for source in sorted(_FILES.iterdir()):
        if source.is_file():
            path = folder / source.name
            path.write_text(source.read_text(encoding="utf-8").replace(_PROGRAM, str(program)), encoding="utf-8")
            written.append(path)
    return written
