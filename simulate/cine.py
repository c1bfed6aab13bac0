"""Random beating hearts, for training on series."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .anatomy import random_phase, smooth_field

Array = NDArray[np.float64]


def random_series(random: np.random.Generator, shape: tuple[int, int], frames: int) -> NDArray[np.complex64]:
    """Return a random complex short-axis series over one heartbeat, magnitude up to about one.

    Contrast, sizes, places, the strength of the beat, breathing, texture and phase are random; all organs are bent a little.

    Parameters
    ----------
    random
        Source of everything that is random.
    shape
        Pixels along y and x.
    frames
        Number of frames.

    Returns
    -------
    ndarray
        complex64 [frames, y, x].
    """
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    y, x = (place * random.uniform(0.95, 1.2) + 0.05 * smooth_field(random, shape, 4) for place in (y, x))
    edge = 1.5 / min(shape)
    chest = _chest(random, y, x, edge)
    texture = 1 + random.uniform(0.02, 0.15) * ndimage.gaussian_filter(
        random.standard_normal(shape), random.uniform(1, 3)
    )
    texture += 0.15 * smooth_field(random, shape, 3)
    beat = Heart(random)
    breath = random.uniform(0, 0.02)
    phase = np.exp(1j * random_phase(random, shape))
    series = np.empty((frames, *shape), np.complex64)
    for frame in range(frames):
        time = frame / frames
        lift = breath * math.sin(2 * math.pi * time)
        series[frame] = np.maximum(beat.draw(chest, y - lift, x, beat.contraction(time), edge) * texture, 0) * phase
    return series / max(float(np.percentile(np.abs(series), 99.5)), 1e-6)


def _ellipse(y: Array, x: Array, center: tuple[float, float], radii: tuple[float, float], edge: float) -> Array:
    """One inside, zero outside, with an edge about a pixel wide."""
    distance = np.hypot((y - center[0]) / radii[0], (x - center[1]) / radii[1])
    return np.clip(0.5 - (distance - 1) * min(radii) / edge, 0, 1)


def _put(image: Array, where: Array, value: float) -> Array:
    return image + where * (value - image)


def _chest(random: np.random.Generator, y: Array, x: Array, edge: float) -> Array:
    """Fat, muscle, lungs, liver, spine and vessels."""
    height, width = random.uniform(0.6, 0.8), random.uniform(0.8, 0.95)
    image = _put(np.zeros_like(y), _ellipse(y, x, (0, 0), (height, width), edge), random.uniform(0.4, 1))
    rim = random.uniform(0.04, 0.12)
    image = _put(image, _ellipse(y, x, (0, 0), (height - rim, width - rim), edge), random.uniform(0.15, 0.4))
    for side in (-1, 1):
        center = (random.uniform(-0.1, 0.1), side * random.uniform(0.45, 0.6))
        lung = _ellipse(y, x, center, (random.uniform(0.3, 0.5), random.uniform(0.18, 0.3)), edge)
        image = _put(image, lung, random.uniform(0, 0.1))
    liver = _ellipse(y, x, (random.uniform(0.3, 0.6), -0.4), (0.25, random.uniform(0.3, 0.5)), edge)
    image = _put(image, liver * (image > 0.1), random.uniform(0.2, 0.5))
    image = _put(image, _ellipse(y, x, (height - 0.2, 0), (0.1, 0.12), edge), random.uniform(0.2, 0.7))
    for _ in range(random.integers(3, 12)):
        center, radius = random.uniform(-0.5, 0.5, 2), 10 ** random.uniform(-2, -1.1)
        image = _put(image, _ellipse(y, x, (center[0], center[1]), (radius, radius), edge), random.uniform(0.1, 1))
    return image


class Heart:
    """Ventricles in a wall that thickens as they contract, with papillary muscles."""

    def __init__(self, random: np.random.Generator) -> None:
        self.center = tuple(random.uniform(-0.12, 0.12, 2))
        self.cavity = random.uniform(0.12, 0.2)
        self.wall = random.uniform(0.05, 0.09)
        self.right = random.uniform(0.14, 0.22)
        self.angle = random.uniform(-0.6, 0.6)
        self.stretch = random.uniform(0.85, 1.15)
        self.strength = random.uniform(0.2, 0.45)
        self.start = random.uniform(0, 1)
        self.blood, self.muscle = random.uniform(0.6, 1), random.uniform(0.15, 0.45)
        self.papillary = [
            (random.uniform(0.4, 0.65), angle, random.uniform(0.02, 0.04)) for angle in random.uniform(0, 6.3, 2)
        ]

    def contraction(self, time: float) -> float:
        """Part of the radius by which the cavity is smaller at a time from 0 to 1 over a beat."""
        return self.strength * (0.5 - 0.5 * math.cos(2 * math.pi * (time + self.start)))

    def draw(self, chest: Array, y: Array, x: Array, contraction: float, edge: float) -> Array:
        """Draw the contracted heart into an image of the chest."""
        cavity = self.cavity * (1 - contraction)
        outer = math.sqrt(cavity**2 + (self.cavity + self.wall) ** 2 - self.cavity**2)  # the wall keeps its area
        right = self.right * (1 - 0.8 * contraction)
        cy, cx = self.center
        aside = (cy + right * math.sin(self.angle), cx - (outer + 0.3 * right) * math.cos(self.angle))
        image = _put(chest, _ellipse(y, x, aside, (right * 1.2 + 0.03, right + 0.03), edge), self.muscle)
        image = _put(image, _ellipse(y, x, aside, (right * 1.2, right), edge), self.blood)
        image = _put(image, _ellipse(y, x, (cy, cx), (outer * self.stretch, outer), edge), self.muscle)
        image = _put(image, _ellipse(y, x, (cy, cx), (cavity * self.stretch, cavity), edge), self.blood)
        for distance, angle, radius in self.papillary:
            place = (cy + distance * cavity * math.sin(angle), cx + distance * cavity * math.cos(angle))
            image = _put(image, _ellipse(y, x, place, (radius, radius), edge), self.muscle)
        return image
