"""An element tree into the dataclasses of ``ismrmrd.xsd``: what is missing is None, what cannot be read is noted."""

import base64
import binascii
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import TypeVar, cast, get_args, get_origin, get_type_hints
from xml.etree.ElementTree import Element

from ismrmrd import xsd
from xsdata.models.datatype import XmlDate, XmlTime

from .markup import Notes

NEAR = 0.01
"""How far from a whole number a value may be that has to be one."""

_NUMBER = re.compile(r"([+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(?:mm|m|ms|s|T|Hz|kg|deg)?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_SHOWN_PART, _PRIVATE_PART = "encoding[", ".userParameter"
"""Of the header, only the values of encodings are shown, and of these no parameters of the site's own."""
_SIZES = (xsd.matrixSizeType, xsd.fieldOfViewMm)
"""Their values stay text where they cannot be read: whether they are needed is known only with the other space's."""
_ROUNDED_UP = (xsd.accelerationFactorType,)
_BARE = {xsd.accelerationFactorType: "kspace_encoding_step_1", xsd.multibandType: "multiband_factor"}
"""The only number that an element can mean that has text in the place of children."""

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class _Field:
    name: str
    type: type
    is_list: bool
    required: bool


@cache
def _fields(schema_type: type) -> dict[str, _Field]:
    """Fields of a dataclass by a name that does not depend on how it is written."""
    hints = get_type_hints(schema_type)
    found: dict[str, _Field] = {}
    for each in fields(schema_type):
        hint = hints[each.name]
        is_list = get_origin(hint) is list
        inner = [part for part in get_args(hint) if part is not type(None)]
        required = each.default is MISSING and each.default_factory is MISSING
        found[_plain(each.name)] = _Field(each.name, inner[0] if inner else hint, is_list, required)
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name).casefold()


def read_element(element: Element, schema_type: type[Parsed], notes: Notes, path: str = "") -> Parsed:
    """Fill a dataclass of ``ismrmrd.xsd`` from an element.

    What is missing or cannot be read is None, elements that the schema does not know are ignored, of those that
    should come once the first is taken. Enums of unknown value, and sizes that are no numbers, stay text.

    Parameters
    ----------
    element
        Element, named without namespace.
    schema_type
        Dataclass of ``ismrmrd.xsd``.
    notes
        Is told what was amiss.
    path
        Where the element stands in the header.
    """
    known = _fields(schema_type)
    lists: dict[str, list[object]] = {each.name: [] for each in known.values() if each.is_list}
    values: dict[str, object] = {each.name: lists.get(each.name) for each in known.values()}
    seen: set[str] = set()
    for child in _children(element, schema_type):
        each = known.get(_plain(child.tag))
        if each is None:
            continue
        where = f"{path}.{each.name}" if path else each.name
        if child.tag != each.name:
            notes.accept(f"{where} is written {child.tag!r}")
        if each.name in seen and not each.is_list:
            notes.accept(f"{where} is there more than once; the first is taken")
            continue
        seen.add(each.name)
        if each.name == "encoding":
            where += f"[{len(lists[each.name])}]"
        value = _read_value(child, each.type, schema_type, where, notes)
        if not each.is_list:
            values[each.name] = value
        elif value is not None:
            lists[each.name].append(value)
    for each in known.values():
        if each.required and each.name not in seen:
            notes.accept(f"{path}.{each.name} is missing" if path else f"{each.name} is missing")
    return schema_type(**values)


def complete_element(parsed: object) -> None:
    """Give an element that was read what its schema requires and it lacks: empty elements and texts, and zeros."""
    for each in _fields(type(parsed)).values():
        value: object = getattr(parsed, each.name)
        if value is None and each.required:
            value = _nothing(each.type)
            setattr(parsed, each.name, value)
        for inner in cast("list[object]", value) if isinstance(value, list) else [value]:
            if is_dataclass(inner):
                complete_element(inner)


def _nothing(kind: type) -> object:
    """Return the value that says nothing; enums have none, and are empty."""
    if is_dataclass(kind):
        return read_element(Element(""), kind, Notes())
    return kind() if kind in (int, float, bytes) else ""


def _children(element: Element, schema_type: type) -> list[Element]:
    children = list(element)
    if not children and schema_type in _BARE and _text(element):
        children = [Element(_BARE[schema_type])]
        children[0].text = element.text
    return children


def _read_value(element: Element, kind: type, owner: type, where: str, notes: Notes) -> object:
    if is_dataclass(kind):
        return read_element(element, kind, notes, where)
    if kind is str:
        return element.text or ""
    text = _text(element)
    members = tuple(kind) if issubclass(kind, Enum) else ()
    value = _read_enum(text, members) if members else _CONVERTERS[kind](text, owner)
    if value is None and owner in _SIZES:
        return text or None
    if value is None:
        notes.accept(f"{where}{_shown(where, text)} cannot be read and is left out")
    elif isinstance(value, str):
        notes.accept(f"{where}{_shown(where, text)} is not one of {', '.join(each.value for each in members)}")
    elif not _is_plain(text, value):
        taken = getattr(value, "value", value)
        notes.accept(f"{where}{_shown(where, text)} is taken as {'what is meant' if _is_private(where) else taken}")
    return value


def _text(element: Element) -> str:
    return (element.text or "").strip()


def _is_private(where: str) -> bool:
    return not where.startswith(_SHOWN_PART) or _PRIVATE_PART in where


def _shown(where: str, text: str) -> str:
    return "" if _is_private(where) else f" {text[:40]!r}"


def _is_plain(text: str, value: object) -> bool:
    """Whether a value is written as the schema wants it."""
    if isinstance(value, Enum):
        return text == value.value
    if isinstance(value, int):
        return _WHOLE.fullmatch(text) is not None
    return not isinstance(value, float) or ("," not in text and text[-1] in "0123456789.")


def _read_enum(text: str, members: tuple[Enum, ...]) -> Enum | str | None:
    """Return the member that is meant, or the text where there is none."""
    meant = [each for each in members if _plain(each.value) == _plain(text)]
    return meant[0] if meant else text or None


def read_number(text: str) -> float | None:
    """Read a number as it is written anywhere in the world; None where it is none, or is not finite."""
    match = _NUMBER.fullmatch(text.strip())
    value = float(match[1].replace(",", ".")) if match else math.nan
    return value if math.isfinite(value) else None


def _read_int(text: str, owner: type) -> int | None:
    if _WHOLE.fullmatch(text):
        return int(text)
    value = read_number(text)
    if value is None:
        return None
    if abs(value - round(value)) <= NEAR:
        return round(value)
    if owner in _SIZES:
        return None
    return math.ceil(value) if owner in _ROUNDED_UP else math.floor(value + 0.5)


def _read_bytes(text: str, _owner: type) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _read_with(parse: Callable[[str], object]) -> Callable[[str, type], object]:
    def read(text: str, _owner: type) -> object:
        try:
            return parse(text)
        except ValueError:
            return None

    return read


_CONVERTERS: dict[type, Callable[[str, type], object]] = {
    int: _read_int,
    float: lambda text, _owner: read_number(text),
    bytes: _read_bytes,
    XmlDate: _read_with(XmlDate.from_string),
    XmlTime: _read_with(XmlTime.from_string),
}
