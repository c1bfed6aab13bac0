"""The set of textures that ``kind: textures`` trains on: photographs and a head out of Debian packages, in one file.

``isocenter textures`` builds it; no picture comes with Isocenter. The file is HDF5::

    photographs/0000   uint16 [y, x], black to white, from JPEG or PNG reduced by box filter until no trace of JPEG is left;
                       attributes package, name, held_out
    heads/0000         uint8 [x, y, z], from left to right, back to front, bottom to top;
                       attributes package, name, size_mm, bottom_mm (height of the lowest voxels, MNI)
    packages/NAME      the file ``copyright`` of a package; attributes version, sha256, licences

Validation has photographs of its own, and transverse slices of the heads' slab that training leaves out.
"""

import errno
import io
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..simulate.anatomy import HELD_OUT_MM
from ..simulate.textures import SMALLEST, Pictures, Volume
from ..wire import extras
from .debian import MIRROR, Package, SourceError, Told, fetch, files, find

PACKAGES: tuple[Package, ...] = (
    Package(
        "plasma-workspace-wallpapers",
        "4:5.27.5-2",
        "pool/main/p/plasma-workspace-wallpapers/plasma-workspace-wallpapers_5.27.5-2_all.deb",
        94047772,
        "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
        "GPL-2+",
    ),
    Package(
        "gnome-backgrounds",
        "43.1-1",
        "pool/main/g/gnome-backgrounds/gnome-backgrounds_43.1-1_all.deb",
        32546832,
        "a670dea21572652127d6e55f9cdb3a226d0037854fdbfd037003c7d00ee0dc4e",
        "GPL-2+, CC-BY-SA-3.0, CC-BY-SA-2.0, CC-BY-2.0",
    ),
    Package(
        "ukui-wallpapers",
        "20.04.3-1.1",
        "pool/main/u/ukui-wallpapers/ukui-wallpapers_20.04.3-1.1_all.deb",
        21469048,
        "6d49be70152e6d603163458e177e501deb0be8f2916389ccbfcf59b0d7fc0262",
        "CC-BY-SA-3.0",
    ),
    Package(
        "lomiri-wallpapers-16.04",
        "20.04.0-2",
        "pool/main/l/lomiri-wallpapers/lomiri-wallpapers-16.04_20.04.0-2_all.deb",
        15783184,
        "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
        "CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0, CC0-1.0",
        held_out=("Picture_0B_by_freespace.jpg", "Wine_by_Jakkub_Mede.jpg"),
    ),
    Package(
        "lomiri-wallpapers-20.04",
        "20.04.0-2",
        "pool/main/l/lomiri-wallpapers/lomiri-wallpapers-20.04_20.04.0-2_all.deb",
        11377208,
        "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709",
        "CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0, CC0-1.0",
        held_out=("Infinite-Sea_by_Aury88.jpg", "Kleiber_by_Lukas_Baubkus.jpg"),
    ),
    Package(
        "mate-backgrounds",
        "1.26.0-1",
        "pool/main/m/mate-backgrounds/mate-backgrounds_1.26.0-1_all.deb",
        46638500,
        "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
        "GPL-2+, CC-BY-SA-4.0",
        held_out=("LadyBird.jpg", "Storm.jpg"),
    ),
    Package(
        "mricron-data",
        "1.2.20211006+dfsg-4",
        "pool/main/m/mricron/mricron-data_1.2.20211006+dfsg-4_all.deb",
        16122652,
        "d40aa0ed66cf89bf6cafa049ad3884703c9d975c2ee2737525b7196528df9d6f",
        "BSD-3-clause",
    ),
)
"""Of Debian 12. Licences are those that their files ``copyright`` name for pictures; these are in the set, whole."""

NAME = "textures.h5"
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_HEADS = ("ch2.nii.gz", "ch2better.nii.gz")
"""Two versions of an average of scans of one head (Holmes et al., J. Comput. Assist. Tomogr. 1998;22:324)."""
_SMALLEST_PICTURE = 1000
"""Fewest pixels along an edge of a picture that is looked at."""
_REDUCED = 720
"""About the pixels along the shorter edge of a photograph in the set."""
_LEAST_DETAIL = 0.006
"""Mean difference between neighbouring lines, in parts of the range: less has hardly any texture."""
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_FORMAT = 1


def build_textures(
    folder: Path,
    told: Told,
    *,
    packages: Path | None = None,
    mirror: str = MIRROR,
    chosen: tuple[Package, ...] = PACKAGES,
) -> Path:
    """Build the set, fetching the packages that are not there.

    Parameters
    ----------
    folder
        Receives ``textures.h5`` and, in ``packages/``, what is fetched; need not exist.
    told
        Is told how far it is.
    packages
        Folder that has the packages; nothing is fetched then.
    mirror
        Address of a mirror of Debian.
    chosen
        The packages.

    Returns
    -------
    Path
        The file. One that was there is replaced, when the new one is whole.

    Raises
    ------
    SourceError
        A package cannot be fetched, or is another file than was expected; there is no room for the set.
    MissingExtraError
        nibabel, which reads the head, is not installed.
    """
    extras.need("nibabel", "the head among the textures")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [
            find(package, packages) if packages else fetch(package, folder / "packages", told, mirror)
            for package in chosen
        ]
        with tempfile.TemporaryDirectory(prefix=".textures-", dir=folder) as partial:
            path = Path(partial) / NAME
            with h5py.File(path, "w") as file:
                _write(file, list(zip(chosen, paths, strict=True)), told)
            return path.replace(folder / NAME)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SourceError(
                f"there is no room for the textures in {folder}", accepted="about 600 MB, 240 of them for the packages"
            ) from error
        raise SourceError(f"the textures cannot be written to {folder}: {error.strerror or error}") from error


