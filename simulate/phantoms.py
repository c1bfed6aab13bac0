"""Phantoms made of ellipsoids, whose k-space is known in closed form.

Coordinates are in units of half the field of view: the image spans -1 to 1 along x and y, and the head -1 to 1 along z.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid of constant intensity, rotated by ``angle`` (radians) about z; intensities of overlapping ones add."""

    intensity: float
    center: tuple[float, float, float]
    axes: tuple[float, float, float]
    angle: float = 0.0

    def section(self, z: float) -> "Ellipsoid | None":
        """Return the cut with the plane at ``z`` as an ellipse (its third axis is meaningless), None where there is none."""
        height = (z - self.center[2]) / self.axes[2]
        if abs(height) >= 1:
            return None
        scale = math.sqrt(1 - height**2)
        return replace(self, axes=(self.axes[0] * scale, self.axes[1] * scale, self.axes[2]))

    def _rotate(self, x: Array, y: Array) -> tuple[Array, Array]:
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return cosine * x + sine * y, cosine * y - sine * x

    def ellipse_kspace(self, kx: Array, ky: Array) -> NDArray[Any]:
        """Fourier transform of the ellipse at k (cycles per unit) [ky, kx], from the jinc function."""
        u, v = self._rotate(kx[None, :], ky[:, None])
        radius = np.hypot(self.axes[0] * u, self.axes[1] * v)
        safe = np.where(radius < 1e-9, 1.0, radius)
        jinc = np.where(radius < 1e-9, math.pi, j1(2 * math.pi * safe) / safe)
        phase = np.exp(-2j * math.pi * ky * self.center[1])[:, None] * np.exp(-2j * math.pi * kx * self.center[0])
        return self.intensity * self.axes[0] * self.axes[1] * jinc * phase

    def ellipsoid_kspace(self, kx: Array, ky: Array, kz: Array) -> NDArray[Any]:
        """Fourier transform of the ellipsoid at k (cycles per unit) [kz, ky, kx]."""
        u, v = self._rotate(kx[None, :], ky[:, None])
        inplane = (self.axes[0] * u) ** 2 + (self.axes[1] * v) ** 2
        radius = 2 * math.pi * np.sqrt(inplane + (self.axes[2] * kz[:, None, None]) ** 2)
        safe = np.where(radius < 1e-3, 1.0, radius)
        shape = np.where(radius < 1e-3, 1 / 3 - radius**2 / 30, (np.sin(safe) - safe * np.cos(safe)) / safe**3)
        phase = np.exp(-2j * math.pi * ky * self.center[1])[:, None] * np.exp(-2j * math.pi * kx * self.center[0])
        phase = phase * np.exp(-2j * math.pi * kz * self.center[2])[:, None, None]
        return self.intensity * 4 * math.pi * math.prod(self.axes) * shape * phase


Phantom = tuple[Ellipsoid, ...]


def shepp_logan(_time: float = 0.0) -> Phantom:
    """Shepp-Logan head in three dimensions with Toft's contrast (Kak & Slaney 1988; Toft 1996)."""
    table = (
        (1.0, (0, 0, 0), (0.69, 0.92, 0.81), 0),
        (-0.8, (0, -0.0184, 0), (0.6624, 0.874, 0.78), 0),
        (-0.2, (0.22, 0, 0), (0.11, 0.31, 0.22), -18),
        (-0.2, (-0.22, 0, 0), (0.16, 0.41, 0.28), 18),
        (0.1, (0, 0.35, -0.15), (0.21, 0.25, 0.41), 0),
        (0.1, (0, 0.1, 0.25), (0.046, 0.046, 0.05), 0),
        (0.1, (0, -0.1, 0.25), (0.046, 0.046, 0.05), 0),
        (0.1, (-0.08, -0.605, 0), (0.046, 0.023, 0.05), 0),
        (0.1, (0, -0.606, 0), (0.023, 0.023, 0.02), 0),
        (0.1, (0.06, -0.605, 0), (0.023, 0.046, 0.02), 0),
    )
    return tuple(Ellipsoid(i, c, a, math.radians(angle)) for i, c, a, angle in table)


