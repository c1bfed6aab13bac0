"""CineVN: Vornehm et al., "CineVN: variational network reconstruction for rapid functional cardiac cine MRI", MRM 2025;93:138.

Parameters have the names that its checkpoints use. The random phase that its training adds in every cascade is left out.
"""

import torch
from torch import Tensor, nn

from ..consistency import ProximalStep, adjoint_model, forward_model
from ..normalisation import InstanceNorm, standardise
from ..padding import repeat_edge, to_multiple, wrap
from ..sampling import split_axes


class SpatialConv(nn.Module):
    """Convolution 3x3 of every frame; the readout (first) is continued by its edge, the phase direction periodically."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv: nn.Conv2d = nn.Conv2d(inputs, outputs, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, outputs, frames, readout, phase]."""
        batch, frames = x.shape[0], x.shape[2]
        images = wrap(repeat_edge(x.transpose(1, 2).flatten(0, 1), 2, 1, 1), 3, 1, 1)
        return self.conv(images).unflatten(0, [batch, frames]).transpose(1, 2)


class TemporalConv(nn.Module):
    """Convolution of three frames at every pixel, periodic in time."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv: nn.Conv1d = nn.Conv1d(inputs, outputs, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, outputs, frames, readout, phase]."""
        padded = wrap(x, 2, 1, 1)
        return torch.nn.functional.conv3d(padded, self.conv.weight.unsqueeze(-1).unsqueeze(-1))


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        SpatialConv(inputs, outputs), InstanceNorm(), nn.LeakyReLU(0.2), TemporalConv(outputs, outputs)
    )


class ConvBlock(nn.Module):
    """Two separable convolutions with a residual path."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers: nn.Sequential = nn.Sequential(
            _separable(inputs, outputs),
            InstanceNorm(),
            nn.LeakyReLU(0.2),
            nn.Identity(),  # holds the place of a dropout, so that the names fit
            _separable(outputs, outputs),
            InstanceNorm(),
        )
        self.identity: nn.Sequential = nn.Sequential(nn.Conv3d(inputs, outputs, 1, bias=False), InstanceNorm())

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, outputs, frames, readout, phase]."""
        return torch.nn.functional.leaky_relu(self.layers(x) + self.identity(x), 0.2)


class UpBlock(nn.Module):
    """Twice the size by nearest neighbour, then a convolution of each frame and one along time."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers: nn.Sequential = nn.Sequential(
            nn.Upsample(scale_factor=(1, 2, 2), mode="nearest"),
            SpatialConv(inputs, outputs),
            InstanceNorm(),
            nn.LeakyReLU(0.2),
            TemporalConv(outputs, outputs),
            InstanceNorm(),
            nn.LeakyReLU(0.2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, outputs, frames, 2 readout, 2 phase]."""
        return self.layers(x)


