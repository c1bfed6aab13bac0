"""Follow lengths that a module reads from its data, which torch's tracer gives up on.

Some programs look for the calibration lines and cut there: ``x[..., int(start) : int(end)]``. Python's ``int`` asks for a number
at once; what the tracer would need is the tensor's ``item()``. And they ask ``if torch.tensor(padding).sum() != 0`` of numbers
that are known all along.
"""

import builtins
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

_NUMBERS = (Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item)
"""What makes Python's numbers of a tensor."""


class _LikeInt(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, builtins.int)


class _FollowedInt(builtins.int, metaclass=_LikeInt):
    """Python's ``int``, except that of a tensor it gives the number that the tracer follows."""

    def __new__(cls, value: Any = 0, *base: Any) -> Any:
        return value.item() if isinstance(value, Tensor) else builtins.int(value, *base)


@contextmanager
def following(module: nn.Module) -> Iterator[None]:
    """Inside this context, the code of a module's package converts tensors to lengths that the tracer can follow."""
    # a module may be loaded under several names
    places = {id(place): place for place in _code_of(module) if "int" not in vars(place)}.values()
    for place in places:
        vars(place)["int"] = _FollowedInt
    try:
        with KnownNumbers():
            yield
    finally:
        for place in places:
            del vars(place)["int"]


def _code_of(module: nn.Module) -> list[ModuleType]:
    """Return the loaded Python modules of the packages that a module's classes are from, and of those that these name."""
    own = _loaded({type(part).__module__.split(".")[0] for part in module.modules()})
    named = (value for code in own for value in vars(code).values())
    names = (getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", None) for value in named)
    return own + _loaded({name.split(".")[0] for name in names if isinstance(name, str)}, own)


def _loaded(packages: set[str], known: Sequence[ModuleType] = ()) -> list[ModuleType]:
    """Return the loaded Python modules of packages, but for torch, this one, Python itself and those that are known."""
    packages = packages - {"torch", "numpy", __name__.split(".")[0], *sys.stdlib_module_names}
    return [
        loaded
        for name, loaded in list(sys.modules.items())
        if name.split(".")[0] in packages and isinstance(loaded, ModuleType) and loaded not in known
    ]


class KnownNumbers(TorchFunctionMode):
    """Computes small tensors that are made of Python's numbers alone beside the tracer, so that code may ask for their values."""

    def __init__(self) -> None:
        super().__init__()
        # with the traced tensors themselves, so that no other one gets their identity
        self._values: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, and remember its result where it is known."""
        del types
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        known = all(id(tensor) in self._values for tensor in tensors)
        known = known and (bool(tensors) or func is torch.tensor)
        known = known and not any(isinstance(leaf, torch.SymInt | torch.SymFloat | torch.SymBool) for leaf in leaves)
        if known and func in _NUMBERS:
            return self._compute(func, args, kwargs)
        result = func(*args, **kwargs)
        if known and isinstance(result, Tensor):
            self._values[id(result)] = (result, self._compute(func, args, kwargs))
        return result

    def _compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        real_args, real_kwargs = tree_map(
            lambda leaf: self._values[id(leaf)][1] if isinstance(leaf, Tensor) else leaf, (args, kwargs)
        )
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return func(*real_args, **real_kwargs)
