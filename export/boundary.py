"""The boundary around somebody's own module: a bundle's real tensors outside, whatever the module is written for inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..bundle.manifest import BundleError
from ..models.fourier import ifft_planar
from ..models.planar import coil_reduce, root_sum_of_squares

Image = Literal["", "magnitude", "magnitude channel", "complex", "complex channels"]


@dataclass(frozen=True)
class Form:
    """What a module takes and returns.

    Parameters
    ----------
    inputs
        What the bundle is given, in order: ``kspace``, then ``mask`` and ``maps`` where it takes them.
    arguments
        What the module takes, in the order of its arguments: some of these, or ``image``.
    complex_tensors
        Whether it takes k-space and maps as complex tensors, without the axis of real and imaginary part.
    boolean_mask
        Whether it takes the mask as booleans.
    mask_axes
        For each axis of the module's mask its place among the axes of the bundle's, or -1 for a new one of length one.
    image
        How it takes the zero-filled image, which is made here: as magnitude (root of the sum of squares over the coils) or
        complex (combined with the maps), with channels after the batch or without.
    channel
        Whether it returns its image with an axis of length one after the batch.
    complex_channels
        Whether it returns real and imaginary part along the axis after the batch.
    guarded
        Whether slices without any signal are set to zero, because the module divides by their signal.
    """

    inputs: tuple[str, ...]
    arguments: tuple[str, ...]
    complex_tensors: bool
    boolean_mask: bool
    mask_axes: tuple[int, ...] = ()
    image: Image = ""
    channel: bool = False
    complex_channels: bool = False
    guarded: bool = False


class _CallOne(nn.Module):
    def __init__(self, module: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.module = module
        self.first = order[0]

    def forward(self, given: list[Tensor]) -> Tensor:
        return self.module(given[self.first])


class _CallTwo(nn.Module):
    def __init__(self, module: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.module = module
        self.first, self.second = order

    def forward(self, given: list[Tensor]) -> Tensor:
        return self.module(given[self.first], given[self.second])


class _CallThree(nn.Module):
    def __init__(self, module: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.module = module
        self.first, self.second, self.third = order

    def forward(self, given: list[Tensor]) -> Tensor:
        return self.module(given[self.first], given[self.second], given[self.third])


class Boundary(nn.Module):
    """Converts inputs and output of a module; the classes below it differ in their number of inputs, which TorchScript fixes.

    Parameters
    ----------
    module
        Somebody's own.
    form
        What it takes and returns.
    """

    def __init__(self, module: nn.Module, form: Form) -> None:
        super().__init__()
        order = [(*form.inputs, "image").index(name) for name in form.arguments]
        self.call = (_CallOne, _CallTwo, _CallThree)[len(order) - 1](module, order)
        self.inputs = list(form.inputs)
        self.complex_tensors = form.complex_tensors
        self.boolean_mask = form.boolean_mask
        self.mask_axes = list(form.mask_axes) or [-1]
        self.image = form.image
        self.channel = form.channel
        self.complex_channels = form.complex_channels
        self.guarded = form.guarded

    def _reconstruct(self, given: list[Tensor]) -> Tensor:
        converted: list[Tensor] = []
        for index, x in enumerate(given):
            if self.inputs[index] == "mask":
                converted.append(self._mask(x))
            elif self.complex_tensors:
                converted.append(torch.view_as_complex(x.contiguous()))
            else:
                converted.append(x)
        if self.image != "":
            converted.append(self._zero_filled(given))
        image = self._image(self.call(converted))
        if self.guarded:
            image = zero_without_signal(given[0], image)
        return image

    def _zero_filled(self, given: list[Tensor]) -> Tensor:
        images = ifft_planar(given[0], [-3, -2])
        if self.image == "magnitude":
            return root_sum_of_squares(images)
        if self.image == "magnitude channel":
            return root_sum_of_squares(images).unsqueeze(1)
        maps = given[-1]
        image = coil_reduce(images, maps if maps.dim() == images.dim() else maps.unsqueeze(2))
        if self.image == "complex channels":
            return image.movedim(-1, 1).contiguous()
        return torch.view_as_complex(image.contiguous()) if self.complex_tensors else image

    def _mask(self, mask: Tensor) -> Tensor:
        shape: list[int] = []
        for axis in self.mask_axes:
            shape.append(mask.size(axis) if axis >= 0 else 1)
        mask = mask.reshape(shape)
        return mask > 0.5 if self.boolean_mask else mask

    def _image(self, image: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and not isinstance(image, Tensor):  # pyright: ignore[reportPrivateImportUsage]
            raise BundleError(f"it returns a {type(image).__name__}", accepted="one tensor")
        if image.is_complex():
            image = torch.view_as_real(image.resolve_conj().contiguous())
        if self.channel:
            image = image.squeeze(1)
        if self.complex_channels:
            image = image.movedim(1, -1).contiguous()
        return image


def zero_without_signal(kspace: Tensor, image: Tensor) -> Tensor:
    """Return the image [batch, ...], zero where k-space [batch, ...] is zero throughout."""
    signal = kspace.abs().flatten(1).amax(dim=1) > 0
    return torch.where(signal.reshape([-1] + [1] * (image.dim() - 1)), image, torch.zeros_like(image))


class OneInput(Boundary):
    """Boundary of a bundle of k-space alone."""

    def forward(self, kspace: Tensor) -> Tensor:
        """Return the module's image, real, with a last axis of real and imaginary part where it is complex."""
        return self._reconstruct([kspace])


class TwoInputs(Boundary):
    """Boundary of a bundle of k-space and its mask, or its coil maps."""

    def forward(self, kspace: Tensor, second: Tensor) -> Tensor:
        """Return the module's image; see ``OneInput``."""
        return self._reconstruct([kspace, second])


class ThreeInputs(Boundary):
    """Boundary of a bundle of k-space, mask and coil maps."""

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Return the module's image; see ``OneInput``."""
        return self._reconstruct([kspace, mask, maps])


def bounded(module: nn.Module, form: Form) -> Boundary:
    """Put the boundary around a module."""
    return (OneInput, TwoInputs, ThreeInputs)[len(form.inputs) - 1](module, form)
