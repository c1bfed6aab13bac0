"""Packages that only some tasks need, and the extras of the installation that bring them.

The base installation serves, replays, simulates, shows pictures and runs the demo. What needs more asks here before it starts to
work, so that the user reads one line at once instead of a traceback after an hour.
"""

import importlib
import importlib.util
from typing import Any

from .errors import IsocenterError, MissingExtraError

EXTRAS: dict[str, tuple[str, ...]] = {
    "gadgetron": ("gadgetron",),
    "nibabel": ("train",),
    "nilearn": ("train",),
    "onnx": ("export",),
    "onnxruntime": ("cpu", "gpu"),
    "ray": ("ray",),
    "zfpy": ("zfp",),
}
"""The extras that bring a package; of several, one is enough."""


def is_installed(package: str) -> bool:
    """Whether one of these packages can be imported."""
    return importlib.util.find_spec(package) is not None


def need(package: str, purpose: str, error: type[IsocenterError] = MissingExtraError) -> None:
    """Check that a package is installed, without importing it.

    Parameters
    ----------
    package
        One of ``EXTRAS``.
    purpose
        What needs it, as the message begins: ``"phantom 'template'"``.
    error
        What is raised where it is not installed.

    Raises
    ------
    MissingExtraError
        Or ``error``: it is not installed; the message says which extra brings it.
    """
    if not is_installed(package):
        raise error(lacks(package, purpose))


def load(module: str, purpose: str, error: type[IsocenterError] = MissingExtraError) -> Any:
    """Import a module of one of these packages and return it; else as ``need``."""
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        raise error(lacks(module.partition(".")[0], purpose)) from missing


def lacks(package: str, purpose: str) -> str:
    """Say that something needs a package, and how to install it."""
    commands = [f"pip install 'isocenter[{extra}]'" for extra in EXTRAS.get(package, ())] or [f"pip install {package}"]
    return f"{purpose} needs the package {package}: {' or '.join(commands)}"
