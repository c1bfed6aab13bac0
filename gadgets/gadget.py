"""What a gadget is: a function over a stream of items whose options are its keyword arguments, and what it says of itself."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints, overload

from pydantic import TypeAdapter, ValidationError

from ..wire.accepted import accepted
from ..wire.errors import OptionError, nearest
from ..wire.header import Encoding
from .kspace import Item
from .scan import Scan

if TYPE_CHECKING:
    from .early import EarlyWork

LARGEST = 1e9
"""No option needs a larger number; whoever sends a pipeline could make a scan take any time or memory with it."""
Stream = Iterator[Item]
Options = Mapping[str, Any]


class FromChain:
    """Marks a keyword argument that is no option: whoever chains the gadgets of a scan gives it, or nobody."""


@dataclass(frozen=True)
class FromClient:
    """Marks an option that the client of a scan may choose by a parameter, where the pipeline leaves it open.

    Type, range and default are the option's, its meaning is what the docstring says of it: there is no other place where a
    parameter is declared. ``Annotated[float, Field(ge=0, le=1), FromClient("lambda")]``.

    Attributes
    ----------
    name
        Of the parameter; that of the option unless it is given.
    """

    name: str = ""


@dataclass(frozen=True)
class Traits:
    """What a gadget says of itself to those who run it, so that they need not know it by name. Options come with defaults.

    Attributes
    ----------
    takes
        Types of items without which it has nothing to do; none where that depends.
    makes
        Types of items that it makes of others.
    waits
        Whether it mostly waits, for readouts or for the engine, so that the time that passes in it is not its own.
    early
        Adds its part to what ``accumulate`` does before the last line is in.
    bundles
        Names of the bundles that it will run, in the order in which it tries them, by the site's default bundle and its options.
    sizes
        Lengths of axes of the blocks that it makes, as far as the header tells.
    joins
        Whether it joins blocks of single frames to series.
    """

    takes: tuple[type, ...] = ()
    makes: tuple[type, ...] = ()
    waits: bool = False
    early: "Callable[[EarlyWork, Scan, Options], EarlyWork] | None" = None
    bundles: Callable[[str | None, Options], list[str]] | None = None
    sizes: Callable[[Encoding, Options], dict[str, int]] | None = None
    joins: bool = False


class Gadget:
    """A step of a reconstruction. Calling it chains it onto a stream; ``parse`` turns XML properties into its options."""

    def __init__(self, function: Callable[..., Stream], traits: Traits) -> None:
        self.function = function
        self.traits = traits
        self.name: str = function.__name__
        hints = get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())[2:]
        self.from_chain: frozenset[str] = frozenset(
            each.name for each in parameters if FromChain in get_args(hints[each.name])
        )
        own = [parameter for parameter in parameters if parameter.name not in self.from_chain]
        self.options: dict[str, TypeAdapter[Any]] = {
            parameter.name: TypeAdapter(hints[parameter.name]) for parameter in own
        }
        self.defaults: dict[str, Any] = {parameter.name: parameter.default for parameter in own}
        self.parameters: dict[str, str] = {
            mark.name or each.name: each.name for each in own for mark in _marks(hints[each.name], FromClient)
        }
        update_wrapper(self, function)

    def __call__(self, items: Stream, scan: Scan, **options: Any) -> Stream:
        return self.function(items, scan, **options)

    def __repr__(self) -> str:
        return f"<gadget {self.name}: {self.summary}>"

    @property
    def summary(self) -> str:
        """First line of the documentation."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def parse(self, properties: Mapping[str, str]) -> dict[str, Any]:
        """Parse the text values of XML properties by the type hints of the options.

        Raises
        ------
        OptionError
            An option does not exist, lacks a value it needs, or does not accept the value given.
        """
        unknown = [name for name in properties if name not in self.options]
        if unknown:
            known = ", ".join(self.options) or "none"
            near = nearest(unknown[0], self.options)
            raise OptionError(f"it has no option {unknown[0]!r}{near}", where=f"gadget {self.name!r}", accepted=known)
        missing = [
            n for n, default in self.defaults.items() if default is inspect.Parameter.empty and n not in properties
        ]
        if missing:
            raise OptionError(f"its option {missing[0]!r} needs a value", where=f"gadget {self.name!r}")
        return {
            name: self.parse_option(name, text, f"gadget {self.name!r}, option {name!r}")
            for name, text in properties.items()
        }

    def parse_option(self, name: str, text: str, where: str) -> Any:
        """Parse the text value of one option.

        Raises
        ------
        OptionError
            It is not accepted; ``where`` says which one it is in the eyes of whoever has set it.
        """
        what = f"{text[:40]!r} is not accepted"
        try:
            value = self.options[name].validate_python(text)
        except ValidationError as error:
            raise OptionError(what, where=where, accepted=accepted(self.options[name])) from error
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            raise OptionError(what, where=where, accepted=f"numbers up to {LARGEST:g}")
        return value


_Mark = TypeVar("_Mark")


def _marks(hint: Any, kind: type[_Mark]) -> list[_Mark]:
    """What of a kind a hint is annotated with."""
    return [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, kind)]


@overload
def gadget(function: Callable[..., Stream], /) -> Gadget: ...
@overload
def gadget(
    *,
    takes: tuple[type, ...] = ...,
    makes: tuple[type, ...] = ...,
    waits: bool = ...,
    early: "Callable[[EarlyWork, Scan, Options], EarlyWork] | None" = ...,
    bundles: Callable[[str | None, Options], list[str]] | None = ...,
    sizes: Callable[[Encoding, Options], dict[str, int]] | None = ...,
    joins: bool = ...,
) -> Callable[[Callable[..., Stream]], Gadget]: ...
def gadget(function: Callable[..., Stream] | None = None, /, **traits: Any) -> Any:
    """Make a gadget of a generator function ``(items, scan, *, options...)``; keyword arguments are its ``Traits``."""
    if function is not None:
        return Gadget(function, Traits())
    return lambda function: Gadget(function, Traits(**traits))
