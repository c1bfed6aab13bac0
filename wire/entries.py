"""Read what people write into YAML files: settings, recipes, export configurations, manifests.

Of each mistake a sentence says which file and place it is in, what is accepted, and which name comes nearest.

Pydantic alone would take ``yes`` for the number 1, and its words are about Python; YAML alone would take the last of two values
of one name, and ``010`` for 8.
"""

import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from .accepted import accepted
from .errors import FileError, IsocenterError, nearest
from .plain_files import read_plain

_TAG = "tag:yaml.org,2002:"
_TAKEN_OTHERWISE = {f"{_TAG}{kind}" for kind in ("int", "float", "timestamp")}
_LONGEST = 2**20
_SHOWN = 80

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: a name that is given twice is a mistake, 010 is not 8, 1:30 not 90, and 1e9 a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[object, int] = {}
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in lines:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is given before, in line {lines[name]}", problem_mark=key.start_mark
                )
            lines[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _TAKEN_OTHERWISE]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_add_resolver = cast("Any", _Loader).add_implicit_resolver
_add_resolver(f"{_TAG}int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_add_resolver(
    f"{_TAG}float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"), list("-+.0123456789")
)


class _LoaderOfOthers(_Loader):
    """YAML without references, of which a few lines can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # pyright: ignore[reportUnknownMemberType] - PyYAML's stubs leave it out
            event = cast("Any", self).peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"the reference *{event.anchor} is not accepted: write out what it stands for",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads: quotes around texts that it would take for numbers."""


