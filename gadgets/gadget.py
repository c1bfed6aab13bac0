"""What a gadget is: a function over a stream of items whose options are its keyword arguments."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import update_wrapper
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ..wire.errors import OptionError
from .kspace import Item
from .scan import Scan

Stream = Iterator[Item]


class Gadget:
    """A step of a reconstruction. Calling it chains it onto a stream; ``parse`` turns XML properties into its options."""

    def __init__(self, function: Callable[..., Stream]) -> None:
        self.function = function
        self.name: str = function.__name__
        hints = get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())[2:]
        self.options = {parameter.name: TypeAdapter(hints[parameter.name]) for parameter in parameters}
        self.defaults = {parameter.name: parameter.default for parameter in parameters}
        update_wrapper(self, function)

    def __call__(self, items: Stream, scan: Scan, **options: Any) -> Stream:
        return self.function(items, scan, **options)

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
            accepted = ", ".join(self.options) or "none"
            raise OptionError(f"gadget {self.name!r} has no option {unknown[0]!r}; its options are: {accepted}")
        missing = [
            n for n, default in self.defaults.items() if default is inspect.Parameter.empty and n not in properties
        ]
        if missing:
            raise OptionError(f"gadget {self.name!r} needs a value for its option {missing[0]!r}")
        return {name: self._parse_option(name, text) for name, text in properties.items()}

    def _parse_option(self, name: str, text: str) -> Any:
        try:
            return self.options[name].validate_python(text)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise OptionError(f"gadget {self.name!r}, option {name!r}: {text!r} is not accepted: {reason}") from error


def gadget(function: Callable[..., Stream]) -> Gadget:
    """Make a gadget of a generator function ``(items, scan, *, options...)``."""
    return Gadget(function)
