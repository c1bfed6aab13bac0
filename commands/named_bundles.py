"""Bundles that settings and pipelines name: whether they are there, what they were made for, and whether they passed the gate."""

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.manifest import CARD_DATA, MANIFEST, BundleError, parse_manifest
from ..service.settings import Settings
from ..wire.errors import IsocenterError, nearest
from .shipped import NAMES

if TYPE_CHECKING:
    from ..pipelines.loader import Pipeline

_CARDS = Path(__file__).parent.parent / "export" / "cards"


def known_bundles(settings: Settings) -> set[str]:
    """Names of the bundles in the settings' folders, and of those that come with Isocenter and will be built."""
    there: set[str] = set()
    for folder in settings.bundle_folders:
        with suppress(OSError):  # said where folders are checked
            there |= {path.name for path in folder.iterdir() if (path / MANIFEST).is_file()}
    return {name for name in there if not name.startswith(".")} | set(NAMES)


def largest_scans(settings: Settings) -> Iterator[tuple[str, int]]:
    """Name bundles whose largest scan is known from their domain, with the bytes that a slice of it takes.

    It is kept as it comes, complex64 [coils, ky, kx] with a readout that is oversampled twice, and once more while it is handed
    on.
    """
    for folder in settings.bundle_folders:
        for path in sorted(folder.glob(f"[!.]*/{MANIFEST}")):
            try:
                domain = parse_manifest(path.read_bytes(), path).domain
            except (OSError, BundleError):
                continue  # said when it is opened
            if domain.matrix is not None and domain.coils is not None:
                yield path.parent.name, 2 * 8 * domain.coils[1] * domain.matrix[1] * 2 * domain.matrix[1]


def unknown(name: str, known: Collection[str]) -> str:
    """Say that there is no bundle of a name, and which there are."""
    return f"there is no bundle {name!r}{nearest(name, known)}; accepted: {', '.join(sorted(known))}"


def bundles_of(pipeline: "Pipeline", settings: Settings) -> list[str]:
    """Return the names of the bundles that a pipeline tries with these settings, in order.

    Raises
    ------
    IsocenterError
        A step needs a bundle, and none is named.
    """
    from ..pipelines.loader import GadgetStep

    return [
        name
        for step in pipeline.steps
        if isinstance(step, GadgetStep) and step.gadget.traits.bundles is not None
        for name in step.gadget.traits.bundles(settings.default_bundle, step.complete)
    ]


def clients_name_the_bundle(pipeline: "Pipeline", settings: Settings) -> bool:
    """Whether a pipeline runs a bundle that neither it nor the settings name, and leaves it to clients to do so."""
    from ..pipelines.parameters import parameters_of

    try:
        bundles_of(pipeline, settings)
    except IsocenterError:
        return "bundle" in parameters_of(pipeline)
    return False


def bundle_faults(pipeline: "Pipeline", settings: Settings, beside: str | None = None) -> list[str]:
    """Return which bundles of a pipeline are not there, a sentence each; without one that is told ``beside``."""
    known = known_bundles(settings)
    try:
        names = bundles_of(pipeline, settings)
    except IsocenterError as error:
        return [str(error)]
    return [unknown(name, known) for name in dict.fromkeys(names) if name not in known and name != beside]


def gate_doubt(settings: Settings) -> str:
    """Say that the default bundle has no passed gate, as its manifest tells; empty if it has, or there is no default bundle.

    Nothing is loaded. Of a bundle that comes with Isocenter and is not built yet, the report card that it will have counts.
    """
    name = settings.default_bundle
    if name is None:
        return ""
    manifests = (folder / name / MANIFEST for folder in settings.bundle_folders)
    found = next((path for path in manifests if path.is_file()), None)
    try:
        if found is not None:
            gate = parse_manifest(found.read_bytes(), found).gate
            passed = None if gate is None else gate.passed
        elif name in NAMES:
            card = _CARDS / name / CARD_DATA
            passed = json.loads(card.read_bytes())["gate"]["passed"] if card.is_file() else None
        else:
            return ""
    except (OSError, BundleError):
        return ""  # said when it is opened
    if passed:
        return ""
    how = "has not been through" if passed is None else "did not pass"
    return f"the default bundle {name!r} {how} the gate; see `isocenter bundle show {name}`"
