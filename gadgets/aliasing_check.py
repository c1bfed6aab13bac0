"""Whether an image by a classical method is to be expected to have ghosts, or noise that the coils amplify."""

from ..bundle.manifest import Manifest
from ..models.expected_error import expected_error
from .kspace import Kspace
from .percent import percent_up_to

ACCEPTED = {"Sense": 0.06, "TotalVariation": 0.1, "Wavelets": 0.1}
"""Strongest ghosts, and strongest amplified noise, of SENSE that nothing is said of, relative to the brightest signal, by the
method that makes the image: compressed sensing leaves a part of them. Of other methods it is not known what they leave.

On fully sampled heads and a phantom of 2 to 16 coils, undersampled 2 to 6 times, it parts images whose errors anybody sees
from those that pass for good (``benchmarks/ghosts.py``, ``docs/quality.md``).
"""


_ITERATIONS, _REGULARIZATION = 20, 0.005
"""Of SENSE, where the bundle does not say it."""


def aliasing_doubt(kspace: Kspace, manifest: Manifest, regularization: float = 1.0) -> str:
    """Say that the image of the first frame of a block is to be expected to have ghosts or amplified noise; empty if it is not.

    Parameters
    ----------
    kspace
        The block; without coil maps, or off the grid, nothing is said.
    manifest
        Of the bundle that makes the image; of one that is not of ``ACCEPTED`` nothing is said.
    regularization
        What SENSE's own strength is multiplied by.
    """
    if manifest.network not in ACCEPTED or kspace.coil_maps is None or kspace.trajectory is not None:
        return ""
    accepted, iterations, weight = ACCEPTED[manifest.network], _ITERATIONS, _REGULARIZATION
    if is_sense := manifest.network == "Sense":
        iterations = manifest.configuration.get("iterations", iterations)
        weight = regularization * manifest.configuration.get("regularization", weight)
    error = expected_error(kspace.data[:, 0], kspace.mask[0], kspace.coil_maps.get(), iterations, weight)
    if not max(error) > accepted:
        return ""
    whose = "are to be expected" if is_sense else "are to be expected of SENSE, of which this method leaves a part"
    return (
        f"ghosts of up to {percent_up_to(error.ghosts)} and amplified noise of up to {percent_up_to(error.noise)} of the "
        f"brightest signal {whose} (accepted: {100 * accepted:g} % each): the coils are too few, or too alike, for the lines "
        "that were left out"
    )
