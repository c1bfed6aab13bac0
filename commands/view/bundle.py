"""A bundle: what it takes, returns and was made for, and its report card from the gate."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.image import imread

from ...bundle.folder import Bundle, read_listed
from ...bundle.manifest import CARD_PICTURE, CARD_TEXT, Domain, TensorSpec
from ..picture import Facts, Panel, Row, Sheet


def bundle_sheet(bundle: Bundle) -> Sheet:
    """Make a sheet of a bundle.

    Raises
    ------
    BundleError
        One of its files is damaged.
    """
    manifest = bundle.manifest
    provenance = manifest.provenance
    facts: Facts = [
        ("network", manifest.network),
        *(("takes", _spec(spec)) for spec in manifest.inputs),
        *(("returns", _spec(spec)) for spec in manifest.outputs),
        *_domain(manifest.domain),
        ("intended use", manifest.intended_use),
        ("from", f"{provenance.source}; licence {provenance.licence}"),
        ("trained on", provenance.training_data),
        *(
            (runtime, f"deviates from float64 by {parity.error:.0e}, accepted was {parity.accepted:.0e}")
            for runtime, parity in manifest.parity.items()
        ),
        ("gate", _gate(bundle)),
    ]
    return Sheet(f"bundle {manifest.name} {manifest.version}, {bundle.folder}", _rows(bundle), facts=facts)


def _spec(spec: TensorSpec) -> str:
    return f"{spec.name} [{', '.join(spec.axes)}]"


def _domain(domain: Domain) -> Facts:
    """What it was made for; what the manifest leaves open is not told."""
    given = {name: value for name, value in domain.model_dump().items() if value}
    if not given:
        return [("made for", "no restriction is known")]
    return [(f"made for {name.replace('_', ' ')}", _range(value)) for name, value in given.items()]


def _range(value: Sequence[object]) -> str:
    if len(value) == 2 and all(isinstance(each, int | float) for each in value):
        return f"{value[0]:g} to {value[1]:g}"
    return ", ".join(map(str, value))


def _gate(bundle: Bundle) -> str:
    gate = bundle.manifest.gate
    if gate is None:
        return "it has not been through the gate: `isocenter evaluate --gate`"
    first = read_listed(bundle.folder / CARD_TEXT, bundle.manifest).decode(errors="replace").splitlines()[:1]
    return f"{''.join(first).lstrip('# ')} ({gate.date})"


def _rows(bundle: Bundle) -> list[Row]:
    if CARD_PICTURE not in bundle.manifest.files:
        return []
    picture = imread(io.BytesIO(read_listed(bundle.folder / CARD_PICTURE, bundle.manifest)), format="png")
    colours = np.asarray(255 * picture[..., :3]).round().astype(np.uint8)
    return [Row([Panel(colours, "the picture of its report card")])]
