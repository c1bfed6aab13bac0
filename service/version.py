"""Which version of Isocenter this is."""

import importlib.metadata

NOT_INSTALLED = "unknown (not installed)"
"""Of a source tree that was put on Python's path."""


def version(package: str = "isocenter") -> str:
    """Return the version of an installed package, or ``NOT_INSTALLED``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED
