"""The command line: all commands in the order of their use. What they have in common is in `frame`."""

from pathlib import Path
from typing import Annotated

import typer

from . import bundles, networks, pipelines, scans
from .frame import USAGE, App, ConfigOption, VerboseOption, out, working
from .view.command import view

_BEGIN, _SERVICE, _NETWORKS = "First steps", "A service and its scans", "Networks"

app: typer.Typer = App(
    name="isocenter",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Inline MRI reconstruction: serves scanners and clients, with classical methods and with networks.\n\n"
    "Example: isocenter demo -o demo",
    epilog="A command ends with status 0 when it is done, 1 when its work failed, 2 when nothing was begun because "
    "arguments, settings or files are wrong, and 130 after Ctrl-C.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import platform

        from ..service.version import version

        out.print(f"isocenter {version()}, torch {version('torch')}, Python {platform.python_version()}", markup=False)
        raise typer.Exit


@app.callback()
def isocenter(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Show the version and end.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Nothing but the options that come before a command."""


def demo(
    folder: Annotated[Path, typer.Option("-o", "--output", help="Folder for all that it makes.")] = Path("demo"),
    acceleration: Annotated[int, typer.Option(min=1, max=12, help="How many times fewer lines are measured.")] = 4,
    phantom: Annotated[str, typer.Option(help="brain or template; the latter needs nilearn (extra train).")] = "brain",
) -> None:
    """Simulate an accelerated head scan, serve, replay it over TCP, and compare the images with the truth.

    Example: isocenter demo -o demo
    """
    from dataclasses import replace

    from ..simulate.scan import check_host
    from .demo import PROTOCOL, run_demo
    from .outputs import check_folder

    check_folder(folder, "--output")
    protocol = replace(PROTOCOL, acceleration=acceleration, phantom=phantom)
    check_host(protocol)
    with working():
        run_demo(folder, out, protocol)


def check(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address that would be listened on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port that would be listened on.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of bundles, noise and pipelines.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = None,
    spool: Annotated[Path | None, typer.Option(help="Folder in which scans would be kept.")] = None,
) -> None:
    """Check what a service would need, before a patient lies in the scanner: settings, devices, folders, bundles, pipelines.

    The status is 2 if there is a fault, with a line for each.

    Example: isocenter check
    """
    from ..service.settings import load_settings
    from .check import report

    if not report(load_settings(config, host=host, port=port, home=home, device=device, spool=spool)):
        raise typer.Exit(USAGE)


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 9012 beside a Gadgetron, 0 for a free one.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of bundles, noise and pipelines.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    spool: Annotated[Path | None, typer.Option(help="Keep every byte received in this folder.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Serve scanners and clients until SIGTERM or Ctrl-C; running scans are finished first. SIGHUP reads the settings again.

    Example: isocenter serve --spool spool
    """
    from ..service.settings import load_settings
    from . import serve as serving

    options = {
        "host": host,
        "port": port,
        "home": home,
        "device": device,
        "spool": spool,
        "log_format": log_format,
    }
    serving.serve(lambda: load_settings(config, **options), log_format=log_format, verbose=verbose)


def session(descriptor: Annotated[int, typer.Argument(help="Number of the file descriptor.")]) -> None:
    """Serve the one connection with this file descriptor, which the process inherited, then end."""
    from . import serve as serving

    serving.serve_one(descriptor)


def deploy(
    folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path("deploy"),
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of files that differ.")] = False,
) -> None:
    """Write the files for systemd: unit, user, environment and settings; see docs/deployment.md for where they go.

    Example: isocenter deploy isocenter-files
    """
    from .deploy import deployment
    from .outputs import check_folder

    check_folder(folder, "FOLDER")
    files = deployment(folder, replace=replace)
    with working():
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
            out.print(str(path), markup=False)


for _panel, _commands in (
    (_BEGIN, (demo, scans.simulate, view)),
    (_SERVICE, (check, serve, scans.replay, scans.recover, deploy)),
    (
        _NETWORKS,
        (networks.models, networks.train, networks.evaluate, networks.export, networks.textures, networks.cache),
    ),
):
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.command(hidden=True)(session)
app.add_typer(pipelines.app, name="pipelines", rich_help_panel=_SERVICE)
app.add_typer(bundles.app, name="bundle", rich_help_panel=_SERVICE)


if __name__ == "__main__":
    app()
