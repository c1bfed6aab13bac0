"""Reconstruct blocks of k-space with a bundle."""

from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Annotated, Literal

import ismrmrd
import torch
from pydantic import Field
from torch import Tensor

from ..flow.ahead import run_ahead
from ..wire.errors import IsocenterError
from ..wire.items import Image, make_image
from .domain import misfits
from .gadget import Options, Stream, gadget
from .image_header import image_header, image_index, image_meta
from .kspace import Item, Kspace, size_of
from .model_inputs import arrange_inputs, arrange_output
from .scan import Model, Result, Scan


def bundle_names(scan: Scan, bundle: str, fallback: str) -> list[str]:
    """Return the bundles that ``reconstruct`` tries with these options, in order.

    Raises
    ------
    IsocenterError
        None is named anywhere.
    """
    name = bundle or str(scan.parameters.get("bundle") or scan.require_engine().default_network or "")
    if not name:
        raise IsocenterError(
            "no bundle is named: set the option 'bundle' of 'reconstruct' in the pipeline, send the parameter 'bundle', "
            "or set 'network' in the service's settings"
        )
    return list(dict.fromkeys([name, *fallback.split()]))


def _bundles(scan: Scan, options: Options) -> list[str]:
    return bundle_names(scan, options["bundle"], options["fallback"])


