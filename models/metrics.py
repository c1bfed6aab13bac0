"""How far an image is from the truth: SSIM, PSNR, NMSE, NRMSE, as the fastMRI challenge defines them.

All take magnitude images [batch, y, x] and return one value per image [batch].
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

_WINDOW = 7


def ssim(image: Tensor, truth: Tensor, data_range: Tensor | None = None) -> Tensor:
    """Mean structural similarity with a uniform 7 x 7 window (Wang et al., IEEE TIP 2004;13:600; k1 = 0.01, k2 = 0.03).

    Equal to scikit-image's ``structural_similarity`` with its defaults, where windows lie inside the image.

    Parameters
    ----------
    image, truth
        [batch, y, x].
    data_range
        [batch]; default: the largest value of the truth.
    """
    if data_range is None:
        data_range = truth.amax(dim=(-2, -1))
    data_range = data_range[:, None, None]
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = _local_mean(image), _local_mean(truth)
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    variance_x = unbiased * (_local_mean(image * image) - mean_x * mean_x)
    variance_y = unbiased * (_local_mean(truth * truth) - mean_y * mean_y)
    covariance = unbiased * (_local_mean(image * truth) - mean_x * mean_y)
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean(dim=(-2, -1))


def _local_mean(x: Tensor) -> Tensor:
    return avg_pool2d(x[:, None], _WINDOW, stride=1)[:, 0]


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """Peak signal to noise ratio in dB; the peak is the largest value of the truth."""
    error = (image - truth).square().mean(dim=(-2, -1))
    return 10 * torch.log10(truth.amax(dim=(-2, -1)).square() / error)


def nmse(image: Tensor, truth: Tensor) -> Tensor:
    """Squared error over squared truth."""
    return (image - truth).square().sum(dim=(-2, -1)) / truth.square().sum(dim=(-2, -1))


def nrmse(image: Tensor, truth: Tensor) -> Tensor:
    """Root of ``nmse``."""
    return nmse(image, truth).sqrt()
