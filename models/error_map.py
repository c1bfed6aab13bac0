"""How far the magnitude of a regularised image is likely to be off, pixel by pixel.

Without regularisation the error is what noise and missing data make of it (``error_level``). A regulariser takes away of it what
is more than the detail that there is: of a prior of variance f and an error of variance e, the mean of the posterior is off by
``e f / (e + f)`` in the mean square, as with Wiener's filter. Three such variances add up. By how much each is to be counted is
no matter of theory but is fitted to fully sampled scans, once for a set of weights (``benchmarks/uncertainty.py``).
"""

import torch
from torch import Tensor, nn

from .error_level import SenseStart
from .planar import box_mean, ratio_or_zero


def error_terms(image: Tensor, start: SenseStart) -> Tensor:
    """Return the variances that add up to the error's.

    Parameters
    ----------
    image
        float32 [batch, y, x, 2], the regularised image in units of ``start.scale``.
    start
        The SENSE image that it began with, and its error.

    Returns
    -------
    Tensor
        float32 [3, batch, y, x], in units of the squared scale: what is left of noise, what is left of missing detail, and the
        noise of a sample, below which no regulariser comes everywhere.
    """
    # detail is what differs from the mean of 5 x 5 pixels, and its variance that of 5 x 5 pixels
    detail = box_mean((image - box_mean(image, 5)).square().sum(dim=-1, keepdim=True), 5)[..., 0]
    left_of_noise = ratio_or_zero(start.noise_error * detail, start.noise_error + detail)
    left_of_missing = ratio_or_zero(start.detail_error * detail, start.detail_error + detail)
    return torch.stack([left_of_noise, left_of_missing, start.noise.square().expand_as(detail)])


class ErrorMap(nn.Module):
    """Standard deviation of the error of the magnitude.

    Parameters
    ----------
    noise, missing, floor
        By how much the three variances of ``error_terms`` are counted, not negative.
    """

    def __init__(self, noise: float, missing: float, floor: float) -> None:
        super().__init__()
        self.shares: Tensor
        self.register_buffer("shares", torch.tensor([noise, missing, floor], dtype=torch.float32))

    def forward(self, image: Tensor, start: SenseStart) -> Tensor:
        """Return float32 [batch, y, x], in the units of the image: ``start.scale``."""
        return (error_terms(image, start) * self.shares[:, None, None, None]).sum(dim=0).sqrt()