@gadget(makes=(Image,), waits=True, bundles=_bundles)
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

    Blocks are taken and queued while those before are computed; images come in the order of the blocks.

    Parameters
    ----------
    items
        Blocks; others pass by.
    scan
        Its engine runs the bundle.
    bundle
        Name of the bundle. Empty: what the scanner's user chose (parameter ``bundle``), or else the site's default network.
    fallback
        Bundle that takes over for a block that the first one was not made for, or on which it fails, takes longer than the
        engine's deadline, or returns values that are not finite. Several names, separated by spaces, are tried in order. The
        images say so, and the client is told.
    series
        Series number of the images.
    numbering
        ``image_index`` from the counters (``counters``) or in order of appearance (``running``), from 1.
    """
    reconstructor = _Reconstructor(scan, bundle, fallback)
    count = 0
    try:
        for item in run_ahead(items, reconstructor.start, account=scan.ledger.account("ahead"), size=size_of):
            if not isinstance(item, _Reconstruction):
                yield item
                continue
            for image in reconstructor.images(item):
                count += 1
                header = image._head
                header.image_series_index = series
                header.image_index = (
                    count % 65536 if numbering == "running" else image_index(header, item.kspace.encoding)
                )
                yield image
    finally:
        reconstructor.cancel()


@dataclass(eq=False)
class _Reconstruction:
    """A block on its way through the bundles."""

    kspace: Kspace
    untried: list[Model]
    model: Model
    future: Future[Result] | None = None
    failures: list[str] = field(default_factory=list)
    error: BaseException | None = None


class _Reconstructor:
    def __init__(self, scan: Scan, bundle: str, fallback: str) -> None:
        self.scan = scan
        self.engine = scan.require_engine()
        self.models = self._load(bundle_names(scan, bundle, fallback))
        self._waiting: set[Future[Result]] = set()
        self._account = scan.ledger.account("engine")

    def _load(self, names: list[str]) -> list[Model]:
        """Return the bundles; one that cannot be loaded is left out and reported if another one can."""
        models: list[Model] = []
        errors: list[IsocenterError] = []
        for name in names:
            try:
                models.append(self.engine.load(name))
            except IsocenterError as error:
                errors.append(error)
        if not models:
            raise errors[0]
        for error in errors:
            self.scan.report("bundle", f"{error}; {models[0].manifest.name!r} is used")
        return models

    def start(self, item: Item) -> Item | _Reconstruction:
        """Queue a block for the first bundle that was made for it."""
        if not isinstance(item, Kspace):
            return item
        reconstruction = _Reconstruction(item, self.models[1:], self.models[0])
        self._submit(reconstruction, urgent=False)
        return reconstruction

    def _submit(self, this: _Reconstruction, *, urgent: bool) -> None:
        """Queue a block for its bundle, or for the first of the others that can take it."""
        while True:
            reasons = misfits(this.model.manifest, this.kspace, self.scan) if this.untried else []
            if not reasons:
                try:
                    inputs = arrange_inputs(this.model.manifest, this.kspace)
                except IsocenterError as error:
                    this.error = error
                    reasons = [str(error)]
                else:
                    this.future = self.engine.submit(
                        this.model.manifest.name, inputs, scan=self.scan.name, urgent=urgent, account=self._account
                    )
                    self._waiting.add(this.future)
                    return
                this.failures.append(f"{this.model.manifest.name!r} failed ({reasons[0]})")
            else:
                this.failures.append(f"{this.model.manifest.name!r} was not made for this scan ({'; '.join(reasons)})")
            if not this.untried:
                this.future = None
                return
            this.model = this.untried.pop(0)

    def images(self, this: _Reconstruction) -> Iterator[Image]:
        """Wait for a block's images."""
        volume, result = self._finish(this)
        notes = dict(this.kspace.notes)
        if this.failures:
            notes["Fallback"] = f"{'; '.join(this.failures)}; {this.model.manifest.name!r} made the images instead"
            self.scan.report("fallback", f"bundle {notes['Fallback']}")
        self.scan.seconds["reconstruct"] += result.seconds
        manifest = this.model.manifest
        made_by = f"Isocenter {manifest.name} {manifest.version}"
        for frame in range(volume.shape[0]):
            header = image_header(this.kspace, frame)
            header.image_type = ismrmrd.IMTYPE_COMPLEX if volume.is_complex() else ismrmrd.IMTYPE_MAGNITUDE
            meta = image_meta(this.kspace, frame, header, self.scan)
            meta["IsocenterBundle"] = manifest.name
            meta["IsocenterBundleVersion"] = manifest.version
            meta["IsocenterNetwork"] = manifest.network
            meta["IsocenterRuntime"] = result.runtime
            meta["IsocenterDevice"] = result.device
            comment = f"{made_by} (fallback)" if this.failures else made_by
            meta["ImageComment"] = meta["GADGETRON_ImageComment"] = comment
            for key, value in notes.items():
                meta[f"Isocenter{key}"] = value
            yield make_image(volume[frame][None].cpu().numpy(), header, meta)

    def _finish(self, this: _Reconstruction) -> tuple[Tensor, Result]:
        """Return images [frames, z, y, x], from the first bundle that makes any."""
        while this.future is not None:
            try:
                result = this.future.result(timeout=self.engine.deadline)
                return _finite_volume(this, result), result
            except TimeoutError as error:
                this.error = error
                reason = f"no result after {self.engine.deadline:g} seconds"
                self.engine.abandon(this.future, reason)
            except (Exception, CancelledError) as error:  # noqa: BLE001 - whatever a model raises
                this.error = error
                reason = _in_a_line(error)
            finally:
                self._waiting.discard(this.future)
            this.failures.append(f"{this.model.manifest.name!r} failed ({reason})")
            if not this.untried:
                break
            this.model = this.untried.pop(0)
            self._submit(this, urgent=True)
        raise self._reason(this)

    def _reason(self, this: _Reconstruction) -> BaseException:
        """Return the error of a block that no bundle could reconstruct."""
        if isinstance(this.error, IsocenterError) and len(this.failures) == 1:
            return this.error  # it names the bundle itself
        return IsocenterError(f"no bundle could reconstruct a block: {'; '.join(this.failures)}")

    def cancel(self) -> None:
        """Take what still waits out of the queue: the scan is over."""
        for future in list(self._waiting):
            future.cancel()


def _in_a_line(error: BaseException) -> str:
    """Return what an error says; TorchScript's have it in the last line, after where it happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "TorchScript" in lines[0] else lines[0]


def _finite_volume(this: _Reconstruction, result: Result) -> Tensor:
    manifest = this.model.manifest
    volume = arrange_output(manifest, result.outputs["image"], this.kspace)
    if not torch.isfinite(torch.view_as_real(volume).sum() if volume.is_complex() else volume.sum()):
        raise IsocenterError(f"bundle {manifest.name!r} returned values that are not finite")
    return volume
