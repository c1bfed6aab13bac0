"""Names on the command line: those that a shell completes, read from files since a shell does not wait for more; and pairs."""

import ast
from collections.abc import Iterable
from pathlib import Path

from .shipped import NAMES

_ROOT = Path(__file__).parent.parent


def pipelines(incomplete: str) -> list[str]:
    """Names of pipelines that begin so: of those that come with Isocenter, and of the home's."""
    from ..wire.home import default_home

    folders = (_ROOT / "pipelines", default_home() / "pipelines")
    return _beginning(incomplete, (path.name for folder in folders for path in folder.glob("*.xml")))


def bundles(incomplete: str) -> list[str]:
    """Names of bundles that begin so: of those that come with Isocenter, built or not, and of the home's."""
    from ..wire.home import default_home

    found = (path.parent.name for path in (default_home() / "bundles").glob("*/model.yaml"))
    return _beginning(incomplete, (*NAMES, *found))


def recipes(incomplete: str) -> list[str]:
    """Names of recipes that begin so: of those that come with Isocenter."""
    return _beginning(incomplete, (path.stem for path in (_ROOT / "recipes").glob("*.yaml")))


def networks(incomplete: str) -> list[str]:
    """Names of networks that begin so, from the text of the registry: to import it takes seconds."""
    tree = ast.parse((_ROOT / "models" / "networks" / "registry.py").read_bytes())
    entries = (
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "NETWORKS"
    )
    keys = (key for entry in entries if isinstance(entry, ast.Dict) for key in entry.keys)
    return _beginning(incomplete, (str(key.value) for key in keys if isinstance(key, ast.Constant)))


def _beginning(incomplete: str, found: Iterable[str]) -> list[str]:
    return sorted({name for name in found if name.startswith(incomplete) and not name.startswith(".")})


def parameter_pairs(entries: Iterable[str]) -> dict[str, str]:
    """Take parameters apart that are given as ``name=value``, each once.

    Raises
    ------
    OptionError
        One has no name or no value, or a name is given twice.
    """
    from ..wire.errors import OptionError

    found: dict[str, str] = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not (name.strip() and separator):
            raise OptionError(f"{entry!r} must be name=value", where="--parameter")
        if name in found:
            raise OptionError(f"{name!r} is given twice: {found[name]!r} and {value!r}", where="--parameter")
        found[name] = value
    return found