class SeriesUnet(nn.Module):
    """U-Net in two dimensions and time; only the spatial axes are pooled.

    Parameters
    ----------
    chans
        Channels of the first level.
    pools
        Number of levels below it.
    """

    def __init__(self, chans: int, pools: int) -> None:
        super().__init__()
        widths = [chans * 2**level for level in range(pools + 1)]
        self.multiple: int = 1 << (pools + 1)
        self.enc_conv_blocks: nn.ModuleList = nn.ModuleList(
            ConvBlock(i, o) for i, o in zip([2, *widths], widths[:-1], strict=False)
        )
        self.bottleneck: ConvBlock = ConvBlock(widths[-2], widths[-1])
        up = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.dec_transpose_convs: nn.ModuleList = nn.ModuleList(UpBlock(i, o) for i, o in up)
        self.dec_conv_blocks: nn.ModuleList = nn.ModuleList(ConvBlock(i, o) for i, o in up)
        self.out: nn.Conv3d = nn.Conv3d(chans, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, 2, frames, readout, phase] like ``x``."""
        readout, phase = x.shape[-2], x.shape[-1]
        left, right = to_multiple(phase, self.multiple)
        top, bottom = to_multiple(readout, self.multiple)
        x = repeat_edge(wrap(x, 4, left, right), 3, top, bottom)
        skips: list[Tensor] = []
        for block in self.enc_conv_blocks:
            x = block(x)
            skips.append(x)
            x = torch.nn.functional.avg_pool3d(x, [1, 2, 2], [1, 2, 2])
        x = self.bottleneck(x)
        for up, block in zip(self.dec_transpose_convs, self.dec_conv_blocks):  # noqa: B905  (TorchScript has no strict)
            x = block(torch.cat([up(x), skips.pop()], dim=1))
        return self.out(x)[..., top : top + readout, left : left + phase]


class NormSeriesUnet(nn.Module):
    """The U-Net on complex series, whose real and imaginary parts are standardised."""

    def __init__(self, chans: int, pools: int) -> None:
        super().__init__()
        self.unet: SeriesUnet = SeriesUnet(chans, pools)

    def forward(self, series: Tensor) -> Tensor:
        """Return [batch, frames, readout, phase, 2] for the same."""
        channels, mean, deviation = standardise(series.movedim(-1, 1))
        return (self.unet(channels) * deviation + mean).movedim(1, -1)


class CineVnBlock(nn.Module):
    """One cascade: a weighted step towards the measured k-space, and a regulariser weighted over time and k-space."""

    def __init__(self, chans: int, pools: int) -> None:
        super().__init__()
        self.model: NormSeriesUnet = NormSeriesUnet(chans, pools)
        self.dc_weight: nn.Parameter = nn.Parameter(torch.ones(1))
        self.reg_landscape: nn.Parameter = nn.Parameter(torch.ones(10, 10, 10))

    def forward(self, kspace: Tensor, measured: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Return the next k-space."""
        axes = [-3, -2]
        refinement = forward_model(self.model(adjoint_model(kspace, maps, axes)), maps, axes)
        size = [kspace.shape[2], kspace.shape[3], kspace.shape[4]]
        landscape = torch.nn.functional.interpolate(
            self.reg_landscape[None, None], size, mode="trilinear", align_corners=True
        )
        return kspace - self.dc_weight * mask * (kspace - measured) - refinement * landscape[..., None]


class ConsistencyBlock(nn.Module):
    """Least squares with a penalty on the difference to the image so far; 10 conjugate gradient steps from zero."""

    def __init__(self, iterations: int = 10) -> None:
        super().__init__()
        self.mu: nn.Parameter = nn.Parameter(torch.tensor(0.05))
        self.solve: ProximalStep = ProximalStep(iterations)

    def forward(self, kspace: Tensor, measured: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Return the next k-space."""
        axes = [-3, -2]
        target = adjoint_model(measured, maps, axes) + self.mu * adjoint_model(kspace, maps, axes)
        _, undersampled = split_axes(mask)
        return forward_model(self.solve(target, maps, mask, undersampled, self.mu), maps, axes)


class CineVN(nn.Module):
    """Variational network for cine series.

    Parameters
    ----------
    num_cascades
        Number of unrolled iterations.
    chans, pools
        Of the U-Nets.
    cgdc_interval
        After so many cascades there is a least-squares step.
    """

    def __init__(self, num_cascades: int = 15, chans: int = 16, pools: int = 2, cgdc_interval: int = 3) -> None:
        super().__init__()
        self.cascades: nn.ModuleList = nn.ModuleList(CineVnBlock(chans, pools) for _ in range(num_cascades))
        after = range(cgdc_interval - 1, num_cascades, cgdc_interval)
        self.cgdc: nn.ModuleDict = nn.ModuleDict({str(index): ConsistencyBlock() for index in after})

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct a series.

        Parameters
        ----------
        kspace
            float32 [batch, coils, frames, readout, phase, 2], any scale.
        mask
            Broadcasts against ``kspace``; one in the padding of the phase direction.
        maps
            float32 [batch, coils, readout, phase, 2], the same for all frames.

        Returns
        -------
        Tensor
            float32 complex series [batch, frames, readout, phase, 2].
        """
        mask = mask.to(kspace.dtype)
        measured = kspace * mask
        maps = maps.unsqueeze(2)
        current = measured
        for index, cascade in enumerate(self.cascades):
            current = cascade(current, measured, mask, maps)
            for name, block in self.cgdc.items():
                if name == str(index):
                    current = block(current, measured, mask, maps)
        return adjoint_model(current, maps, [-3, -2])
