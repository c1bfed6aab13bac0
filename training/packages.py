"""Versions of what a training computes with, for the record."""

import importlib.metadata

_NAMES = ("isocenter", "torch", "numpy", "scipy", "ismrmrd", "h5py")


def packages() -> dict[str, str]:
    """Return the versions of the packages that are installed, by name."""
    versions = {}
    for name in _NAMES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
