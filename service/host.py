"""The engine of a service, from its settings."""

import torch

from ..bundle.trust import Trust
from ..engine import Engine, Supply
from ..engine.remote import ray_devices
from .settings import Settings


def device_names(wanted: str) -> list[str]:
    """Return the devices that a setting names: ``auto``, or names separated by commas."""
    if wanted != "auto":
        return [name.strip() for name in wanted.split(",")]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]


def make_engine(settings: Settings, supply: Supply | None = None) -> Engine:
    """Return the engine of a service. It runs the bundles that there are, and those of the supply as they come; it builds none.

    Raises
    ------
    EngineError
        The Ray cluster that the settings name cannot be used.
    SignatureError
        One of their keys cannot be read.
    """
    trust = Trust.of(settings.home, settings.keys)
    return Engine(
        settings.bundle_folders,
        devices=device_names(settings.device)
        if settings.ray is None
        else ray_devices(settings.ray, settings.bundle_folders, settings.runtime, trust),
        runtime=settings.runtime,
        default_bundle=settings.default_bundle,
        deadline=settings.deadline,
        trust=trust,
        supply=supply,
    )
