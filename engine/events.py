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
        Whose turn it uses up; empty: that of none.
    urgent
        Whether it goes before what its scan has besides.
    last
        Whether it goes after what its scan has besides, whenever that comes; it is then not urgent, whatever ``urgent`` says.
    background
        Whether its bundle is loaded when nothing else is.
    entries
        Length of its batch.
    likeness
        The same for jobs of a bundle that can be computed in one batch; None: it is computed alone.
    device
        The only device that may do it; None: any.
    patient
        Whether it waits for a bundle that is overdue, as no other one can do it.
    """

    id: int
    bundle: str = ""
    scan: str = ""
    urgent: bool = False
    last: bool = False
    background: bool = False
    entries: int = 1
    likeness: Hashable = None
    device: str | None = None
    patient: bool = False


# What happens.


class Submitted(NamedTuple):
    """Somebody wants a job to be done."""

    job: Job


class Cancelled(NamedTuple):
    """Somebody wants a job no longer, unless it has begun."""

    job: int


class Overran(NamedTuple):
    """A run takes so long that nothing waits for it any longer.

    Attributes
    ----------
    device, run
        Which.
    reason
        What is said of it.
    seconds
        How long it took.
    hangs
        Whether the bundle hangs; else what a run waits for before it does.
    """

    device: str
    run: int
    reason: str
    seconds: float = 0.0
    hangs: bool = True


class Loaded(NamedTuple):
    """A device can run a bundle: so many entries at once, in so many seconds for a byte of inputs."""

    device: str
    bundle: str
    batch: int = 1
    pace: float = 0.0


class LoadFailed(NamedTuple):
    """A device cannot run a bundle, or is ``lost``. The error is passed on."""

    device: str
    bundle: str
    error: object
    lost: bool = False


class Slow(NamedTuple):
    """Loading takes so long that others are loaded beside it."""

    device: str
    bundle: str


class Overdue(NamedTuple):
    """Loading takes so long that nothing waits for it any longer."""

    device: str
    bundle: str
    reason: str


class Finished(NamedTuple):
    """A run has ended, well or not, after so many seconds, with an outcome for each of its jobs; outcomes are passed on."""

    device: str
    run: int
    outcomes: Sequence[object]
    seconds: float = 0.0


class DeviceLost(NamedTuple):
    """A run has ended because its device is gone."""

    device: str
    run: int


class DeviceGone(NamedTuple):
    """A device that was lost or reset stays away so long that nothing waits for it any longer."""

    device: str
    reason: str


class DeviceBack(NamedTuple):
    """A device that was lost or reset can be used."""

    device: str


class Pardoned(NamedTuple):
    """A run that was stopped lies so long back that its bundle may be tried again."""

    run: int


class Closed(NamedTuple):
    """Nobody wants anything any more."""


class Expired(NamedTuple):
    """After ``Closed``: what runs is not waited for any longer."""


Event = (
    Submitted
    | Cancelled
    | Overran
    | Loaded
    | LoadFailed
    | Slow
    | Overdue
    | Finished
    | DeviceLost
    | DeviceGone
    | DeviceBack
    | Pardoned
    | Closed
    | Expired
)

# What is to be done about it.


class Load(NamedTuple):
    """Load a bundle, beside what runs; ends with ``Loaded`` or ``LoadFailed``, and may be ``Slow`` and ``Overdue`` before."""

    device: str
    bundle: str


class Run(NamedTuple):
    """Do these jobs together in the device's thread; ends with ``Finished`` or ``DeviceLost``, and may be ``Overran`` before."""

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
    """Stop what hangs in a device, if that is possible; ends with ``DeviceBack``, and may be ``DeviceGone`` before."""

    device: str


class Revive(NamedTuple):
    """Wait until a device is there; ends with ``DeviceBack``, and may be ``DeviceGone`` before."""

    device: str


class Suspend(NamedTuple):
    """Tell that a bundle is not used, and why."""

    bundle: str
    reason: str


class Resume(NamedTuple):
    """Tell that a bundle is used again."""

    bundle: str


class Probation(NamedTuple):
    """Wait for a while after a run that hung was stopped; ends with ``Pardoned``."""

    run: int


Effect = Load | Run | Answer | Refuse | Cancel | Replace | Reset | Revive | Suspend | Resume | Probation
