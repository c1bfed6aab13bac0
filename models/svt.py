"""Singular value thresholding of complex matrices, with a form for exported graphs that have no decomposition.

Both forms work on the Gram matrix ``G = X^H X`` of the shorter side: ``X h(G)``, where ``h`` maps an eigenvalue ``s²`` to
``max(1 - t / s, 0)``. It is kept in float64, as squaring costs half of the digits.

``native``
    The eigendecomposition of G.
``gemm``
    Matrix products only. The projector on the singular values above the threshold is the matrix sign of ``G - t²``; the
    inverse of the root of G on its range comes from the coupled Newton-Schulz iteration (Higham, "Functions of Matrices",
    SIAM 2008, eqs. 5.20 and 6.35).
"""

import torch
from torch import Tensor

from .fourier import is_gemm

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""A polynomial whose iterates come near one from as low as 1e-8 in 14 steps; cubic steps then converge."""
_QUINTIC_STEPS = 15
_CUBIC_STEPS = 5
_ROOT_STEPS = 28
_SQUARINGS = 16

Planar = tuple[Tensor, Tensor]


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
    if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
        return _by_decomposition(x, threshold)
    if is_gemm():
        return _by_products(x, threshold)
    return _by_decomposition(x, threshold)


def _by_decomposition(x: Tensor, threshold: Tensor) -> Tensor:
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


def _by_products(x: Tensor, threshold: Tensor) -> Tensor:
    exact = x.to(torch.float64)
    real, imaginary = exact[..., 0], exact[..., 1]
    gram = _product((real.mT, -imaginary.mT), (real, imaginary))
    largest = _largest_eigenvalue(gram)
    scale = torch.where(largest > 0, 1 / torch.where(largest > 0, largest, torch.ones_like(largest)), 0.0)
    gram = (gram[0] * scale, gram[1] * scale)
    limit = threshold.to(torch.float64).clamp(0, 1)
    identity = torch.eye(x.shape[-2], dtype=torch.float64, device=x.device)
    sign = _matrix_sign((gram[0] - limit.square() * identity, gram[1]))
    projector = ((identity + sign[0]) / 2, sign[1] / 2)
    kept = _product(projector, gram)
    inverse_root = _inverse_root((kept[0] + identity - projector[0], kept[1] - projector[1]), identity)
    damping = _product(projector, inverse_root)
    operator = (projector[0] - limit * damping[0], projector[1] - limit * damping[1])
    result = _product((x[..., 0], x[..., 1]), (operator[0].to(x.dtype), operator[1].to(x.dtype)))
    return torch.stack(result, dim=-1)


def _product(a: Planar, b: Planar) -> Planar:
    return a[0] @ b[0] - a[1] @ b[1], a[0] @ b[1] + a[1] @ b[0]


def _largest_eigenvalue(gram: Planar) -> Tensor:
    """Return it as [..., 1, 1]: the mean eigenvalue, weighted by a power so high that only the largest ones count."""
    power = gram
    for _ in range(_SQUARINGS):
        trace = _trace(power)
        trace = torch.where(trace > 0, trace, torch.ones_like(trace))
        power = (power[0] / trace, power[1] / trace)
        power = _product(power, power)
    weight = _trace(power)
    return _trace(_product(power, gram)) / torch.where(weight > 0, weight, torch.ones_like(weight))


def _trace(a: Planar) -> Tensor:
    size = a[0].shape[-1]
    identity = torch.eye(size, dtype=a[0].dtype, device=a[0].device)
    return (a[0] * identity).sum(dim=(-2, -1), keepdim=True)


def _matrix_sign(a: Planar) -> Planar:
    """Sign of a Hermitian matrix whose eigenvalues lie in [-1, 1]."""
    first, third, fifth = _QUINTIC
    for _ in range(_QUINTIC_STEPS):
        square = _product(a, a)
        fourth = _product(square, square)
        higher = _product((third * square[0] + fifth * fourth[0], third * square[1] + fifth * fourth[1]), a)
        a = (first * a[0] + higher[0], first * a[1] + higher[1])
    for _ in range(_CUBIC_STEPS):
        cube = _product(_product(a, a), a)
        a = (1.5 * a[0] - 0.5 * cube[0], 1.5 * a[1] - 0.5 * cube[1])
    return a


def _inverse_root(a: Planar, identity: Tensor) -> Planar:
    """Inverse square root of a Hermitian matrix whose eigenvalues lie in (0, 1]."""
    root, inverse = a, (identity + torch.zeros_like(a[0]), torch.zeros_like(a[1]))
    for _ in range(_ROOT_STEPS):
        product = _product(inverse, root)
        factor = (1.5 * identity - 0.5 * product[0], -0.5 * product[1])
        root, inverse = _product(root, factor), _product(factor, inverse)
    return inverse
