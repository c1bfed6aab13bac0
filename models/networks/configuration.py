"""The configuration of a network: arguments of its class that people write into recipes and export configurations."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from ...wire.entries import validated
from ...wire.errors import OptionError

_LEAST = {"calibration_lines": 0, "num_cascades": 0, "knots": 2, "nodes": 2}
"""Of numbers that are no counts from one on. Calibration lines are found where there are none given; without cascades the
sensitivity model of E2E-VarNet is trained by itself."""
_MOST = 65535


def check_configuration(make: Callable[..., object], configuration: Mapping[str, Any]) -> None:
    """Refuse a configuration that a network's class does not have, by the type hints of its arguments.

    Whole numbers are counts, of iterations, channels, layers or the like: there is one at least, without which a network would
    have no effect, or none of its own.

    Parameters
    ----------
    make
        Its class.
    configuration
        Arguments by name, not all of them.

    Raises
    ------
    OptionError
        There is no such argument, or it does not take that value; every one is named.
    """
    content = {"configuration": dict(configuration)}
    validated(_model(make), content, "", OptionError)


@cache
def _model(make: Callable[..., object]) -> type[BaseModel]:
    hints = get_type_hints(make.__init__ if isinstance(make, type) else make)
    fields: dict[str, Any] = {
        each.name: (_counting(hints[each.name], _LEAST.get(each.name, 1)), each.default)
        for each in inspect.signature(make).parameters.values()
    }
    strict = ConfigDict(extra="forbid", allow_inf_nan=False)
    arguments = create_model("Arguments", __config__=strict, **fields)
    return create_model("Configuration", __config__=strict, configuration=(arguments, ...))


def _counting(hint: Any, least: int) -> Any:
    """Bound the whole numbers in a hint."""
    if hint is int:
        return Annotated[int, Field(ge=least, le=_MOST)]
    parts = tuple(_counting(each, least) for each in get_args(hint))
    if get_origin(hint) is tuple:
        return tuple[parts]
    return reduce(or_, parts) if get_origin(hint) in (UnionType, Union) else hint
