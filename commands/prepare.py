"""Build the bundles that come with Isocenter, where they are missing or were made from something else."""

from collections.abc import Collection

from ..export.build import DEFAULT_FORMATS, SHIPPED_FORMATS
from ..export.classical import METHODS, ensure_classical
from ..export.shipped import SHIPPED, ensure_shipped
from ..service.settings import Settings
from . import stamp


def ships(name: str) -> bool:
    """Whether a bundle comes with Isocenter."""
    return name in METHODS or name in SHIPPED


def prepare_bundles(
    settings: Settings, *, networks: bool = True, onnx: bool = False, only: Collection[str] | None = None
) -> None:
    """Build what is missing, or was made from something else.

    Parameters
    ----------
    settings
        Bundles go to ``bundles`` in their home.
    networks
        Whether to build the shipped networks, too. A process that serves one scan has no time for it.
    onnx
        Whether the bundles must have ONNX, too, which takes minutes to write; they also get it where the settings pin a runtime
        that reads it.
    only
        Names of the bundles to look at; None: all.

    Raises
    ------
    BundleError
        One of them cannot be built.
    """
    folder = settings.home / "bundles"
    formats = DEFAULT_FORMATS if onnx or settings.runtime in ("onnx", "tensorrt") else SHIPPED_FORMATS
    bundles = ensure_classical(folder, formats, only)
    if networks:
        bundles += ensure_shipped(folder, formats, only)
        if only is None:
            stamp.write(settings, [bundle.manifest.name for bundle in bundles])
