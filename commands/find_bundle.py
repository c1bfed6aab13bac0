"""Bundles by name or by folder, in one way for every command: as pipelines name them, or where they lie."""

import os
from pathlib import Path

from ..bundle.folder import Bundle
from ..bundle.manifest import MANIFEST, BundleError
from ..bundle.trust import Trust
from ..engine.device import Shelf
from ..service.settings import Settings
from ..wire.errors import IsocenterError
from .shipped import NAMES


def find(bundle: Path | str, settings: Settings) -> Path:
    """Return the folder of a bundle; one that comes with Isocenter and is missing is built.

    Parameters
    ----------
    bundle
        Its folder; or, where there is no such folder, its name.
    settings
        Say in what folders bundles are found by name.

    Raises
    ------
    BundleError
        There is none, or it cannot be built.
    """
    path = Path(bundle)
    if os.path.lexists(path / MANIFEST):
        return path
    if path.name == str(path):
        from .prepare import build_if_missing

        shelf = Shelf(settings.bundle_folders)
        build_if_missing(path.name, settings, shelf.available())
        return shelf.find(path.name)
    built = f"; named without a folder, {path.name!r} is built" if path.name in NAMES else ""
    raise BundleError(f"{path} is no bundle: it has no {MANIFEST}{built}")


def open_bundle(bundle: Path | str, settings: Settings) -> Bundle:
    """Open a bundle that is given by its folder or by its name, if its files are what they were and it is trusted.

    Raises
    ------
    BundleError
        There is none, it cannot be built, it is damaged, or nobody who is trusted signed it.
    """
    return Bundle.open(find(bundle, settings), Trust.of(settings.home, settings.keys))


def name_for_pipelines(folder: Path, settings: Settings) -> str:
    """Return the name by which pipelines find the bundle in a folder; empty if they do not."""
    try:
        found = Shelf(settings.bundle_folders).find(folder.name)
    except IsocenterError:
        return ""
    return folder.name if found.resolve() == folder.resolve() else ""
