"""Where bundles run: the devices of this process."""

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

import torch

from ..bundle.folder import Bundle
from ..bundle.manifest import MANIFEST, BundleError, Manifest, RuntimeChoice
from ..bundle.trust import EVERYBODY, Trust
from .jobs import Result, Tensors
from .model import LoadedModel

log: logging.Logger = logging.getLogger("isocenter.engine")


class Device(Protocol):
    """Something that loads bundles and runs them: a processor of this host, or of another one."""

    name: str

    def load(self, bundle: str) -> object:
        """Load and commission a bundle, if it is not loaded yet; beside what runs, and beside the loading of others.

        Raises
        ------
        DeviceLostError
            The device is gone.
        """
        ...

    def batch(self, bundle: str) -> int:
        """How many slices are worth computing together."""
        ...

    def pace(self, bundle: str) -> float:
        """Seconds for a byte of inputs, as they were measured; 0 if they were not."""
        ...

    def prepare(self, bundle: str, sizes: Mapping[str, int]) -> None:
        """Load a bundle and get ready for inputs of these sizes."""
        ...

    def run(self, bundle: str, inputs: Tensors) -> Result:
        """Compute the outputs.

        Raises
        ------
        DeviceLostError
            The device is gone; another one should do it.
        """
        ...

    def reset(self) -> None:
        """Stop what hangs there, if it can be stopped."""
        ...

    def is_alive(self) -> bool:
        """Whether it can run something; after ``run`` has raised ``DeviceLostError``."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


class Shelf:
    """The bundles in some folders.

    Parameters
    ----------
    folders
        Searched in order.
    trust
        Whose bundles are used; everybody's by default.
    """

    def __init__(self, folders: Sequence[Path], trust: Trust = EVERYBODY) -> None:
        self.folders: tuple[Path, ...] = tuple(folders)
        self._trust = trust
        self._manifests: dict[str, Manifest] = {}

    def manifest(self, name: str) -> Manifest:
        """Return the manifest of a bundle, whose files are checked the first time.

        Raises
        ------
        BundleError
            There is none of this name, or it is damaged.
        """
        if name not in self._manifests:
            self._manifests[name] = self.open(name).manifest
        return self._manifests[name]

    def available(self) -> dict[str, Path]:
        """Return the folders of all bundles by name. Those that begin with a dot are not ready."""
        return {
            path.name: path
            for folder in reversed(self.folders)
            for path in _entries(folder)
            if not path.name.startswith(".") and os.path.lexists(path / MANIFEST)
        }

    def open(self, name: str) -> Bundle:
        """Open a bundle by its name.

        Raises
        ------
        BundleError
            There is none of this name, or it is damaged.
        """
        available = self.available()
        if name not in available:
            raise BundleError(f"there is no bundle {name!r}", accepted=f"{', '.join(sorted(available)) or 'none'}")
        return Bundle.open(available[name], self._trust)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # it is not there, or not for us: then there are no bundles in it
        return []


class LocalDevice:
    """A processor of this host. Its models are futures: one that is being loaded holds up nobody but who wants it.

    Parameters
    ----------
    device
        Such as ``cpu`` or ``cuda:1``.
    shelf
        The bundles.
    runtime
        A runtime for all bundles, or ``auto``.
    """

    def __init__(self, device: torch.device | str, shelf: Shelf, runtime: RuntimeChoice = "auto") -> None:
        self.device: torch.device = torch.device(device)
        self.name: str = str(self.device)
        self._shelf = shelf
        self._runtime: RuntimeChoice = runtime
        self._models: dict[str, Future[LoadedModel]] = {}

    def load(self, bundle: str) -> LoadedModel:
        """Return a bundle's model, loaded and commissioned at its first use.

        Raises
        ------
        BundleError
            There is no such bundle, or it is damaged, or fails its probe.
        """
        loading: Future[LoadedModel] = Future()
        model = self._models.setdefault(bundle, loading)  # one step: who comes second waits for who came first
        if model is loading:
            try:
                loading.set_result(LoadedModel(self._shelf.open(bundle), self.device, self._runtime))
            except BaseException as error:
                self._models.pop(bundle, None)  # whoever wants it next tries again
                loading.set_exception(error)
                raise
        return model.result()

    def batch(self, bundle: str) -> int:
        """How many slices are worth computing together; the bundle is loaded if it is not yet."""
        return self.load(bundle).batch

    def pace(self, bundle: str) -> float:
        """Seconds for a byte of inputs; the bundle is loaded if it is not yet."""
        return self.load(bundle).pace

    def prepare(self, bundle: str, sizes: Mapping[str, int]) -> None:
        """Load a bundle, and run it once on inputs of these sizes where the first run of a size is slow."""
        self.load(bundle).prepare(sizes)

    def run(self, bundle: str, inputs: Tensors) -> Result:
        """Compute the outputs of float32 inputs by name; the bundle is loaded if it is not yet."""
        return self.load(bundle).result(inputs)

    def is_alive(self) -> bool:
        """Whether it can run something: the process that asks is the one that it runs in."""
        return True

    def reset(self) -> None:
        """Say that nothing can be stopped: a thread cannot be ended from outside."""
        log.warning(
            "%s: what hangs in this process goes on until it comes back; its answer is not waited for", self.name
        )

    def close(self) -> None:
        """Let go of the bundles that are loaded."""
        self._models.clear()
