"""Bundles by name or by folder, in one way for every command: as pipelines name them, or where they lie."""

import os
import re
import shutil
from pathlib import Path

from ..bundle.folder import Bundle
from ..bundle.manifest import MANIFEST, MEASURED, NAME, BundleError
from ..bundle.trust import Trust
from ..engine.device import Shelf, no_such_bundle
from ..export.build import move, workplace
from ..service.settings import Settings
from ..wire.errors import IsocenterError
from .shipped import NAMES

_LONGEST = 100
"""Characters of a name."""
_FILES = frozenset(
    (
        *(".pt", ".pth", ".ckpt", ".npz", ".npy", ".index", ".safetensors", ".ts", ".onnx", ".pt2", ".bin"),
        *(".yaml", ".yml", ".json", ".xml", ".h5", ".mrd", ".mat", ".py", ".zip", ".tar", ".gz", ".minisig"),
    )
)
"""How names of files end: of weights, models, settings, scans."""


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
        known = known_names(settings)
        if path.name not in known:
            raise no_such_bundle(path.name, known)
        build_if_missing(path.name, settings, shelf.available())
        return shelf.find(path.name)
    built = f"; named without a folder, {path.name!r} is built" if path.name in NAMES else ""
    raise BundleError(f"{path} is no bundle: it has no {MANIFEST}{built}")


def known_names(settings: Settings) -> set[str]:
    """Return the names of the bundles that there are, and of those that come with Isocenter and can be built."""
    return {*Shelf(settings.bundle_folders).available(), *NAMES}


def open_bundle(bundle: Path | str, settings: Settings) -> Bundle:
    """Open a bundle that is given by its folder or by its name, if its files are what they were and it is trusted.

    Raises
    ------
    BundleError
        There is none, it cannot be built, it is damaged, or nobody who is trusted signed it.
    """
    return Bundle.open(find(bundle, settings), Trust.of(settings.home, settings.keys))


def how_to_name(folder: Path, settings: Settings) -> str:
    """Say by which name pipelines find the bundle in a folder, or what to do so that they do."""
    try:
        found = Shelf(settings.bundle_folders).find(folder.resolve().name)
    except IsocenterError:
        found = None
    if found is not None and found.resolve() == folder.resolve():
        return f"pipelines, parameters and commands name it {found.name!r}"
    return (
        f"it lies outside the folders in which bundles are found by name: `isocenter bundle install {folder}` puts it into "
        f"{settings.home / 'bundles'}"
    )


def install(folder: Path, name: str, settings: Settings, *, replace: bool = False) -> Path:
    """Copy a bundle to where pipelines find it by name; it appears there whole, or not at all.

    Parameters
    ----------
    folder
        The bundle, whose files are checked against their hashes before and after they are copied.
    name
        What it is to be called.
    settings
        It goes to ``bundles`` in their home. Whoever they trust must have signed it.
    replace
        Whether it takes the place of another one of this name.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    BundleError
        It is damaged or not trusted, or there is one of this name that may not be replaced, or that goes before it.
    """
    place = place_of(name, settings, replace=replace)
    trust = Trust.of(settings.home, settings.keys)
    Bundle.open(folder, trust)
    try:
        with workplace(place) as partial:
            copied = partial / name
            shutil.copytree(folder, copied, ignore=shutil.ignore_patterns(MEASURED))
            Bundle.open(copied, trust)
            move(copied, place)
    except OSError as error:
        raise BundleError(f"bundle {name!r} cannot be written to {place}: {error.strerror}") from error
    return place


def output_folder(output: str, settings: Settings, *, replace: bool) -> Path:
    """Return the folder for a new bundle that a command is to write: where a name belongs, or the folder that was given.

    Raises
    ------
    BundleError
        The name cannot be used; or something is there that may not be replaced.
    """
    if "/" not in output:
        return place_of(output, settings, replace=replace)
    folder = Path(output)
    _check_name(folder.name)
    if os.path.lexists(folder) and not replace:
        raise BundleError(f"{folder} is there already", accepted="another folder, or --replace")
    if os.path.lexists(folder) and not os.path.lexists(folder / MANIFEST):
        raise BundleError(f"{folder} is no bundle, and is not replaced")
    return folder


def place_of(name: str, settings: Settings, *, replace: bool) -> Path:
    """Return the folder for a new bundle of this name, where pipelines will find it.

    Raises
    ------
    BundleError
        The name cannot be used, or is taken.
    """
    _check_name(name)
    if name in NAMES:
        raise BundleError(f"a bundle {name!r} comes with Isocenter", accepted="another name")
    place = settings.home / "bundles" / name
    found = Shelf(settings.bundle_folders).available().get(name)
    if found is not None and found != place:
        raise BundleError(f"there is a bundle {name!r} already, in {found}, which pipelines find first")
    if os.path.lexists(place) and not replace:
        raise BundleError(f"there is a bundle {name!r} already, in {place}", accepted="another name, or --replace")
    return place


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME, name) or len(name) > _LONGEST:
        raise BundleError(
            f"{name!r} is no name of a bundle",
            accepted=f"at most {_LONGEST} letters, digits, '.', '_' and '-', the first a letter or digit",
        )
    ending = Path(name).suffix
    if ending.lower() in _FILES:
        raise BundleError(
            f"{name!r} is a name of a file, and a bundle is a folder",
            accepted=f"a name such as {name.removesuffix(ending)!r}",
        )
