"""How far an image is from the truth: SSIM, PSNR, NMSE, NRMSE and HFEN, as fastMRI and scikit-image define them.

All take magnitude images [images, y, x], and optionally the pixels that count, and return one value per image [images].
``judge`` puts them together by a convention: ``fastmri``, of volumes, or ``slice``.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

Convention = Literal["fastmri", "slice"]
METRICS = ("ssim", "psnr", "nmse", "nrmse", "hfen")

SSIM_WINDOW = 7
"""Edge of the window, in pixels: no smaller image is judged."""
_HFEN_EDGE, _HFEN_SIGMA = 15, 1.5
_GHOST_TILE = 16


def ssim(image: Tensor, truth: Tensor, data_range: Tensor | None = None, inside: Tensor | None = None) -> Tensor:
    """Mean structural similarity with a uniform 7 x 7 window (Wang et al., IEEE TIP 2004;13:600; k1 = 0.01, k2 = 0.03).

    Equal to scikit-image's ``structural_similarity`` with its defaults, which is the one of fastMRI: variances have the
    denominator n - 1, and only windows that lie inside the image count.

    Parameters
    ----------
    image, truth
        [images, y, x].
    data_range
        [images]; default: the largest value of each truth.
    inside
        bool [images, y, x]: windows whose middle is there count; default: all.
    """
    if data_range is None:
        data_range = truth.amax(dim=(-2, -1))
    data_range = data_range[:, None, None]
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = _local_mean(image), _local_mean(truth)
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    variance_x = unbiased * (_local_mean(image * image) - mean_x * mean_x)
    variance_y = unbiased * (_local_mean(truth * truth) - mean_y * mean_y)
    covariance = unbiased * (_local_mean(image * truth) - mean_x * mean_y)
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    edge = SSIM_WINDOW // 2
    return _mean(similarity, None if inside is None else inside[:, edge:-edge, edge:-edge])


def _local_mean(x: Tensor) -> Tensor:
    return avg_pool2d(x[:, None], SSIM_WINDOW, stride=1)[:, 0]


def _mean(values: Tensor, inside: Tensor | None) -> Tensor:
    """Mean [images] over the pixels that count."""
    if inside is None:
        return values.mean(dim=(-2, -1))
    return (values * inside).sum(dim=(-2, -1)) / inside.sum(dim=(-2, -1))


def psnr(image: Tensor, truth: Tensor, data_range: Tensor | None = None, inside: Tensor | None = None) -> Tensor:
    """Peak signal to noise ratio in dB; the peak is ``data_range`` [images], by default the largest value of each truth."""
    peak = truth.amax(dim=(-2, -1)) if data_range is None else data_range
    return 10 * torch.log10(peak.square() / _mean((image - truth).square(), inside))


def nmse(image: Tensor, truth: Tensor, inside: Tensor | None = None) -> Tensor:
    """Squared error over squared truth."""
    return _mean((image - truth).square(), inside) / _mean(truth.square(), inside)


def nrmse(image: Tensor, truth: Tensor, inside: Tensor | None = None) -> Tensor:
    """Root of ``nmse``: scikit-image's ``normalized_root_mse`` with its default, the Euclidean norm."""
    return nmse(image, truth, inside).sqrt()


def hfen(image: Tensor, truth: Tensor, inside: Tensor | None = None) -> Tensor:
    """High frequency error norm: ``nrmse`` of edges (Ravishankar, Bresler, IEEE TMI 2011;30:1028, section IV-A).

    Edges are what a rotationally symmetric Laplacian of a Gaussian of 15 x 15 pixels, sigma 1.5, leaves; images are continued by
    zeros.
    """
    return nrmse(_edges(image), _edges(truth), inside)


def _edges(image: Tensor) -> Tensor:
    return conv2d(image[:, None], laplacian_of_gaussian().to(image)[None, None], padding="same")[:, 0]


def laplacian_of_gaussian() -> Tensor:
    """The filter of ``hfen``, float64 [15, 15]: that of MATLAB's ``fspecial('log', 15, 1.5)``, whose sum is zero."""
    half, sigma = _HFEN_EDGE // 2, _HFEN_SIGMA
    place = torch.arange(-half, half + 1, dtype=torch.float64)
    squares = place[:, None] ** 2 + place**2
    gaussian = torch.exp(-squares / (2 * sigma**2))
    kernel = gaussian / gaussian.sum() * (squares - 2 * sigma**2) / sigma**4
    return kernel - kernel.mean()


