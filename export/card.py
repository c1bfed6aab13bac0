"""Put the report card of the gate into a bundle."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..bundle.folder import Bundle, sha256
from ..bundle.manifest import CARD, CARD_DATA, BundleError, Gate, Manifest
from ..bundle.minisign import SecretKey
from .build import move, workplace, write_manifest

CARDS = Path(__file__).parent / "cards"
"""Report cards of the bundles that come with Isocenter, a folder each, as their bundles hold them."""
_SAME = {"network", "configuration", "inputs", "outputs", "conventions", "domain", "provenance"}


@dataclass(frozen=True)
class Card:
    """A report card.

    Parameters
    ----------
    gate
        What the manifest tells of it.
    files
        Content by name, of those that ``bundle.manifest.CARD`` names. Cards that come with Isocenter have no picture: the scans
        that it would show are others' to hand on.
    """

    gate: Gate
    files: Mapping[str, bytes]


def of_what(manifest: Manifest) -> dict[str, object]:
    """Return by what a bundle is recognised as the one that a card is of, when it is built again: all but versions and dates."""
    content = manifest.model_dump(mode="json", include=_SAME)
    content["provenance"] = {"fingerprint": manifest.provenance.fingerprint}
    # the gate judges images: how their error is told may change
    content["outputs"] = [each for each in content["outputs"] if each["name"] != "error"]
    return content


def attach_card(bundle: Bundle, card: Card, key: SecretKey | None) -> Bundle:
    """Write a bundle again with a report card, in place of the one that it has.

    Parameters
    ----------
    bundle
        Its model files and probe stay what they are.
    card
        Listed in the manifest with hashes like every file.
    key
        Signs the new manifest, as the former signature is not its signature; None: it is not signed.

    Raises
    ------
    BundleError
        It cannot be written.
    """
    folder = bundle.folder
    try:
        with workplace(folder) as place:
            for name in bundle.manifest.files.keys() - set(CARD):
                shutil.copyfile(folder / name, place / name)
                if sha256(place / name) != bundle.manifest.files[name]:
                    raise BundleError(f"{name} has just changed", where=f"bundle {bundle.manifest.name!r}")
            for name, content in card.files.items():
                (place / name).write_bytes(content)
            files = {path.name: sha256(path) for path in sorted(place.iterdir())}
            write_manifest(bundle.manifest.model_copy(update={"files": files, "gate": card.gate}), place, key)
            move(place, folder)
    except OSError as error:
        raise BundleError(f"{folder} cannot be written: {error.strerror}") from error
    return Bundle.open(folder)


def with_shipped_card(bundle: Bundle, key: SecretKey | None) -> Bundle:
    """Return a bundle with the report card that comes with Isocenter, if there is one of it and it has none."""
    place = CARDS / bundle.manifest.name
    if bundle.manifest.gate is not None or not place.is_dir():
        return bundle
    files = {path.name: path.read_bytes() for path in place.iterdir()}
    data = json.loads(files[CARD_DATA])
    if data["of"] != of_what(bundle.manifest):
        return bundle
    return attach_card(bundle, Card(Gate.model_validate(data["gate"]), files), key)
