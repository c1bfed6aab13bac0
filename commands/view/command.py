"""The command: finds out what it was given, and shows it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..frame import ConfigOption, working

if TYPE_CHECKING:
    from ...service.settings import Settings
    from ..picture import Sheet

out: Console = Console(highlight=False)
"""Not the other commands', which do not wrap: pictures and tables are as wide as the terminal."""


def view(
    what: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Scan or images (HDF5), recorded stream, bundle's folder, or its name."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the picture as PNG, instead of showing it here.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", "-g", help="Group in the file; default: all images, or the scan in 'dataset'."),
    ] = None,
    as_stored: Annotated[
        bool, typer.Option("--as-stored", help="Do not turn or mirror images to radiological convention.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Look into a scan, images or a bundle: facts, warnings and a picture, in the terminal or as PNG.

    Example: isocenter view sense -o sense.png
    """
    from ...service.settings import load_settings
    from ..outputs import check_picture
    from ..picture import Sheet, draw, show

    if output is not None:
        check_picture(output, "--output")
    sheet = find_sheet(what, group, load_settings(config), as_stored=as_stored)
    with working():
        if output is not None:
            draw(sheet, output)
        show(sheet if output is None else Sheet(sheet.title, [], sheet.notes, sheet.facts), out)
    if output is not None:
        out.print(f"picture in {output}", markup=False, soft_wrap=True)


def find_sheet(what: str, group: str | None, settings: "Settings", *, as_stored: bool) -> "Sheet":
    """Make the sheet of whatever was given.

    Raises
    ------
    IsocenterError
        It does not exist, or is nothing that can be looked at.
    """
    from ...bundle.folder import Bundle
    from ...bundle.manifest import MANIFEST
    from ...bundle.trust import Trust
    from ...wire.errors import FileError, nearest
    from ..find_bundle import known_names, open_bundle
    from .bundle import bundle_sheet

    path = Path(what)
    trust = Trust.of(settings.home, settings.keys)
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise FileError(f"{path} is a folder without {MANIFEST}", accepted="the folder of a bundle, or a file")
        return bundle_sheet(Bundle.open(path, trust))
    if path.exists():
        return _file_sheet(path, group, settings, as_stored=as_stored)
    known = known_names(settings)
    if what in known:
        return bundle_sheet(open_bundle(what, settings))
    raise FileError(
        f"there is no file and no bundle {what!r}{nearest(what, known)}",
        accepted="a scan, images or a bundle",
    )


def _file_sheet(path: Path, group: str | None, settings: "Settings", *, as_stored: bool) -> "Sheet":
    import h5py

    from ...simulate.scan import TRUTH
    from ...wire.errors import FileError, nearest
    from .images import images_sheet
    from .scan import scan_sheet

    if not path.is_file():
        raise FileError(f"{path} is no file", accepted="a scan, images, or the folder of a bundle")
    if not path.stat().st_size:
        raise FileError(f"{path} is empty", accepted="a scan (MRD), images (MRD), or a recorded stream")
    if not h5py.is_hdf5(path):
        return scan_sheet(path, settings)
    from ...wire.files import open_hdf5
    from ...wire.image_files import image_series

    series = image_series(path)
    scans = _scans(path)
    if group is None:
        if series and not scans:
            return images_sheet(path, series, as_stored=as_stored)
        if scans:
            return scan_sheet(path, settings, "dataset" if "dataset" in scans else scans[0])
        with open_hdf5(path) as file:
            names = ", ".join(sorted(file)[:8]) or "nothing"
        if path.name.endswith(TRUTH):
            scan = path.name.removesuffix(TRUTH)
            raise FileError(
                f"{path} is the truth of a simulated scan: {names}",
                accepted=f"the scan, {scan}.h5; `isocenter replay --png` draws the truth beside its images",
            )
        raise FileError(f"{path} holds neither a scan nor images; it holds: {names}", accepted="MRD files")
    name = group.strip("/")
    if chosen := [each for each in series if not name or each.name == name or each.name.startswith(f"{name}/")]:
        return images_sheet(path, chosen, as_stored=as_stored)
    there_are = dict.fromkeys([*scans, *(each.name.rpartition("/")[0] or each.name for each in series)])
    if group not in there_are and name not in there_are:
        raise FileError(
            f"{path} has no group {group!r} of images or of a scan{nearest(group, there_are)}",
            where="--group",
            accepted=", ".join(there_are) or "none, the file has neither",
        )
    return scan_sheet(path, settings, group)


def _scans(path: Path) -> list[str]:
    """Groups of a file that hold a scan: an MRD header and readouts."""
    import h5py

    from ...wire.files import open_hdf5

    found: list[str] = []

    def look(name: str, member: object) -> None:
        if isinstance(member, h5py.Group) and "xml" in member and "data" in member:
            found.append(name)

    with open_hdf5(path, "MRD file") as file:
        file.visititems(look)
        if "xml" in file and "data" in file:
            found.insert(0, "/")
    return found
