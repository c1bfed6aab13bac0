"""The inference engine: runs bundles on the devices that there are, for all scans at once."""

import logging
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import torch

from ..bundle.manifest import BundleError, Manifest, RuntimeChoice
from ..bundle.trust import EVERYBODY, Trust
from ..flow.deferred import Deferred
from ..flow.ledger import Account
from .crew import Crew
from .device import Device, LocalDevice, Shelf
from .jobs import Inputs, Result, Ticket
from .supply import Supply

log: logging.Logger = logging.getLogger("isocenter.engine")

_NO_SCAN = ""
_LOAD_SECONDS = 60.0
"""A bundle that takes longer to load holds up no other, and until it comes only those wait who have no other."""


class Model:
    """A bundle by name, on whichever device is free."""

    def __init__(self, engine: "Engine", name: str, manifest: Manifest) -> None:
        self._engine = engine
        self.name = name
        self.manifest = manifest

    def run(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Compute the outputs, float32 by name as the manifest has them, and wait for them.

        Raises
        ------
        EngineError
            The bundle hangs, or the engine is closed.
        Exception
            What else went wrong with it.
        """
        return self._engine.run(self.name, inputs)


class Engine:
    """Runs bundles by name, each device in a thread of its own, all from one queue in which scans take turns, by time.

    Parameters
    ----------
    folders
        Where bundles are looked for, in order.
    devices
        Where models run: names such as ``cpu`` or ``cuda:0``, or objects that stand for devices elsewhere.
    runtime
        A runtime for all bundles, or ``auto``.
    default_bundle
        Bundle for pipelines that name none.
    deadline
        Seconds that a run may take until its bundle is taken for hanging and its jobs fail; ten times what was measured for its
        size, if that is longer. Waiting does not count.
    trust
        Whose bundles are used; everybody's by default.
    supply
        Bundles that are being built while the engine is used; none by default.

    Raises
    ------
    EngineError
        Two devices have the same name.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        devices: Sequence[Device | str] = ("cpu",),
        runtime: RuntimeChoice = "auto",
        default_bundle: str | None = None,
        deadline: float = 60.0,
        trust: Trust = EVERYBODY,
        supply: Supply | None = None,
    ) -> None:
        self.supply: Supply = supply or Supply()
        self.shelf: Shelf = Shelf(folders, trust)
        self.default_bundle = default_bundle
        self.deadline = deadline
        self.devices: list[Device] = []
        self.devices += [
            LocalDevice(device, self.shelf, runtime, self.devices) if isinstance(device, str) else device
            for device in devices
        ]
        self._crew = Crew(self.devices, deadline, max(deadline, _LOAD_SECONDS))

    @property
    def waiting(self) -> int:
        """How many jobs wait for a device."""
        return len(self._crew.state.waiting)

    @property
    def suspended(self) -> dict[str, str]:
        """Bundles that are not used because they hang, and why."""
        return self._crew.state.suspended

    @property
    def device(self) -> torch.device:
        """Where scans should compute, beside what runs."""
        local = [device.device for device in self.devices if isinstance(device, LocalDevice)]
        return local[0] if local else torch.device("cpu")

    def available(self) -> dict[str, Path]:
        """Return the folders of all bundles by name."""
        return self.shelf.available()

    def load(self, bundle: str) -> Model:
        """Return a bundle's model; its files are checked at its first use, its probe is run when a device loads it.

        Raises
        ------
        BundleError
            There is no such bundle, it is damaged, or it is not ready yet.
        """
        if bundle in self.supply.missing:
            raise BundleError(f"bundle {bundle!r} is not ready yet")
        try:
            return Model(self, bundle, self.shelf.manifest(bundle))
        except BundleError as error:
            if reason := self.supply.failures.get(bundle):
                raise BundleError(f"bundle {bundle!r} could not be built: {reason}") from error
            raise

    def preload(self, bundles: Sequence[str] | None = None) -> list[Future[Result]]:
        """Load bundles, or all there are, on every device in the background; those that cannot be loaded are logged.

        They are loaded one after the other, as their runtimes are measured, but not behind one that takes long; what a job needs
        meanwhile is loaded at once.

        Returns
        -------
        list of Future
            Done when they are loaded, or cannot be.
        """
        tickets: list[Future[Result]] = []
        for name in sorted(self.available()) if bundles is None else bundles:
            for device in self.devices:
                ticket = self._crew.submit_errand(
                    _nothing, bundle=name, scan=_NO_SCAN, device=device.name, background=True
                )
                ticket.add_done_callback(_log_failure)
                tickets.append(ticket)
        return tickets

    def prepare(self, bundle: str, sizes: Mapping[str, int], *, scan: str = _NO_SCAN) -> list[Future[Result]]:
        """Load and warm up, on every device, for sizes that the header of a scan announced."""
        # in the threads that will run it: what is warm belongs to a thread
        return [
            self._crew.submit_errand(
                partial(device.prepare, bundle, dict(sizes)) if sizes else _nothing,
                bundle=bundle,
                scan=scan,
                device=device.name,
            )
            for device in self.devices
        ]

    def begin(self, value: Deferred, *, scan: str = _NO_SCAN) -> None:
        """Compute an input that a job will need, before there is the job.

        Where models run on the CPU, in the thread that has all cores, between the jobs; elsewhere here and now, beside them.

        Parameters
        ----------
        value
            The input; it is not computed if nobody has it any more when its turn comes.
        scan
            Whose turn it uses up.
        """
        processor = next((device.name for device in self.devices if device.name == "cpu"), None)
        if processor is None:
            value.start()
            return
        reference = weakref.ref(value)

        def start() -> None:
            if (wanted := reference()) is not None:
                wanted.start()

        self._crew.submit_errand(start, bundle="", scan=scan, device=processor, seconds=value.seconds)

    def submit(
        self,
        bundle: str,
        inputs: Inputs,
        *,
        scan: str = _NO_SCAN,
        urgent: bool = False,
        last: bool = False,
        patient: bool = False,
        account: Account | None = None,
    ) -> Future[Result]:
        """Queue a job, once there is room for its inputs.

        Parameters
        ----------
        bundle
            Name of the bundle.
        inputs
            Float32 tensors by name, as the manifest has them; those that are to be computed yet are computed in the device's
            thread. They must not be changed before the result is there.
        scan
            Scans share the devices by time: the one that has had least goes first.
        urgent
            Go before what the scan has besides, and wait for no room: it repeats what has failed.
        last
            Go after what the scan has besides, also what is submitted later.
        patient
            Wait for the bundle however long it is being loaded: no other one can do the job.
        account
            Charged with the bytes of the inputs while they wait. Without one, nothing is bounded.

        Returns
        -------
        Future of Result
            ``cancel`` takes the job out of the queue as long as it has not begun.

        Raises
        ------
        EngineError
            The engine is closed. What goes wrong with the job is raised by its future.
        """
        return self._crew.submit(bundle, inputs, scan=scan, urgent=urgent, last=last, patient=patient, account=account)

    def run(self, bundle: str, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Run a bundle and wait for its outputs, however long it is being loaded, as ``submit`` does it.

        Returns
        -------
        dict
            float32 on the CPU by name, with the axes of the manifest's outputs.

        Raises
        ------
        EngineError
            The bundle hangs, or the engine is closed.
        Exception
            What else went wrong with it.
        """
        return self.submit(bundle, inputs, patient=True).result().outputs

    def reason_to_wait(self, future: Future[Result]) -> str:
        """Return why a job waits for others than its own scan's, such as ``3 scans before this one``; empty if it does not."""
        return self._crew.reason_to_wait(future) if isinstance(future, Ticket) else ""

    def close(self) -> bool:
        """Cancel what waits, wait a while for what runs and loads, and release the devices; every job is answered then.

        Returns
        -------
        bool
            Whether the process may end in the usual way. Where a thread has not ended, or a card was lost, it should leave by
            ``os._exit``: the interpreter must not be taken away from under torch, and what torch destroys at the end may
            call the card, whose error then ends the process with a signal.
        """
        ended = self._crew.close()
        for device in self.devices:
            device.close()
        return ended and not any(device.is_lost for device in self.devices if isinstance(device, LocalDevice))


def _nothing() -> None:
    """What is to be done with a bundle that is only to be loaded."""


def _log_failure(future: Future[Result]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("%s", error)
