"""Build the bundles that come with Isocenter, where they are missing or were made from something else."""

from ..export.build import DEFAULT_FORMATS, SHIPPED_FORMATS
from ..export.classical import ensure_classical
from ..export.shipped import ensure_shipped
from ..service.settings import Settings


def prepare_bundles(settings: Settings, *, networks: bool = True, onnx: bool = False) -> None:
    """Build what is missing.

    Parameters
    ----------
    settings
        Bundles go to ``bundles`` in their home.
    networks
        Whether to build the shipped networks, too. A process that serves one scan has no time for it.
    onnx
        Whether the bundles must have ONNX, too, which takes minutes to write; they also get it where the settings pin a runtime
        that reads it.

    Raises
    ------
    BundleError
        One of them cannot be built.
    """
    folder = settings.home / "bundles"
    formats = DEFAULT_FORMATS if onnx or settings.runtime in ("onnx", "tensorrt") else SHIPPED_FORMATS
    ensure_classical(folder, formats)
    if networks:
        ensure_shipped(folder, formats)
