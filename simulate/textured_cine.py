"""Random series with real texture that move as a chest does, for training: contraction, breathing, blood that changes brightness.

Smooth phantoms teach a network that whatever is textured is noise, and perfectly periodic ones that nothing ever changes but by
the beat. Here a picture (``textures``) is bent and twisted around a heart, which is drawn into it; beats differ in length, the
chest
drifts with the breath, tissue that leaves the plane is replaced by other tissue, blood flickers with the flow.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .cine import Heart
from .textures import LARGEST, Pictures, cut_off, random_textured_image, waves

Array = NDArray[Any]
_STEP = 1.5
"""How much finer than the series the pictures are that it is made of."""


def random_textured_series(
    random: np.random.Generator, pictures: Pictures, shape: tuple[int, int], frames: int
) -> NDArray[np.complex64]:
    """Return a random complex series, of brightness about one.

    Parameters
    ----------
    random
        Source of everything that is random.
    pictures
        What it is made of.
    shape
        Pixels along y and x, even.
    frames
        Number of frames.

    Returns
    -------
    ndarray
        complex64 [frames, y, x].
    """
    y_size, x_size = (min(int(n * _STEP) // 2 * 2, LARGEST) for n in shape)
    fine = (max(y_size, shape[0]), max(x_size, shape[1]))
    chest = _Chest(random, pictures, fine)
    beat, breath = _beats(random, frames), _breath(random, frames)
    turn = waves(random, fine, 2) * np.float32(random.uniform(0, 1.2))
    drift = waves(random, fine, 1) * np.float32(random.uniform(0, 0.1))
    series = np.empty((frames, *shape), np.complex64)
    for frame in range(frames):
        phase = np.exp(1j * (turn + drift * np.float32(beat[frame]))).astype(np.complex64)
        series[frame] = cut_off(chest.at(float(beat[frame]), float(breath[frame]), frame / frames) * phase, shape)
    bright = float(np.percentile(np.abs(series), 99))
    return series * np.exp(1j * random.uniform(0, 2 * math.pi)).astype(np.complex64) / np.float32(max(bright, 1e-6))


def _beats(random: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """Contraction [frames] between 0 and 1: beats of changing length, quicker to contract than to fill."""
    per_frame = random.uniform(0.6, 2.2) / frames if random.random() < 0.5 else 1 / frames
    uneven = random.uniform(0, 0.3) if random.random() < 0.3 else 0.0
    steps = per_frame * np.exp(uneven * np.cumsum(random.standard_normal(frames)) / math.sqrt(frames))
    time = (random.random() + np.cumsum(steps)) % 1
    systole, slow = random.uniform(0.3, 0.5), random.uniform(1, 2.5)
    contract = 0.5 - 0.5 * np.cos(math.pi * time / systole)
    fill = (0.5 + 0.5 * np.cos(math.pi * (time - systole) / (1 - systole))) ** slow
    return np.where(time < systole, contract, fill)


def _breath(random: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """Displacement [frames] by breathing, between -1 and 1 of its amplitude."""
    periods = random.uniform(0, 1.2) if random.random() < 0.7 else 0.0
    return np.sin(2 * math.pi * (periods * np.arange(frames) / frames + random.random()))


class _Chest:
    """A picture that is bent around a heart."""

    def __init__(self, random: np.random.Generator, pictures: Pictures, shape: tuple[int, int]) -> None:
        self.y, self.x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
        self.edge = 1.5 / min(shape)
        tissue, other, blood = (np.abs(random_textured_image(random, pictures, shape)) for _ in range(3))
        self.tissue, self.other = tissue, other * (tissue.mean() / max(float(other.mean()), 1e-6))
        self.blood_texture = 1 + random.uniform(0, 0.6) * (blood / max(float(blood.mean()), 1e-6) - 1)
        self.heart = Heart(random) if random.random() < 0.75 else None
        if self.heart is not None:
            self.heart.center = tuple(random.uniform(-0.25, 0.25, 2))
        self.strength = random.uniform(0.05, 0.3)
        self.center = random.uniform(-0.3, 0.3, 2) if self.heart is None else np.array(self.heart.center)
        self.reach, self.twist = random.uniform(0.25, 0.5), random.uniform(-0.25, 0.25)
        self.breath = random.normal(0, random.choice([0.01, 0.04]), 2)
        self.loose = 0.5 + 0.5 * np.tanh(1.5 * waves(random, shape, 1))
        self.leaves = random.uniform(0, 0.6) * (random.random() < 0.6)
        self.fades = random.uniform(-0.25, 0.25) * waves(random, shape, 2)
        self.flow = [random.uniform(0, 0.12) * waves(random, shape, 4) for _ in range(3)]
        self.enhance = random.uniform(0.3, 1) * np.maximum(waves(random, shape, 2), 0) * (random.random() < 0.1)

    def at(self, contraction: float, breath: float, time: float) -> Array:
        """Return the magnitude float32 [y, x] at a time from 0 to 1 of the series."""
        y, x = (place - breath * move * self.loose for place, move in zip((self.y, self.x), self.breath, strict=True))
        away_y, away_x = y - self.center[0], x - self.center[1]
        near = np.exp(-((away_y**2 + away_x**2) / self.reach**2))
        # what is seen here has come from further outside, and from aside
        out, aside = 1 + self.strength * contraction * near, self.twist * contraction * near
        from_y = self.center[0] + out * away_y + aside * away_x
        from_x = self.center[1] + out * away_x - aside * away_y
        image = _seen(self.tissue, from_y, from_x)
        if self.leaves:
            part = self.leaves * contraction * near
            image += part * (_seen(self.other, from_y, from_x) - image)
        if self.heart is not None:
            image = self._with_heart(self.heart, image, (y, x), (from_y, from_x), contraction, time)
        image = image * (1 + contraction * near * self.fades + time * self.enhance)
        return np.maximum(image, 0).astype(np.float32)

    def _with_heart(
        self,
        heart: Heart,
        image: Array,
        place: tuple[NDArray[np.float64], NDArray[np.float64]],
        source: tuple[NDArray[np.float64], NDArray[np.float64]],
        contraction: float,
        time: float,
    ) -> Array:
        """Draw the heart into a picture, with texture that moves with it and blood that flickers."""
        drawn = heart.draw(np.full_like(image, -1.0), *place, heart.strength * contraction, self.edge)
        inside = np.clip(drawn + 1, 0, 1)
        flow = sum(
            math.sin(2 * math.pi * (order * time + 0.3 * order)) * wave for order, wave in enumerate(self.flow, 1)
        )
        texture = _seen(self.blood_texture, *source) * (1 + flow * (drawn > 0.5 * heart.blood))
        return image + inside * (np.maximum(drawn, 0) * texture - image)


def _seen(picture: Array, y: NDArray[np.float64], x: NDArray[np.float64]) -> Array:
    """Values of a picture at places between -1 and 1."""
    rows, columns = (0.5 * (place + 1) * (n - 1) for place, n in zip((y, x), picture.shape, strict=True))
    return ndimage.map_coordinates(picture, [rows, columns], order=1, mode="nearest")
