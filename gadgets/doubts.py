"""What is in doubt about the image that a bundle makes of a block."""

from collections.abc import Mapping

from torch import Tensor

from ..bundle.manifest import Manifest
from .aliasing_check import aliasing_doubt
from .error_check import error_doubt
from .extent_check import extent_doubt
from .kspace import Kspace
from .maps_check import maps_doubt
from .model_inputs import arrange_output

ATTRIBUTES = {
    "coil maps": "Maps",
    "aliasing": "Aliasing",
    "expected error": "Error",
    "extent": "PartialFourier",
}
"""What images call such a doubt, by its kind."""


def doubts_about(manifest: Manifest, kspace: Kspace, regularization: float) -> dict[str, str]:
    """Return what is in doubt before there is an image, by its kind: it is looked for while the bundle runs.

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
    doubts["extent"] = extent_doubt(kspace, manifest)
    if any(spec.name == "maps" for spec in manifest.inputs):
        doubts["coil maps"] = maps_doubt(kspace)
        doubts["aliasing"] = aliasing_doubt(kspace, manifest, regularization)
    return {kind: text for kind, text in doubts.items() if text}


def doubts_of_image(manifest: Manifest, kspace: Kspace, image: Tensor, outputs: Mapping[str, Tensor]) -> dict[str, str]:
    """Return what a bundle that tells the error of its images leaves in doubt of one, by its kind.

    Parameters
    ----------
    manifest
        Of the bundle.
    kspace
        The block.
    image
        complex64 or float32 [frames, z, y, x].
    outputs
        All that the bundle returned.
    """
    doubts: dict[str, str] = {}
    if manifest.uncertainty is not None:
        deviation = arrange_output(manifest, outputs["error"], kspace, "error")
        doubts["expected error"] = error_doubt(image[kspace.shown], deviation[kspace.shown])
    return {kind: text for kind, text in doubts.items() if text}
