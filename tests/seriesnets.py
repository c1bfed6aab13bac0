"""Networks without weights, which tests export and stream: what they return can be told by hand."""

import torch
from torch import Tensor, nn


class SharedLines(nn.Module):
    """Gives every frame the lines that all frames measured, so that it shows whether a whole series came in."""

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Return magnitudes [batch, frames, y, x] for complex k-space [batch, coils, frames, ky, kx]."""
        measured = mask.sum(2, keepdim=True).clamp(min=1)
        images = torch.fft.ifft2(
            torch.fft.ifftshift(kspace.sum(2, keepdim=True) / measured, dim=(-2, -1)), norm="ortho"
        )
        image = torch.fft.fftshift(images, dim=(-2, -1)).abs().square().sum(1).sqrt()
        return image.expand(-1, kspace.shape[2], -1, -1)


class OneSize(nn.Module):
    """Works for 48 x 32 only, like a network with a layer that is fully connected."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.ones(48, 32))

    def forward(self, kspace: Tensor) -> Tensor:
        """Return magnitudes [batch, y, x] for complex k-space [batch, coils, ky, kx]."""
        images = torch.fft.fftshift(
            torch.fft.ifft2(torch.fft.ifftshift(kspace, dim=(-2, -1)), norm="ortho"), dim=(-2, -1)
        )
        return images.abs().square().sum(1).sqrt() * self.window
