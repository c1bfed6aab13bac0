"""Coil compression."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from .gadget import Stream, gadget
from .kspace import Kspace
from .scan import Scan


@gadget
def compress_coils(
    items: Stream,
    scan: Scan,  # noqa: ARG001
    *,
    coils: Annotated[int, Field(ge=0, le=65535)] = 0,
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Stream:
    """Combine the coils into fewer virtual ones by principal component analysis (Buehrer et al., MRM 2007;57:1131).

    1. The correlation of the channels over all samples s [coils] of the calibration data, ``R = sum_k s_k s_k^H``.
    2. Its eigenvectors, ``R = V diag(lambda) V^H``, by falling eigenvalue.
    3. ``data <- V_n^H data`` with the first n of them: of all combinations of n channels, those that keep most of the energy.

    The rows of ``V_n^H`` are orthonormal, so white noise stays white.

    Parameters
    ----------
    items
        Blocks; others pass by. All blocks of a scan get the matrix of the first, so that their channels are the same.
    scan
        Not used.
    coils
        Number of virtual coils; 0 keeps as many as ``tolerance`` asks for.
    tolerance
        Virtual coils with ``lambda <= tolerance * lambda_1`` are dropped: a fraction of energy, not of amplitude.
    """
    matrix: Tensor | None = None
    for item in items:
        if isinstance(item, Kspace):
            if matrix is None or matrix.shape[1] != item.data.shape[0]:
                matrix = _compression_matrix(item, coils, tolerance)
            item.data = torch.tensordot(matrix, item.data, dims=1)
            if item.calibration is not None:
                item.calibration = torch.tensordot(matrix, item.calibration, dims=1)
        yield item


def _compression_matrix(kspace: Kspace, coils: int, tolerance: float) -> Tensor:
    """Return ``V_n^H``, complex64 [virtual, coils], of the calibration data, or else of all data."""
    source = kspace.data if kspace.calibration is None else kspace.calibration
    flat = source.reshape(source.shape[0], -1)
    values, vectors = torch.linalg.eigh(flat @ flat.mH)
    values, vectors = values.flip(0), vectors.flip(1)  # torch sorts them by rising eigenvalue
    keep = max(1, int((values > tolerance * values[0]).sum()))
    if coils:
        keep = min(keep, coils)
    return vectors[:, :keep].mH
