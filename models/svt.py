"""Singular value thresholding of complex matrices.

It works on the Gram matrix ``G = X^H X`` of the shorter side: ``X h(G)``, where ``h`` maps an eigenvalue ``s²`` of G to
``max(1 - t / s, 0)``. G is kept in float64, as squaring costs half of the digits.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .replaceable import replaceable


@replaceable
def singular_value_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    """Shrink the singular values of matrices by a fraction of the largest one of each.

    Its gradient is finite whichever singular values are equal or zero; it can be taken once.

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
    limit = threshold.to(torch.float64).clamp(0, 1)
    if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
        values, vectors = _decompose(matrix)
        result = _shrink(matrix, values, vectors, limit)
    else:
        result = _Threshold.apply(matrix, limit)
    if wide:
        result = result.mH
    return torch.view_as_real(result.resolve_conj().contiguous())


def _decompose(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return singular values [..., columns] in ascending order, and right singular vectors [..., columns, columns]."""
    exact = matrix.to(torch.complex128)
    eigenvalues, vectors = torch.linalg.eigh(exact.mH @ exact)
    return eigenvalues.clamp_min(0).sqrt(), vectors


def _shrink(matrix: Tensor, values: Tensor, vectors: Tensor, threshold: Tensor) -> Tensor:
    """Return the matrix with shrunk singular values."""
    limit = threshold * values[..., -1:]
    kept = values > limit
    shrinkage = torch.where(
        kept, 1 - limit / torch.where(kept, values, torch.ones_like(values)), torch.zeros_like(values)
    )
    operator = (vectors * shrinkage.unsqueeze(-2)) @ vectors.mH
    return matrix @ operator.to(matrix.dtype)


class _Threshold(torch.autograd.Function):
    """``X h(G)`` with the derivative of the matrix function h by divided differences (Daleckii-Krein theorem).

    ``dh = V (D * (V^H dG V)) V^H`` with ``D_ij = (h(s_i²) - h(s_j²)) / (s_i² - s_j²)`` (Higham, "Functions of Matrices", SIAM
    2008, theorem 3.11). D is finite where singular values are equal, unlike the derivatives of their vectors.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, threshold: Tensor) -> Tensor:
        """Return matrices like ``matrix`` [..., rows, columns], complex; the threshold is a float64 scalar."""
        values, vectors = _decompose(matrix)
        ctx.save_for_backward(matrix, values, vectors, threshold)
        return _shrink(matrix, values, vectors, threshold)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of matrix and threshold."""
        matrix, values, vectors, threshold = ctx.saved_tensors
        exact, gradient = matrix.to(torch.complex128), gradients[0].to(torch.complex128)
        largest = values[..., -1:]
        limit = threshold * largest
        kept = values > limit
        inverse = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
        shrinkage = torch.where(kept, 1 - limit * inverse, 0)
        projected = vectors.mH @ (exact.mH @ gradient) @ vectors
        through_gram = _divided_differences(values, kept, limit, inverse) * projected
        through_gram = through_gram + through_gram.mH
        # the limit goes with the largest singular value s = |X v|, whose derivative is Re(v^H X^H dX v) / s
        of_limit = -(inverse * projected.diagonal(dim1=-2, dim2=-1).real).sum(-1, keepdim=True)
        through_gram[..., -1, -1] += (of_limit * threshold * inverse[..., -1:])[..., 0]
        inner = (vectors * shrinkage.unsqueeze(-2)) @ vectors.mH
        result = gradient @ inner + exact @ (vectors @ through_gram @ vectors.mH)
        return result.to(matrix.dtype), (of_limit * largest).sum()


def _divided_differences(values: Tensor, kept: Tensor, limit: Tensor, inverse: Tensor) -> Tensor:
    """Return D [..., i, j] of ``_Threshold``, without differences of what may be equal.

    Of two kept values it is ``t / (s_i s_j (s_i + s_j))``, of a kept and another one ``(1 - t / s_i) / (s_i² - s_j²)``, where
    ``s_i > t >= s_j``; of two others it is zero.
    """
    rows, columns = values.unsqueeze(-1), values.unsqueeze(-2)
    total = torch.where(kept.unsqueeze(-1) | kept.unsqueeze(-2), rows + columns, 1)
    both = limit.unsqueeze(-1) * inverse.unsqueeze(-1) * inverse.unsqueeze(-2) / total
    one = kept.unsqueeze(-1) & ~kept.unsqueeze(-2)
    above = (1 - limit * inverse).unsqueeze(-1) / (torch.where(one, rows - columns, 1) * total)
    above = torch.where(one, above, 0)
    return both + above + above.mT
