"""A series of images, block by block, by the first of several bundles that can make it."""

import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field, replace

import ismrmrd
import torch
from torch import Tensor

from ..bundle.manifest import BundleError
from ..flow.deferred import Deferred
from ..models.fourier import fft, ifft
from ..wire.errors import IsocenterError
from ..wire.items import Image, make_image
from .domain import Misfit, misfits, uncalibrated
from .doubts import ATTRIBUTES, doubts_about, doubts_of_image
from .error_check import meaning_of
from .image_header import image_header, image_meta
from .kspace import Kspace
from .model_inputs import arrange_inputs, arrange_output
from .recon_grid import Lengths, grid_fov, must_interpolate, to_recon_grid
from .scan import Model, Result, Scan

_PATIENCE = 2.0
"""Seconds that an image waits for other scans before its client is told."""
_AROUND_ZERO = 0.05
"""How far below zero, of the largest magnitude, a network that returns magnitudes may err where there is no signal."""
_SERIES_UNCERTAINTY = 200
"""By how much the number of the series that shows the uncertainty of another one is higher."""


@dataclass(eq=False)
class Reconstruction:
    """A block on its way through the bundles."""

    maker: "Reconstructor"
    whole: Kspace
    kspace: Kspace
    """What ``model`` gets of it: one of slices only the frames that become images."""
    untried: list[Model]
    model: Model
    future: Future[Result] | None = None
    due: float = math.inf
    """When another bundle takes over unless ``model`` has begun, by ``time.monotonic``."""
    doubts: dict[str, str] = field(default_factory=dict)
    """About images by ``doubted``, which is ``model`` once that is waited for; by kind."""
    doubted: Model | None = None
    failures: list[str] = field(default_factory=list)
    error: BaseException | None = None
    misfits: list[Misfit] = field(default_factory=list)
    """In what respects the block lies outside what ``model`` was made for, which takes it because there is no other."""
    fov: Lengths | None = None
    """Field of view of the image, if it is not that of the block's grid."""

    @property
    def is_done(self) -> bool:
        """Whether nobody has to wait for the bundle."""
        return self.future is None or self.future.done()

    def fail(self, error: BaseException, reason: str) -> None:
        """Take note that the bundle has failed."""
        self.error = error
        self.failures.append(f"{self.model.manifest.name!r} failed ({reason})")


