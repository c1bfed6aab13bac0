"""What is in doubt about the image that a bundle makes of a block: looked for while the bundle runs."""

from ..bundle.manifest import Manifest
from .aliasing_check import aliasing_doubt
from .kspace import Kspace
from .maps_check import maps_doubt

ATTRIBUTES = {"coil maps": "Maps", "aliasing": "Aliasing"}
"""What images call such a doubt, by its kind."""


def doubts_about(manifest: Manifest, kspace: Kspace, regularization: float) -> dict[str, str]:
    """Return what is in doubt, by its kind.

    Parameters
    ----------
    manifest
        Of the bundle.
    kspace
        The block.
    regularization
        What the bundle's own strength is multiplied by.
    """
    doubts: dict[str, str] = {}
    if any(spec.name == "maps" for spec in manifest.inputs):
        doubts["coil maps"] = maps_doubt(kspace)
        doubts["aliasing"] = aliasing_doubt(kspace, manifest, regularization)
    return {kind: text for kind, text in doubts.items() if text}
