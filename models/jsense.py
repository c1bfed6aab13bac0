"""J-SENSE: Ying, Sheng, "Joint image reconstruction and sensitivity estimation in SENSE", MRM 2007;57:1196.

The coil maps are small kernels in k-space, so the forward model is a linear convolution there: the image lives on a grid
that is enlarged by the kernel's size less one.
"""

import torch
from torch import Tensor, nn

from .consistency import cg_start, cg_step
from .fourier import fft2c, ifft2c
from .planar import (
    coil_expand,
    coil_reduce,
    magnitude,
    multiply,
    multiply_conjugate,
    ratio_or_zero,
    root_sum_of_squares,
)
from .sampling import calibration_mask


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


class JSense(nn.Module):
    """Alternate between image and map kernels, each by conjugate gradients with a penalty on the change.

    The first maps come from the calibration lines. Kernels replace the paper's polynomials: both keep the maps smooth.

    Parameters
    ----------
    unrolls
        Number of alternations.
    map_iterations, image_iterations
        Conjugate gradient steps for maps and image.
    kernel
        Size of the map kernels along ky and kx, odd.
    map_weight, image_weight
        Weights of the penalties; the maps' counts where the largest magnitude of the calibration lines is one.
    """

    def __init__(
        self,
        unrolls: int = 2,
        map_iterations: int = 6,
        image_iterations: int = 10,
        kernel: tuple[int, int] = (15, 15),
        map_weight: float = 1e-4,
        image_weight: float = 0.01,
    ) -> None:
        super().__init__()
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise ValueError(f"the map kernel must have odd sizes, not {kernel[0]} x {kernel[1]}")
        self.unrolls = unrolls
        self.map_iterations = map_iterations
        self.image_iterations = image_iterations
        self.kernel_y: int = int(kernel[0])
        self.kernel_x: int = int(kernel[1])
        self.map_weight: nn.Parameter = nn.Parameter(torch.tensor(map_weight))
        self.image_weight: nn.Parameter = nn.Parameter(torch.tensor(image_weight))

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct.

        Parameters
        ----------
        kspace
            float32 [batch, coils, ky, kx, 2], any scale.
        mask
            Broadcasts against ``kspace``.

        Returns
        -------
        Tensor
            float32 magnitude [batch, y, x], the root of the sum of squares over the coils.
        """
        weights = mask.to(kspace.dtype)
        calibration = kspace * calibration_mask(weights)
        scale = magnitude(calibration).flatten(1).amax(dim=1)
        measured = ratio_or_zero(kspace * weights, scale[:, None, None, None, None])
        _, _, predicted = self.unroll(measured, weights, self.initial_kernels(calibration))
        return root_sum_of_squares(ifft2c(predicted)) * scale[:, None, None]

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
        image = self._solve_image(torch.zeros_like(images[:, 0]), maps, images, mask, False)
        for _ in range(self.unrolls):
            kernels = self._solve_kernels(kernels, image, images, mask, True)
            maps = ifft2c(grow(kernels, y, x))
            image = self._solve_image(image, maps, images, mask, True)
        return image, kernels, self._predict(image, maps, kspace)

    def _map_scale(self, image: Tensor) -> Tensor:
        """Scale of the transform in the step for the maps."""
        return torch.ones_like(image[0, 0, 0, 0])

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
        scale = self._map_scale(image)
        target = scale * self._kernel_adjoint(images, image)
        if regularised:
            target = target + self.map_weight * kernels
        state = cg_start(kernels, target - self._kernel_normal(kernels, image, mask, y, x, scale))
        for _ in range(self.map_iterations):
            state = cg_step(state, self._kernel_normal(state.direction, image, mask, y, x, scale), 1e-12)
        return state.solution

    def _kernel_adjoint(self, images: Tensor, image: Tensor) -> Tensor:
        return shrink(fft2c(multiply_conjugate(image[:, None], images)), self.kernel_y, self.kernel_x)

    def _kernel_normal(self, kernels: Tensor, image: Tensor, mask: Tensor, y: int, x: int, scale: Tensor) -> Tensor:
        maps = ifft2c(grow(kernels, image.shape[-3], image.shape[-2]))
        images = self._masked(multiply(image[:, None], maps), mask, y, x)
        return scale.square() * self._kernel_adjoint(images, image) + self.map_weight * kernels
