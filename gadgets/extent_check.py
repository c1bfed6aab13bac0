"""Whether one side of k-space was measured less far than the other: partial Fourier, and asymmetric echoes."""

from ..bundle.manifest import Manifest
from .domain import describe_sampling, measured_echo
from .kspace import Kspace

ACCEPTED = 0.95
"""Smallest extent in k-space, as a fraction of the full one, that nothing is said of: it costs less than a pixel of sharpness."""


def extent_doubt(kspace: Kspace, manifest: Manifest) -> str:
    """Say along which axes a side of k-space of a block was not measured; empty if both were, or if the bundle was made for it.

    Parameters
    ----------
    kspace
        The block, of whose first frame it is said.
    manifest
        Of the bundle.
    """
    if kspace.trajectory is not None:
        return ""
    mask, known = kspace.mask[0], manifest.domain.partial_fourier
    extents = {
        "the readout (asymmetric echo)": measured_echo(kspace),
        "ky (partial Fourier)": describe_sampling(mask.any(dim=0)).partial_fourier,
        "kz (partial Fourier)": describe_sampling(mask.any(dim=1)).partial_fourier,
    }
    if known is not None and known[0] < ACCEPTED:  # it was made for some
        extents = {axis: extent for axis, extent in extents.items() if extent < known[0]}
    short = [f"{100 * extent:.0f} % along {axis}" for axis, extent in extents.items() if extent < ACCEPTED]
    if not short:
        return ""
    return (
        f"k-space was measured to {' and '.join(short)}: the side that is missing is not filled in, which blurs the image along "
        "that axis"
    )
