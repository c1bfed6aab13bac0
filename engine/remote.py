"""Devices of other hosts, through Ray (extra ``ray``): each is an actor that loads bundles and runs them."""

import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..bundle.manifest import RuntimeChoice
from ..bundle.trust import EVERYBODY, Trust
from ..wire import extras
from .device import LocalDevice, Shelf
from .jobs import DeviceLostError, EngineError, Result, Tensors

log: logging.Logger = logging.getLogger("isocenter.engine")

_RETRIES = 3
_START_SECONDS = 30.0
_CONNECT_SECONDS = 5.0
_BESIDE = "load", "batch", "pace", "process"
"""What the actor does beside the thread in which it runs bundles, and again where the process was stopped for a run's sake."""
_THREADS = 16
"""For what is done beside: a load that hangs keeps one of them."""


class Actor:
    """What runs in the actor: a device of the host that Ray has placed it on.

    Parameters
    ----------
    folders
        Of bundles, on that host.
    runtime
        A runtime for all bundles, or ``auto``.
    threads
        For torch, on a CPU.
    trust
        Whose bundles are used.
    """

    def __init__(
        self, folders: Sequence[Path], runtime: RuntimeChoice, threads: int | None, trust: Trust = EVERYBODY
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        # Ray shows an actor only the GPU that it was given
        self._device = LocalDevice("cuda:0" if torch.cuda.is_available() else "cpu", Shelf(folders, trust), runtime)

    def load(self, bundle: str) -> None:
        """Load a bundle."""
        self._device.load(bundle)

    def batch(self, bundle: str) -> int:
        """How many slices are worth computing together."""
        return self._device.batch(bundle)

    def pace(self, bundle: str) -> float:
        """Seconds for a byte of inputs."""
        return self._device.pace(bundle)

    def prepare(self, bundle: str, sizes: Mapping[str, int]) -> None:
        """Get ready for inputs of these sizes."""
        self._device.prepare(bundle, sizes)

    def compute(self, bundle: str, arrays: Mapping[str, Any]) -> tuple[dict[str, Any], Result]:
        """Compute the outputs; arrays travel as numpy's, which Ray passes on as read-only views."""
        inputs = {name: torch.as_tensor(array.copy()) for name, array in arrays.items()}
        result = self._device.compute(bundle, inputs)
        outputs = {name: tensor.numpy() for name, tensor in result.outputs.items()}
        return outputs, replace(result, outputs={})

    def process(self) -> int:
        """Return the number of the process."""
        return os.getpid()


class RayDevice:
    """A device of a Ray cluster. Its actor is made anew when it dies, and what it was doing is done again.

    Parameters
    ----------
    name
        Appears in the images.
    folders
        Of bundles; the same on every host.
    runtime
        A runtime for all bundles, or ``auto``.
    gpus, cpus
        What Ray sets aside for it.
    trust
        Whose bundles are used.
    """

    def __init__(
        self,
        name: str,
        folders: Sequence[Path],
        runtime: RuntimeChoice = "auto",
        *,
        gpus: float = 0,
        cpus: float = 1,
        trust: Trust = EVERYBODY,
    ) -> None:
        self.name = name
        self._ray = import_ray()
        self._arguments = (tuple(folders), runtime, int(cpus) or None, trust)
        self._options = {"num_gpus": gpus, "num_cpus": cpus}
        self._actor = self._make_actor()
        self._asked: tuple[Any, bool] = None, False
        """The actor that was last asked whether it is there, and whether it was: a new one may wait for a place for ever."""
        self._resets = 0
        self._lock = threading.Lock()

    def _make_actor(self) -> Any:
        options = {**self._options, "concurrency_groups": {"beside": _THREADS}}
        return self._ray.remote(**options)(Actor).remote(*self._arguments)

    def _ask(self, actor: Any, method: str, *arguments: Any) -> Any:
        function = getattr(actor, method)
        if method in _BESIDE:
            function = function.options(concurrency_group="beside")
        return function.remote(*arguments)

    def load(self, bundle: str) -> None:
        """Load and commission a bundle in the actor, beside what runs there."""
        self._call("load", bundle)

    def batch(self, bundle: str) -> int:
        """How many slices are worth computing together there."""
        return self._call("batch", bundle)

    def pace(self, bundle: str) -> float:
        """Seconds for a byte of inputs, without the way there and back."""
        return self._call("pace", bundle)

    def prepare(self, bundle: str, sizes: Mapping[str, int]) -> None:
        """Load a bundle and get ready for inputs of these sizes."""
        self._call("prepare", bundle, dict(sizes))

    def compute(self, bundle: str, inputs: Tensors) -> Result:
        """Compute the outputs of float32 inputs by name, which are copied there, and back to the CPU here."""
        arrays = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
        outputs, result = self._call("compute", bundle, arrays)
        tensors = {name: torch.as_tensor(array.copy()) for name, array in outputs.items()}
        return replace(result, outputs=tensors, device=f"{self.name} ({result.device})")

    def process(self) -> int:
        """Return the number of the actor's process."""
        return self._call("process")

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call the actor; one that has died is made anew and called again.

        Raises
        ------
        DeviceLostError
            Ray finds no place for a new one, or it was stopped because of what it ran.
        """
        errors = self._ray.exceptions
        resets = self._resets
        for attempt in range(_RETRIES + 1):
            actor = self._actor
            try:
                asked, answered = self._asked
                if not (answered if asked is actor else self.is_alive()):
                    raise DeviceLostError(f"{self.name} does not answer, or Ray has no place for it")
                return self._ray.get(self._ask(actor, method, *arguments))
            except errors.RayTaskError as error:
                raise error.cause from error
            except errors.RayActorError as error:
                if self._resets != resets and method not in _BESIDE:
                    raise DeviceLostError(f"{self.name} was stopped") from error
                if attempt == _RETRIES:
                    raise EngineError(f"{self.name} has died {attempt + 1} times") from error
                log.warning("%s has died and is made anew: %s", self.name, str(error).partition("\n")[0])
                self._replace(actor)
            except SystemExit as error:  # what Ray raises in threads that wait when it is shut down
                raise EngineError("Ray was shut down", where=f"{self.name}") from error
        raise AssertionError

    def is_alive(self) -> bool:
        """Whether the actor answers; one that has died is made anew, and answers next time."""
        actor = self._actor
        try:
            self._ray.get(self._ask(actor, "process"), timeout=_START_SECONDS)
        except self._ray.exceptions.GetTimeoutError:
            self._asked = actor, False
            return False
        except self._ray.exceptions.RayActorError:
            self._replace(actor)
            return False
        self._asked = actor, True
        return True

    def _replace(self, dead: Any) -> None:
        with self._lock:
            if self._actor is dead:
                self._actor = self._make_actor()

    def reset(self) -> None:
        """Stop what hangs there by ending its process."""
        self._resets += 1
        actor = self._actor
        self._ray.kill(actor)
        self._replace(actor)

    def close(self) -> None:
        """End the actor."""
        self._ray.kill(self._actor)


def import_ray() -> Any:
    """Return the module ``ray``.

    Raises
    ------
    EngineError
        It is not installed.
    """
    ray = extras.load("ray", "the setting 'ray'", EngineError)
    extras.load("ray.exceptions", "the setting 'ray'", EngineError)
    return ray


def ray_devices(
    address: str, folders: Sequence[Path], runtime: RuntimeChoice = "auto", trust: Trust = EVERYBODY
) -> list[RayDevice]:
    """Connect to a cluster, and return its devices: one for each GPU, or each host where there is none.

    Parameters
    ----------
    address
        Of the cluster, or ``auto``.
    folders, runtime, trust
        As for ``RayDevice``.

    Raises
    ------
    EngineError
        Ray is not installed, or the cluster cannot be reached.
    """
    ray = import_ray()
    if not ray.is_initialized():
        try:
            _check_reachable(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"there is no Ray cluster at {address!r}: {error}") from error
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    hosts = sum(node["Alive"] for node in ray.nodes())
    if gpus:
        return [RayDevice(f"ray:{index}", folders, runtime, gpus=1, trust=trust) for index in range(gpus)]
    cpus = max(1, int(resources.get("CPU", 1)) // hosts)
    return [RayDevice(f"ray:{index}", folders, runtime, cpus=cpus, trust=trust) for index in range(hosts)]


def _check_reachable(address: str) -> None:
    """Connect once, which fails at once where Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
