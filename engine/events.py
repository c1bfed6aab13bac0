"""The words of the job machine: jobs, what happens to them, and what is to be done about it."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Job(NamedTuple):
    """What is to be done once.

    Attributes
    ----------
    id
        Its number; no other job has it.
    bundle
        What has to be loaded for it; empty: nothing.
    scan
        Whose turn it uses up.
    urgent
        Whether it goes before everything that is not.
    background
        Whether its bundle is loaded when nothing else is.
    entries
        Length of its batch.
    likeness
        The same for jobs of a bundle that can be computed in one batch; None: it is computed alone.
    device
        The only device that may do it; None: any.
    """

    id: int
    bundle: str = ""
    scan: str = ""
    urgent: bool = False
    background: bool = False
    entries: int = 1
    likeness: Hashable = None
    device: str | None = None


# What happens.


class Submitted(NamedTuple):
    """Somebody wants a job to be done."""

    job: Job


class Cancelled(NamedTuple):
    """Somebody wants a job no longer, unless it has begun."""

    job: int


class Abandoned(NamedTuple):
    """Somebody wants a job no longer, whether it has begun or not."""

    job: int
    reason: str


class Loaded(NamedTuple):
    """A device can run a bundle, so many entries at once."""

    device: str
    bundle: str
    batch: int = 1


class LoadFailed(NamedTuple):
    """A device cannot run a bundle, or is ``lost``. The error is passed on."""

    device: str
    bundle: str
    error: object
    lost: bool = False


class Overdue(NamedTuple):
    """Loading takes so long that nothing waits for it any longer."""

    device: str
    bundle: str
    reason: str


class Finished(NamedTuple):
    """A run has ended, well or not, with an outcome for each of its jobs; outcomes are passed on."""

    device: str
    run: int
    outcomes: Sequence[object]


class DeviceLost(NamedTuple):
    """A run has ended because its device is gone."""

    device: str
    run: int


class DeviceBack(NamedTuple):
    """A device that was lost or reset can be used."""

    device: str


class Closed(NamedTuple):
    """Nobody wants anything any more."""


class Expired(NamedTuple):
    """After ``Closed``: what runs is not waited for any longer."""


Event = (
    Submitted
    | Cancelled
    | Abandoned
    | Loaded
    | LoadFailed
    | Overdue
    | Finished
    | DeviceLost
    | DeviceBack
    | Closed
    | Expired
)

# What is to be done about it.


class Load(NamedTuple):
    """Load a bundle, beside what runs; ends with ``Loaded`` or ``LoadFailed``, and may be ``Overdue`` before."""

    device: str
    bundle: str


class Run(NamedTuple):
    """Do these jobs together in the device's thread; ends with ``Finished`` or ``DeviceLost``."""

    device: str
    run: int
    bundle: str
    jobs: tuple[int, ...]


class Answer(NamedTuple):
    """Give a job its outcome."""

    job: int
    outcome: object


class Refuse(NamedTuple):
    """Give a job an error, or what one is to say."""

    job: int
    reason: object


class Cancel(NamedTuple):
    """Tell whoever waits for a job that it will not be done."""

    job: int


class Replace(NamedTuple):
    """Let another thread go on for a device, as its thread hangs."""

    device: str


class Reset(NamedTuple):
    """Stop what hangs in a device, if that is possible; ends with ``DeviceBack``."""

    device: str


class Revive(NamedTuple):
    """Wait until a device is there; ends with ``DeviceBack``."""

    device: str


class Suspend(NamedTuple):
    """Tell that a bundle is not used, and why."""

    bundle: str
    reason: str


class Resume(NamedTuple):
    """Tell that a bundle is used again."""

    bundle: str


Effect = Load | Run | Answer | Refuse | Cancel | Replace | Reset | Revive | Suspend | Resume
