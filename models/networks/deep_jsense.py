"""Deep J-Sense: Arvinte et al., "Deep J-Sense: accelerated MRI reconstruction via unrolled alternating optimization".

MICCAI 2021, arXiv:2103.02087.
"""

import torch
from torch import Tensor, nn

from ..fourier import fft2c, ifft2c
from ..jsense import JSense, grow
from ..planar import coil_reduce, root_sum_of_squares


class ReflectConv(nn.Conv2d):
    """Convolution without bias that keeps the size, by reflection at the edges."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=False, padding_mode="reflect")


class ResidualBlock(nn.Module):
    """ReLU, convolution, ReLU, convolution, plus the input; where the channels change, by a convolution 1x1.

    Parameters
    ----------
    inputs, features, outputs
        Channels.
    middle_relu
        Whether there is a ReLU between the convolutions.
    """

    def __init__(self, inputs: int, features: int, outputs: int, middle_relu: bool) -> None:
        super().__init__()
        self.skip: nn.Identity | ReflectConv = nn.Identity() if inputs == outputs else ReflectConv(inputs, outputs, 1)
        self.first: ReflectConv = ReflectConv(inputs, features, 3)
        self.middle: nn.ReLU | nn.Identity = nn.ReLU() if middle_relu else nn.Identity()
        self.second: ReflectConv = ReflectConv(features, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, outputs, y, x]."""
        return self.second(self.middle(self.first(torch.relu(x)))) + self.skip(x)


class ResNet(nn.Module):
    """Residual network on complex images [batch, y, x, 2].

    Parameters
    ----------
    chans
        Features.
    blocks
        Number of residual blocks.
    """

    def __init__(self, chans: int, blocks: int) -> None:
        super().__init__()
        widths = [2, *[chans] * (blocks - 1), 2]
        self.blocks: nn.Sequential = nn.Sequential(
            *(ResidualBlock(widths[i], chans, widths[i + 1], i < blocks - 1) for i in range(blocks))
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return an image like the input."""
        return image + self.blocks(image.movedim(-1, 1)).movedim(1, -1)


class DeepJSense(JSense):
    """Alternate between map kernels and image: conjugate gradients, then a residual network, for each (Algorithm 1).

    The step for the maps uses the unnormalised transform, as the reference code does, so that the two weights have their
    own scales. With both networks off this is J-SENSE, but for that scale, the order of the steps and the first maps; with
    ``map_iterations=0`` and the map network off it is MoDL.

    Parameters
    ----------
    unrolls
        Number of alternations, all with the same weights.
    map_iterations, image_iterations
        Conjugate gradient steps for maps and image.
    kernel
        Size of the map kernels along the two in-plane axes, in their order; 15 is along the readout.
    chans, blocks
        Of the residual networks.
    image_network, map_network
        Whether there are these networks.
    """

    def __init__(
        self,
        unrolls: int = 6,
        map_iterations: int = 6,
        image_iterations: int = 6,
        kernel: tuple[int, int] = (15, 9),
        chans: int = 64,
        blocks: int = 4,
        image_network: bool = True,
        map_network: bool = True,
    ) -> None:
        super().__init__(unrolls, map_iterations, image_iterations, kernel, 0.01, 0.01)
        self.map_net: ResNet | nn.Identity = ResNet(chans, blocks) if map_network else nn.Identity()
        self.image_net: ResNet | nn.Identity = ResNet(chans, blocks) if image_network else nn.Identity()

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct, as ``JSense``, k-space whose largest magnitude in the calibration lines is one.

        The first maps come from all lines that were measured.
        """
        measured = kspace * mask.to(kspace.dtype)
        _, _, predicted = self.unroll(measured, mask.to(kspace.dtype), self.initial_kernels(measured))
        return root_sum_of_squares(ifft2c(predicted))

    def unroll(self, kspace: Tensor, mask: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Alternate from these kernels; see ``JSense``."""
        y, x = kspace.shape[-3] + self.kernel_y - 1, kspace.shape[-2] + self.kernel_x - 1
        images = ifft2c(grow(kspace, y, x))
        maps = ifft2c(grow(kernels, y, x))
        image = coil_reduce(images, maps)
        for index in range(self.unrolls):
            if self.map_iterations > 0:
                kernels = self._solve_kernels(kernels, image, images, mask, index > 0)
                kernels = self._denoise_kernels(kernels)
                maps = ifft2c(grow(kernels, y, x))
            image = self.image_net(self._solve_image(image, maps, images, mask, index > 0))
        return image, kernels, self._predict(image, maps, kspace)

    def _map_scale(self, image: Tensor) -> Tensor:
        return torch.ones_like(image[0, ..., 0]).sum().sqrt()

    def _denoise_kernels(self, kernels: Tensor) -> Tensor:
        """Apply the map network to every kernel's image.

        The reference code shifts odd sizes by one before and after this transform, and the weights have learned it.
        """
        shifted = torch.roll(kernels, [-1, -1], [-3, -2])
        images = torch.roll(ifft2c(shifted), [1, 1], [-3, -2])
        denoised = self.map_net(images.flatten(0, 1)).reshape(images.shape)
        return fft2c(denoised)
