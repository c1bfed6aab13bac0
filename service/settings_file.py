"""Reads the file of the settings: YAML in which every name is given once."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ..wire.errors import FileError, IsocenterError
from ..wire.plain_files import read_plain

_TAG = "tag:yaml.org,2002:"
_TAKEN_OTHERWISE = {f"{_TAG}{kind}" for kind in ("int", "float", "timestamp")}


class SettingsError(IsocenterError):
    """The settings cannot be read."""

    kind = "settings"


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
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"), list("-+.0123456789")
)


def read_settings(path: Path) -> dict[object, object]:
    """Return what a settings file says, not yet checked.

    Raises
    ------
    SettingsError
        It cannot be read, or holds no names with values.
    """
    try:
        content = yaml.load(read_plain(path).decode("utf-8-sig"), _Loader)  # noqa: S506 - a safe one
    except FileError as error:
        raise SettingsError(f"settings file {error.what}", accepted=error.accepted) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"settings file {path} cannot be read: it is no text in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        raise SettingsError(f"settings file {path} cannot be read: {_reason(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"settings file {path} cannot be read: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"settings file {path} must hold names and values", accepted="lines such as 'port: 9002'")
    return content


def _reason(error: yaml.MarkedYAMLError) -> str:
    """Where a mistake is and what it is, on one line."""
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    hint = " (lines are indented with spaces)" if "\\t" in (error.problem or "") else ""
    return f"{where}{error.problem or error.context}{hint}"
