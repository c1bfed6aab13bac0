"""Inline MRI reconstruction: speaks Gadgetron's and FIRE's protocol, runs exported networks.

::

    import isocenter

    images = isocenter.reconstruct("scan.h5", pipeline="sense.xml")
    scan = isocenter.open_scan("scan.h5")
    bundle = isocenter.load_bundle("varnet-brain")

Importing it imports next to nothing; what a name needs is imported when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from .commands.api import LoadedBundle, OpenScan, ReconstructionWarning, load_bundle, open_scan, reconstruct

    __version__: str

__all__ = [
    "LoadedBundle",
    "OpenScan",
    "ReconstructionWarning",
    "__version__",
    "load_bundle",
    "open_scan",
    "reconstruct",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.import_module(".service.version", __name__).version()
    if name in __all__:
        return getattr(importlib.import_module(".commands.api", __name__), name)
    raise AttributeError(f"module 'isocenter' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# the finder's and loader's protocols without importlib.abc, which takes longer to import than all of this
class _MovedModules:
    """Finds modules under the names that they had before: ``isocenter.models.training`` is ``isocenter.training``."""

    old = f"{__name__}.models.training"
    new = f"{__name__}.training"

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name != self.old and not name.startswith(f"{self.old}."):
            return None
        import warnings
        from importlib.machinery import ModuleSpec

        moved = self.new + name.removeprefix(self.old)
        warnings.warn(f"{name} has moved to {moved}", DeprecationWarning, stacklevel=2)
        return ModuleSpec(name, self, origin=moved, is_package=name == self.old)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(str(spec.origin))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is: it was executed under its own name, which the import has just taken from it."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


# first, or its files would be found in the folder of the moved package and executed once more
sys.meta_path.insert(0, _MovedModules())  # type: ignore[arg-type]
