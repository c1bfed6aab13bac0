"""Deep J-Sense: Arvinte et al., "Deep J-Sense: accelerated MRI reconstruction via unrolled alternating optimization".

MICCAI 2021, arXiv:2103.02087.

The coil maps are small kernels in k-space, so the forward model is a linear convolution there: the image lives on a grid
that is enlarged by the kernel's size less one.
"""

import torch
from torch import Tensor, nn

from ..consistency import cg_start, cg_step
from ..fourier import fft2c, ifft2c
from ..planar import coil_expand, coil_reduce, multiply, multiply_conjugate, ratio_or_zero, root_sum_of_squares


def grow(x: Tensor, y: int, width: int) -> Tensor:
    """Pad [..., y, x, 2] with zeros to a larger grid; the centre stays the centre."""
    top, left = y // 2 - x.shape[-3] // 2, width // 2 - x.shape[-2] // 2
    return torch.nn.functional.pad(x, (0, 0, left, width - x.shape[-2] - left, top, y - x.shape[-3] - top))


def shrink(x: Tensor, y: int, width: int) -> Tensor:
    """Cut [..., y, x, 2] to a smaller grid; the centre stays the centre."""
    top, left = x.shape[-3] // 2 - y // 2, x.shape[-2] // 2 - width // 2
    # by index, as exporters cannot cut a fixed length at a place that varies
    rows = torch.arange(y, device=x.device) + top
    return x.index_select(-3, rows).index_select(-2, torch.arange(width, device=x.device) + left)


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
        self.skip = nn.Identity() if inputs == outputs else ReflectConv(inputs, outputs, 1)
        self.first = ReflectConv(inputs, features, 3)
        self.middle = nn.ReLU() if middle_relu else nn.Identity()
        self.second = ReflectConv(features, outputs, 3)

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
        self.blocks = nn.Sequential(
            *(ResidualBlock(widths[i], chans, widths[i + 1], i < blocks - 1) for i in range(blocks))
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return an image like the input."""
        return image + self.blocks(image.movedim(-1, 1)).movedim(1, -1)


class DeepJSense(nn.Module):
    """Alternate between map kernels and image: conjugate gradients, then a residual network, for each (Algorithm 1).

    The step for the maps uses the unnormalised transform, as the reference code does, so that the two weights have their
    own scales. With both networks off this is J-SENSE (Ying, Sheng, MRM 2007;57:1196) with a penalty on the change; with
    ``map_iterations=0`` and the map network off it is MoDL.

    Parameters
    ----------
    unrolls
        Number of alternations, all with the same weights.
    map_iterations, image_iterations
        Conjugate gradient steps for maps and image.
    kernel
        Size of the map kernels along ky and kx.
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
        super().__init__()
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise ValueError(f"the map kernel must have odd sizes, not {kernel[0]} x {kernel[1]}")
        self.unrolls = unrolls
        self.map_iterations = map_iterations
        self.image_iterations = image_iterations
        self.kernel_y, self.kernel_x = int(kernel[0]), int(kernel[1])
        self.map_weight = nn.Parameter(torch.tensor(0.01))
        self.image_weight = nn.Parameter(torch.tensor(0.01))
        self.map_net = ResNet(chans, blocks) if map_network else nn.Identity()
        self.image_net = ResNet(chans, blocks) if image_network else nn.Identity()

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct.

        Parameters
        ----------
        kspace
            float32 [batch, coils, ky, kx, 2], largest magnitude of the calibration lines one.
        mask
            Broadcasts against ``kspace``.

        Returns
        -------
        Tensor
            float32 magnitude [batch, y, x], the root of the sum of squares over the coils.
        """
        measured = kspace * mask.to(kspace.dtype)
        _, _, predicted = self.unroll(measured, mask.to(kspace.dtype), self.initial_kernels(measured))
        return root_sum_of_squares(ifft2c(predicted))

    def initial_kernels(self, kspace: Tensor) -> Tensor:
        """Coil images divided by their root sum of squares, back in k-space, cut to the kernel's size."""
        images = ifft2c(kspace)
        maps = ratio_or_zero(images, root_sum_of_squares(images)[:, None, ..., None])
        return shrink(fft2c(maps), self.kernel_y, self.kernel_x)

    def unroll(self, kspace: Tensor, mask: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Alternate from these kernels [batch, coils, ky, kx, 2].

        Returns
        -------
        tuple
            Image on the enlarged grid, kernels, and the k-space that both predict, not masked.
        """
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

    def _predict(self, image: Tensor, maps: Tensor, like: Tensor) -> Tensor:
        return shrink(fft2c(coil_expand(image, maps)), like.shape[-3], like.shape[-2])

    def _masked(self, images: Tensor, mask: Tensor, y: int, x: int) -> Tensor:
        """Coil images on the enlarged grid after the mask of the measured part of k-space [.., y, x, 2]."""
        kspace = shrink(fft2c(images), y, x) * mask
        return ifft2c(grow(kspace, images.shape[-3], images.shape[-2]))

    def _solve_image(self, image: Tensor, maps: Tensor, images: Tensor, mask: Tensor, regularised: bool) -> Tensor:
        y, x = images.shape[-3] - self.kernel_y + 1, images.shape[-2] - self.kernel_x + 1
        target = coil_reduce(images, maps)
        if regularised:
            target = target + self.image_weight * image
        state = cg_start(image, target - self._image_normal(image, maps, mask, y, x))
        for _ in range(self.image_iterations):
            state = cg_step(state, self._image_normal(state.direction, maps, mask, y, x), 1e-12)
        return state.solution

    def _image_normal(self, image: Tensor, maps: Tensor, mask: Tensor, y: int, x: int) -> Tensor:
        return coil_reduce(self._masked(coil_expand(image, maps), mask, y, x), maps) + self.image_weight * image

    def _solve_kernels(self, kernels: Tensor, image: Tensor, images: Tensor, mask: Tensor, regularised: bool) -> Tensor:
        y, x = images.shape[-3] - self.kernel_y + 1, images.shape[-2] - self.kernel_x + 1
        pixels = torch.ones_like(image[0, ..., 0]).sum()
        target = pixels.sqrt() * self._kernel_adjoint(images, image)
        if regularised:
            target = target + self.map_weight * kernels
        state = cg_start(kernels, target - self._kernel_normal(kernels, image, mask, y, x, pixels))
        for _ in range(self.map_iterations):
            state = cg_step(state, self._kernel_normal(state.direction, image, mask, y, x, pixels), 1e-12)
        return state.solution

    def _kernel_adjoint(self, images: Tensor, image: Tensor) -> Tensor:
        return shrink(fft2c(multiply_conjugate(image[:, None], images)), self.kernel_y, self.kernel_x)

    def _kernel_normal(self, kernels: Tensor, image: Tensor, mask: Tensor, y: int, x: int, pixels: Tensor) -> Tensor:
        maps = ifft2c(grow(kernels, image.shape[-3], image.shape[-2]))
        images = self._masked(multiply(image[:, None], maps), mask, y, x)
        return pixels * self._kernel_adjoint(images, image) + self.map_weight * kernels

    def _denoise_kernels(self, kernels: Tensor) -> Tensor:
        """Apply the map network to every kernel's image.

        The reference code shifts odd sizes by one before and after this transform, and the weights have learned it.
        """
        shifted = torch.roll(kernels, [-1, -1], [-3, -2])
        images = torch.roll(ifft2c(shifted), [1, 1], [-3, -2])
        denoised = self.map_net(images.flatten(0, 1)).reshape(images.shape)
        return fft2c(denoised)
