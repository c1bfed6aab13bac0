"""Which pipeline a peer's configuration stands for, and whether it may have it."""

import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .. import gadgets
from ..pipelines import loader
from ..pipelines.loader import ExternalStep, FireStep, Pipeline
from .logs import show_names
from .settings import Settings


def register_gadgets(settings: Settings) -> None:
    """Make a site's own gadgets known to the pipelines of this process.

    Raises
    ------
    OptionError
        One cannot be imported, or is no gadget.
    """
    sys.path[:0] = [str(path) for path in settings.python_path if str(path) not in sys.path]
    gadgets.register(settings.gadgets)
    show_names(names_of_the_site(settings))


def names_of_the_site(settings: Settings) -> Iterator[str]:
    """Names that no scan has brought, and that may be shown."""
    yield from (*Settings.model_fields, *gadgets.available())
    yield from (*settings.aliases, *settings.fire_modules, *settings.fire_modules.values(), *settings.handlers)
    for name in loader.available(settings.pipeline_folders):
        yield from (name, name.removesuffix(".xml"))
    for folder in settings.bundle_folders:
        yield from (path.name for path in folder.glob("*/"))


def pipeline_by_name(
    name: str, settings: Settings, log: logging.Logger | logging.LoggerAdapter[logging.Logger]
) -> Pipeline:
    """Return a pipeline by its name, its other name in the settings, or the name of a FIRE module.

    Raises
    ------
    PipelineError
        There is none and the settings name no other, or it cannot be run here.
    """
    folders = settings.pipeline_folders
    name = settings.aliases.get(name, name)
    if name in settings.fire_modules:
        return Pipeline(name, (FireStep(settings.fire_modules[name], name),))
    try:
        pipeline = loader.load(name, folders)
    except loader.PipelineError:
        fallback = settings.default_pipeline
        if fallback is None or {name, f"{name}.xml"} & loader.available(folders).keys():
            raise
        log.warning("configuration %r is not known: using %s", name[:80], fallback)
        pipeline = loader.load(fallback, folders)
    return _allowed(pipeline, settings, sent=False)


def pipeline_by_parameters(
    parameters: Mapping[str, Any], settings: Settings, log: logging.Logger | logging.LoggerAdapter[logging.Logger]
) -> Pipeline | None:
    """Return the pipeline that a scan's parameters name (``customconfig``, ``config``), as FIRE does it; None if they name none.

    Raises
    ------
    PipelineError
        As for ``pipeline_by_name``.
    """
    name = parameters.get("customconfig") or parameters.get("config")
    return pipeline_by_name(str(name), settings, log) if name else None


def pipeline_by_text(xml: bytes, settings: Settings) -> Pipeline:
    """Return the pipeline that a peer has sent.

    Raises
    ------
    PipelineError
        It cannot be read, or cannot be run here.
    """
    return _allowed(loader.parse(xml, "configuration", settings.pipeline_folders), settings, sent=True)


def _allowed(pipeline: Pipeline, settings: Settings, *, sent: bool) -> Pipeline:
    """Refuse programs that the site does not list: a peer never names code, and a sent pipeline never names an address."""
    for step in pipeline.steps:
        if not isinstance(step, ExternalStep):
            continue
        if step.module:
            name = f"{step.module}.{step.target}"
            if name not in settings.handlers:
                raise loader.PipelineError(
                    f"external module {name!r} is not listed under 'handlers' in the service's settings"
                )
        elif sent and f"{step.address}:{step.port}" not in settings.connect:
            raise loader.PipelineError(
                f"external address '{step.address}:{step.port}' is not listed under 'connect' in the service's settings"
            )
    return pipeline