def _write(file: h5py.File, chosen: list[tuple[Package, Path]], told: Told) -> None:
    """Write all packages' pictures.

    Raises
    ------
    SourceError
        Training or validation would have none.
    """
    file.attrs["format"] = _FORMAT
    seen: set[bytes] = set()
    for index, (package, path) in enumerate(chosen):
        told("pictures", index, len(chosen))
        _write_package(file, package, path, seen)
    told("pictures", len(chosen), len(chosen))
    held_out = [bool(each.attrs["held_out"]) for each in _members(file, "photographs")]
    if all(held_out) or not any(held_out) or not _members(file, "heads"):
        raise SourceError("the packages do not have photographs for training and for validation, and a head")


def _write_package(file: h5py.File, package: Package, path: Path, seen: set[bytes]) -> None:
    copyright_file = f"usr/share/doc/{package.name}/copyright"
    of_package = {"package": package.name}
    for name, content in files(path, lambda name: name == copyright_file or name.endswith((*_PICTURES, *_HEADS))):
        if name == copyright_file:
            entry = file.create_dataset(f"packages/{package.name}", data=content.decode("utf-8", "replace"))
            entry.attrs.update(version=package.version, sha256=package.sha256, licences=package.licences)
        elif name.endswith(_HEADS):
            voxels, attributes = _read_head(content)
            _add(file, "heads", voxels, {**of_package, "name": name, **attributes})
        else:
            photograph = _read_photograph(content)
            key = b"" if photograph is None else (photograph[::97, ::89] >> 13).tobytes()
            if photograph is not None and key not in seen:
                seen.add(key)
                held_out = Path(name).name in package.held_out
                _add(file, "photographs", photograph, {**of_package, "name": name, "held_out": held_out})
    if f"packages/{package.name}" not in file:
        raise SourceError(f"{path} has no {copyright_file}, by whose terms its pictures may be used")


def _add(file: h5py.File, kind: str, values: NDArray[Any], attributes: dict[str, Any]) -> None:
    group = file.require_group(kind)
    group.create_dataset(f"{len(group):04d}", data=values).attrs.update(attributes)


def _read_photograph(content: bytes) -> NDArray[np.uint16] | None:
    """Return the brightness uint16 [y, x] of a picture, reduced to be rid of JPEG; None where it is small or smooth."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        if min(picture.size) < _SMALLEST_PICTURE:
            return None
        planes = np.asarray(picture.convert("RGB"))
    step = max(2, round(min(planes.shape[:2]) / _REDUCED))
    height, width = (edge // step for edge in planes.shape[:2])
    blocks = planes[: height * step, : width * step].reshape(height, step, width, step, 3)
    grey = blocks.mean(axis=(1, 3), dtype=np.float32) @ _GREY / 255
    if min(grey.shape) < SMALLEST or np.abs(np.diff(grey, axis=0)).mean() < _LEAST_DETAIL:
        return None
    return np.round(np.clip(grey, 0, 1) * 65535).astype(np.uint16)


def _read_head(content: bytes) -> tuple[NDArray[np.uint8], dict[str, float]]:
    """Return the voxels of a NIfTI file (gzip), from left to right, back to front and bottom to top, and where they lie."""
    import gzip

    nibabel = extras.load("nibabel", "a head as NIfTI")
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image.from_bytes(gzip.decompress(content)))
    size = image.header.get_zooms()
    return np.asarray(image.dataobj, np.uint8), {"size_mm": float(size[0]), "bottom_mm": float(image.affine[2, 3])}


@cache
def load_textures(path: Path) -> tuple[Pictures, Pictures]:
    """Read the set into memory: what training, and what validation makes images of.

    Parameters
    ----------
    path
        The file that ``build_textures`` wrote.

    Raises
    ------
    SourceError
        It is not there, or is no such file.
    """
    with _opened(path) as file:
        photographs = [(bool(each.attrs["held_out"]), each[()]) for each in _members(file, "photographs")]
        heads = [_volume(each) for each in _members(file, "heads")]
    split = (
        [photograph for held_out, photograph in photographs if held_out == validates] for validates in (False, True)
    )
    training, validation = split
    return Pictures(training, heads), Pictures(validation, heads, validation=True)


def _volume(entry: h5py.Dataset) -> Volume:
    size, bottom = float(entry.attrs["size_mm"]), float(entry.attrs["bottom_mm"])
    low, high = (round((height - bottom) / size) for height in HELD_OUT_MM)
    return Volume(entry[()], size, (low, high))


def sources(path: Path) -> list[dict[str, str]]:
    """Return the packages that a set was built from: name, version, sha256 and licences of each.

    Raises
    ------
    SourceError
        It is not there, or is no such file.
    """
    with _opened(path) as file:
        return [
            {"package": Path(str(each.name)).name}
            | {name: str(each.attrs[name]) for name in ("version", "sha256", "licences")}
            for each in _members(file, "packages")
        ]


def _opened(path: Path) -> h5py.File:
    how = f"isocenter textures {path.parent}"
    if not path.is_file():
        raise SourceError(f"there is no {path}, which training takes its textures from", accepted=f"build it: {how}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise SourceError(f"{path} is damaged or no set of textures", accepted=f"what {how} writes") from error
    if file.attrs.get("format") != _FORMAT:
        file.close()
        raise SourceError(f"{path} is no set of textures of this version", accepted=f"what {how} writes")
    return file


def _members(file: h5py.File, kind: str) -> list[h5py.Dataset]:
    return list(file[kind].values()) if kind in file else []
