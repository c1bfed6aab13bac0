"""Commands on pipelines: list them, check one."""

from pathlib import Path
from typing import Annotated

import typer

from .frame import Commands, ConfigOption, out, working

app: typer.Typer = typer.Typer(cls=Commands, invoke_without_command=True)


@app.callback()
def pipelines(context: typer.Context, config: ConfigOption = None) -> None:
    """List the pipelines, one line each; or check one.

    Example: isocenter pipelines
    """
    if context.invoked_subcommand is not None:
        return
    from ..pipelines import loader
    from ..service.configuration import register_gadgets
    from ..service.settings import load_settings
    from ..wire.errors import IsocenterError

    settings = load_settings(config)
    register_gadgets(settings)
    folders = settings.pipeline_folders
    for name, path in sorted(loader.available(folders).items()):
        try:
            summary = loader.load(name, folders).summary
        except IsocenterError as error:
            summary = f"cannot be used: {error}"
        out.print(f"{name:<40} {summary or path}", markup=False)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="Its file, or its name.")], config: ConfigOption = None) -> None:
    """Check a pipeline, by its file or its name, and show the steps that it has here.

    Example: isocenter pipelines check sense.xml
    """
    from ..pipelines import loader
    from ..service.configuration import register_gadgets
    from ..service.settings import load_settings

    settings = load_settings(config)
    register_gadgets(settings)
    if not file.is_file():
        file = loader.find(str(file), settings.pipeline_folders)
    content = file.read_bytes()
    with working():
        pipeline = loader.parse(content, file.name, (file.parent, *settings.pipeline_folders))
    for step in pipeline.steps:
        if isinstance(step, loader.GadgetStep):
            options = ", ".join(f"{name}={value}" for name, value in step.options.items())
            out.print(f"{step.gadget.name:<24} {options}", markup=False)
        else:
            out.print(f"{'external':<24} {step.title}", markup=False)
    out.print(f"{file} is valid; its steps have the SHA-256 {pipeline.digest}", markup=False)
