"""The engine of a service, from its settings."""

import torch

from ...export.build import DEFAULT_FORMATS, SHIPPED_FORMATS
from ...export.classical import ensure_classical
from ...export.shipped import ensure_shipped
from ..settings import Settings
from .engine import Engine
from .remote import ray_devices


def device_names(wanted: str) -> list[str]:
    """Return the devices that a setting names: ``auto``, or names separated by commas."""
    if wanted != "auto":
        return [name.strip() for name in wanted.split(",")]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]


def make_engine(settings: Settings, *, networks: bool = True, onnx: bool = False) -> Engine:
    """Return the engine of a service, with the bundles that come with Isocenter at hand.

    Parameters
    ----------
    settings
        Of the service.
    networks
        Whether to build the shipped networks where they are missing. A process that serves one scan has no time for it.
    onnx
        Whether the bundles that come with Isocenter must have ONNX, too, which takes minutes to write; they also get it where the
        settings pin a runtime that reads it.

    Raises
    ------
    BundleError
        One of them cannot be built.
    """
    # cuDNN's convolutions use TF32 unless they are told not to
    torch.backends.cudnn.allow_tf32 = False
    folder = settings.home / "bundles"
    formats = DEFAULT_FORMATS if onnx or settings.runtime in ("onnx", "tensorrt") else SHIPPED_FORMATS
    ensure_classical(folder, formats)
    if networks:
        ensure_shipped(folder, formats)
    return Engine(
        settings.bundle_folders,
        devices=device_names(settings.device) if settings.ray is None else ray_devices(settings),
        runtime=settings.runtime,
        default_network=settings.network,
        deadline=settings.deadline,
        queue_bytes=settings.queue_bytes,
    )
