"""Coil maps at all pixels, from those that were computed; at the ends of an axis from the side that a pixel belongs to."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

_REACH = 3
"""How many computed pixels to either side of a pixel it is interpolated from."""
_FOLLOWED = 12
"""The part of an axis, at either end, where maps are followed from the inside: half of what patches of six samples resolve."""
_FOLLOWING = 4
"""Power iterations for each step there; many would lead to the dominant vector."""
_APART = 1e-4
"""Energy that vectors see differently, relative to all of it, which makes no difference."""
_AS_GOOD = 0.9
"""Of the largest eigenvalue, what a vector that is followed must have."""


class ComputedMaps:
    """Eigenvectors of a plane at the pixels where they were computed.

    The matrices have the period of the field of view, and so have their dominant vectors. Those of an object that reaches both
    ends of an axis have not: there patches see both ends at once, two eigenvalues are close to one, and any mixture of both ends
    may be dominant. Which vector belongs to a pixel, those before it on the same side tell.

    Parameters
    ----------
    vectors, values
        Dominant eigenvectors [y, x, coils] of unit norm and eigenvalues [y, x].
    plane
        The matrices' Fourier coefficients along y, [dy, x, coils, coils].
    transform
        Fourier matrix [y, dy].
    """

    def __init__(self, vectors: Tensor, values: Tensor, plane: Tensor, transform: Tensor) -> None:
        self.vectors = vectors
        self.values = values
        self._plane = plane
        self._transform = transform

    def values_everywhere(self, shape: Sequence[int], strides: Sequence[int]) -> Tensor:
        """Interpolate the eigenvalues to [y, x] of a shape, of whose pixels every ``stride``-th was computed."""
        rows, columns = self._beyond()
        values = self.values[rows][:, columns, None]
        for dim in (1, 0):
            values = _weighted(values, _interpolation(shape[dim], strides[dim]).to(values.device), dim)
        return values[..., 0]

    def extended(self, followed: Sequence[int]) -> Tensor:
        """Vectors [y, x, coils] of all rows and columns, and of those beyond.

        Parameters
        ----------
        followed
            The axes, 0 and 1, along which they are followed from the inside to both ends, and beyond. Along the others they are
            periodic.
        """
        rows, columns = self._beyond()
        vectors = self._follow_rows() if 0 in followed else self.vectors[rows]
        return self._follow_columns(vectors, rows) if 1 in followed else vectors[:, columns]

    def alike(self, some: Tensor, others: Tensor, image: Tensor) -> bool:
        """Whether extended vectors are the same, but for a phase, where an image [pixels, coils] of them has signal."""
        inside = slice(_REACH - 1, -_REACH)
        apart = 1 - (some.conj() * others)[inside, inside].sum(dim=2).abs().square().flatten()
        energy = image.abs().square().sum(dim=1)
        return float((energy * apart).sum()) <= _APART * float(energy.sum())

    def _beyond(self) -> tuple[Tensor, Tensor]:
        """Which rows and columns there are, and go on beyond both ends, as all pixels are interpolated from."""
        rows, columns = (
            torch.arange(1 - _REACH, size + _REACH, device=self.values.device) % size for size in self.values.shape
        )
        return rows, columns

    def _follow_rows(self) -> Tensor:
        """Vectors of all rows and those beyond, [y, x, coils]."""
        plane = self._plane.flatten(1)
        return _followed(self.vectors, self.values, lambda row: self._transform[row] @ plane)

    def _follow_columns(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Vectors [y, x, coils] of rows, with the columns beyond."""
        transform = self._transform[rows]

        def matrices(column: int) -> Tensor:
            return transform @ self._plane[:, column].flatten(1)

        return _followed(vectors.transpose(0, 1), self.values[rows].T, matrices).transpose(0, 1)


