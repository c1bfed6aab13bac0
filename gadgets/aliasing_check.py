"""Whether a SENSE image is to be expected to have ghosts, or noise that the coils amplify."""

from ..bundle.manifest import Manifest
from ..models.expected_error import expected_error
from .kspace import Kspace

ACCEPTED = 0.06
"""Strongest ghosts, and strongest amplified noise, that nothing is said of, relative to the brightest signal.

On fully sampled heads and a phantom of 2 to 16 coils, undersampled 2 to 6 times, it parts images whose errors anybody sees
from those that pass for good (``benchmarks/ghosts.py``, ``docs/quality.md``).
"""


def is_sense(manifest: Manifest) -> bool:
    """Whether a bundle solves the linear problem of SENSE, as its manifest says; of others this error is not known."""
    return manifest.network == "Sense" and {"iterations", "regularization"} <= manifest.configuration.keys()


def aliasing_doubt(kspace: Kspace, manifest: Manifest, regularization: float = 1.0) -> str:
    """Say that the image of the first frame of a block is to be expected to have ghosts or amplified noise; empty if it is not.

    Parameters
    ----------
    kspace
        The block; without coil maps, or off the grid, nothing is said.
    manifest
        Of the bundle that makes the image; of one that is not linear SENSE nothing is said.
    regularization
        What the bundle's own strength is multiplied by.
    """
    if not is_sense(manifest) or kspace.coil_maps is None or kspace.trajectory is not None:
        return ""
    iterations, weight = manifest.configuration["iterations"], regularization * manifest.configuration["regularization"]
    error = expected_error(kspace.data[:, 0], kspace.mask[0], kspace.coil_maps.get(), iterations, weight)
    if not max(error) > ACCEPTED:
        return ""
    return (
        f"ghosts of up to {100 * error.ghosts:.0f} % and amplified noise of up to {100 * error.noise:.0f} % of the brightest "
        f"signal are to be expected (accepted: {100 * ACCEPTED:g} % each): the coils are too few, or too alike, for "
        "the lines that were left out"
    )