def brain(_time: float = 0.0) -> Phantom:
    """Head with scalp, skull, cortex with sulci, white matter, ventricles, deep nuclei, vessels and small lesions.

    Intensities are those of a T2-weighted image: scalp 0.55, skull 0.05, CSF 1.0, grey matter 0.62, white matter 0.42.
    The sulci come from a fixed seed.
    """
    parts = [
        Ellipsoid(0.55, (0, 0, 0), (0.74, 0.93, 0.92)),
        Ellipsoid(-0.50, (0, 0, 0), (0.70, 0.89, 0.88)),
        Ellipsoid(0.95, (0, 0, 0), (0.645, 0.83, 0.82)),
        Ellipsoid(-0.38, (0, 0, 0.01), (0.622, 0.805, 0.80)),
        Ellipsoid(-0.20, (-0.285, 0, 0), (0.27, 0.70, 0.68), math.radians(-3)),
        Ellipsoid(-0.20, (0.285, 0, 0), (0.27, 0.70, 0.68), math.radians(3)),
        Ellipsoid(0.38, (0, 0.42, 0), (0.012, 0.36, 0.75)),
        Ellipsoid(0.38, (0, -0.44, 0), (0.012, 0.34, 0.75)),
        Ellipsoid(0.42, (-0.11, 0.10, 0.08), (0.055, 0.24, 0.22), math.radians(14)),
        Ellipsoid(0.42, (0.11, 0.10, 0.08), (0.055, 0.24, 0.22), math.radians(-14)),
        Ellipsoid(0.40, (-0.17, -0.22, 0.02), (0.05, 0.16, 0.16), math.radians(-24)),
        Ellipsoid(0.40, (0.17, -0.22, 0.02), (0.05, 0.16, 0.16), math.radians(24)),
        Ellipsoid(0.36, (0, -0.06, -0.05), (0.018, 0.11, 0.14)),
        Ellipsoid(0.16, (-0.20, 0.17, 0.02), (0.05, 0.12, 0.13), math.radians(18)),
        Ellipsoid(0.16, (0.20, 0.17, 0.02), (0.05, 0.12, 0.13), math.radians(-18)),
        Ellipsoid(0.10, (-0.29, 0.02, 0.0), (0.06, 0.17, 0.13), math.radians(8)),
        Ellipsoid(0.10, (0.29, 0.02, 0.0), (0.06, 0.17, 0.13), math.radians(-8)),
        Ellipsoid(0.13, (-0.10, -0.10, 0.0), (0.07, 0.11, 0.10), math.radians(-20)),
        Ellipsoid(0.13, (0.10, -0.10, 0.0), (0.07, 0.11, 0.10), math.radians(20)),
        Ellipsoid(0.45, (0.33, 0.36, 0.05), (0.022, 0.028, 0.06)),
        Ellipsoid(0.40, (-0.36, -0.30, -0.03), (0.030, 0.020, 0.05)),
        Ellipsoid(0.35, (0.25, -0.45, 0.08), (0.014, 0.014, 0.04)),
        Ellipsoid(-0.30, (-0.05, 0.47, 0.0), (0.010, 0.010, 0.30)),
        Ellipsoid(-0.30, (0.05, 0.47, 0.0), (0.010, 0.010, 0.30)),
        Ellipsoid(-0.30, (0.02, -0.76, 0.0), (0.028, 0.020, 0.60)),
    ]
    return (*parts, *_sulci())


def _sulci(count: int = 76) -> list[Ellipsoid]:
    """CSF-filled folds that run inwards from the cortex, with some waviness in depth and direction."""
    random = np.random.default_rng(20)
    sulci = []
    for index in range(count):
        angle = 2 * math.pi * (index + 0.5 * random.random()) / count
        depth = 0.05 + 0.09 * random.random()
        radius = 0.97 - 1.1 * depth
        center = (0.62 * radius * math.cos(angle), 0.80 * radius * math.sin(angle), 0.25 * (random.random() - 0.5))
        normal = math.atan2(math.sin(angle) / 0.80, math.cos(angle) / 0.62) + 0.5 * (random.random() - 0.5)
        width = 0.008 + 0.010 * random.random()
        sulci.append(Ellipsoid(0.36, center, (depth, width, 0.55), normal))
    return sulci


def heart(time: float = 0.0) -> Phantom:
    """Short-axis chest whose ventricles contract; ``time`` runs from 0 (end-diastole) to 1 over a heartbeat."""
    contraction = 0.5 - 0.5 * math.cos(2 * math.pi * time)
    cavity = 0.17 - 0.06 * contraction
    wall = 0.24 - 0.025 * contraction
    right = 0.18 - 0.05 * contraction
    return (
        Ellipsoid(0.45, (0, 0, 0), (0.93, 0.70, 5)),
        Ellipsoid(-0.20, (0, 0, 0), (0.86, 0.62, 5)),
        Ellipsoid(-0.20, (-0.50, 0.05, 0), (0.28, 0.46, 5)),
        Ellipsoid(-0.20, (0.58, 0.05, 0), (0.22, 0.44, 5)),
        Ellipsoid(0.30, (-0.10 - 0.5 * right, 0.12, 0), (right, 0.20 - 0.03 * contraction, 5), 0.4),
        Ellipsoid(0.25, (0.12, 0.05, 0), (wall, wall, 5)),
        Ellipsoid(0.45, (0.12, 0.05, 0), (cavity, cavity, 5)),
        Ellipsoid(-0.20, (0.12 + 0.55 * cavity, 0.05 + 0.4 * cavity, 0), (0.025, 0.025, 5)),
        Ellipsoid(-0.20, (0.12 - 0.45 * cavity, 0.05 - 0.5 * cavity, 0), (0.025, 0.025, 5)),
        Ellipsoid(0.55, (0.08, -0.40, 0), (0.06, 0.06, 5)),
        Ellipsoid(0.10, (0, -0.56, 0), (0.12, 0.10, 5)),
    )


PHANTOMS: dict[str, Callable[[float], Phantom]] = {"brain": brain, "shepp-logan": shepp_logan, "heart": heart}
"""The phantoms by name; each is a function of time."""


def slice_kspace(phantom: Phantom, kx: Array, ky: Array, z: float) -> NDArray[np.complex128]:
    """Exact k-space of the plane at ``z``, [ky, kx]; k in cycles per unit."""
    total = np.zeros((ky.size, kx.size), np.complex128)
    for part in phantom:
        section = part.section(z)
        if section is not None:
            total += section.ellipse_kspace(kx, ky)
    return total


def volume_kspace(phantom: Phantom, kx: Array, ky: Array, kz: Array) -> NDArray[np.complex128]:
    """Exact k-space of the whole phantom, [kz, ky, kx]; k in cycles per unit."""
    total = np.zeros((kz.size, ky.size, kx.size), np.complex128)
    for part in phantom:
        total += part.ellipsoid_kspace(kx, ky, kz)
    return total