def _followed(own: Tensor, largest: Tensor, matrices: Callable[[int], Tensor]) -> Tensor:
    """Follow vectors [places, pixels, coils] from the inside to both ends, and beyond; where that fails they stay what they are.

    Parameters
    ----------
    own, largest
        Dominant eigenvectors, and eigenvalues [places, pixels].
    matrices
        Returns those of all pixels of a place, of any shape.
    """
    size, coils = len(own), own.shape[2]
    reach = size // _FOLLOWED

    def follow(places: range) -> list[Tensor]:
        latest, found = own[places[0]], []
        for place in (index % size for index in places[1:]):
            matrix = matrices(place).reshape(-1, coils, coils)
            vector = latest[..., None]
            for _ in range(_FOLLOWING):
                vector = torch.bmm(matrix, scaled(vector))
            vector = _normalised(vector)
            value = (vector.conj() * torch.bmm(matrix, vector)).sum(dim=(1, 2)).real
            latest = torch.where((value > _AS_GOOD * largest[place])[:, None], vector[..., 0], own[place])
            found.append(latest)
        return found

    before = follow(range(reach, -_REACH, -1))[::-1]
    after = follow(range(size - 1 - reach, size + _REACH))
    return torch.cat((torch.stack(before), own[reach : size - reach], torch.stack(after)))


def scaled(vector: Tensor) -> Tensor:
    """Scale vectors [pixels, n, 1] to entries around one. Sums of magnitudes of real numbers are much faster than a norm."""
    return vector * torch.view_as_real(vector).abs().sum(dim=(1, 3), keepdim=True)[..., 0].clamp_min(1e-37).reciprocal()


def _normalised(vector: Tensor) -> Tensor:
    """Scale vectors [pixels, n, 1] to unit norm."""
    return vector * torch.view_as_real(vector).square().sum(dim=(1, 3), keepdim=True)[..., 0].clamp_min(1e-30).rsqrt()


def interpolated(
    vectors: Tensor, shape: Sequence[int], strides: Sequence[int], pixels: Sequence[Tensor] | None = None
) -> Tensor:
    """Interpolate extended vectors, up to their phases.

    Parameters
    ----------
    vectors
        Of the computed rows and columns, and of those beyond.
    shape, strides
        Of the maps, and how many pixels there are for each computed one.
    pixels
        Which rows and columns are wanted; None: all.

    Returns
    -------
    Tensor
        complex64 [y, x, coils], of unit norm.
    """
    for dim in (1, 0):
        weights = _interpolation(shape[dim], strides[dim])
        weights = weights if pixels is None else weights[pixels[dim]]
        vectors = _interpolate_vectors(vectors, weights.to(vectors.device), dim)
    return vectors


@cache
def _interpolation(size: int, stride: int) -> Tensor:
    """Weights [size, computed] that interpolate all pixels from every ``stride``-th by polynomials, Lagrange's formula.

    The computed pixels go on beyond both ends.
    """
    computed = torch.arange(0, size, stride, dtype=torch.float64)
    padded = torch.cat((computed[1 - _REACH :] - size, computed, computed[:_REACH] + size))
    pixels = torch.arange(size)
    nearest = pixels[:, None] // stride + torch.arange(2 * _REACH)
    nodes = padded[nearest]
    itself = torch.eye(2 * _REACH, dtype=torch.bool)
    distances = (nodes[:, :, None] - nodes[:, None, :]).masked_fill(itself, 1)
    factors = (pixels[:, None] - nodes)[:, None, :].expand_as(distances).masked_fill(itself, 1)
    weights = torch.zeros(size, len(padded), dtype=torch.float64)
    return weights.scatter_(1, nearest, (factors / distances).prod(dim=2)).to(torch.float32)


def _interpolate_vectors(vectors: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Interpolate unit vectors [y, x, coils], known up to their phases, along one of the first two axes.

    Each is given the phase that brings it closest to the one before it. The Fourier coefficients of the matrices end at the
    kernel's size, and those of their eigenvectors fall off fast beyond it, so that the deviation is about 1e-5 where there is
    signal.
    """
    steps = vectors.shape[dim] - 1
    along = (vectors.narrow(dim, 1, steps).conj() * vectors.narrow(dim, 0, steps)).sum(dim=2, keepdim=True)
    turns = (along / along.abs().clamp_min(1e-30)).cumprod(dim)
    phases = torch.cat((torch.ones_like(turns.narrow(dim, 0, 1)), turns), dim)
    result = torch.view_as_complex(_weighted(torch.view_as_real(vectors * phases), weights, dim))
    return result * torch.view_as_real(result).square().sum(dim=(2, 3))[..., None].clamp_min(1e-30).rsqrt()


def _weighted(x: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Multiply one of the first two axes of real [y, x, ...] by a matrix."""
    return (weights @ x.flatten(1 + dim)).unflatten(1 + dim, x.shape[1 + dim :])
