"""The engine of a service, from its settings."""

from ..bundle.trust import Trust
from ..engine import Engine, Supply
from ..engine.remote import ray_devices
from .devices import device_names
from .settings import Settings


def make_engine(settings: Settings, supply: Supply | None = None) -> Engine:
    """Return the engine of a service. It runs the bundles that there are, and those of the supply as they come; it builds none.

    Raises
    ------
    EngineError
        A device that the settings name is not there, or their Ray cluster cannot be used.
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
