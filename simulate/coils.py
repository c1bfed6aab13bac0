"""Coil sensitivity maps as short Fourier series, so that a coil's k-space is an exact sum of shifted object k-spaces.

After Guerquin-Kern et al., IEEE TMI 2012;31:626, the sinusoidal model.
"""

import math

import numpy as np
from numpy.typing import NDArray

ORDER = 3
"""Harmonics run from -ORDER to ORDER along x and y."""

Complex = NDArray[np.complex128]


def coil_coefficients(coils: int, periods: tuple[float, float], z: float = 0.0) -> Complex:
    """Fit the fields of loops around the body by Fourier series.

    Parameters
    ----------
    coils
        Number of loops, on a ring.
    periods
        Period of the series along y and x, in units of half the field of view; more than 2.
    z
        Plane, in units of half the field of view; the loops alternate between two heights.

    Returns
    -------
    ndarray
        complex128 [coils, 2 * ORDER + 1 (y), 2 * ORDER + 1 (x)].
    """
    grid = np.linspace(-1.05, 1.05, 33)
    basis_y, basis_x = (_harmonics(grid, period) for period in periods)
    fields = np.stack([_loop_field(index, coils, grid, z) for index in range(coils)])
    solve_y, solve_x = (np.linalg.pinv(basis, rcond=1e-4) for basis in (basis_y, basis_x))
    return np.einsum("ay,cyx,bx->cab", solve_y, fields, solve_x)


def coil_maps(
    coefficients: Complex, y: NDArray[np.float64], x: NDArray[np.float64], periods: tuple[float, float]
) -> Complex:
    """Evaluate the series on a grid: complex128 [coils, y, x]."""
    return np.einsum("ya,cab,xb->cyx", _harmonics(y, periods[0]), coefficients, _harmonics(x, periods[1]))


def _harmonics(position: NDArray[np.float64], period: float) -> Complex:
    angle = 2 * math.pi / period * position[:, None] * np.arange(-ORDER, ORDER + 1)
    return np.cos(angle) + 1j * np.sin(angle)


def _loop_field(index: int, coils: int, grid: NDArray[np.float64], z: float) -> Complex:
    """Receive field of a loop at 1.25 from the middle: falls off with distance, its phase turns with direction."""
    angle = 2 * math.pi * (index + 0.25) / coils
    dx = grid[None, :] - 1.25 * math.cos(angle)
    dy = grid[:, None] - 1.25 * math.sin(angle)
    dz = z - (0.25 if index % 2 else -0.25)
    magnitude = 1 / (1 + (dx**2 + dy**2 + dz**2) / 0.7**2) ** 1.5
    phase = 0.6 * (dx * math.cos(angle) + dy * math.sin(angle)) + 0.8 * (dx * math.sin(angle) - dy * math.cos(angle))
    return (2.5 * magnitude * np.exp(1j * (phase + angle))).astype(np.complex128)


def random_coil_maps(random: np.random.Generator, coils: int, shape: tuple[int, int]) -> NDArray[np.complex64]:
    """Maps of a random array of loops around the body, complex64 [coils, y, x], of unit norm over the coils."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    angles = 2 * math.pi * (np.arange(coils) + random.uniform(0, 1)) / coils + random.normal(0, 0.15, coils)
    distances = random.uniform(1.0, 1.5) * random.normal(1, 0.05, coils)
    widths = random.uniform(0.5, 0.9) * random.normal(1, 0.1, coils)
    maps = np.empty((coils, *shape), np.complex64)
    for index, (angle, distance, width) in enumerate(zip(angles, distances, widths, strict=True)):
        dx, dy = x - distance * math.cos(angle), y - distance * math.sin(angle)
        dz = 0.25 if index % 2 else -0.25
        magnitude = random.uniform(0.7, 1.3) / (1 + (dx**2 + dy**2 + dz**2) / width**2) ** 1.5
        turn = random.uniform(0.3, 1.2) * (dx * math.sin(angle) - dy * math.cos(angle))
        along = random.uniform(0.3, 0.9) * (dx * math.cos(angle) + dy * math.sin(angle))
        maps[index] = magnitude * np.exp(1j * (turn + along + random.uniform(-math.pi, math.pi)))
    return maps / np.sqrt((np.abs(maps) ** 2).sum(0, keepdims=True))
