"""Commands on bundles: list, prepare, show, verify, bench."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from ..wire.errors import IsocenterError

if TYPE_CHECKING:
    from ..service.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Bundles: the reconstructions that pipelines name.")
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file (YAML).")]


@app.command("list")
def list_bundles(config: ConfigOption = None) -> None:
    """List the bundles and how they deviate from the module that they were made from."""
    from ..bundle.folder import Bundle
    from ..engine.device import Shelf
    from ..service.settings import load_settings

    for name, path in sorted(Shelf(load_settings(config).bundle_folders).available().items()):
        try:
            manifest = Bundle.open(path).manifest
        except IsocenterError as error:
            out.print(f"{name:<20} damaged: {error}", markup=False)
            continue
        parity = ", ".join(f"{runtime} {value.error:.0e}" for runtime, value in manifest.parity.items())
        out.print(f"{name:<20} {manifest.version:<8} {manifest.network:<20} {parity}", markup=False)


@app.command()
def prepare(
    config: ConfigOption = None,
    home: Annotated[Path | None, typer.Option(help="Folder of bundles, noise and pipelines.")] = None,
    runtime: Annotated[str | None, typer.Option(help="The only runtime that the service will use.")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write their ONNX files as well, which takes minutes.")] = False,
    build_only: Annotated[bool, typer.Option("--build-only", help="Build, and run no probes.")] = False,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
) -> None:
    """Build the bundles that come with Isocenter and are missing, and run the probe of every bundle."""
    from ..service.logs import configure_logging
    from ..service.settings import load_settings

    try:
        settings = load_settings(config, home=home, runtime=runtime, log_format=log_format)
        configure_logging(settings.log_format, private=True)
        _prepare(settings, onnx=onnx, build_only=build_only)
    except IsocenterError as error:
        _fail(error)


def _prepare(settings: "Settings", *, onnx: bool, build_only: bool) -> None:
    from ..service.host import make_engine
    from .prepare import prepare_bundles

    prepare_bundles(settings, onnx=onnx)
    if build_only:
        return
    engine = make_engine(settings)
    for name in sorted(engine.available()):
        for device in engine.devices:
            device.load(name)
            out.print(f"{name:<20} passed its probe on {device.name}", markup=False)
    engine.close()


@app.command()
def show(folder: Path) -> None:
    """Show what a bundle takes, returns, was made from, and how exact it is."""
    import yaml

    from ..bundle.folder import Bundle

    try:
        bundle = Bundle.open(folder)
    except IsocenterError as error:
        _fail(error)
    content = bundle.manifest.model_dump(mode="json", exclude={"files"})
    out.print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), markup=False, end="")
    for name in bundle.manifest.files:
        out.print(f"{name:<12} {(folder / name).stat().st_size / 1e6:8.2f} MB", markup=False)


@app.command()
def verify(folder: Path, device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu") -> None:
    """Check the hashes of a bundle, and that every runtime reproduces its probe here."""
    import torch

    from ..bundle.folder import Bundle, relative_error
    from ..engine.runtimes import RUNTIMES

    failed = False
    try:
        bundle = Bundle.open(folder)
        inputs, expected = bundle.probe()
        for name, path in bundle.runtime_files().items():
            runtime = RUNTIMES[name](path, bundle.manifest, torch.device(device))
            error = relative_error(runtime.run(inputs), expected)
            passed = error <= bundle.manifest.tolerance
            failed = failed or not passed
            verdict = "passed" if passed else f"FAILED, accepted is {bundle.manifest.tolerance:.0e}"
            out.print(
                f"{name:<12} deviates by {error:.1e} of the maximum: {verdict}; {runtime.description}", markup=False
            )
    except IsocenterError as error:
        _fail(error)
    if failed:
        raise typer.Exit(1)


@app.command()
def bench(
    folder: Path,
    matrix: Annotated[str, typer.Option(help="Samples along ky and kx, and coils: 320x320x15.")] = "256x256x8",
    frames: Annotated[int, typer.Option(min=1)] = 8,
    repetitions: Annotated[int, typer.Option(min=1)] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Measure how long every runtime takes for one slice or series; the service then uses the fastest on such a device."""
    import torch

    from ..bundle.folder import Bundle
    from ..engine import choice
    from ..engine.commission import commission
    from ..export.cases import make_case

    try:
        ky, kx, coils = (int(part) for part in matrix.split("x"))
    except ValueError:
        _fail(f"--matrix is {matrix!r}; accepted is KYxKXxCOILS, such as 320x320x15")
    sizes = {"batch": 1, "coils": coils, "frames": frames, "kz": 1, "ky": ky, "kx": kx}
    place = torch.device(device)
    try:
        bundle = Bundle.open(folder)
        inputs = make_case(bundle.manifest.inputs, sizes, acs=24, spacing=4, phantom=True)
        runtimes = commission(bundle, place)
    except IsocenterError as error:
        _fail(error)
    first = {
        name: 1000 * choice.timed(lambda runtime=runtime: runtime.run(inputs)) for name, runtime in runtimes.items()
    }
    measured = choice.choose(runtimes, inputs, place, repetitions, math.inf)
    choice.remember(bundle, place, measured)
    table = Table("runtime", "first [ms]", "best [ms]", "to the fastest")
    shortest = measured.milliseconds[measured.runtime]
    for name, milliseconds in measured.milliseconds.items():
        table.add_row(name, f"{first[name]:.1f}", f"{milliseconds:.1f}", f"{milliseconds / shortest:.2f}")
    out.print(table)
    together = f"up to {measured.batch} slices that wait together" if measured.batch > 1 else "slices one by one"
    out.print(f"the service will use {measured.runtime} here, {together}", markup=False)
    if measured.is_doubtful:
        out.print("other programs kept the processor busy: measure again without them", markup=False)


def _fail(error: Exception | str) -> NoReturn:
    err.print(f"error: {error}", markup=False)
    raise typer.Exit(1)
