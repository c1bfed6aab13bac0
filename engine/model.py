"""A bundle on a device: commissioned by its probe, with the runtime that is fastest there."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from ..bundle.axes import shape_of
from ..bundle.folder import Bundle, relative_error
from ..bundle.manifest import BundleError, Manifest, RuntimeChoice
from . import choice
from .commission import commission
from .jobs import Result
from .runtimes import Runtime

log: logging.Logger = logging.getLogger("isocenter.engine")

_MOST_TO_WARM_UP = 2**28
"""Values of the inputs of a warm-up: nothing of a scan has come yet that would pay for more."""
_Infer = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
REFERENCE_SIZES = {"batch": 1, "coils": 8, "frames": 8, "kz": 1, "ky": 128, "kx": 128}
"""Sizes at which the runtimes of a bundle are compared when it is loaded for the first time."""


class LoadedModel:
    """A bundle that passed its probe on this device, ready to run. Safe to use from several threads.

    Parameters
    ----------
    bundle
        The bundle; its hashes were checked when it was opened.
    device
        Where to run.
    wanted
        A runtime, or ``auto`` for the fastest, as it was measured before or is measured now.

    Raises
    ------
    BundleError
        No runtime reproduces the probe within the manifest's tolerance.
    """

    def __init__(self, bundle: Bundle, device: torch.device, wanted: RuntimeChoice = "auto") -> None:
        self.bundle = bundle
        self.device = device
        self.manifest: Manifest = bundle.manifest
        self._prepared: set[tuple[tuple[str, int], ...]] = set()
        known = choice.recall(bundle, device) if wanted == "auto" else None
        try:
            runtimes = commission(bundle, device, known.runtime if known else wanted)
        except BundleError:
            if known is None:
                raise
            known, runtimes = None, commission(bundle, device, wanted)
        chosen = known or choice.choose(runtimes, self.zeros(REFERENCE_SIZES), device)
        self.runtime: str = chosen.runtime
        self.pace: float = chosen.pace
        self._infer = runtimes[self.runtime].infer
        self._others: dict[str, Runtime] | None = None if wanted == "auto" else {}
        self._by_entry = all(spec.axes[0] == "batch" for spec in (*self.manifest.inputs, *self.manifest.outputs))
        self.batch: int = chosen.batch if chosen.batch > 1 and self._treats_entries_alone() else 1
        if known is None and wanted == "auto":
            self._remember(chosen)
        log.info(
            "loaded bundle %s %s on %s with %s",
            self.manifest.name,
            self.manifest.version,
            device,
            runtimes[self.runtime].description,
            extra={"fields": {f"{name}_ms": value for name, value in chosen.milliseconds.items()}},
        )

    def _remember(self, chosen: choice.Choice) -> None:
        if chosen.is_doubtful:
            log.warning(
                "bundle %s: other programs kept the processor busy while its runtimes were measured; %s is used, "
                "and they are measured again at the next start",
                self.manifest.name,
                self.runtime,
            )
        else:
            choice.remember(self.bundle, self.device, chosen)

    def _treats_entries_alone(self) -> bool:
        """Whether slices do not influence those that are computed with them."""
        if not self._by_entry:
            return False
        inputs, expected = self.bundle.probe()
        quieter = {name: torch.cat((tensor, 0.5 * tensor)) for name, tensor in inputs.items()}
        entries = next(iter(inputs.values())).shape[0]
        try:
            outputs = {name: tensor[:entries] for name, tensor in self._infer(quieter).items()}
        except Exception as error:  # noqa: BLE001 - it may be made for one slice only
            log.info("slices are not computed together: %s", type(error).__name__)
            return False
        return relative_error(outputs, expected) <= self.manifest.tolerance

    def zeros(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Return inputs of zeros, float32 by name with the axes of the manifest; axes that are not named have length one."""
        return {spec.name: torch.zeros(shape_of(spec, sizes)) for spec in self.manifest.inputs}

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Run in this thread, so that the first real call is fast: on zeros of the announced sizes, once for the same ones.

        On a CPU the probe's sizes will do, once: there new sizes cost nothing when the model has run in this thread, and a short
        scan would wait for this.

        Parameters
        ----------
        sizes
            Lengths of the named axes.
        """
        key = tuple(sorted(sizes.items())) if self.device.type != "cpu" else ()
        if key in self._prepared or (key and self._size(sizes) > _MOST_TO_WARM_UP):
            return
        self._prepared.add(key)
        self.infer(self.zeros(sizes) if key else self.bundle.probe()[0])

    def _size(self, sizes: Mapping[str, int]) -> int:
        """Return how many values inputs of these sizes have."""
        return sum(math.prod(shape_of(spec, sizes)) for spec in self.manifest.inputs)

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs; a batch that does not fit into the device's memory is computed in parts.

        Parameters
        ----------
        inputs
            float32 by name, with the axes of the manifest, the batch first.

        Returns
        -------
        dict
            float32 on the CPU by name, with the axes of the manifest.
        """
        return self._in_parts(self._infer, inputs)[0]

    def compute(self, inputs: Mapping[str, Tensor]) -> Result:
        """Compute the outputs, and say what did, in which parts, and how long it took.

        Where the runtime that is fastest fails, the bundle's other runtimes are tried; what it failed with is raised if none of
        them can do it either. Where memory ran out they are not tried: they would need as much.

        Parameters
        ----------
        inputs
            As ``infer`` takes them.
        """
        start = time.perf_counter()
        runtime = self.runtime
        try:
            outputs, parts = self._in_parts(self._infer, inputs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            for name, other in self._other_runtimes().items():
                with suppress(Exception):  # the first one's failure is what is told
                    outputs, parts = self._in_parts(other.infer, inputs)
                    runtime = name
                    break
            else:
                raise
            log.warning("bundle %s: %s failed on a job that %s computed", self.manifest.name, self.runtime, runtime)
        return Result(
            outputs, runtime, str(self.device), time.perf_counter() - start, parts=parts, first=1, last=sum(parts)
        )

    def _other_runtimes(self) -> dict[str, Runtime]:
        """Load the runtimes that are not the fastest, once one of them is needed."""
        if self._others is None:
            try:
                self._others = commission(self.bundle, self.device, without=self.runtime)
            except BundleError:  # there is none
                self._others = {}
        return self._others

    def _in_parts(self, infer: _Infer, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[int, ...]]:
        """Return the outputs, and how many entries were computed at once."""
        entries = next(iter(inputs.values())).shape[0]
        try:
            return infer(inputs), (entries,)
        except Exception as error:
            if not is_out_of_memory(error) or entries == 1 or not self._by_entry:
                raise
            log.warning("bundle %s: no memory for %d slices at once, halving", self.manifest.name, entries)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = entries // 2
        halves = [
            self._in_parts(infer, {name: tensor[part] for name, tensor in inputs.items()})
            for part in (slice(0, half), slice(half, entries))
        ]
        (first, before), (second, after) = halves
        return {name: torch.cat([first[name], second[name]]) for name in first}, before + after


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, ONNX Runtime or Python says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    # the last are the words of cuBLAS, cuDNN, cuFFT and cuSOLVER
    phrases = "out of memory", "can't allocate memory", "failed to allocate memory", "alloc_failed"
    return any(phrase in text for phrase in phrases)
