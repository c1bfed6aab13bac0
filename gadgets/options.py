"""What is said of a gadget's options to readers: what they accept, by their type hints, and what they mean, by the docstring."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter

_KINDS = {"boolean": "true or false", "integer": "whole number", "number": "number", "string": "text", "null": "none"}
_LOWER = {"minimum": "from", "exclusiveMinimum": "above"}
_UPPER = {"maximum": "to", "exclusiveMaximum": "below"}


def accepted(option: TypeAdapter[Any]) -> str:
    """Say what an option accepts, such as ``number from 0 to 1``."""
    return _words(option.json_schema())


def _words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_words(each) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = [str(value) or "nothing" for value in schema.get("enum", [schema.get("const")])]
        return " or ".join(filter(None, [", ".join(values[:-1]), values[-1]]))
    bounds = [f"{word} {schema[key]:g}" for key, word in (_LOWER | _UPPER).items() if key in schema]
    return " ".join([_KINDS.get(schema.get("type", ""), "any value"), *bounds])


def meanings(function: Callable[..., Any]) -> dict[str, str]:
    """Return what the section ``Parameters`` of a NumPy docstring says of each parameter, on one line."""
    _, _, section = (inspect.getdoc(function) or "").partition("Parameters\n----------\n")
    section = re.split(r"\n\n\w+\n-+\n", section)[0]
    found: dict[str, str] = {}
    for names, text in re.findall(r"^(\w.*)\n((?:[ \t]+.*(?:\n|$)|\n)*)", section, re.MULTILINE):
        meaning = " ".join(text.split()).replace("``", "")
        found |= dict.fromkeys((name.strip() for name in names.partition(":")[0].split(",")), meaning)
    return found
