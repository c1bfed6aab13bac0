"""MRD images as panels: what they are, how they lie, their window, and what they say is amiss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from ...service.provenance import amiss
from ...wire.items import Image
from .geometry import Geometry, geometry_of, radiological
from .panel import Panel, Row, Sheet, brightest, in_rows

COLUMNS = 4
MOST = 32
"""Planes of a series that are shown; of more, some at equal distances are."""

_TYPES = {
    ismrmrd.IMTYPE_MAGNITUDE: "magnitude",
    ismrmrd.IMTYPE_PHASE: "phase",
    ismrmrd.IMTYPE_REAL: "real part",
    ismrmrd.IMTYPE_IMAG: "imaginary part",
    ismrmrd.IMTYPE_COMPLEX: "complex",
}
_COUNTERS = ("slice", "contrast", "phase", "repetition", "set", "average")


@dataclass(frozen=True)
class Plane:
    """A plane of an image, as it is shown.

    Attributes
    ----------
    image
        The MRD image that it is of.
    channel, z
        Which of its planes.
    data
        Numbers [y, x], real or complex, looked at as radiologists do.
    geometry
        How these lie.
    turned
        How they differ from what is stored, in words.
    """

    image: Image
    channel: int
    z: int
    data: NDArray
    geometry: Geometry | None
    turned: str

    @property
    def place(self) -> tuple[int, ...]:
        """What planes are put in order by: the slices of a volume, then its frames."""
        head = self.image
        return (
            *(head.average, head.set, head.contrast, head.repetition, head.phase, head.slice),
            *(self.z, self.channel, head.image_index),
        )


def planes(images: Sequence[Image], *, as_stored: bool = False) -> list[Plane]:
    """Take images apart into planes, put in order by slices and then frames."""
    found: list[Plane] = []
    for image in images:
        geometry = geometry_of(image.getHead())
        for channel, volume in enumerate(image.data):
            for z, plane in enumerate(volume):
                turned = (plane, geometry, "") if as_stored else radiological(plane, geometry)
                found.append(Plane(image, channel, z, *turned))
    return sorted(found, key=lambda plane: plane.place)


def some(count: int, most: int = MOST) -> list[int]:
    """Choose at most so many of 0 to ``count - 1``, at equal distances."""
    if count <= most:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * most) for part in range(most)]


def image_sheet(images: Sequence[Image], title: str, *, as_stored: bool = False) -> Sheet:
    """Make a sheet of images: rows for each series, at most ``MOST`` planes of each.

    Parameters
    ----------
    images
        Of one or more series, in any order.
    title
        Of the sheet.
    as_stored
        Whether y points down and x to the right, wherever that is in the patient.
    """
    rows: list[Row] = []
    notes: list[str] = []
    for series in sorted({image.image_series_index for image in images}):
        own = [image for image in images if image.image_series_index == series]
        rows += series_rows(planes(own, as_stored=as_stored), f"series {series}", notes)
    return Sheet(title, rows, list(dict.fromkeys(notes)))


def series_rows(every: Sequence[Plane], name: str, notes: list[str]) -> list[Row]:
    """Make the rows of a series; what its images say is amiss is added to the notes."""
    shown = [every[index] for index in some(len(every))]
    counters = varying(every)
    panels = [panel for plane in shown for panel in plane_panels(plane, counters)]
    notes += [f"{name}: {text}" for plane in every for text in complaints(plane.image)]
    first = every[0]
    size = " x ".join(map(str, first.image.data.shape[:0:-1]))
    parts = [name, type_of(first.image), f"{size} {first.image.data.dtype}", origin(first.image)]
    if first.geometry is not None:
        parts += [first.geometry.plane]
        if first.turned:
            parts += [f"shown {first.turned}"]
    parts += [f"{len(shown)} of {len(every)} planes" if len(shown) < len(every) else ""]
    return in_rows(panels, ", ".join(part for part in parts if part), COLUMNS)


def varying(every: Sequence[Plane]) -> list[str]:
    """Names of the counters that tell the planes apart."""
    return [name for name in _COUNTERS if len({getattr(plane.image, name) for plane in every}) > 1]


def plane_panels(plane: Plane, counters: Sequence[str]) -> list[Panel]:
    """Make the panel of a plane; of a complex one magnitude and phase."""
    image, label = plane.image, label_of(plane, counters)
    marked = ", ".join(sorted(amiss(image.meta)))
    panel = Panel(plane.data, label, None, plane.geometry, warning=f"! {marked}" if marked else "")
    if np.iscomplexobj(plane.data):
        phase = np.angle(plane.data).astype(np.float32)
        return [
            replace(panel, image=np.abs(plane.data).astype(np.float32), title=f"{label}\nmagnitude"),
            replace(panel, image=phase, title=f"{label}\nphase [rad]", window=(-math.pi, math.pi)),
        ]
    data = plane.data.astype(np.float32)
    return [replace(panel, image=data, window=window(image, data))]


def label_of(plane: Plane, counters: Sequence[str]) -> str:
    """Name a plane by its number and by the counters that tell it from the others."""
    image = plane.image
    parts = [f"image {image.image_index}", *(f"{name} {getattr(image, name)}" for name in counters)]
    if image.data.shape[1] > 1:
        parts.append(f"z {plane.z}")
    if image.data.shape[0] > 1:
        parts.append(f"channel {plane.channel}")
    return ", ".join(parts)


def window(image: Image, data: NDArray[np.float32]) -> tuple[float, float]:
    """Return what is black and white: by the image's own window, else by its type and values."""
    width, level = _number(image, "WindowWidth"), _number(image, "WindowCenter")
    if image.image_type in (ismrmrd.IMTYPE_REAL, ismrmrd.IMTYPE_IMAG):
        return -brightest(data), brightest(data)
    if image.image_type == ismrmrd.IMTYPE_PHASE and image.data.dtype.kind == "f":
        return -math.pi, math.pi
    if image.image_type == ismrmrd.IMTYPE_PHASE:
        return float(image.data.min()), float(image.data.max())
    if width is None or level is None or not width > 0:
        return 0.0, brightest(data)
    return level - width / 2, level + width / 2


def _number(image: Image, name: str) -> float | None:
    try:
        return float(str(image.meta[name]))
    except (KeyError, ValueError):
        return None


def type_of(image: Image) -> str:
    """Name the part of a complex image that it is, or what else it shows."""
    if "IsocenterShows" in image.meta:
        return str(image.meta["IsocenterShows"])
    if np.iscomplexobj(image.data):
        return "complex"
    return _TYPES.get(image.image_type, "magnitude")


def origin(image: Image) -> str:
    """Say by which pipeline and bundle an image was made, as far as it says so."""
    meta = image.meta
    parts = [str(meta[name]) for name in ("IsocenterPipeline",) if name in meta]
    if (bundle := str(meta.get("IsocenterBundle", "none"))) != "none":
        parts.append(f"bundle {bundle}")
    return ", ".join(parts)


def complaints(image: Image) -> list[str]:
    """What an image says is amiss or in doubt, a sentence each."""
    return [f"{name}: {text}" for name, text in amiss(image.meta).items()]
