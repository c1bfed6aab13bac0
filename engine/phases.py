"""How jobs, devices and loaded bundles move: the tables of the machine."""

from collections.abc import Mapping
from enum import StrEnum, auto

from .events import (
    Answer,
    Cancel,
    DeviceBack,
    DeviceGone,
    DeviceLost,
    Expired,
    Finished,
    Load,
    Loaded,
    LoadFailed,
    Overdue,
    Overran,
    Refuse,
    Revive,
    Run,
    Slow,
    Submitted,
)


class JobPhase(StrEnum):
    """Where a job is."""

    WAITING = auto()
    RUNNING = auto()
    ANSWERED = auto()


class DevicePhase(StrEnum):
    """What a device does."""

    IDLE = auto()
    RUNNING = auto()
    LOST = auto()
    RESETTING = auto()


class ModelPhase(StrEnum):
    """How far a bundle is on a device."""

    ABSENT = auto()
    LOADING = auto()
    SLOW = auto()
    OVERDUE = auto()
    READY = auto()
    FAILED = auto()


# How things move: by what happens, or by what is done about something else.

JOB_MOVES: Mapping[JobPhase, Mapping[type, JobPhase]] = {
    JobPhase.WAITING: {Run: JobPhase.RUNNING, Refuse: JobPhase.ANSWERED, Cancel: JobPhase.ANSWERED},
    JobPhase.RUNNING: {Answer: JobPhase.ANSWERED, Refuse: JobPhase.ANSWERED, Revive: JobPhase.WAITING},
    JobPhase.ANSWERED: {},
}
DEVICE_MOVES: Mapping[DevicePhase, Mapping[type, DevicePhase]] = {
    DevicePhase.IDLE: {Run: DevicePhase.RUNNING, DeviceLost: DevicePhase.LOST},
    DevicePhase.RUNNING: {
        Finished: DevicePhase.IDLE,
        DeviceLost: DevicePhase.LOST,
        Overran: DevicePhase.RESETTING,
        Expired: DevicePhase.RESETTING,
    },
    DevicePhase.LOST: {DeviceBack: DevicePhase.IDLE, DeviceGone: DevicePhase.LOST},
    DevicePhase.RESETTING: {DeviceBack: DevicePhase.IDLE, DeviceGone: DevicePhase.RESETTING},
}
_ENDS_OF_LOADING = {
    Loaded: ModelPhase.READY,
    LoadFailed: ModelPhase.FAILED,
    DeviceLost: ModelPhase.ABSENT,
    Overdue: ModelPhase.OVERDUE,
}
MODEL_MOVES: Mapping[ModelPhase, Mapping[type, ModelPhase]] = {
    ModelPhase.ABSENT: {Load: ModelPhase.LOADING},
    ModelPhase.LOADING: {**_ENDS_OF_LOADING, Slow: ModelPhase.SLOW},
    ModelPhase.SLOW: _ENDS_OF_LOADING,
    ModelPhase.OVERDUE: {kind: phase for kind, phase in _ENDS_OF_LOADING.items() if kind is not Overdue},
    ModelPhase.READY: {DeviceBack: ModelPhase.ABSENT},
    ModelPhase.FAILED: {Submitted: ModelPhase.ABSENT},
}
