"""What a type accepts, in words for readers: of options of gadgets, settings, recipes and manifests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetJsonSchemaHandler, TypeAdapter

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


@dataclass(frozen=True)
class Named:
    """An annotation that says what the values of a list are, one after the other.

    Parameters
    ----------
    words
        Such as ``the least and the most``.
    """

    words: str

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "title": self.words}


ENDS = Named("the least and the most")


def accepted(kind: TypeAdapter[Any]) -> str:
    """Say what a type accepts, such as ``number from 0 to 1``, or what it is described with."""
    return _words(kind.json_schema())


def _words(schema: Mapping[str, Any]) -> str:
    if "properties" in schema or "$ref" in schema:
        return _KINDS["object"]
    if "description" in schema:
        return schema["description"]
    choices = schema.get("anyOf", schema.get("oneOf"))
    if choices is not None:
        words = list(dict.fromkeys(_words(each) for each in choices))
        words.sort(key=lambda each: ":" in each)  # lists last, whose values' words would run on into the next
        return " or ".join(words)
    if "const" in schema or "enum" in schema:
        values = [str(value) or "nothing" for value in schema.get("enum", [schema.get("const")])]
        return " or ".join(filter(None, [", ".join(values[:-1]), values[-1]]))
    if "prefixItems" in schema:
        named = f" ({schema['title']})" if "title" in schema else ""
        return f"list of {len(schema['prefixItems'])}{named}: {_words(schema['prefixItems'][0])}"
    if schema.get("type") == "array":
        return f"list of: {_words(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        names = ", ".join(schema.get("propertyNames", {}).get("enum", ()))
        return f"{_KINDS['object']}{f' ({names})' if names else ''}: {_words(schema['additionalProperties'])}"
    bounds = [f"{word} {schema[key]:.10g}" for key, word in (_LOWER | _UPPER).items() if key in schema]
    kind = _KINDS.get(schema.get("format", ""), _KINDS.get(schema.get("type", ""), "any value"))
    return " ".join([kind, *bounds])
