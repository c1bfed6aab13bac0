"""Where Isocenter keeps what it makes."""

import os
from pathlib import Path


def default_home() -> Path:
    """Folder for bundles, noise covariances, pipelines and prepared scans: ``ISOCENTER_HOME``, or ``~/.isocenter``."""
    return Path(os.environ.get("ISOCENTER_HOME", Path.home() / ".isocenter"))
