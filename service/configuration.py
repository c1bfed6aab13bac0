"""Which pipeline a peer's configuration stands for, and whether it may have it."""

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .. import gadgets
from ..pipelines import loader
from ..pipelines.loader import ExternalStep, FireStep, Pipeline
from ..pipelines.parameters import OF_THE_SERVICE, choose
from ..wire.errors import nearest
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
    yield from OF_THE_SERVICE
    for name in gadgets.GADGETS:
        yield from gadgets.load(name).parameters
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
    OptionError
        An option of a gadget is wrong.
    """
    meant = settings.aliases.get(name, name)
    if meant in settings.fire_modules:
        return Pipeline(meant, (FireStep(settings.fire_modules[meant], meant),))
    try:
        return _allowed(loader.load(meant, settings.pipeline_folders), settings, sent=False)
    except loader.PipelineError as error:
        if error.kind != loader.NO_SUCH_PIPELINE:
            raise
        if meant != name:
            what = (
                f"the settings say that {name!r} is {meant!r}, which is no pipeline{_nearest_pipeline(meant, settings)}"
            )
            raise loader.PipelineError(what, kind=error.kind) from error
        if settings.default_pipeline is None:
            what = f"there is no pipeline {name[:80]!r}{_nearest_pipeline(name, settings)}"
            accepted = ", ".join(_pipeline_names(settings))
            raise loader.PipelineError(what, accepted=accepted, kind=error.kind) from error
        log.warning("configuration %r is not known: using %s", name[:80], settings.default_pipeline)
    pipeline = _allowed(loader.load(settings.default_pipeline, settings.pipeline_folders), settings, sent=False)
    return replace(pipeline, stands_in_for=name)


def substitution(pipeline: Pipeline) -> str:
    """Say that a pipeline stands in for one that is not known; empty if it is the one that was asked for."""
    asked = pipeline.stands_in_for
    return f"configuration {asked[:80]!r} is not known: pipeline {pipeline.name!r} is used instead" if asked else ""


def _pipeline_names(settings: Settings) -> list[str]:
    """Names by which a client may ask for a pipeline."""
    return sorted({*loader.available(settings.pipeline_folders), *settings.aliases, *settings.fire_modules})


def _nearest_pipeline(name: str, settings: Settings) -> str:
    known = _pipeline_names(settings)
    return nearest(name, known) or nearest(f"{name.removesuffix('.xml')}.xml", known)


def with_parameters(
    pipeline: Pipeline,
    parameters: Mapping[str, Any],
    settings: Settings,
    log: logging.Logger | logging.LoggerAdapter[logging.Logger],
) -> Pipeline:
    """Return a pipeline, or the one that a scan's parameters name in its place, with the options that they choose.

    Parameters
    ----------
    pipeline
        The one that the configuration stands for.
    parameters
        Of the scan. ``customconfig`` or ``config`` names another pipeline, as FIRE does it.
    settings, log
        As for ``pipeline_by_name``.

    Raises
    ------
    PipelineError
        As for ``pipeline_by_name``.
    OptionError
        A parameter has a value that is not accepted.
    """
    name = parameters.get("customconfig") or parameters.get("config")
    return choose(pipeline_by_name(str(name), settings, log) if name else pipeline, parameters)


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
