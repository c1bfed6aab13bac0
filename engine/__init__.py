"""The inference engine: bundles, loaded once, run for all scans on all devices.

``engine`` is what others use. ``machine`` decides what is done next, in the words of ``events``; ``crew`` has the threads that
do it. ``jobs`` says what goes in and comes out, ``device`` and ``model`` are what runs a bundle, ``choice`` says which runtime
does, ``remote`` has devices of other hosts through Ray, ``supply`` knows what is still being built.
"""

from .engine import Engine, Model
from .jobs import EngineError, Result
from .model import LoadedModel
from .supply import Supply

__all__ = ["Engine", "EngineError", "LoadedModel", "Model", "Result", "Supply"]
