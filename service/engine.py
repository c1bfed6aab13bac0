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

from ..export.axes import shape_of
from ..export.bundle import Bundle, BundleError, Manifest, relative_error
from ..export.classical import ensure_classical
from ..export.runtimes import RUNTIMES, Runtime
from ..export.shipped import ensure_shipped
from .settings import Settings

log = logging.getLogger("isocenter.engine")

RuntimeChoice = Literal["auto", "torchscript", "onnx", "aoti"]

_REFERENCE_SIZES = {"batch": 1, "coils": 8, "frames": 8, "kz": 1, "ky": 128, "kx": 128}
"""Sizes at which the runtimes of a bundle are compared when it is loaded."""


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
        self._prepared: set[tuple[tuple[str, int], ...]] = set()
        runtimes: dict[str, Runtime] = {}
        failures = []
        inputs, expected = bundle.probe()
        for name, path in bundle.runtime_files().items():
            if choice not in ("auto", name):
                continue
            try:
                runtimes[name] = RUNTIMES[name](path, self.manifest, device)
                _commission(runtimes[name], inputs, expected, self.manifest)
            except BundleError as error:
                failures.append(f"{name}: {error}")
                runtimes.pop(name, None)
        if not runtimes:
            reasons = "; ".join(failures) or f"it has no model file for runtime {choice!r}"
            raise BundleError(f"bundle {self.manifest.name!r} cannot be used on {device}: {reasons}")
        for failure in failures:
            log.warning("bundle %s: %s", self.manifest.name, failure)
        reference = self._zeros(_REFERENCE_SIZES)
        durations = {name: _duration(runtime, reference) for name, runtime in runtimes.items()}
        self.runtime = min(durations, key=lambda name: durations[name])
        self._run = runtimes[self.runtime].run
        log.info(
            "loaded bundle %s %s on %s with %s",
            self.manifest.name,
            self.manifest.version,
            device,
            self.runtime,
            extra={"fields": {f"{name}_ms": round(1000 * seconds, 1) for name, seconds in durations.items()}},
        )

    def _zeros(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Inputs of these sizes; axes that are not named have length one."""
        return {spec.name: torch.zeros(shape_of(spec, sizes)) for spec in self.manifest.inputs}

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Run once on zeros of the announced sizes, so that the first real call is fast.

        Parameters
        ----------
        sizes
            Lengths of the named axes.
        """
        key = tuple(sorted(sizes.items()))
        if key not in self._prepared:
            self._prepared.add(key)
            self.run(self._zeros(sizes))

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs, by the runtime that was fastest when the bundle was loaded."""
        with self._lock:
            return self._run(inputs)


def _commission(
    runtime: Runtime, inputs: Mapping[str, Tensor], expected: dict[str, Tensor], manifest: Manifest
) -> None:
    """Run the probe and compare."""
    error = relative_error(runtime.run(inputs), expected)
    if not error <= manifest.tolerance:
        raise BundleError(f"the probe deviates by {error:.1e} of the maximum, accepted is {manifest.tolerance:.0e}")


def _duration(runtime: Runtime, inputs: Mapping[str, Tensor]) -> float:
    """Shortest of three runs in seconds, after one that does not count."""
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

    def preload(self) -> None:
        """Load every bundle in the background; those that cannot be loaded are logged."""
        for name in sorted(self.available()):
            self._executor.submit(self._try_load, name)

    def _try_load(self, name: str) -> None:
        try:
            self.load(name)
        except BundleError as error:
            log.error("%s", error)

    def prepare(self, bundle: str, sizes: Mapping[str, int]) -> Future[None]:
        """Load and warm up in the background for sizes that a header announced."""
        return self._executor.submit(lambda: self.load(bundle).prepare(sizes))

    def submit(self, bundle: str, inputs: Mapping[str, Tensor]) -> Future[dict[str, Tensor]]:
        """Run a bundle in the background."""
        return self._executor.submit(lambda: self.load(bundle).run(inputs))

    def close(self) -> None:
        """Wait for what runs and release the worker."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def make_engine(settings: Settings, *, networks: bool = True) -> Engine:
    """Return the engine of a service, with the bundles that come with Isocenter at hand.

    Parameters
    ----------
    settings
        Of the service.
    networks
        Whether to build the shipped networks where they are missing, which takes minutes. A process that serves one scan has
        no time for it.

    Raises
    ------
    BundleError
        One of them cannot be built.
    """
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = settings.home / "bundles"
    ensure_classical(folder)
    if networks:
        ensure_shipped(folder)
    return Engine(settings.bundle_folders, device=device, runtime=settings.runtime, default_network=settings.network)
