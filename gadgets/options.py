"""What is said of a gadget's options to readers: what they accept, by their type hints, and what they mean, by the docstring."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter

_KINDS = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "null": "nothing",
    "object": "names with a value each",
    "path": "path",
    "ipv4network": "IPv4 network",
    "ipv6network": "IPv6 network",
}
"""Words for the formats and types of JSON schemas."""
_LOWER = {"minimum": "from", "exclusiveMinimum": "above"}
_UPPER = {"maximum": "to", "exclusiveMaximum": "below"}


def accepted(option: TypeAdapter[Any]) -> str:
    """Say what an option accepts, such as ``number from 0 to 1``, or what its type is described with."""
    return _words(option.json_schema())


def as_text(value: object) -> str:
    """Write the value of an option as pipelines and clients do."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(schema: Mapping[str, Any]) -> str:
    if "description" in schema:
        return schema["description"]
    if "anyOf" in schema:
        return " or ".join(_words(each) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = [str(value) or "nothing" for value in schema.get("enum", [schema.get("const")])]
        return " or ".join(filter(None, [", ".join(values[:-1]), values[-1]]))
    if schema.get("type") == "array":
        return f"list of: {_words(schema.get('items', {}))}"
    bounds = [f"{word} {schema[key]:.10g}" for key, word in (_LOWER | _UPPER).items() if key in schema]
    kind = _KINDS.get(schema.get("format", ""), _KINDS.get(schema.get("type", ""), "any value"))
    return " ".join([kind, *bounds])


def meanings(documented: Callable[..., Any], section: str = "Parameters") -> dict[str, str]:
    """Return what a section of a NumPy docstring says of each of its names, on one line."""
    _, _, text = (inspect.getdoc(documented) or "").partition(f"{section}\n{'-' * len(section)}\n")
    text = re.split(r"\n\n\w+\n-+\n", text)[0]
    found: dict[str, str] = {}
    for names, said in re.findall(r"^(\w.*)\n((?:[ \t]+.*(?:\n|$)|\n)*)", text, re.MULTILINE):
        meaning = " ".join(said.split()).replace("``", "")
        found |= dict.fromkeys((name.strip() for name in names.partition(":")[0].split(",")), meaning)
    return found
