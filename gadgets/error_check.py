"""Whether an image is likely to be off by more than anybody would take for nothing, where its bundle tells how far it is off."""

from torch import Tensor

from ..bundle.manifest import Uncertainty
from ..models.planar import box_mean
from .percent import percent_up_to

ACCEPTED = 0.04
"""Largest error of a neighbourhood that nothing is said of, relative to the brightest signal (`benchmarks/uncertainty.py`)."""
_WINDOW = 11
"""Edge in pixels of the neighbourhood that an error is the root mean square of."""


def error_doubt(image: Tensor, deviation: Tensor) -> str:
    """Say how large the errors of an image are likely to be; empty if they are small.

    A network's image looks clean where it is wrong, so that noise and ghosts count alike.

    Parameters
    ----------
    image
        Magnitude or complex [frames, z, y, x].
    deviation
        Standard deviation of the error of its magnitude, float32 of the same shape, as the bundle tells it.
    """
    brightest, local = float(image.abs().max()), local_error(deviation)
    largest = float(local.max())
    if brightest <= 0 or not largest > ACCEPTED * brightest:
        return ""
    row = int(local.amax(dim=(0, 1, 3)).argmax())
    return (
        f"errors of up to {percent_up_to(largest / brightest)} of the brightest signal are to be expected (accepted: "
        f"{100 * ACCEPTED:g} %), most around row {row} of {local.shape[2]}: too few lines were measured for these coils, or with "
        "too much noise"
    )


def local_error(error: Tensor) -> Tensor:
    """Root mean square over the neighbourhoods of an error float32 [frames, z, y, x], of the same shape."""
    return box_mean(error.square().flatten(0, 1)[..., None], _WINDOW)[..., 0].reshape(error.shape).sqrt()


def meaning_of(uncertainty: Uncertainty) -> str:
    """Say what the pixels of an image of the uncertainty are, and how good they were found to be."""
    shares = ", ".join(f"{100 * share:.0f} %" for share in uncertainty.coverage)
    found = f"within one, two and three of them were {shares} of the pixels of {uncertainty.scans} fully sampled scans"
    return f"standard deviation of the error of the magnitude; {found}"
