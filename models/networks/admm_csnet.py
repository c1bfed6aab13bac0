"""ADMM-CSNet: Yang et al., "ADMM-CSNet: a deep learning approach for image compressive sensing", IEEE TPAMI 2020;42:521."""

import torch
from torch import Tensor, nn

from ..consistency import adjoint_model, forward_model, replace_measured
from .steps import prepare


class PiecewiseLinear(nn.Module):
    """Piecewise linear activation of every channel, with fixed equidistant knots between -1 and 1 (eq. 12).

    Parameters
    ----------
    chans
        Number of channels.
    knots
        Number of knots.
    """

    def __init__(self, chans: int, knots: int) -> None:
        super().__init__()
        self.knots = knots
        self.slopes: nn.Parameter = nn.Parameter(torch.ones(chans, knots + 1))
        self.biases: nn.Parameter = nn.Parameter(-torch.ones(chans))

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, chans, y, x] like ``x``."""
        spacing = 2 / (self.knots - 1)
        left = torch.arange(self.knots, device=x.device).to(x.dtype) * spacing - 1
        # summed in float64, so that every runtime has the same table
        rises = torch.cumsum(self.slopes[:, 1:-1].to(torch.float64) * spacing, dim=1).to(x.dtype)
        at_knots = self.biases[:, None] + torch.cat((torch.zeros_like(rises[:, :1]), rises), dim=1)
        values = torch.cat((at_knots[:, :1], at_knots), dim=1)
        places = torch.cat((left[:1], left))
        segment = (torch.floor((x + 1) / spacing) + 1).clamp(0, self.knots).to(torch.int64)
        channel = torch.arange(self.slopes.shape[0], device=x.device)[:, None, None]
        index = segment + channel * (self.knots + 1)
        return values.flatten()[index] + self.slopes.flatten()[index] * (x - places[segment])


class AdmmCsNet(nn.Module):
    """Unrolled alternating direction method of multipliers, with the same weights in all stages (eq. 9).

    The image update is exact for one coil. With several it is done for each coil, which are then combined.

    Parameters
    ----------
    stages
        Number of stages.
    chans, kernel
        Number and size of the filters.
    knots
        Of the activation.
    """

    def __init__(self, stages: int = 10, chans: int = 128, kernel: int = 5, knots: int = 101) -> None:
        super().__init__()
        self.stages = stages
        self.penalty: nn.Parameter = nn.Parameter(torch.tensor([0.1]))
        self.update_rate: nn.Parameter = nn.Parameter(torch.tensor([1.0]))
        self.analysis: nn.Conv2d = nn.Conv2d(1, chans, kernel, padding=kernel // 2)
        self.activation: PiecewiseLinear = PiecewiseLinear(chans, knots)
        self.synthesis: nn.Conv2d = nn.Conv2d(chans, 1, kernel, padding=kernel // 2)

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct the complex image [batch, y, x, 2]; inputs as in ``prepare``, scaled to a maximum of one."""
        measured, weights, maps, axes, image = prepare(kspace, mask, maps)
        auxiliary, multiplier = torch.zeros_like(image), torch.zeros_like(image)
        for _ in range(self.stages):
            image = self._update(auxiliary - multiplier, measured, maps, weights, axes)
            auxiliary = self._denoise(image + multiplier)
            multiplier = multiplier + self.update_rate * (image - auxiliary)
        image = self._update(auxiliary - multiplier, measured, maps, weights, axes)
        return replace_measured(image, measured, maps, weights, axes)

    def _update(self, prior: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
        predicted = self.penalty * forward_model(prior, maps, axes)
        weight = mask + self.penalty
        weight = torch.where(weight == 0, torch.full_like(weight, 1e-6), weight)
        return adjoint_model((kspace + predicted) / weight, maps, axes)

    def _denoise(self, image: Tensor) -> Tensor:
        """Subtract what the filters find; real and imaginary part are handled alike."""
        parts = image.movedim(-1, 1).flatten(0, 1).unsqueeze(1)
        found = self.synthesis(self.activation(self.analysis(parts)))
        return image - found.squeeze(1).unflatten(0, [-1, 2]).movedim(1, -1)
