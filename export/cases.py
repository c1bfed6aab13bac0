"""Inputs on which runtimes are compared with the module: random and phantom-like k-space of several shapes, and edge cases."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..bundle.axes import fixed_lengths, shape_of
from ..bundle.manifest import TensorSpec
from ..models.fourier import fft

Inputs = dict[str, Tensor]
Sizes = Mapping[str, int]

SIZES = (
    ({"batch": 1, "coils": 4, "frames": 6, "ky": 48, "kx": 40}, {"acs": 8, "spacing": 2}),
    ({"batch": 2, "coils": 3, "frames": 5, "ky": 37, "kx": 50}, {"acs": 6, "spacing": 3}),
    ({"batch": 1, "coils": 6, "frames": 4, "ky": 72, "kx": 96}, {"acs": 16, "spacing": 4, "phantom": True}),
    ({"batch": 1, "coils": 1, "frames": 7, "ky": 64, "kx": 36}, {"acs": 12, "spacing": 2, "phantom": True}),
)
"""Sizes of axes, calibration lines and spacing on which runtimes are compared; one has no axis of length one."""
_DATA_AXES = ("batch", "coils", "frames", "kz", "ky", "kx")


def make_case(
    specs: Sequence[TensorSpec], sizes: Sizes, *, acs: int = 6, spacing: int = 2, phantom: bool = False
) -> Inputs:
    """Make inputs by their names ``kspace``, ``mask``, ``maps``, ``image`` and ``regularization``; others are random.

    Parameters
    ----------
    specs
        Names and axes of the inputs.
    sizes
        Lengths of the axes.
    acs, spacing
        Calibration lines, and distance of the measured lines: along ky, or along both where the mask has kx.
    phantom
        K-space of an object of ellipses; otherwise random numbers that fall off from the middle.
    """
    sizes = {**sizes, **fixed_lengths(specs)}
    random = torch.Generator().manual_seed(sum(sizes.values()) + acs)
    mask = next((_mask(spec, sizes, acs, spacing) for spec in specs if spec.name == "mask"), None)
    inputs: Inputs = {}
    for spec in specs:
        shape = shape_of(spec, sizes)
        if spec.name == "mask" and mask is not None:
            inputs["mask"] = mask
        elif spec.name == "maps":
            inputs["maps"] = _reorder(smooth_maps(_lengths(spec, shape)), spec)
        elif spec.name == "kspace":
            lengths = _lengths(spec, shape)
            kspace = _reorder(_phantom(lengths, random) if phantom else _noise(lengths, random), spec)
            inputs["kspace"] = kspace if mask is None else kspace * _beside(mask, specs, spec)
        elif spec.name == "regularization":
            inputs["regularization"] = torch.linspace(1, 3, shape[0])
        else:
            inputs[spec.name] = torch.randn(shape, generator=random)
    return inputs


def case_bytes(specs: Sequence[TensorSpec], sizes: Sizes) -> int:
    """Bytes of the inputs that ``make_case`` makes."""
    lengths = {**sizes, **fixed_lengths(specs)}
    return sum(4 * math.prod(shape_of(spec, lengths)) for spec in specs)


def comparison_cases(specs: Sequence[TensorSpec]) -> list[Inputs]:
    """Inputs of several sizes, coil counts and numbers of calibration lines; of series, which have frames, smaller ones."""
    shrink = 2 if any("frames" in spec.axes for spec in specs) else 1
    return [
        make_case(
            specs,
            {**sizes, "ky": sizes["ky"] // shrink, "kx": sizes["kx"] // shrink},
            **{**how, "acs": how["acs"] // shrink},  # pyright: ignore[reportArgumentType]
        )
        for sizes, how in SIZES
    ]


def edge_cases(specs: Sequence[TensorSpec], sizes: Sizes) -> dict[str, Inputs]:
    """Inputs on which the output must be finite: nothing but zeros, every line measured, one coil."""
    full = make_case(specs, sizes, spacing=1)
    zeros = {**full, **{name: torch.zeros_like(full[name]) for name in ("kspace", "image") if name in full}}
    return {
        "an all-zero slice": zeros,
        "a fully sampled slice": full,
        "one coil": make_case(specs, {**sizes, "coils": 1}),
    }


def _lengths(spec: TensorSpec, shape: Sequence[int]) -> dict[str, int]:
    """Lengths of all axes that k-space can have; those that are missing are one. Numbered axes are the last ones."""
    names = list(spec.axes[:-1])
    spatial = [axis for axis in ("kz", "ky", "kx") if axis not in names]
    for position in reversed(range(len(names))):
        if names[position].isdecimal():
            names[position] = spatial.pop()
    lengths = dict(zip(names, shape, strict=False))
    return {axis: lengths.get(axis, 1) for axis in _DATA_AXES}


def _reorder(x: Tensor, spec: TensorSpec) -> Tensor:
    """Bring complex [batch, coils, frames, kz, ky, kx] into the axes of an input, real with a complex axis."""
    names = [axis for axis in spec.axes if axis in _DATA_AXES]
    if len(names) < len(spec.axes) - 1:
        return torch.view_as_real(x.contiguous()).reshape([*x.shape[:2], *x.shape[-2:], 2])
    missing = [index for index, axis in enumerate(_DATA_AXES) if axis not in names]
    x = x[tuple(0 if index in missing else slice(None) for index in range(x.dim()))]
    kept = [axis for axis in _DATA_AXES if axis in names]
    return torch.view_as_real(x.permute([kept.index(axis) for axis in names]).contiguous())


def _along(size: int, axis: str) -> Tensor:
    """Coordinate from -1 to 1 along one of the data axes."""
    shape = [1] * len(_DATA_AXES)
    shape[_DATA_AXES.index(axis)] = size
    return ((torch.arange(size) - size // 2) / max(size / 2, 1)).reshape(shape)


def _noise(lengths: Mapping[str, int], random: torch.Generator) -> Tensor:
    shape = [lengths[axis] for axis in _DATA_AXES]
    decay = torch.ones(())
    for axis in ("kz", "ky", "kx"):
        decay = decay * 0.04 / (0.04 + _along(lengths[axis], axis).abs())
    return torch.randn(shape, dtype=torch.complex64, generator=random) * decay


def _phantom(lengths: Mapping[str, int], random: torch.Generator) -> Tensor:
    """Ellipses with a smooth phase, some of which move from frame to frame, seen by the coils, with noise."""
    y, x = _along(lengths["ky"], "ky"), _along(lengths["kx"], "kx")
    time = torch.sin(2 * math.pi * torch.arange(lengths["frames"]) / max(lengths["frames"], 1)).reshape(
        1, 1, -1, 1, 1, 1
    )
    image = 0.6 * (((y / 0.8) ** 2 + (x / 0.65) ** 2) < 1) + 0.4 * (((y / 0.7) ** 2 + (x / 0.5) ** 2) < 1)
    for cy, cx, radius, value in ((0.2, 0.1, 0.15, 0.5), (-0.3, -0.2, 0.1, -0.4), (-0.1, 0.3, 0.06, 0.8)):
        image = image + value * (((y - cy - 0.1 * time) ** 2 + (x - cx) ** 2) < radius**2)
    images = image * torch.exp(1j * (0.8 * y - 0.5 * x + 0.3)) * smooth_maps(lengths)
    images = images + 0.01 * torch.randn(images.shape, dtype=torch.complex64, generator=random)
    return fft(images.to(torch.complex64).contiguous(), [3, 4, 5])


def smooth_maps(lengths: Mapping[str, int]) -> Tensor:
    """Coil maps complex64 [batch, coils, frames, kz, ky, kx] of unit norm, loops around the object."""
    y, x = _along(lengths["ky"], "ky"), _along(lengths["kx"], "kx")
    angle = (2 * math.pi * torch.arange(lengths["coils"]) / lengths["coils"]).reshape(1, -1, 1, 1, 1, 1)
    nearness = torch.exp(-((y - torch.sin(angle)) ** 2) - (x - torch.cos(angle)) ** 2)
    maps = nearness * torch.exp(1j * (y * torch.cos(angle) + angle))
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    return maps.expand([lengths[axis] for axis in _DATA_AXES]).to(torch.complex64)


def _mask(spec: TensorSpec, sizes: Sizes, acs: int, spacing: int) -> Tensor:
    """Measured lines along ky (shifted from frame to frame), and along kx where the mask has it; full in the middle."""
    mask = torch.ones(shape_of(spec, sizes))
    for axis in ("ky", "kx"):
        if axis in spec.axes and sizes.get(axis, 1) > 1:
            position, size = spec.axes.index(axis), sizes[axis]
            index = torch.arange(size)
            middle = (index - size // 2 + acs // 2).clamp(0, acs - 1) == index - size // 2 + acs // 2
            lines = ((index % spacing == 0) | middle).to(torch.float32)
            mask = mask * lines.reshape([-1 if place == position else 1 for place in range(mask.dim())])
    return mask


def _beside(mask: Tensor, specs: Sequence[TensorSpec], kspace: TensorSpec) -> Tensor:
    """View a mask so that it broadcasts against k-space, whichever axes it has."""
    axes = next(spec.axes for spec in specs if spec.name == "mask")
    if len(axes) == len(kspace.axes):
        return mask
    lengths = dict(zip(axes, mask.shape, strict=True))
    return mask.reshape([lengths.get(axis, 1) for axis in kspace.axes])
