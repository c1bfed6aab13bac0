"""The U-Net as a reconstruction by itself: of magnitudes (fastMRI's baseline) and of complex images (MNet-MoDL's baseline)."""

from torch import Tensor, nn

from ..fourier import ifft_planar
from ..normalisation import standardise
from ..planar import from_channels, ratio_or_zero, root_sum_of_squares, to_channels
from ..sampling import to_hybrid
from ..unet import Unet
from .steps import prepare


class ImageUnet(nn.Module):
    """The U-Net alone, from image to image.

    Parameters
    ----------
    in_chans, out_chans, chans, num_pool_layers
        Of the U-Net.
    """

    def __init__(self, in_chans: int = 1, out_chans: int = 1, chans: int = 256, num_pool_layers: int = 4) -> None:
        super().__init__()
        self.unet: Unet = Unet(in_chans, out_chans, chans, num_pool_layers)

    def forward(self, image: Tensor) -> Tensor:
        """Return [batch, out_chans, y, x] for standardised images [batch, in_chans, y, x]."""
        return self.unet(image)


class MagnitudeUnet(nn.Module):
    """Root of the sum of squares of the zero-filled coil images, through a U-Net (Zbontar et al., arXiv:1811.08839, 5.2).

    Parameters
    ----------
    in_chans, out_chans, chans, num_pool_layers
        Of the U-Net; one channel in and out.
    """

    def __init__(self, in_chans: int = 1, out_chans: int = 1, chans: int = 256, num_pool_layers: int = 4) -> None:
        super().__init__()
        if in_chans != 1 or out_chans != 1:
            raise ValueError(f"magnitude images have one channel, not {in_chans} in and {out_chans} out")
        self.unet: Unet = Unet(in_chans, out_chans, chans, num_pool_layers)

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct the magnitude [batch, y, x] from k-space [batch, coils, ky, kx, 2] and a mask that broadcasts."""
        hybrid, _, axes = to_hybrid(kspace, mask)
        image, mean, deviation = standardise(root_sum_of_squares(ifft_planar(hybrid, axes)).unsqueeze(1))
        return (self.unet(image.clamp(-6, 6)) * deviation + mean)[:, 0]


class ComplexUnet(nn.Module):
    """Zero-filled, coil-combined image, scaled to one, through a U-Net of two channels (arXiv:2509.16846).

    Parameters
    ----------
    in_chans, out_chans, chans, num_pool_layers
        Of the U-Net; two channels in and out, real and imaginary part.
    """

    def __init__(self, in_chans: int = 2, out_chans: int = 2, chans: int = 64, num_pool_layers: int = 4) -> None:
        super().__init__()
        if in_chans != 2 or out_chans != 2:
            raise ValueError(f"complex images have two channels, not {in_chans} in and {out_chans} out")
        self.unet: Unet = Unet(in_chans, out_chans, chans, num_pool_layers)

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct the complex image [batch, y, x, 2]; inputs as in ``prepare``."""
        _, _, _, _, image = prepare(kspace, mask, maps)
        scale = image.square().sum(dim=-1, keepdim=True).amax(dim=(1, 2), keepdim=True).sqrt()
        return from_channels(self.unet(to_channels(ratio_or_zero(image, scale)))) * scale