_Dumper.yaml_implicit_resolvers = {
    first: [*known, *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first, known in yaml.SafeDumper.yaml_implicit_resolvers.items()
}


def write_entries(entries: Mapping[str, Any]) -> bytes:
    """Return the text of a file that ``read_entries`` reads, in their order."""
    return yaml.dump(entries, Dumper=_Dumper, sort_keys=False, allow_unicode=True, encoding="utf-8")


def read_entries(path: Path, what: str, error: type[IsocenterError]) -> dict[str, Any]:
    """Return what a file says, not yet checked; nothing of an empty one.

    Parameters
    ----------
    path
        The file.
    what
        It is, such as ``settings file``.
    error
        To raise.

    Raises
    ------
    IsocenterError
        It cannot be read, or holds no names with values.
    """
    try:
        text = read_plain(path, longest=_LONGEST)
    except FileError as reason:
        raise error(f"{what} {reason.what}", accepted=reason.accepted) from reason
    return parse_entries(text, f"{what} {path}", error)


def parse_entries(text: bytes, where: str, error: type[IsocenterError], *, from_others: bool = False) -> dict[str, Any]:
    """Return what the text of a file says; errors are those of ``read_entries``.

    Parameters
    ----------
    text
        Of the file.
    where
        What it is, and its path.
    error
        To raise.
    from_others
        Whether anybody may have written it: then references are refused.
    """
    if len(text) > _LONGEST:
        raise error(f"{where} cannot be read: it is too long", accepted="up to 1 MiB")
    try:
        content = yaml.load(text.decode("utf-8-sig"), _LoaderOfOthers if from_others else _Loader)  # noqa: S506 - a safe one
    except UnicodeDecodeError as reason:
        raise error(f"{where} cannot be read: it is no text in UTF-8") from reason
    except RecursionError as reason:
        raise error(f"{where} cannot be read: it is nested too deeply") from reason
    except (yaml.YAMLError, ValueError) as reason:
        raise error(f"{where} cannot be read: {_syntax(reason)}") from reason
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise error(f"{where} must hold names and values", accepted="lines such as 'name: value'")
    return cast("dict[str, Any]", content)


def _syntax(error: Exception) -> str:
    """Where a mistake is and what it is, on one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    hint = " (lines are indented with spaces)" if "\\t" in (error.problem or "") else ""
    return f"{where}{error.problem or error.context}{hint}"


@dataclass(frozen=True)
class Mistake:
    """What is wrong with an entry.

    Parameters
    ----------
    place
        Names of the entry and of those that it is in, such as ``masks.acs``; empty: it is between several.
    what
        What is wrong with it.
    accepted
        What would have been right; empty where that says it.
    """

    place: str
    what: str
    accepted: str = ""


def validated(model: type[Model], content: Mapping[str, Any], where: str, error: type[IsocenterError]) -> Model:
    """Return the object that entries describe.

    Parameters
    ----------
    model
        Its class.
    content
        The entries.
    where
        Which file they are from, such as ``recipe mine.yaml``; empty where somebody else says it.
    error
        To raise.

    Raises
    ------
    IsocenterError
        Entries are wrong; the message names every one.
    """
    try:
        made = model.model_validate(content)
    except ValidationError as caught:
        found = mistakes(caught, model, content)
    else:
        found = [
            _mistake(model, place, f"{shown(value)} is not accepted", content) for place, value in _bent(content, made)
        ]
        if not found:
            return made
    sentences = (
        error(each.what, where=": ".join(filter(None, (where, each.place))), accepted=each.accepted) for each in found
    )
    raise error("; also ".join(dict.fromkeys(map(str, sentences))))


def mistakes(caught: ValidationError, model: type[BaseModel], content: object) -> list[Mistake]:
    """Say what pydantic has found in words that are not about Python.

    Parameters
    ----------
    caught
        What it has found.
    model
        Class of the object that was to be made.
    content
        The entries that it was to be made of.
    """
    errors = caught.errors(include_url=False)
    # a list is too short where its values are wrong
    inner = [each for each in errors if not any(_is_in(other["loc"], each["loc"]) for other in errors)]
    return list(dict.fromkeys(_told({**each}, model, content) for each in inner))


def _is_in(loc: Sequence[int | str], other: Sequence[int | str]) -> bool:
    return len(loc) > len(other) and loc[: len(other)] == other


def _told(error: Mapping[str, Any], model: type[BaseModel], content: object) -> Mistake:
    loc, kind, given = error["loc"], error["type"], error["input"]
    reason = error["msg"].removeprefix("Value error, ")
    if kind in ("extra_forbidden", "invalid_key"):
        known = dict.fromkeys(name for each in _field(model, loc[:-1])[1] for name in each.model_fields)
        near = nearest(str(loc[-1]), known)
        what = f"there is no entry {shown(loc[-1])}{near}"
        return Mistake(_place(loc[:-1], content), what, "" if near else ", ".join(known))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        name = error["ctx"]["discriminator"].strip("'")
        _, models = _field(model, loc)
        tags = ", ".join(str(tag) for each in models for tag in get_args(each.model_fields[name].annotation))
        tag = cast("Mapping[str, object]", given).get(name)
        what = "it is missing" if tag is None else f"{shown(tag)} is not accepted{nearest(str(tag), tags.split(', '))}"
        return Mistake(".".join(filter(None, (_place(loc, content), name))), what, tags)
    if kind == "missing" and isinstance(loc[-1], str):
        field, _ = _field(model, loc)
        place = ".".join(filter(None, (_place(loc[:-1], content), loc[-1])))
        return Mistake(place, "it is missing", accepted_by(field) if field is not None else "")
    names = isinstance(given, Mapping)
    if kind == "value_error" and names and _field(model, loc)[1]:
        return Mistake(_place(loc, content), reason)  # of entries that do not fit together
    what = f"{'the name ' * (loc[-1:] == ('[key]',))}{shown(given)} is not accepted"
    if kind == "value_error":
        what += f" ({reason})"
    elif kind == "tuple_type" and isinstance(given, str):
        what += f" (a list is written [{given}])"
    return _mistake(model, loc, what, content)


def _mistake(model: type[BaseModel], loc: Sequence[int | str], what: str, content: object) -> Mistake:
    field, _ = _field(model, loc)
    return Mistake(_place(loc, content), what, accepted_by(field) if field is not None else "")


def accepted_by(field: FieldInfo) -> str:
    """Say what an entry accepts."""
    hint: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return accepted(TypeAdapter(hint))


def _place(loc: Sequence[int | str], content: object) -> str:
    """Name the place of an entry without what pydantic names beside it, as kinds of a union; a list stands for its values."""
    loc = loc[:-2] if loc[-1:] == ("[key]",) else loc
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    names: list[str] = []
    for part in loc:
        if isinstance(content, Mapping):
            entries = cast("Mapping[object, object]", content)
            if part in entries:
                names.append(str(part))
                content = entries[part]
        elif isinstance(content, list) and isinstance(part, int):
            names.append(str(part))
            content = cast("list[object]", content)[part]
    return ".".join(names)


def _field(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[FieldInfo | None, list[type[BaseModel]]]:
    """Return the innermost field on the way to an entry, and the classes of which one is there."""
    field, models = None, [model]
    for part in loc:
        found = [each.model_fields[part] for each in models if part in each.model_fields]
        if found:
            field, models = found[0], list(_models(found[0].annotation))
        else:
            models = [each for each in models if _has_kind(each, part)] or models
    return field, models


def _models(hint: Any) -> Iterator[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for each in get_args(hint):
        yield from _models(each)


def _has_kind(model: type[BaseModel], kind: int | str) -> bool:
    return any(kind in get_args(field.annotation) for field in model.model_fields.values())


def _bent(
    given: object, taken: object, place: tuple[int | str, ...] = ()
) -> Iterator[tuple[tuple[int | str, ...], object]]:
    """Name the entries that were taken for numbers, and are none: true, and texts."""
    if given is taken:
        return
    if isinstance(taken, BaseModel):
        taken = dict(taken)
    if isinstance(given, Mapping) and isinstance(taken, Mapping):
        others = cast("Mapping[str, object]", taken)
        for name, value in cast("Mapping[str, object]", given).items():
            yield from _bent(value, others.get(name), (*place, name))
    elif isinstance(given, list | tuple) and isinstance(taken, list | tuple):
        pairs = zip(cast("Sequence[object]", given), cast("Sequence[object]", taken), strict=False)
        for number, (value, other) in enumerate(pairs):
            yield from _bent(value, other, (*place, number))
    elif isinstance(given, bool | str):
        values = cast("Sequence[object]", taken) if isinstance(taken, tuple) else (taken,)
        if any(isinstance(value, int | float) and type(value) is not type(given) for value in values):
            yield place, given


def shown(value: object) -> str:
    """Show a value as it may be written in the file, not too long."""
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    except (TypeError, ValueError):  # names that are no texts, or what holds itself
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
