"""A file of images: every group and series in it, with what the images say of themselves."""

from collections.abc import Sequence
from pathlib import Path

from ...wire.image_files import ImageSeries
from ...wire.items import Image
from ..picture import Facts, Row, Sheet
from ..picture.images import MOST, planes, series_rows, some


def images_sheet(path: Path, every: Sequence[ImageSeries], *, as_stored: bool) -> Sheet:
    """Make a sheet of series of images.

    Parameters
    ----------
    path
        The file.
    every
        Its series; of one with very many images only as many as are shown are read.
    as_stored
        Whether nothing is turned to radiological convention.

    Raises
    ------
    FileError
        An image is damaged.
    """
    rows: list[Row] = []
    notes: list[str] = []
    facts: Facts = []
    for series in every:
        if not series.count:
            facts.append((series.name, "no images"))
            continue
        images = [series.read(index) for index in some(series.count, 4 * MOST)]
        rows += series_rows(planes(images, as_stored=as_stored), series.name, notes)
        facts.append((series.name, f"{series.count} images, {_made_by(images)}"))
    return Sheet(f"images {path}", rows, list(dict.fromkeys(notes)), facts)


def _made_by(images: Sequence[Image]) -> str:
    """Say what made the images, as far as they say so; where they differ, the first, and how many others there are."""
    texts = list(dict.fromkeys(_origin(image) for image in images))
    return texts[0] + (f"; {len(texts) - 1} others" if len(texts) > 1 else "")


def _origin(image: Image) -> str:
    meta = {name: str(value) for name, value in image.meta.items()}
    if "IsocenterVersion" not in meta:
        return "not by Isocenter"
    bundle = f"bundle {meta.get('IsocenterBundle')} {meta.get('IsocenterBundleVersion')}"
    runtime = f"{meta.get('IsocenterRuntime')} on {meta.get('IsocenterDevice')}"
    parts = [meta.get("IsocenterPipeline", ""), bundle, runtime, f"Isocenter {meta['IsocenterVersion']}"]
    noise = meta.get("IsocenterNoiseSource")
    return ", ".join([*parts, *([f"whitened by {noise}"] if noise and noise != "none" else [])])
