"""The inference engine: finds, checks, loads and runs bundles on one device, with the runtime that is fastest there."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..export.bundle import Bundle, BundleError, Manifest, relative_error
from ..export.runtimes import RUNTIMES, Runtime

log = logging.getLogger("isocenter.engine")

RuntimeChoice = Literal["auto", "torchscript", "onnx"]


class LoadedModel:
    """A bundle that passed its probe on this device, ready to run. Safe to use from several threads.

    Parameters
    ----------
    bundle
        The bundle; its hashes were checked when it was opened.
    device
        Where to run.
    choice
        A runtime, or ``auto`` for the fastest.

    Raises
    ------
    BundleError
        No runtime reproduces the probe within the manifest's tolerance.
    """

    def __init__(self, bundle: Bundle, device: torch.device, choice: RuntimeChoice) -> None:
        self.bundle = bundle
        self.manifest: Manifest = bundle.manifest
        self._lock = threading.Lock()
        self._prepared: dict[tuple[tuple[str, int], ...], str] = {}
        self._runtimes: dict[str, Runtime] = {}
        durations: dict[str, float] = {}
        failures = []
        inputs, expected = bundle.probe()
        for name, path in bundle.runtime_files().items():
            if choice not in ("auto", name):
                continue
            try:
                runtime = RUNTIMES[name](path, self.manifest, device)
                durations[name] = _commission(runtime, inputs, expected, self.manifest)
            except BundleError as error:
                failures.append(f"{name}: {error}")
                continue
            self._runtimes[name] = runtime
        if not self._runtimes:
            reasons = "; ".join(failures) or f"it has no model file for runtime {choice!r}"
            raise BundleError(f"bundle {self.manifest.name!r} cannot be used on {device}: {reasons}")
        for failure in failures:
            log.warning("bundle %s: %s", self.manifest.name, failure)
        self._default = min(durations, key=lambda name: durations[name])
        log.info(
            "loaded bundle %s %s on %s with %s",
            self.manifest.name,
            self.manifest.version,
            device,
            ", ".join(self._runtimes),
        )

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Run once on zeros of the announced sizes, so that the first real call is fast, and remember the fastest runtime.

        Parameters
        ----------
        sizes
            Lengths of the named axes.
        """
        key = tuple(sorted(sizes.items()))
        with self._lock:
            if key in self._prepared:
                return
            inputs = {
                spec.name: torch.zeros([2 if axis == "complex" else sizes.get(axis, 1) for axis in spec.axes])
                for spec in self.manifest.inputs
            }
            durations = {name: _duration(runtime, inputs) for name, runtime in self._runtimes.items()}
            self._prepared[key] = min(durations, key=lambda name: durations[name])

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs, by the runtime that was fastest for these sizes."""
        with self._lock:
            return self._runtimes[self.runtime_for(inputs)].run(inputs)

    def runtime_for(self, inputs: Mapping[str, Tensor]) -> str:
        """Name of the runtime that is used for inputs of these sizes."""
        sizes = {
            axis: size
            for spec in self.manifest.inputs
            for axis, size in zip(spec.axes, inputs[spec.name].shape, strict=True)
            if axis != "complex"
        }
        return self._prepared.get(tuple(sorted(sizes.items())), self._default)


def _commission(
    runtime: Runtime, inputs: Mapping[str, Tensor], expected: dict[str, Tensor], manifest: Manifest
) -> float:
    """Run the probe; return how long a further run takes."""
    error = relative_error(runtime.run(inputs), expected)
    if not error <= manifest.tolerance:
        raise BundleError(f"the probe deviates by {error:.1e} of the maximum, accepted is {manifest.tolerance:.0e}")
    return _duration(runtime, inputs, warm_up=False)


def _duration(runtime: Runtime, inputs: Mapping[str, Tensor], *, warm_up: bool = True) -> float:
    if warm_up:
        runtime.run(inputs)
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        runtime.run(inputs)
        durations.append(time.perf_counter() - start)
    return min(durations)


class Engine:
    """Runs bundles by name.

    Parameters
    ----------
    folders
        Where bundles are looked for, in order.
    device
        Where models run.
    runtime
        A runtime for all bundles, or ``auto``.
    default_network
        Bundle for pipelines that name none.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        device: torch.device | str = "cpu",
        runtime: RuntimeChoice = "auto",
        default_network: str | None = None,
    ) -> None:
        self.folders = tuple(folders)
        self.device = torch.device(device)
        self.default_network = default_network
        self._runtime: RuntimeChoice = runtime
        self._models: dict[str, LoadedModel] = {}
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    def load(self, bundle: str) -> LoadedModel:
        """Return a bundle's model, loaded and commissioned at its first use.

        Raises
        ------
        BundleError
            There is no such bundle, or it is damaged, or fails its probe.
        """
        with self._lock:
            if bundle not in self._models:
                self._models[bundle] = LoadedModel(Bundle.open(self._find(bundle)), self.device, self._runtime)
            return self._models[bundle]

    def _find(self, name: str) -> Path:
        available = self.available()
        if name not in available:
            raise BundleError(f"there is no bundle {name!r}; there are: {', '.join(sorted(available)) or 'none'}")
        return available[name]

    def available(self) -> dict[str, Path]:
        """Return the folders of all bundles by name."""
        return {
            path.name: path
            for folder in reversed(self.folders)
            if folder.is_dir()
            for path in sorted(folder.iterdir())
            if (path / "model.yaml").is_file()
        }

    def prepare(self, bundle: str, sizes: Mapping[str, int]) -> Future[None]:
        """Load and warm up in the background for sizes that a header announced."""
        return self._executor.submit(lambda: self.load(bundle).prepare(sizes))

    def submit(self, bundle: str, inputs: Mapping[str, Tensor]) -> Future[dict[str, Tensor]]:
        """Run a bundle in the background."""
        return self._executor.submit(lambda: self.load(bundle).run(inputs))

    def close(self) -> None:
        """Wait for what runs and release the worker."""
        self._executor.shutdown(wait=True, cancel_futures=True)
