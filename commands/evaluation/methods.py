"""The reconstructions that an evaluation compares: zero-filled, SENSE, GRAPPA, compressed sensing, and bundles."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...bundle.manifest import BundleError
from ...engine import LoadedModel
from ...flow.deferred import Deferred, settled
from ...gadgets.domain import misfits
from ...gadgets.kspace import Kspace, block_of
from ...gadgets.model_inputs import arrange_inputs, arrange_output
from ...gadgets.scan import Scan
from ...models.classical import RootSumOfSquares, Sense
from ...models.compressed_sensing import TotalVariation, Wavelets
from ...models.fourier import ifft
from ...models.grappa import grappa
from ...service.settings import load_settings
from ...wire.errors import DataError
from ...wire.header import NO_HEADER
from ..find_bundle import open_bundle

Method = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From k-space [coils, frames, ky, kx], what was measured [frames, ky] or [frames, ky, kx], and maps [coils, y, x], to magnitudes
[frames, y, x]."""


def open_bundles(folders: list[Path]) -> dict[str, LoadedModel]:
    """Open bundles, and name those alike by their folders.

    Parameters
    ----------
    folders
        Their folders; or their names, as pipelines have them, by which those that come with Isocenter are built if need be.

    Raises
    ------
    BundleError
        One does not exist, cannot be built, is damaged, or returns no image.
    """
    settings = load_settings(None)
    found = {bundle.folder: bundle for bundle in (open_bundle(folder, settings) for folder in folders)}
    names = [folder.resolve().name for folder in found]
    models = {
        name if names.count(name) == 1 and name not in _CLASSICAL else str(folder): LoadedModel(
            bundle, torch.device("cpu"), "auto"
        )
        for name, (folder, bundle) in zip(names, found.items(), strict=True)
    }
    for name, model in models.items():
        if "image" not in {spec.name for spec in model.manifest.outputs}:
            raise BundleError(f"bundle {name!r} returns no image")
    return models


def all_methods(models: dict[str, LoadedModel]) -> dict[str, Method]:
    """Return the classical methods and the bundles by name, in the order of the tables."""
    return {**_CLASSICAL, **{name: BundleMethod(model) for name, model in models.items()}}


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


@dataclass(frozen=True)
class BundleMethod:
    """The reconstruction by a bundle, in the way in which the service runs it."""

    model: LoadedModel

    def __call__(self, kspace: Tensor, measured: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct, as every ``Method`` does."""
        block = _block(kspace, measured)
        block.coil_maps = Deferred.known(maps[:, None])
        inputs = settled(arrange_inputs(self.model.manifest, block))
        if measured.dim() > 2:
            inputs["mask"] = _mask_of_points(self.model, measured)
        output = self.model.infer(inputs)
        return arrange_output(self.model.manifest, output["image"], block)[:, 0].abs()

    def outside_domain(self, kspace: Tensor, measured: Tensor) -> str:
        """Say in what respects a scan lies outside what the bundle was made for, as far as its k-space tells; empty if it fits.

        Parameters
        ----------
        kspace
            complex64 [coils, frames, ky, kx].
        measured
            bool [frames, ky] or [frames, ky, kx]. What a domain says of lines does not hold for points.
        """
        manifest = self.model.manifest
        if measured.dim() > 2:
            of_lines = {"acceleration": None, "acs": None, "sampling": (), "partial_fourier": None}
            manifest = manifest.model_copy(update={"domain": manifest.domain.model_copy(update=of_lines)})
        return "; ".join(map(str, misfits(manifest, _block(kspace, measured), Scan(NO_HEADER))))


def _block(kspace: Tensor, measured: Tensor) -> Kspace:
    lines = measured if measured.dim() == 2 else measured.any(dim=-1)
    return block_of(kspace[:, :, None], lines[:, None])


def _mask_of_points(model: LoadedModel, measured: Tensor) -> Tensor:
    axes = next((spec.axes for spec in model.manifest.inputs if spec.name == "mask"), ())
    if tuple(axes) != ("batch", "1", "ky", "kx", "1"):
        raise DataError("it takes scans that are undersampled along ky alone")
    return measured[:, None, :, :, None].to(torch.float32)
