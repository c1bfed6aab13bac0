"""The reconstructions that an evaluation compares: zero-filled, SENSE, GRAPPA, compressed sensing, and bundles."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...bundle.folder import Bundle
from ...bundle.manifest import MANIFEST, BundleError
from ...engine import LoadedModel
from ...flow.deferred import Deferred, settled
from ...gadgets.kspace import block_of
from ...gadgets.model_inputs import arrange_inputs, arrange_output
from ...models.classical import RootSumOfSquares, Sense
from ...models.compressed_sensing import TotalVariation, Wavelets
from ...models.fourier import ifft
from ...models.grappa import grappa
from ...wire.errors import DataError
from ..prepare import ships

Method = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From k-space [coils, frames, ky, kx], what was measured [frames, ky] or [frames, ky, kx], and maps [coils, y, x], to magnitudes
[frames, y, x]."""


def open_bundles(folders: list[Path]) -> dict[str, LoadedModel]:
    """Open bundles, and name those alike by their folders.

    Raises
    ------
    BundleError
        One does not exist, is damaged, or returns no image.
    """
    for folder in folders:
        if ships(folder.name) and not (folder / MANIFEST).is_file():
            raise BundleError(f"{folder} is not built yet: `isocenter bundle prepare` builds {folder.name!r}")
    folders = list(dict.fromkeys(folders))
    names = [folder.resolve().name for folder in folders]
    models = {
        name if names.count(name) == 1 and name not in _CLASSICAL else str(folder): LoadedModel(
            Bundle.open(folder), torch.device("cpu"), "auto"
        )
        for name, folder in zip(names, folders, strict=True)
    }
    for name, model in models.items():
        if "image" not in {spec.name for spec in model.manifest.outputs}:
            raise BundleError(f"bundle {name!r} returns no image")
    return models


def all_methods(models: dict[str, LoadedModel]) -> dict[str, Method]:
    """Return the classical methods and the bundles by name, in the order of the tables."""
    return {**_CLASSICAL, **{name: _bundle(model) for name, model in models.items()}}


def _zero_filled(kspace: Tensor, measured: Tensor, maps: Tensor) -> Tensor:
    del measured, maps
    return RootSumOfSquares()(_planar(kspace))[:, 0]


def _planar(x: Tensor) -> Tensor:
    """View complex [coils, frames, y, x] as [frames, coils, kz, y, x, 2]."""
    return torch.view_as_real(x.transpose(0, 1).contiguous())[:, :, None]


def _sense(kspace: Tensor, measured: Tensor, maps: Tensor) -> Tensor:
    if measured.dim() == 2:
        return _classical(Sense())(kspace, measured, maps)
    # the undersampled directions are kz and ky, as in a 3-D scan
    planes, every = (_planar(x).squeeze(2).unsqueeze(-2) for x in (kspace, maps[:, None].expand(kspace.shape)))
    with torch.inference_mode():
        image = Sense()(planes, measured.to(torch.float32), every)
    return torch.linalg.vector_norm(image[..., 0, :], dim=-1)


def _classical(module: torch.nn.Module) -> Method:
    def reconstruct(kspace: Tensor, measured: Tensor, maps: Tensor) -> Tensor:
        if measured.dim() > 2:
            raise DataError("it takes scans that are undersampled along ky alone")
        with torch.inference_mode():
            every = _planar(maps[:, None].expand(kspace.shape))
            image = module(_planar(kspace), measured[:, None].to(torch.float32), every)
        return torch.linalg.vector_norm(image[:, 0], dim=-1)

    return reconstruct


def _grappa(regularization: float) -> Method:
    def reconstruct(kspace: Tensor, measured: Tensor, maps: Tensor) -> Tensor:
        if measured.dim() > 2:
            raise DataError("it takes scans that are undersampled along ky alone")
        try:
            filled = [grappa(kspace[:, frame], lines, regularization) for frame, lines in enumerate(measured)]
        except ValueError as error:
            raise DataError(str(error)) from error
        images = ifft(torch.stack(filled, dim=1), [-2, -1])
        return (maps[:, None].conj() * images).sum(dim=0).abs()

    return reconstruct


_CLASSICAL: dict[str, Method] = {
    "zero-filled": _zero_filled,
    "SENSE": _sense,
    "CS (TV)": _classical(TotalVariation()),
    "CS (wavelet)": _classical(Wavelets()),
}

TUNED: dict[str, tuple[Callable[[float], Method], float]] = {
    "SENSE, tuned": (lambda strength: _classical(Sense(30, strength)), 0.005),
    "GRAPPA, tuned": (_grappa, 1e-3),
    "CS (TV), tuned": (lambda strength: _classical(TotalVariation(strength=strength)), 0.12),
    "CS (wavelet), tuned": (lambda strength: _classical(Wavelets(strength=strength)), 0.05),
}
"""The classical methods whose strength can be chosen on the truth, and the strength to begin with: SENSE's and GRAPPA's Tikhonov
terms, and the weights of compressed sensing over the noise level."""


def _bundle(model: LoadedModel) -> Method:
    def reconstruct(kspace: Tensor, measured: Tensor, maps: Tensor) -> Tensor:
        lines = measured if measured.dim() == 2 else measured.any(dim=-1)
        block = block_of(kspace[:, :, None], lines[:, None])
        block.coil_maps = Deferred.known(maps[:, None])
        inputs = settled(arrange_inputs(model.manifest, block))
        if measured.dim() > 2:
            inputs["mask"] = _mask_of_points(model, measured)
        output = model.infer(inputs)
        return arrange_output(model.manifest, output["image"], block)[:, 0].abs()

    return reconstruct


def _mask_of_points(model: LoadedModel, measured: Tensor) -> Tensor:
    axes = next((spec.axes for spec in model.manifest.inputs if spec.name == "mask"), ())
    if tuple(axes) != ("batch", "1", "ky", "kx", "1"):
        raise DataError("it takes scans that are undersampled along ky alone")
    return measured[:, None, :, :, None].to(torch.float32)
