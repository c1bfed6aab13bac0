"""Oddities by name: what real scanners, sequences and converters do against their own headers, done on purpose."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...wire.errors import nearest
from ..errors import SimulationError
from ..scan import SimulatedScan

Change = Callable[..., SimulatedScan]


@dataclass(frozen=True)
class Oddity:
    """One thing that is odd about a scan.

    Attributes
    ----------
    name
        By which it is asked for.
    change
        ``(scan, random, **parameters)`` to the odd scan; the one given stays as it is. ``SimulationError`` where the scan
        has nothing of that kind.
    """

    name: str
    change: Change

    @property
    def summary(self) -> str:
        """One line that says what it does."""
        return (self.change.__doc__ or "").strip().splitlines()[0]

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults of what can be chosen."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.change).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }

    def parse(self, text: str) -> dict[str, Any]:
        """Parse ``name=value,name=value`` into parameters.

        Raises
        ------
        SimulationError
            A parameter is not known or given twice, or its value is of the wrong type.
        """
        found = {}
        for entry in filter(None, text.split(",")):
            key, _, value = entry.partition("=")
            if key not in self.parameters:
                accepted = ", ".join(self.parameters) or "none"
                raise SimulationError(f"oddity {self.name!r} has no parameter {key!r}", accepted=accepted)
            if key in found:
                raise SimulationError(f"parameter {key!r} of oddity {self.name!r} is given twice")
            kind = type(self.parameters[key])
            try:
                found[key] = _TRUTH[value.lower()] if kind is bool else kind(value)
            except (ValueError, KeyError):
                raise SimulationError(
                    f"parameter {key!r} of oddity {self.name!r} is {value!r}", accepted=_ACCEPTED[kind]
                ) from None
        return found


_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_ACCEPTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}

ODDITIES: dict[str, Oddity] = {}


def oddity(change: Change) -> Change:
    """Register a function as the oddity of its name."""
    name = change.__name__.replace("_", "-")
    ODDITIES[name] = Oddity(name, change)
    return change


def make_odd(scan: SimulatedScan, request: str, random: np.random.Generator) -> SimulatedScan:
    """Apply an oddity by ``name`` or ``name:parameter=value,...``.

    Raises
    ------
    SimulationError
        There is none of that name, a parameter is wrong, or the scan has nothing that it could change.
    """
    found, parameters = _find(request)
    return found.change(scan, random, **parameters)


def check_oddity(request: str) -> None:
    """Make sure that there is such an oddity and that its parameters are right; ``SimulationError`` as in ``make_odd``."""
    _find(request)


def _find(request: str) -> tuple[Oddity, dict[str, Any]]:
    name, _, parameters = request.partition(":")
    if name not in ODDITIES:
        raise SimulationError(
            f"oddity {name!r} is not known{nearest(name, ODDITIES)}", accepted=", ".join(sorted(ODDITIES))
        )
    return ODDITIES[name], ODDITIES[name].parse(parameters)