class Reconstructor:
    """Makes a series of images with a list of bundles.

    Parameters
    ----------
    scan, demand, regularization, uncertainty, longest_wait, recon_grid
        As ``reconstruct`` has them.
    names
        Of the bundles, in the order in which they are tried.
    series
        By how much the number of its series is higher. All but the first series wait for the engine's spare time.
    """

    def __init__(
        self,
        scan: Scan,
        names: list[str],
        demand: str = "",
        regularization: float = 1.0,
        *,
        uncertainty: bool = False,
        longest_wait: float = 0.0,
        recon_grid: bool,
        series: int = 0,
    ) -> None:
        self.scan = scan
        self.series = series
        self._uncertainty = uncertainty
        self._longest_wait = longest_wait
        self._recon_grid = recon_grid
        self.engine = scan.require_engine()
        self._refused: list[str] = []
        """What would have been tried before the first of ``models``, and why it is not."""
        self._demand = demand
        self._regularization = regularization
        self.models = self._load(names)
        self._waiting: set[Future[Result]] = set()
        self._under_way: list[Reconstruction] = []
        self._account = scan.ledger.account("engine", of_blocks=True)
        self._told = ""
        self._patience = _PATIENCE
        self.made_any = False
        self._first_error: IsocenterError | None = None

    def _load(self, names: list[str]) -> list[Model]:
        """Return the bundles; one that cannot be used is left out if another one can, which the images say, or is reported."""
        models: list[Model] = []
        errors: list[IsocenterError] = []
        without: list[str] = []
        for name in names:
            try:
                model = self.engine.load(name)
                if self._demand == "gate" and name == names[0]:
                    _require_gate(model)
                models.append(model)
            except IsocenterError as error:
                errors.append(error)
                if models:
                    without.append(f"the fallback {name!r} cannot be used: {error}")
                else:
                    self._refused.append(f"{name!r} cannot be used ({error})")
        if not models:
            raise errors[0]
        for problem in without:
            self.scan.report("bundle", problem)
        return models

    def start(self, kspace: Kspace) -> Reconstruction:
        """Queue a block for the first bundle that was made for it."""
        first, *others = self.models
        due = time.monotonic() + self._longest_wait if self._longest_wait else math.inf
        reconstruction = Reconstruction(self, kspace, kspace, others, first, due=due, failures=list(self._refused))
        self._under_way.append(reconstruction)
        self._submit(reconstruction, urgent=False)
        return reconstruction

    def _submit(self, this: Reconstruction, *, urgent: bool) -> None:
        """Queue a block for its bundle, or for the first of the others that can take it."""
        while True:
            try:
                inputs = self._inputs(this)
                if inputs is not None:
                    this.future = self.engine.submit(
                        this.model.manifest.name,
                        inputs,
                        scan=self.scan.name,
                        urgent=urgent,
                        last=self.series > 0,
                        patient=not this.untried,
                        account=self._account,
                    )
                    self._waiting.add(this.future)
                    return
            except Exception as error:  # noqa: BLE001 - another bundle may take it, and other blocks have no such trouble
                this.fail(error, self._reason_to_tell(error))
            if not this.untried:
                this.future = None
                return
            this.model = this.untried.pop(0)

    def _inputs(self, this: Reconstruction) -> Mapping[str, Tensor | Deferred] | None:
        """Return what a bundle gets of a block; None if it was not made for it, and there is another one."""
        this.kspace = this.whole if _takes_series(this.model) else this.whole.only_shown()
        this.misfits = misfits(this.model.manifest, this.kspace, self.scan)
        if this.misfits and this.untried:
            reasons = "; ".join(str(reason) for reason in this.misfits)
            this.failures.append(f"{this.model.manifest.name!r} was not made for this scan ({reasons})")
            return None
        return arrange_inputs(this.model.manifest, self._on_grid(this), self._regularization)

    def _on_grid(self, this: Reconstruction) -> Kspace:
        """Return the block as its bundle gets it: on the recon grid where only magnitudes of its coil images come back."""
        kspace, shape = this.kspace, tuple(this.kspace.data.shape[2:])
        fov = grid_fov(kspace.encoding, shape)
        this.fov = None
        of_coil_images = this.model.manifest.network == "RootSumOfSquares"
        if not (self._recon_grid and of_coil_images and must_interpolate(shape, fov, kspace.encoding)):
            return kspace
        images = to_recon_grid(ifft(kspace.data, [-3, -2, -1]), fov, kspace.encoding)
        this.fov = kspace.encoding.recon_fov
        return replace(kspace, data=fft(images, [-3, -2, -1]))

    def images(self, this: Reconstruction) -> Iterator[Image]:
        """Wait for a block's images; there are none of a block that no bundle can reconstruct.

        ``image_series_index`` says yet by how much the number of an image's series is higher than that of the first one.
        """
        try:
            volume, result = self._finish(this)
            this.doubts |= doubts_of_image(this.model.manifest, this.kspace, volume, result.outputs)
            remarks = self._remarks(this, result)
            if not volume.is_complex():
                volume = self._magnitudes(this, volume, remarks)
            images = self._images(this, volume, result, remarks)
            if self._uncertainty:
                images += self._error_images(this, result, remarks)
            self.scan.seconds["reconstruct"] += result.seconds
        except Exception as failure:  # noqa: BLE001 - a block's trouble is not the others'
            error = failure if isinstance(failure, IsocenterError) else IsocenterError(self._reason_to_tell(failure))
            self._first_error = self._first_error or error
            which = " in the second series" if self.series else ""
            message = f"there is no image of {_name(this.kspace)}{which}: {error}"
            self.scan.report(f"no image{which}: {error.kind}", message)
            return
        finally:
            self._under_way.remove(this)
        self.made_any = True
        yield from images

    def _images(
        self, this: Reconstruction, volume: Tensor, result: Result, remarks: Mapping[str, str], series: int = 0
    ) -> list[Image]:
        manifest = this.model.manifest
        made_by = ", ".join(filter(None, [f"Isocenter {manifest.name} {manifest.version}", remarks.get("Shows", "")]))
        fov = this.fov or grid_fov(this.kspace.encoding, tuple(volume.shape[1:]))
        images = []
        for frame in range(volume.shape[0])[this.kspace.shown]:
            header = image_header(this.kspace, frame, fov)
            header.image_type = ismrmrd.IMTYPE_COMPLEX if volume.is_complex() else ismrmrd.IMTYPE_MAGNITUDE
            header.image_series_index = self.series + series
            meta = image_meta(this.kspace, frame, header, self.scan)
            meta["IsocenterBundle"] = manifest.name
            meta["IsocenterBundleVersion"] = manifest.version
            meta["IsocenterBundleHash"] = manifest.digest
            meta["IsocenterNetwork"] = manifest.network
            meta["IsocenterRuntime"] = result.runtime
            meta["IsocenterDevice"] = result.device
            meta["IsocenterBatch"] = result.batch
            comment = f"{made_by} (fallback)" if "Fallback" in remarks else made_by
            meta["ImageComment"] = meta["GADGETRON_ImageComment"] = comment
            for key, value in {**this.kspace.notes_of(frame), **remarks}.items():
                meta[f"Isocenter{key}"] = value
            images.append(make_image(volume[frame][None].cpu().numpy(), header, meta))
        return images

    def _magnitudes(self, this: Reconstruction, volume: Tensor, remarks: dict[str, str]) -> Tensor:
        """Return the magnitudes of real values, and say so where some are below zero by more than a network errs around it."""
        lowest, largest = float(volume.min()), float(volume.abs().max())
        if lowest < -_AROUND_ZERO * largest:
            remarks["Negative"] = (
                f"bundle {this.model.manifest.name!r} returned real values below zero, down to {lowest / largest:.2g} of the "
                "largest magnitude: the image shows their magnitudes"
            )
            self.scan.report("negative", f"{_name(this.kspace)}: {remarks['Negative']}")
        return volume.abs()

    def _error_images(self, this: Reconstruction, result: Result, remarks: Mapping[str, str]) -> list[Image]:
        """Show how far the block's images are likely to be off; the client is told where that is not known."""
        manifest = this.model.manifest
        if manifest.uncertainty is None or not torch.isfinite(result.outputs["error"].sum()):
            why = "tells no calibrated one" if manifest.uncertainty is None else "returned values that are not finite"
            which = f"the uncertainty of {_name(this.kspace)}"
            self.scan.report("uncertainty", f"there is no image of {which}: bundle {manifest.name!r} {why}")
            return []
        doubts = uncalibrated(manifest, this.kspace, self.scan)
        if doubts:
            self.scan.report("calibration of the uncertainty", f"the uncertainty is a guess: {doubts}")
            remarks = {**remarks, "Uncalibrated": doubts}
        remarks = {**remarks, "Shows": "uncertainty", "Uncertainty": meaning_of(manifest.uncertainty)}
        deviations = arrange_output(manifest, result.outputs["error"], this.kspace, "error")
        return self._images(this, deviations, result, remarks, _SERIES_UNCERTAINTY)

    def _remarks(self, this: Reconstruction, result: Result) -> dict[str, str]:
        """Say of a block's images, on them and to the client, what bundle made them and what it was not made for."""
        name, remarks = this.model.manifest.name, {}
        if this.failures:
            remarks["Fallback"] = f"{'; '.join(this.failures)}; {name!r} made the images instead"
            self.scan.report("fallback", f"bundle {remarks['Fallback']}")
        factor = self._regularization
        if factor != 1 and _takes(this.model, "regularization"):
            remarks["Regularization"] = f"{factor:g}"
        elif factor != 1:
            text = f"bundle {name!r} has no strength that can be chosen: lambda={factor:g} does nothing"
            remarks["Regularization"] = f"1: {text}"
            self.scan.report("lambda", text)
        if result.stands_in:
            reason = f"{result.device} made the images, as {result.stands_in}"
            remarks["Fallback"] = "; ".join(filter(None, [remarks.get("Fallback", ""), reason]))
            self.scan.report("device", reason)
        aliased = [reason.text for reason in this.misfits if reason.aliases]
        if aliased and not this.kspace.is_incomplete:  # lost lines are said already
            remarks["Undersampled"] = (
                f"undersampled ({'; '.join(aliased)}): the image is aliased, as bundle {name!r} cannot unfold it"
            )
            self.scan.report("undersampled", f"{_name(this.kspace)} is {remarks['Undersampled']}")
        if others := [reason.text for reason in this.misfits if not reason.aliases]:
            remarks["OutsideDomain"] = f"bundle {name!r} was not made for this scan ({'; '.join(others)})"
            self.scan.report("domain", f"{remarks['OutsideDomain']}, and there is no other")
        for kind, doubt in this.doubts.items():
            remarks[ATTRIBUTES[kind]] = doubt
            self.scan.report(kind, f"{_name(this.kspace)}: {doubt}")
        return remarks

    def raise_first_error(self) -> None:
        """Raise the reason of the first block that has no image, if there is one."""
        if self._first_error is not None:
            raise self._first_error

    def _finish(self, this: Reconstruction) -> tuple[Tensor, Result]:
        """Return images [frames, z, y, x], from the first bundle that makes any."""
        while this.future is not None:
            try:
                if (result := self._result(this)) is not None:
                    return _finite_volume(this, result), result
            except (Exception, CancelledError) as error:  # noqa: BLE001 - whatever a model raises
                this.fail(error, self._reason_to_tell(error))
            finally:
                self._waiting.discard(this.future)
            if not this.untried:
                break
            this.model = this.untried.pop(0)
            self._submit(this, urgent=True)
        if isinstance(this.error, IsocenterError) and len(this.failures) == 1:
            raise this.error  # it names the bundle itself
        kind = this.error.kind if isinstance(this.error, IsocenterError) else ""
        raise IsocenterError("no bundle could reconstruct it: " + "; ".join(this.failures), kind=kind)

    def _result(self, this: Reconstruction) -> Result | None:
        """Wait for a job, however long others go before it; the client is told, less and less often. None if there is no job."""
        while (future := this.future) is not None:
            if this.doubted is not this.model:  # while the bundle runs
                this.doubted = this.model
                this.doubts = doubts_about(this.model.manifest, this.kspace, self._regularization)
            if wait([future], timeout=max(min(self._patience, this.due - time.monotonic()), 0.0)).done:
                return future.result()
            if time.monotonic() >= this.due:
                self._hurry()
                continue
            reason = self.engine.reason_to_wait(future)
            if reason and reason != self._told:
                self._told = reason
                self._patience *= 2
                self.scan.inform(f"the reconstruction waits: {reason}")
        return None

    def _hurry(self) -> None:
        """Give all blocks that are due to the next bundle, but for those that are computed now: the first one is too slow."""
        for this in [each for each in self._under_way if each.due <= time.monotonic()]:
            this.due = math.inf
            future = this.future
            if future is not None and this.untried and future.cancel():
                self._waiting.discard(future)
                late = f"it had not begun {self._longest_wait:g} s after its data came"
                this.failures.append(f"{this.model.manifest.name!r} is too slow here ({late})")
                this.model = this.untried.pop(0)
                self._submit(this, urgent=True)

    def _reason_to_tell(self, error: BaseException) -> str:
        """Return what may be said of an error: our own are written for users, others go to the log."""
        if isinstance(error, IsocenterError):
            return str(error)
        self.scan.log.warning("a bundle failed", exc_info=error)
        if "memory" in str(error).lower():
            return "there is not enough memory for it"
        return "an error of its own, which is in the service's log"

    def cancel(self) -> None:
        """Take what still waits out of the queue: the scan is over."""
        for future in list(self._waiting):
            future.cancel()


def _takes(model: Model, name: str) -> bool:
    return any(spec.name == name for spec in model.manifest.inputs)


def _takes_series(model: Model) -> bool:
    return any("frames" in spec.axes for spec in model.manifest.inputs)


def _require_gate(model: Model) -> None:
    gate = model.manifest.gate
    if gate is None or not gate.passed:
        how = "has not been through" if gate is None else "did not pass"
        raise BundleError(f"it {how} the gate, which this pipeline demands", where=f"bundle {model.manifest.name!r}")


def _name(kspace: Kspace) -> str:
    """Name a block by the counters of its first frame."""
    counters = kspace.central_header(0).idx
    return f"slice {counters.slice}, contrast {counters.contrast}, repetition {counters.repetition}"


def _finite_volume(this: Reconstruction, result: Result) -> Tensor:
    manifest = this.model.manifest
    if not torch.isfinite(result.outputs["image"].sum()):
        raise IsocenterError(f"bundle {manifest.name!r} returned values that are not finite")
    return arrange_output(manifest, result.outputs["image"], this.kspace)
