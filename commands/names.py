"""Names on the command line: those that a shell completes, read from folders since a shell does not wait for more; and pairs."""

from collections.abc import Iterable
from pathlib import Path

_SHIPPED = Path(__file__).parent.parent / "pipelines"


def pipelines(incomplete: str) -> list[str]:
    """Names of pipelines that begin so: of those that come with Isocenter, and of the home's."""
    from ..wire.home import default_home

    folders = (_SHIPPED, default_home() / "pipelines")
    return sorted(
        {path.name for folder in folders for path in folder.glob("*.xml") if path.name.startswith(incomplete)}
    )


def bundles(incomplete: str) -> list[str]:
    """Names of bundles that begin so: of the home's."""
    from ..wire.home import default_home

    found = (path.parent.name for path in (default_home() / "bundles").glob("*/model.yaml"))
    return sorted(name for name in found if name.startswith(incomplete))


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
