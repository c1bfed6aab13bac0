"""Operations that export may put another form in place of, as a whole.

torch has a protocol for this: functions that take tensors announce their calls, and a ``TorchFunctionMode`` may answer them
instead. Functions with this decorator take part in it as torch's own do. Eager mode and TorchScript run the function as it is
written.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

P = ParamSpec("P")


def replaceable(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Announce the calls of a function, whose arguments are given by position, to torch's function modes."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        tensors = tuple(value for value in args if isinstance(value, Tensor))
        if has_torch_function(tensors):
            return handle_torch_function(call, tensors, *args, **kwargs)
        return function(*args, **kwargs)

    # what torch.jit.script compiles in place of this wrapper
    call.__prepare_scriptable__ = lambda: function  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
    return call
