"""How good a bundle of series is on series that nothing was trained or chosen on, beside classical methods at their best.

Every classical method gets, for each series by itself, the strength with which its PSNR against the truth is the highest: no
reader of a real scan could do as well. k-t SENSE learns from the middle lines that were measured; once more, it is given the
twelve middle lines of the true series. A bundle of slices (``--slices``) makes each frame by itself, with the maps of the lines
of that frame, as ``network.xml`` does; where frames have no calibration lines, with those of the series.

Series come from three places: hearts of ``simulate.cine``; hearts with the texture of pictures that training has not seen
(``--textures``, the file that ``isocenter textures`` writes); and files (``--series``, .npy, [frames, y, x], magnitudes or
complex),
measured somewhere else. Coil maps are simulated and noise is added; reconstruction gets the maps that the service estimates.

Figures: PSNR and SSIM of the magnitudes of all frames within the object, and how far the change from frame to frame is from the
true one, relative to it (``change``: 0 is perfect, 1 is a still picture). They are printed as a table, and written to
``--output``.

Run with ``python benchmarks/cine.py --bundle bundles/cine --slices bundles/ridge [--textures textures/textures.h5]
[--series a.npy b.npy]``.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from isocenter.engine.device import LocalDevice, Shelf
from isocenter.gadgets.estimate_coil_maps import FEWEST_LINES
from isocenter.models.consistency import adjoint_model, normal_model
from isocenter.models.fourier import fft, ifft
from isocenter.models.metrics import ssim
from isocenter.simulate import sampling
from isocenter.simulate.cine import random_series
from isocenter.simulate.coils import random_coil_maps
from isocenter.simulate.sampling import Request
from isocenter.simulate.textured_cine import random_textured_series
from isocenter.training.samples import block_of_lines, measured_maps
from isocenter.training.textures import load_textures

COILS, NOISE = 8, 0.04
PATTERNS = (("kt-interleaved", 0), ("kt-interleaved", 8), ("golden-offset", 4))
FEWEST = 4
"""Lines that k-t SENSE learns from."""
SIZE, FRAMES = (128, 112), 12


class Encoding:
    """What was measured of a series, and its model; series are complex64 [frames, x, y], so that Fourier transforms are quick."""

    def __init__(self, kspace, lines, maps):
        self.lines = lines[None, None, :, None, :, None].to(torch.float32)
        self.maps = turned(maps)[None, :, None]
        self.kspace = turned(ifft(kspace, [-1]))[None] * self.lines
        self.adjoint = self.series(adjoint_model(self.kspace, self.maps, [-2]))

    def series(self, planar):
        """View [1, frames, x, y, 2] as a series."""
        return torch.view_as_complex(planar[0].contiguous())

    def normal(self, series):
        """A^H A x."""
        planar = torch.view_as_real(series.contiguous())[None]
        return self.series(normal_model(planar, self.maps, self.lines, [-2]))

    def fit(self, extra, start, steps):
        """Solve (A^H A + extra) x = A^H y by conjugate gradients."""

        def operator(x):
            return self.normal(x) + extra(x)

        return start + conjugate_gradients(operator, self.adjoint - operator(start), steps)


def turned(images):
    """Return complex [..., y, x] as real [..., x, y, 2]."""
    return torch.view_as_real(images.mT.contiguous())


def changes(series):
    """D^H D x, D the differences of neighbouring frames."""
    step = series[1:] - series[:-1]
    none = torch.zeros_like(series[:1])
    return torch.cat([none, step]) - torch.cat([step, none])


def smooth(encoding, weight):
    """A fit that is smooth in time."""
    start = encoding.adjoint.mean(0, keepdim=True).expand_as(encoding.adjoint)
    return encoding.fit(lambda x: weight * changes(x) + 1e-3 * x, start, 15)


def sense(encoding, strength, _truth):
    """SENSE frame by frame, Tikhonov."""
    return encoding.fit(lambda x: strength * x, torch.zeros_like(encoding.adjoint), 15)


def ktsense(encoding, strength, _truth):
    """k-t SENSE that learns from what was measured: the middle lines that all frames have, or else those of a smooth fit."""
    rows = encoding.lines.shape[-2]
    middle = block_of_lines_in_all(encoding.lines[0, 0, :, 0, :, 0])
    if middle < FEWEST:
        return ktsense_of(encoding, strength, low_resolution(smooth(encoding, 0.5), 12))
    window = middle_of(rows, middle)[:, None]
    return ktsense_of(encoding, strength, encoding.series(adjoint_model(encoding.kspace * window, encoding.maps, [-2])))


def ktsense_of_truth(encoding, strength, truth):
    """k-t SENSE that learns from the twelve middle lines of the true series, which no scan has."""
    return ktsense_of(encoding, strength, low_resolution(truth, 12))


def block_of_lines_in_all(lines):
    """Number of adjacent lines around the middle that all frames [frames, ky] have."""
    shared = (lines > 0).all(0).tolist()
    middle = len(shared) // 2
    reach = 0
    while shared[middle - reach - 1] and shared[middle + reach]:
        reach += 1
    return 2 * reach


def middle_of(rows, count):
    """A window over so many middle lines that falls off to both sides."""
    window = torch.zeros(rows)
    window[rows // 2 - count // 2 : rows // 2 + count // 2] = torch.hann_window(count + 2, periodic=False)[1:-1]
    return window


def low_resolution(series, count):
    """Keep so many middle lines of a series."""
    return ifft(fft(series, [-1]) * middle_of(series.shape[-1], count), [-1])


def ktsense_of(encoding, strength, training):
    """k-t SENSE: what differs from the mean is of the amplitude, in y, x and temporal frequency, of training data.

    Tsao et al., MRM 2003;50:1031, as the regularised least squares that it is (eq. 7), for any pattern.
    """
    amplitude = torch.fft.fft(training - training.mean(0), dim=0, norm="ortho").abs()
    still = smooth(encoding, 3.0).mean(0, keepdim=True)

    def prior(z):
        return torch.fft.ifft(amplitude * torch.fft.fft(z, dim=0, norm="ortho"), dim=0, norm="ortho")

    def normal(z):
        return prior(encoding.normal(prior(z))) + strength * z

    right = prior(encoding.adjoint - encoding.normal(still.expand_as(training)))
    return still + prior(conjugate_gradients(normal, right, 20))


def conjugate_gradients(operator, right, steps):
    """Solve an equation of a positive operator."""
    x, residual = torch.zeros_like(right), right
    direction, energy = residual, residual.abs().square().sum()
    for _ in range(steps):
        product = operator(direction)
        step = energy / (direction.conj() * product).real.sum()
        x, residual = x + step * direction, residual - step * product
        last, energy = energy, residual.abs().square().sum()
        direction = residual + energy / last * direction
    return x


def soft(x, threshold):
    """Shorten complex numbers."""
    return x * (1 - threshold / x.abs().clamp_min(1e-30)).clamp_min(0)


def shortened(series, threshold):
    """Shorten the singular values of the matrix of frames by pixels."""
    matrix = series.flatten(1)
    squares, vectors = torch.linalg.eigh(matrix @ matrix.mH)
    factor = (1 - threshold / squares.clamp_min(1e-30).sqrt()).clamp_min(0)
    return ((vectors * factor) @ (vectors.mH @ matrix)).reshape(series.shape)


def frequencies(series):
    """Unitary temporal Fourier transform."""
    return torch.fft.fft(series, dim=0, norm="ortho")


def times(spectrum):
    """Adjoint of ``frequencies``."""
    return torch.fft.ifft(spectrum, dim=0, norm="ortho")


def low_rank_sparse(encoding, strength, _truth):
    """L + S with the temporal Fourier transform (Otazo et al., MRM 2015;73:1125), accelerated (Lin, Fessler, IEEE TCI 2019;5:17).

    ``strength``: of the nuclear norm and of the sparse part, relative to the largest singular value and to the noise.
    """
    rank_weight, sparse_weight = strength
    low = smooth(encoding, 3.0)
    limit = rank_weight * torch.linalg.matrix_norm(low.flatten(1), 2)
    sparse = torch.zeros_like(low)
    ahead_low, ahead_sparse, momentum = low, sparse, 1.0
    for _ in range(40):
        gradient = encoding.normal(ahead_low + ahead_sparse) - encoding.adjoint
        next_low = shortened(ahead_low - 0.5 * gradient, 0.5 * limit)
        next_sparse = times(soft(frequencies(ahead_sparse - 0.5 * gradient), 0.5 * sparse_weight * NOISE))
        following = 0.5 * (1 + math.sqrt(1 + 4 * momentum**2))
        ratio, momentum = (momentum - 1) / following, following
        ahead_low = next_low + ratio * (next_low - low)
        ahead_sparse = next_sparse + ratio * (next_sparse - sparse)
        low, sparse = next_low, next_sparse
    return low + sparse


def sparse_frequencies(encoding, strength, _truth):
    """k-t SPARSE-SENSE: l1 norm of temporal frequencies but the mean (Otazo et al., MRM 2010;64:767), by FISTA."""
    series = ahead = smooth(encoding, 3.0)
    momentum, weight = 1.0, strength * NOISE
    for _ in range(40):
        spectrum = frequencies(ahead - (encoding.normal(ahead) - encoding.adjoint))
        following = torch.cat([spectrum[:1], soft(spectrum[1:], weight)])
        last, series = series, times(following)
        later = 0.5 * (1 + math.sqrt(1 + 4 * momentum**2))
        ahead = series + (momentum - 1) / later * (series - last)
        momentum = later
    return series


CLASSICAL = {
    "SENSE": (sense, [0.01, 0.03]),
    "k-t SENSE": (ktsense, [1e-5, 1e-4, 1e-3]),
    "k-t SENSE of the truth": (ktsense_of_truth, [1e-5, 1e-4, 1e-3]),
    "k-t SPARSE": (sparse_frequencies, [0.4, 0.8, 1.6]),
    "L+S": (low_rank_sparse, [(rank, sparse) for rank in (0.03, 0.1, 0.3) for sparse in (0.4, 0.8, 1.6)]),
}


def figures(series, truth):
    """PSNR, SSIM and the error of the changes, of magnitudes within the object."""
    image, right = series.abs(), truth.abs()
    peak = right.max().expand(len(right))
    inside = (right.mean(0) > 0.1 * float(torch.quantile(right.mean(0), 0.99))).expand(right.shape)
    error = ((image[1:] - image[:-1]) - (right[1:] - right[:-1]))[inside[1:]]
    true = (right[1:] - right[:-1])[inside[1:]]
    mse = ((image - right).square() * inside).sum() / inside.sum()
    return {
        "psnr": float(10 * torch.log10(peak[0].square() / mse)),
        "ssim": float(ssim(image, right, peak, inside).mean()),
        "change": float(error.square().mean().sqrt() / true.square().mean().sqrt().clamp_min(1e-9)),
    }


def tuned(method, strengths, encoding, truth):
    """Return the figures with the best strength, and that strength."""
    tried = [(figures(method(encoding, strength, truth), truth), strength) for strength in strengths]
    return max(tried, key=lambda one: one[0]["psnr"])


def undersampled(series, pattern, acs, acceleration, random, coils=COILS, noise=NOISE):
    """Return k-space [coils, frames, ky, kx], the lines [frames, ky], estimated maps [coils, y, x], the truth [frames, x, y]."""
    frames, y, x = series.shape
    maps = torch.from_numpy(random_coil_maps(random, coils, (y, x)))
    images = maps[:, None] * torch.from_numpy(np.ascontiguousarray(series))
    lines = sampling.draw(pattern, Request(y, frames=frames, acceleration=acceleration, acs=acs), random)
    lines = torch.from_numpy(np.asarray(lines))
    parts = random.standard_normal((2, *images.shape), np.float32) * np.float32(noise / math.sqrt(2))
    kspace = (fft(images, [-2, -1]) + torch.from_numpy(parts[0] + 1j * parts[1])) * lines[:, :, None]
    estimated = measured_maps(block_of_lines(kspace, lines))
    return kspace, lines, estimated, (estimated.conj()[:, None] * images).sum(0).mT.contiguous()


def normalised(series):
    """Return a series, complex64 and of brightness one, with a smooth phase if it has none."""
    series = np.asarray(series)
    if not np.iscomplexobj(series):
        y, x = (np.linspace(-1, 1, n) for n in series.shape[1:])
        series = series * np.exp(1j * (0.6 + 0.8 * y[:, None] - 0.5 * x + 0.7 * y[:, None] * x))
    even = series[:, : series.shape[1] // 2 * 2, : series.shape[2] // 2 * 2]
    return (even / np.percentile(np.abs(even), 99)).astype(np.complex64)


def held_out(textures, files):
    """Series by name."""
    found = {f"smooth {seed}": random_series(np.random.default_rng(1000 + seed), SIZE, FRAMES) for seed in range(2)}
    if textures is not None:
        _, validation = load_textures(textures)
        for seed in range(3):
            random = np.random.default_rng(2000 + seed)
            found[f"textured {seed}"] = random_textured_series(random, validation, SIZE, FRAMES)
    found.update({path.stem: np.load(path) for path in files})
    return {name: normalised(series) for name, series in found.items()}


def run_bundle(model, kspace, lines, maps):
    """Return the series [frames, x, y] that a bundle makes."""
    inputs = {
        "kspace": torch.view_as_real(kspace)[None],
        "mask": lines[None, None, :, :, None, None].to(torch.float32),
        "maps": torch.view_as_real(maps)[None],
    }
    return torch.view_as_complex(model.infer(inputs)["image"][0].contiguous()).mT


def frame_by_frame(model, kspace, lines, maps):
    """Return the series [frames, x, y] that a bundle of slices makes, each frame with the coil maps of its own lines."""
    images = []
    for frame, own in enumerate(lines):
        if block_of_lines_in_all(own[None]) >= FEWEST_LINES:
            maps = measured_maps(block_of_lines(kspace[:, frame], own[None]))
        inputs = {
            "kspace": torch.view_as_real(kspace[:, frame])[None],
            "mask": own[None, None, :, None, None].to(torch.float32),
            "maps": torch.view_as_real(maps)[None],
        }
        images.append(torch.view_as_complex(model.infer(inputs)["image"][0].contiguous()).mT)
    return torch.stack(images)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--slices", type=Path, required=True)
    parser.add_argument("--textures", type=Path)
    parser.add_argument("--series", type=Path, nargs="*", default=[])
    parser.add_argument("--accelerations", type=int, nargs="*", default=[4, 6, 8])
    parser.add_argument("--classical", nargs="*", choices=CLASSICAL, default=list(CLASSICAL))
    parser.add_argument("--output", type=Path, default=Path("cine.json"))
    arguments = parser.parse_args()
    model, slices = (
        LocalDevice("cpu", Shelf([path.parent])).load(path.name) for path in (arguments.bundle, arguments.slices)
    )
    rows = []
    for name, series in held_out(arguments.textures, arguments.series).items():
        for acceleration in arguments.accelerations:
            for pattern, acs in PATTERNS:
                random = np.random.default_rng((acceleration, acs))
                kspace, lines, maps, truth = undersampled(series, pattern, acs, acceleration, random)
                encoding = Encoding(kspace, lines, maps)
                start = time.perf_counter()
                row = {"bundle": figures(run_bundle(model, kspace, lines, maps), truth)}
                row["seconds"] = time.perf_counter() - start
                row["frame by frame"] = figures(frame_by_frame(slices, kspace, lines, maps), truth)
                for method in arguments.classical:
                    row[method], _ = tuned(*CLASSICAL[method], encoding, truth)
                rows.append({"series": name, "R": acceleration, "pattern": pattern, **row})
                print(json.dumps(rows[-1]), flush=True)
                arguments.output.write_text(json.dumps(rows, indent=1))
    print_table(rows, [*arguments.classical, "frame by frame"])


def print_table(rows, others):
    """Print PSNR, SSIM and change of every comparison, and by how much the bundle leads."""
    methods = [*others, "bundle"]
    print("| series | R | pattern |", " | ".join(methods), "|")
    for row in rows:
        cells = [f"{row[m]['psnr']:.1f} / {row[m]['ssim']:.3f} / {row[m]['change']:.2f}" for m in methods]
        print("|", row["series"], "|", row["R"], "|", row["pattern"], "|", " | ".join(cells), "|")
    for method in others:
        lead = [row["bundle"]["psnr"] - row[method]["psnr"] for row in rows]
        print(f"bundle over {method}: median {statistics.median(lead):.2f} dB, least {min(lead):.2f} dB")


if __name__ == "__main__":
    main()
