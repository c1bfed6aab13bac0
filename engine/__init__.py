"""The inference engine: bundles, loaded once, run for all scans on all devices.

``engine`` is what others use. ``jobs`` has the queue, ``worker`` the thread of a device, ``device`` and ``model`` what runs a
bundle, ``choice`` which runtime does, ``remote`` devices of other hosts through Ray.
"""

from .engine import Engine, Model
from .jobs import EngineError, Result
from .model import LoadedModel

__all__ = ["Engine", "EngineError", "LoadedModel", "Model", "Result"]
