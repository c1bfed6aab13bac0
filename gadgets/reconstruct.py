"""Reconstruct blocks of k-space with a bundle."""

from collections.abc import Iterator
from typing import Annotated, Literal

import ismrmrd
import torch
from pydantic import Field
from torch import Tensor

from .errors import IsocenterError
from .gadget import Stream, gadget
from .image_header import image_header, image_index, image_meta
from .items import Image, Kspace, make_image
from .model_inputs import arrange_inputs, arrange_output
from .scan import Model, Scan


@gadget
def reconstruct(
    items: Stream,
    scan: Scan,
    *,
    bundle: str = "",
    fallback: str = "",
    series: Annotated[int, Field(ge=0, le=65535)] = 1,
    numbering: Literal["counters", "running"] = "counters",
) -> Stream:
    """Run a bundle on every block and make MRD images of what it returns, one per frame.

    Parameters
    ----------
    items
        Blocks; others pass by.
    scan
        Its engine runs the bundle.
    bundle
        Name of the bundle. Empty: what the scanner's user chose (parameter ``bundle``), or else the site's default network.
    fallback
        Bundle that takes over for a block on which the first one fails or returns values that are not finite. The images
        say so, and the client is told.
    series
        Series number of the images.
    numbering
        ``image_index`` from the counters (``counters``) or in order of appearance (``running``), from 1.
    """
    reconstructor = _Reconstructor(scan, bundle, fallback)
    count = 0
    for item in items:
        if not isinstance(item, Kspace):
            yield item
            continue
        for image in reconstructor.images(item):
            count += 1
            header = image._head
            header.image_series_index = series
            header.image_index = count % 65536 if numbering == "running" else image_index(header, item.encoding)
            yield image


class _Reconstructor:
    def __init__(self, scan: Scan, bundle: str, fallback: str) -> None:
        engine = scan.require_engine()
        name = bundle or str(scan.parameters.get("bundle") or engine.default_network or "")
        if not name:
            raise IsocenterError(
                "no bundle is named: set the option 'bundle' of 'reconstruct' in the pipeline, send the parameter 'bundle', "
                "or set 'network' in the service's settings"
            )
        self.scan = scan
        self.name = name
        self.model = engine.load(name)
        self.fallback = engine.load(fallback) if fallback and fallback != name else None

    def images(self, kspace: Kspace) -> Iterator[Image]:
        volume, model, notes = self._run(kspace)
        for frame in range(volume.shape[0]):
            header = image_header(kspace, frame)
            header.image_type = ismrmrd.IMTYPE_COMPLEX if volume.is_complex() else ismrmrd.IMTYPE_MAGNITUDE
            meta = image_meta(kspace, frame, header, self.scan)
            meta["IsocenterBundle"] = model.manifest.name
            meta["IsocenterBundleVersion"] = model.manifest.version
            meta["IsocenterNetwork"] = model.manifest.network
            meta["IsocenterRuntime"] = model.runtime
            meta["ImageComment"] = meta["GADGETRON_ImageComment"] = (
                f"Isocenter {model.manifest.name} {model.manifest.version}"
            )
            for key, value in {**kspace.notes, **notes}.items():
                meta[f"Isocenter{key}"] = value
            yield make_image(volume[frame][None].cpu().numpy(), header, meta)

    def _run(self, kspace: Kspace) -> tuple[Tensor, Model, dict[str, str]]:
        """Return images [frames, z, y, x], the model that made them, and what to note on them."""
        try:
            return _run_model(self.model, kspace), self.model, {}
        except (RuntimeError, IsocenterError) as error:
            if self.fallback is None:
                raise
            reason = f"bundle {self.name!r} failed ({str(error).partition(chr(10))[0]})"
            message = f"{reason}; {self.fallback.manifest.name!r} made the images instead"
            self.scan.report("fallback", message)
            return _run_model(self.fallback, kspace), self.fallback, {"Fallback": message}


def _run_model(model: Model, kspace: Kspace) -> Tensor:
    outputs = model.run(arrange_inputs(model.manifest, kspace))
    volume = arrange_output(model.manifest, outputs["image"], kspace)
    if not torch.isfinite(torch.view_as_real(volume).sum() if volume.is_complex() else volume.sum()):
        raise IsocenterError(f"bundle {model.manifest.name!r} returned values that are not finite")
    return volume
