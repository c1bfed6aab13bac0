"""A small scan from a seed, made by numpy alone wherever it is needed, of which other programs have given their answers."""

import numpy as np

COILS, SIZE, CALIBRATION, ACCELERATION = 4, 48, 20, 3


def centred(transform, array):
    """A unitary transform of the last two axes whose middle is the origin."""
    shifted = np.fft.ifftshift(array, axes=(-2, -1))
    return np.fft.fftshift(transform(shifted, norm="ortho"), axes=(-2, -1))


def make():
    """Image [y, x], maps [coils, y, x] of unit norm, k-space [coils, y, x] and what is measured of it, bool [y]; complex64."""
    random = np.random.default_rng(21)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    image = 0.3 * ((y / 0.85) ** 2 + (x / 0.7) ** 2 < 1)
    for _ in range(8):
        (v, u), (height, width) = random.uniform(-0.5, 0.5, 2), random.uniform(0.08, 0.3, 2)
        image += random.uniform(0.2, 0.7) * (((y - v) / height) ** 2 + ((x - u) / width) ** 2 < 1)
    image = image * np.exp(1j * (0.5 + 0.8 * y - 0.4 * x * y))
    angles = 2 * np.pi * np.arange(COILS) / COILS
    distances = [(y - 1.2 * np.sin(angle)) ** 2 + (x - 1.2 * np.cos(angle)) ** 2 for angle in angles]
    maps = np.stack([np.exp(-d / 2 + 1j * (angle + 0.3 * d)) for d, angle in zip(distances, angles, strict=True)])
    maps /= np.linalg.norm(maps, axis=0)
    kspace = centred(np.fft.fft2, maps * image)
    noise = random.standard_normal(kspace.shape) + 1j * random.standard_normal(kspace.shape)
    kspace += 1e-4 * np.abs(kspace).max() * noise
    measured = np.zeros(SIZE, bool)
    measured[::ACCELERATION] = True
    measured[SIZE // 2 - CALIBRATION // 2 : SIZE // 2 + CALIBRATION // 2] = True
    return image.astype(np.complex64), maps.astype(np.complex64), kspace.astype(np.complex64), measured


def images():
    """An image and its truth [y, x], for the figures of quality."""
    image, *_ = make()
    truth = np.abs(image).astype(np.float64)
    return truth + 0.05 * np.random.default_rng(22).standard_normal(truth.shape), truth


def weights(shapes, seed):
    """Weights of networks by name, float32, that keep the size of what they are applied to; those of one axis are small."""
    random = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape)
        found[name] = (values / np.sqrt(max(np.prod(shape[1:]), 100)) * (1.0 if len(shape) > 1 else 5.0)).astype(
            np.float32
        )
    return found
