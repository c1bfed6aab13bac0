"""A home that is not there: made where it may be meant, and said, so that a misspelt one does not pass for that of a site."""

import logging
from pathlib import Path

from ..bundle.manifest import BundleError
from ..wire.home import named_folder

log: logging.Logger = logging.getLogger("isocenter.home")

_DEFAULT = "~/.isocenter"


def home_fault(home: Path) -> str:
    """Say that a home is not there and is not made, as there is no folder to make it in; empty otherwise."""
    if home.exists() or home.parent.exists():
        return ""
    return f"there is no folder {home}, and none is made, as there is no {home.parent} either"


def home_doubt(home: Path) -> str:
    """Say that a home that somebody has named is not there, and will be made; empty otherwise."""
    if home.exists() or home == named_folder(_DEFAULT):
        return ""
    return f"home: there is no folder {home}: it is made, and what comes with Isocenter is built into it; is it the one meant?"


def make_home(home: Path) -> None:
    """Make a home that is not there, and log it: as a warning where somebody has named it.

    Raises
    ------
    BundleError
        There is no folder to make it in, or it cannot be made.
    """
    if home.exists():
        return
    if fault := home_fault(home):
        raise BundleError(fault, where="home", accepted="a folder that is there, or can be made in one that is")
    if doubt := home_doubt(home):
        log.warning("%s", doubt)
    else:
        log.info("home: folder %s is made, and what comes with Isocenter is built into it", home)
    try:
        home.mkdir(exist_ok=True)
    except OSError as error:
        raise BundleError(f"folder {home} cannot be made: {error.strerror}", where="home") from error