def ghost(image: Tensor, truth: Tensor, acceleration: int) -> Tensor:
    """Strength of what is left of aliases: ghosts of the object, moved by multiples of the field of view over R along y.

    The error is regressed, in tiles of 16 x 16 pixels, on the truth moved by m / R of the field of view, m = 1 to R - 1; all
    without their means over the tile. What the regression explains beyond what it explains of white noise, R - 1 of 256 values,
    is ghost. Its root, over that of the truth's own energy in the tiles, is the mean amplitude of the ghosts: 0.1 where a tenth
    of an alias is left, whatever its sign from tile to tile, which coils and phase change.

    Parameters
    ----------
    image, truth
        [images, y, x], with all of the field of view along y.
    acceleration
        Distance of the measured lines, from 2.

    Returns
    -------
    Tensor
        [images], 0 where nothing but noise is left.
    """
    waves = torch.fft.fftfreq(truth.shape[-2], dtype=torch.float64)[:, None] * truth.shape[-2]
    moved = [
        torch.fft.ifft(torch.fft.fft(truth, dim=-2) * torch.exp(-2j * torch.pi * m / acceleration * waves), dim=-2).real
        for m in range(1, acceleration)
    ]
    error, own, *aliases = (_tiles(each.to(torch.float64)) for each in (image - truth, truth, *moved))
    basis = torch.stack(aliases, dim=-1)
    gram = basis.mT @ basis
    floor = 1e-6 * own.square().sum(-1).mean(-1)[:, None, None, None] + torch.finfo(torch.float64).tiny
    gram = gram + floor * torch.eye(acceleration - 1, dtype=torch.float64)
    weights = basis.mT @ error[..., None]
    explained = (weights * torch.linalg.solve(gram, weights)).sum((-2, -1))
    energy = error.square().sum(-1)
    beyond = (explained - (acceleration - 1) / _GHOST_TILE**2 * energy).sum(-1).clamp_min(0)
    return (beyond / own.square().sum((-2, -1)).clamp_min(torch.finfo(torch.float64).tiny)).sqrt()


def _tiles(image: Tensor) -> Tensor:
    """Cut images [images, y, x] into tiles without their means [images, tiles, pixels], and leave out what fits in none."""
    edge = _GHOST_TILE
    tiles = image.unfold(-2, edge, edge).unfold(-2, edge, edge).flatten(-2).flatten(1, 2)
    return tiles - tiles.mean(-1, keepdim=True)


def fitted_scale(image: Tensor, truth: Tensor, inside: Tensor | None = None) -> Tensor:
    """Return the factor of all images together that brings them nearest to the truth in the least-squares sense."""
    weight = torch.ones_like(truth) if inside is None else inside.to(truth.dtype)
    return (weight * image * truth).sum() / (weight * image.square()).sum().clamp_min(torch.finfo(image.dtype).tiny)


def judge(image: Tensor, truth: Tensor, convention: Convention, inside: Tensor | None = None) -> dict[str, float]:
    """Return all metrics of a volume, or of the slices of one.

    Parameters
    ----------
    image, truth
        float64 [slices, y, x], with the frames of series as further slices.
    convention
        ``fastmri``, as in its ``evaluate.py`` (Zbontar et al., arXiv:1811.08839, section 5.4): the maximum is that of the volume,
        squared errors are summed over the volume, SSIM is the mean over slices. ``slice``: every slice is judged by itself,
        with its own maximum, and the mean over slices is returned.
    inside
        bool [slices, y, x]: the pixels that count; default: all.
    """
    peak = truth.amax(dim=(-2, -1)) if convention == "slice" else truth.max().expand(len(truth))
    similarity = ssim(image, truth, peak, inside)
    if inside is not None and convention == "fastmri":  # a slice beside the object has no pixels to judge
        similarity = similarity[
            inside[:, SSIM_WINDOW // 2 : -(SSIM_WINDOW // 2), SSIM_WINDOW // 2 : -(SSIM_WINDOW // 2)].any(-1).any(-1)
        ]
    edges, true_edges = _edges(image), _edges(truth)
    if convention == "fastmri":  # slices beside each other are one image, with the sums of all of them
        image, truth, edges, true_edges = (each.flatten(0, 1)[None] for each in (image, truth, edges, true_edges))
        inside, peak = None if inside is None else inside.flatten(0, 1)[None], peak[:1]
    values = (
        similarity,
        psnr(image, truth, peak, inside),
        nmse(image, truth, inside),
        nrmse(image, truth, inside),
        nrmse(edges, true_edges, inside),
    )
    return {name: float(value.mean()) for name, value in zip(METRICS, values, strict=True)}
