"""Commands on pipelines: list, show, check."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from . import names
from .frame import App, ConfigOption, err, out, print_table, usage

if TYPE_CHECKING:
    from ..pipelines.loader import Pipeline
    from ..service.settings import Settings

app: typer.Typer = App(invoke_without_command=True)
NameArgument = Annotated[
    Path,
    typer.Argument(metavar="NAME", help="Its name on the server, or its file.", autocompletion=names.pipelines),
]


@app.callback()
def pipelines(context: typer.Context, config: ConfigOption = None) -> None:
    """List the pipelines, one line each; or show or check one.

    Example: isocenter pipelines
    """
    if context.invoked_subcommand is not None:
        if config is not None:
            usage(f"--config belongs behind `pipelines {context.invoked_subcommand}`, which reads it")
        return
    from ..pipelines import loader
    from ..wire.errors import IsocenterError

    folders = _settings(config).pipeline_folders
    for name, path in sorted(loader.available(folders).items()):
        try:
            summary = loader.load(name, folders).summary
        except IsocenterError as error:
            summary = f"cannot be used: {error}"
        out.print(f"{name:<40} {summary or path}", markup=False)


@app.command()
def show(name: NameArgument, config: ConfigOption = None) -> None:
    """Show what a pipeline does, its steps, and the parameters that a client may send.

    Example: isocenter pipelines show network
    """
    from ..pipelines.parameters import OF_THE_SERVICE, parameters_of

    settings = _settings(config)
    pipeline = _pipeline(name, settings)
    out.print(f"{pipeline.name}: {pipeline.summary or 'without a description'}", markup=False)
    out.print("\nSteps", markup=False)
    _print_steps(pipeline)
    out.print(f"\nParameters, as in: isocenter replay -f SCAN -c {pipeline.name} --parameter NAME=VALUE", markup=False)
    table = Table("name", "accepted", "default", "meaning", box=None, pad_edge=False)
    for each in (*parameters_of(pipeline).values(), *OF_THE_SERVICE.values()):
        table.add_row(each.name, each.accepted, each.default or "(see meaning)", each.meaning)
    print_table(table)


@app.command()
def check(
    name: NameArgument,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", help="name=value, as a client would send it; may be given several times."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Check a pipeline with its bundles, and parameters for it, and show the steps that it has here.

    Example: isocenter pipelines check network --parameter bundle=modl-brain
    """
    from ..pipelines.order import limits
    from ..pipelines.parameters import choose, complaint
    from ..wire.errors import PipelineError
    from .named_bundles import bundle_faults

    given = names.parameter_pairs(parameter or ())
    settings = _settings(config)
    pipeline = choose(_pipeline(name, settings), given)
    _print_steps(pipeline)
    if faults := [*filter(None, [complaint(pipeline, given)]), *bundle_faults(pipeline, settings)]:
        raise PipelineError("; ".join(faults), where=pipeline.name)
    for limit in limits(pipeline):
        err.print(f"note: {limit}", markup=False)
    out.print(f"{name} is valid; its steps have the SHA-256 {pipeline.digest}", markup=False)


def _settings(config: Path | None) -> "Settings":
    from ..service.configuration import register_gadgets
    from ..service.settings import load_settings

    settings = load_settings(config)
    register_gadgets(settings)
    return settings


def _pipeline(name: Path, settings: "Settings") -> "Pipeline":
    """Load a pipeline from a file, or else by the name by which a client would ask for it."""
    from ..pipelines import loader
    from ..service.configuration import pipeline_by_name
    from ..wire.errors import FileError
    from ..wire.plain_files import read_plain

    if name.is_file():
        return loader.parse(read_plain(name), name.name, (name.parent, *settings.pipeline_folders))
    if name.exists():
        raise FileError(f"{name} is no plain file", accepted="a pipeline's file, or its name on the server")
    strict = settings.model_copy(update={"default_pipeline": None})
    return pipeline_by_name(str(name), strict, logging.getLogger("isocenter.pipelines"))


def _print_steps(pipeline: "Pipeline") -> None:
    from ..gadgets.options import as_text
    from ..pipelines import loader

    for step in pipeline.steps:
        if isinstance(step, loader.GadgetStep):
            options = ", ".join(f"{name}={as_text(value)}" for name, value in step.settled.items())
            out.print(f"{step.gadget.name:<24} {options}".rstrip(), markup=False)
        else:
            out.print(f"{'external':<24} {step.title}", markup=False)
