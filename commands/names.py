"""Names that a shell completes: read from folders, since a shell does not wait for more."""

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
