"""Singular value thresholding of complex matrices.

It works on the Gram matrix ``G = X^H X`` of the shorter side: ``X h(G)``, where ``h`` maps an eigenvalue ``s²`` of G to
``max(1 - t / s, 0)``. G is kept in float64, as squaring costs half of the digits.
"""

import torch
from torch import Tensor

from .replaceable import replaceable


@replaceable
def singular_value_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    """Shrink the singular values of matrices by a fraction of the largest one of each.

    Parameters
    ----------
    x
        Complex matrices [..., rows, columns, 2]; quickest where there are fewer columns than rows.
    threshold
        Scalar between 0 and 1, relative to the largest singular value.

    Returns
    -------
    Tensor
        Like ``x``.
    """
    matrix = torch.view_as_complex(x.contiguous())
    wide = matrix.shape[-1] > matrix.shape[-2]
    if wide:
        matrix = matrix.mH
    exact = matrix.to(torch.complex128)
    eigenvalues, vectors = torch.linalg.eigh(exact.mH @ exact)
    values = eigenvalues.clamp_min(0).sqrt()
    limit = threshold.to(torch.float64).clamp(0, 1) * values[..., -1:]
    kept = values > limit
    shrinkage = torch.where(
        kept, 1 - limit / torch.where(kept, values, torch.ones_like(values)), torch.zeros_like(values)
    )
    operator = (vectors * shrinkage.unsqueeze(-2)) @ vectors.mH
    result = matrix @ operator.to(matrix.dtype)
    if wide:
        result = result.mH
    return torch.view_as_real(result.resolve_conj().contiguous())
