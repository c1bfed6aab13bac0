"""Arrange a block of k-space the way a bundle's manifest asks for, and its output back as images.

A block has the axes of ``AXES``, a bundle those that its manifest names. Axes that a bundle does not know are stacked in its
batch, in the order frames, partitions; axes that an input has and the block's tensor has not are repeated. Only names decide,
so a bundle with another order of axes needs no code here.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..bundle.axes import fixed_length
from ..bundle.manifest import Manifest
from ..flow.deferred import Deferred
from ..models.fourier import ifft
from ..wire.errors import DataError
from .kspace import AXES, Kspace

_AXES = {
    "kspace": AXES,
    "mask": ("frames", "kz", "ky"),
    "maps": ("coils", "kz", "ky", "kx"),
    "trajectory": ("frames", "kz", "ky", "kx", "dimensions"),
    "regularization": (),
}
_SPATIAL = ("kz", "ky", "kx")


def arrange_inputs(manifest: Manifest, kspace: Kspace, regularization: float = 1.0) -> dict[str, Tensor | Deferred]:
    """Return the inputs that a manifest names; the coil maps may have to be computed yet.

    Axes that a bundle does not know become its batch: the frames of a still-image network, and the partitions of a 2-D
    network, which are transformed to slices first: ``F_kz^H``, which needs every partition sampled alike.

    Parameters
    ----------
    manifest
        Of the bundle.
    kspace
        The block.
    regularization
        What the bundle's own strength is multiplied by, if it takes that.

    Returns
    -------
    dict
        float32 by name, with the axes of the manifest, complex numbers as pairs along the last one.

    Raises
    ------
    DataError
        The bundle needs coil maps and the block has none, or it cannot take this sampling.
    """
    axes = {spec.name: tuple(spec.axes) for spec in manifest.inputs}
    if "kspace" not in axes or not axes.keys() <= _AXES.keys():
        raise DataError(
            f"bundle {manifest.name!r} takes {', '.join(axes)}; a scan has {', '.join(_AXES)}, of which it must take kspace"
        )
    if kspace.trajectory is not None and "trajectory" not in axes:
        raise DataError(
            f"bundle {manifest.name!r} takes Cartesian k-space; this block has a trajectory", kind="trajectory"
        )
    sources: dict[str, Tensor | Deferred | None] = {
        "kspace": kspace.data,
        "mask": kspace.mask,
        "maps": kspace.coil_maps,
        "trajectory": None if kspace.trajectory is None else torch.from_numpy(kspace.trajectory),
        "regularization": torch.tensor(regularization),
    }
    if "kz" not in axes["kspace"] and kspace.data.shape[2] > 1:
        sources["kspace"] = ifft(kspace.data, [2])
        if not kspace.partitions_alike:
            raise DataError(
                f"bundle {manifest.name!r} reconstructs slices; it cannot take a scan undersampled along kz"
            )
    sizes = dict(zip(_AXES["kspace"], kspace.data.shape, strict=True))
    _check_lengths(manifest, sizes)
    batch = _batch_axes(axes["kspace"])
    inputs: dict[str, Tensor | Deferred] = {}
    for name, wanted in axes.items():
        source = sources.get(name)
        if source is None:
            raise DataError(
                (name == "maps" and kspace.maps_problem)
                or f"bundle {manifest.name!r} needs {name!r}, which this block lacks"
                + ("; add the gadget estimate_coil_maps before reconstruct" if name == "maps" else "")
            )
        if isinstance(source, Deferred):
            inputs[name] = _arrange_later(source, _AXES[name], wanted, batch, sizes)
        else:
            inputs[name] = _arrange(source, _AXES[name], wanted, batch, sizes)
    return inputs


def _check_lengths(manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Refuse a block of another size than the only one that a bundle works for."""
    for spec in manifest.inputs:
        for axis in spec.axes:
            length = fixed_length(axis, spec.limits)
            if axis in sizes and length not in (None, sizes[axis]):
                raise DataError(
                    f"bundle {manifest.name!r} works for {axis} of {length} only; this block has {sizes[axis]}",
                    kind="size",
                )


def _batch_axes(wanted: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(axis for axis in ("frames", "kz") if axis not in wanted)


def _arrange_later(
    source: Deferred, have: tuple[str, ...], wanted: tuple[str, ...], batch: tuple[str, ...], sizes: Mapping[str, int]
) -> Deferred:
    """Arrange a complex tensor that may have to be computed yet."""
    outline = _arrange(torch.empty(source.shape, dtype=torch.complex64, device="meta"), have, wanted, batch, sizes)
    shape = tuple(outline.shape)
    return Deferred(lambda: _arrange(source.get(), have, wanted, batch, sizes), shape, seconds=source.seconds)


def _arrange(
    source: Tensor, have: tuple[str, ...], wanted: tuple[str, ...], batch: tuple[str, ...], sizes: Mapping[str, int]
) -> Tensor:
    """Permute ``source`` to [batch, *wanted, complex]; it is repeated along axes that it does not have."""
    inner = [axis for axis in wanted if axis not in ("batch", "complex")]
    named = [axis for axis in inner if axis != "1"]
    for axis in (*batch, *named):
        if axis not in have:
            source = source[None].expand(sizes[axis], *source.shape)
            have = (axis, *have)
    source = source.permute([have.index(axis) for axis in (*batch, *named)])
    source = source.flatten(0, len(batch) - 1) if batch else source[None]
    for position, axis in enumerate(inner):
        if axis == "1":
            source = source.unsqueeze(1 + position)
    if "complex" in wanted:
        return torch.view_as_real(source.contiguous())
    return source.to(torch.float32).contiguous()


def arrange_output(manifest: Manifest, image: Tensor, kspace: Kspace, name: str = "image") -> Tensor:
    """Return an output as [frames, z, y, x], complex64 or float32.

    Parameters
    ----------
    manifest
        Of the bundle.
    image
        float32, with the axes of the manifest.
    kspace
        The block that it was made of, whose frames and partitions may lie in the batch.
    name
        Of the output.
    """
    wanted = tuple(next(spec for spec in manifest.outputs if spec.name == name).axes)
    volume = torch.view_as_complex(image.contiguous()) if "complex" in wanted else image
    sizes = dict(zip(_AXES["kspace"], kspace.data.shape, strict=True))
    inputs = next(spec for spec in manifest.inputs if spec.name == "kspace")
    batch = _batch_axes(tuple(inputs.axes))
    inner = [axis for axis in wanted if axis not in ("batch", "complex")]
    volume = volume.reshape(*(sizes[axis] for axis in batch), *volume.shape[1:])
    names = [*batch, *inner]
    order = [names.index(axis) for axis in ("frames", *_SPATIAL) if axis in names]
    volume = volume.permute(order)
    return volume if "frames" in names else volume[None]
