"""Where bundles run: the devices of this process."""

import logging
import os
import threading
from collections.abc import Collection, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch

from ..bundle.folder import Bundle
from ..bundle.manifest import MANIFEST, NO_SUCH_BUNDLE, BundleError, Manifest, RuntimeChoice
from ..bundle.trust import EVERYBODY, Trust
from ..wire.errors import nearest
from .jobs import DeviceLostError, Result, Tensors
from .model import LoadedModel, is_out_of_memory

log: logging.Logger = logging.getLogger("isocenter.engine")
_taking_over = threading.Lock()
"""One device at a time finds out whether it is the last one."""


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

    def compute(self, bundle: str, inputs: Tensors) -> Result:
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
        """Whether it can run something; after ``compute`` has raised ``DeviceLostError``."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


def no_such_bundle(name: str, names: Collection[str]) -> BundleError:
    """Make the error that says which names of bundles come nearest, and which there are."""
    what = f"there is no bundle {name!r}{nearest(name, names)}"
    return BundleError(what, accepted=", ".join(sorted(names)) or "none", kind=NO_SUCH_BUNDLE)


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

    def find(self, name: str) -> Path:
        """Return the folder of a bundle.

        Raises
        ------
        BundleError
            There is none of this name.
        """
        available = self.available()
        if name not in available:
            raise no_such_bundle(name, available)
        return available[name]

    def open(self, name: str) -> Bundle:
        """Open a bundle by its name.

        Raises
        ------
        BundleError
            There is none of this name, or it is damaged.
        """
        return Bundle.open(self.find(name), self._trust)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # it is not there, or not for us: then there are no bundles in it
        return []


class LocalDevice:
    """A processor of this host. Its models are futures: one that is being loaded holds up nobody but who wants it.

    A card that has met an error of its own answers nothing more to this process. What it was doing goes to other devices; where
    none of them is left, this host's processor takes its place, until the service is started again. The processor also computes
    what a card has no memory for. Results say so.

    Parameters
    ----------
    device
        Such as ``cpu`` or ``cuda:1``.
    shelf
        The bundles.
    runtime
        A runtime for all bundles, or ``auto``.
    beside
        The devices that there are, this one among them.
    """

    def __init__(
        self,
        device: torch.device | str,
        shelf: Shelf,
        runtime: RuntimeChoice = "auto",
        beside: Sequence[Device] = (),
    ) -> None:
        self.device: torch.device = torch.device(device)
        self.name: str = str(self.device)
        self._shelf = shelf
        self._runtime: RuntimeChoice = runtime
        self._beside = beside
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
                with self._unless_lost() as device:
                    loading.set_result(LoadedModel(self._shelf.open(bundle), device, self._runtime))
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
        with self._unless_lost():
            self.load(bundle).prepare(sizes)

    def compute(self, bundle: str, inputs: Tensors) -> Result:
        """Compute the outputs of float32 inputs by name; the bundle is loaded if it is not yet.

        Where a card has no memory for a job, the CPU computes it, and the result says so (``stands_in``).

        Raises
        ------
        DeviceLostError
            The card is gone.
        """
        with self._unless_lost() as device:
            try:
                result = self.load(bundle).compute(inputs)
            except Exception as error:
                if device.type == "cpu" or not (is_out_of_memory(error) and _answers(device)):
                    raise
                log.warning("bundle %s: %s has no memory for a job; the CPU computes it", bundle, self.name)
                return replace(self._processor.compute(bundle, inputs), stands_in=f"{self.name} had no memory for it")
        return result if result.device == self.name else replace(result, stands_in=f"{self.name} is lost")

    @cached_property
    def _processor(self) -> "LocalDevice":
        return LocalDevice("cpu", self._shelf, self._runtime)

    @contextmanager
    def _unless_lost(self) -> Generator[torch.device, None, None]:
        """Give the device, and tell an error of what runs there from the loss of it.

        Raises
        ------
        DeviceLostError
            The device does not answer any more.
        """
        device = self.device
        try:
            yield device
        except DeviceLostError:
            raise
        except Exception as error:
            if _answers(device):
                raise
            log.error("%s does not answer any more", self.name, exc_info=error)
            raise DeviceLostError(f"{self.name} is lost") from error

    def is_alive(self) -> bool:
        """Whether it answers, or this host's processor has taken its place: where no device answers any more, it does."""
        if _answers(self.device):
            return True
        with _taking_over:
            if any(_answers(other.device) for other in self._beside if isinstance(other, LocalDevice)):
                return False
            log.error("%s is lost until the service is started again; the CPU takes its place", self.name)
            self.device = torch.device("cpu")
        self._models.clear()
        return True

    @property
    def is_lost(self) -> bool:
        """Whether the card does not answer any more, whatever has taken its place."""
        return not _answers(torch.device(self.name))

    def reset(self) -> None:
        """Say that nothing can be stopped: a thread cannot be ended from outside."""
        log.warning(
            "%s: what hangs in this process goes on until it comes back; its answer is not waited for", self.name
        )

    def close(self) -> None:
        """Let go of the bundles that are loaded."""
        self._models.clear()


def _answers(device: torch.device) -> bool:
    """Whether a device can be used. A card that has met an error of its own meets it again whatever it is asked."""
    if device.type == "cpu":
        return True
    try:
        torch.cuda.synchronize(device)
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        return False
    return True
