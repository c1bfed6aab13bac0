"""Commands on bundles: list, prepare, show, install, keygen, sign, verify, bench."""

import hashlib
import logging
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from . import names
from .frame import FAILED, App, ConfigOption, out, print_table, usage, working

if TYPE_CHECKING:
    import torch

    from ..bundle.folder import Bundle
    from ..bundle.manifest import Domain
    from ..engine.device import Shelf
    from ..service.settings import Settings
    from .progress import Bars

app: typer.Typer = App(help="Bundles: the reconstructions that pipelines name.\n\nExample: isocenter bundle list")

BundleArgument = Annotated[Path, typer.Argument(help="Its folder, or its name.", autocompletion=names.bundles)]


_NOT_BUILT = "not built yet: built when it is first used, or by `isocenter bundle prepare`"


@app.command("list")
def list_bundles(config: ConfigOption = None) -> None:
    """List the bundles: what is built and has passed the gate, sizes, what they were made for, and how exact they are.

    Example: isocenter bundle list
    """
    from ..service.settings import load_settings
    from .shipped import NAMES

    settings = load_settings(config)
    available = _shelf(settings).available()
    out.print(f"{'bundle':<14} {'gate':<10} {'size':>8}  {'network':<18} {'made for':<44} deviates by", markup=False)
    for name in sorted({*available, *NAMES}):
        line = _listed(available[name], settings) if name in available else _NOT_BUILT
        out.print(f"{name:<14} {line}", markup=False)


def _shelf(settings: "Settings") -> "Shelf":
    from ..bundle.trust import Trust
    from ..engine.device import Shelf

    return Shelf(settings.bundle_folders, Trust.of(settings.home, settings.keys))


def _listed(folder: Path, settings: "Settings") -> str:
    """Describe a bundle in a line."""
    from ..wire.errors import IsocenterError
    from .find_bundle import open_bundle

    try:
        manifest = open_bundle(folder, settings).manifest
    except IsocenterError as error:
        return f"cannot be used: {error}"
    gate = "not tried" if manifest.gate is None else "passed" if manifest.gate.passed else "not passed"
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    parity = ", ".join(f"{runtime} {value.error:.0e}" for runtime, value in manifest.parity.items())
    return f"{gate:<10} {size:5.1f} MB  {manifest.network:<18} {_domain(manifest.domain):<44} {parity}"


def _domain(domain: "Domain") -> str:
    """Describe what a bundle was made for, as far as it says."""
    ranges = {"R": domain.acceleration, "coils": domain.coils, "matrix": domain.matrix}
    parts = ["/".join(domain.dimensions).upper(), *domain.anatomy]
    parts += [f"{name} {low:g}-{high:g}" for name, (low, high) in ((n, r) for n, r in ranges.items() if r is not None)]
    return ", ".join(part for part in parts if part)


@app.command()
def prepare(
    config: ConfigOption = None,
    home: Annotated[Path | None, typer.Option(help="Folder of bundles, noise and pipelines.")] = None,
    runtime: Annotated[str | None, typer.Option(help="The only runtime that the service will use.")] = None,
    onnx: Annotated[
        bool,
        typer.Option(
            "--onnx", help="Write ONNX, too, where they can have it: slower to prepare, faster for varnet-brain."
        ),
    ] = False,
    build_only: Annotated[bool, typer.Option("--build-only", help="Build, and run no probes.")] = False,
    sign: Annotated[
        bool, typer.Option("--sign", help="Sign them with this host's key; so do settings with keys.")
    ] = False,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
) -> None:
    """Build the bundles that come with Isocenter and are missing, and run the probe of every bundle.

    Example: isocenter bundle prepare
    """
    from ..service.logs import configure_logging
    from ..service.settings import load_settings
    from .outputs import check_folder
    from .prepare import formats_of, prepare_bundles
    from .progress import bars

    settings = load_settings(config, home=home, runtime=runtime, log_format=log_format)
    configure_logging(settings.log_format, private=True)
    check_folder(settings.home / "bundles", "--home")
    formats_of(settings, onnx=onnx)
    with working(), bars() as shown:
        if shown.are_drawn:
            logging.getLogger("isocenter").setLevel(logging.WARNING)
        prepare_bundles(settings, onnx=onnx, sign=sign, shown=shown)
        if not build_only:
            _probe(settings, shown)


def _probe(settings: "Settings", shown: "Bars") -> None:
    from ..service.host import make_engine

    engine = make_engine(settings)
    names = sorted(engine.available())
    for number, name in enumerate(names):
        for device in engine.devices:
            shown.update("probes run", number, len(names), at=f"({name})")
            device.load(name)
            out.print(f"{name:<20} passed its probe on {device.name}", markup=False)
    engine.close()


@app.command("build-wanted", hidden=True)
def build_wanted(
    home: Annotated[Path, typer.Option()],
    runtime: Annotated[str, typer.Option()],
    log_format: Annotated[str, typer.Option()],
    sign: Annotated[bool, typer.Option("--sign")] = False,
) -> None:
    """Build the bundles that are named on standard input, for a service that started this and reads the answers."""
    from ..service.logs import configure_logging
    from ..service.outside import only_the_log
    from ..service.settings import load_settings
    from .builder import build_wanted as build

    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what others print is no answer
        settings = load_settings(None, home=home, runtime=runtime, log_format=log_format)
        configure_logging(settings.log_format, private=True)
        with only_the_log():
            build(settings, sys.stdin, answers, sign=sign)


@app.command()
def show(bundle: BundleArgument, config: ConfigOption = None) -> None:
    """Show what a bundle takes, returns, was made from, how exact it is, who signed it, and its report card from the gate.

    Example: isocenter bundle show sense
    """
    import yaml

    from ..service.settings import load_settings
    from .find_bundle import open_bundle

    opened = open_bundle(bundle, load_settings(config))
    signature, card = _signature(opened), _card(opened)
    content = opened.manifest.model_dump(mode="json", exclude={"files"})
    out.print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), markup=False, end="")
    for name in opened.manifest.files:
        out.print(f"{name:<12} {(opened.folder / name).stat().st_size / 1e6:8.2f} MB", markup=False)
    out.print(signature, markup=False)
    out.print(card, markup=False, end="")


def _card(bundle: "Bundle") -> str:
    from ..bundle.folder import read_listed
    from ..bundle.manifest import CARD_TEXT

    if bundle.manifest.gate is None:
        return "it has not been through the gate: `isocenter evaluate --gate`\n"
    return "\n" + read_listed(bundle.folder / CARD_TEXT, bundle.manifest).decode(errors="replace")


def _signature(bundle: "Bundle") -> str:
    from ..bundle.files import read_regular
    from ..bundle.manifest import SIGNATURE
    from ..bundle.minisign import Signature

    path = bundle.folder / SIGNATURE
    if bundle.signer is not None:
        return f"signed by key {bundle.signer}, which is trusted here"
    if path.is_file():
        return f"signed by key {Signature.parse(read_regular(path)).signer}, which is not known here"
    return "not signed"


@app.command()
def install(
    folder: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    name: Annotated[str | None, typer.Option(help="What it is to be called; default: as its folder.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of another one of this name.")] = False,
    config: ConfigOption = None,
) -> None:
    """Copy a bundle to where pipelines find it by name, after checking its hashes, and its signature where settings have keys.

    The folder is what `isocenter export -o bundles/mine` has written, or somebody sent.

    Example: isocenter bundle install bundles/mine
    """
    from ..service.settings import load_settings
    from .find_bundle import how_to_name, open_bundle, place_of
    from .find_bundle import install as install_bundle

    settings, name = load_settings(config), name or folder.resolve().name
    place_of(name, settings, replace=replace)
    open_bundle(folder, settings)
    with working():
        place = install_bundle(folder, name, settings, replace=replace)
    out.print(f"bundle in {place}; {how_to_name(place, settings)}", markup=False)


@app.command()
def keygen(output: Annotated[Path, typer.Option("-o", "--output", help="File of the secret key.")]) -> None:
    """Make a key that signs bundles: a secret file, and beside it OUTPUT.pub, whose second line belongs into settings.

    Example: isocenter bundle keygen -o mine.key
    """
    from ..bundle.minisign import SecretKey
    from .outputs import check_file

    key = SecretKey.generate()
    public = output.with_name(f"{output.name}.pub")
    for path in (output, public):
        check_file(path, "--output")
    key.write(output)  # never over another
    with working():
        public.write_text(
            f"untrusted comment: minisign public key {key.public}\n{key.public.line()}\n", encoding="utf-8"
        )
    out.print(f"secret key in {output}, without a password: keep it where nobody else can read it", markup=False)
    out.print(f"keys: [{key.public.line()}]", markup=False)


@app.command()
def sign(
    bundle: BundleArgument,
    key: Annotated[Path, typer.Option(help="File of the secret key, or one of minisign -G -W.")],
    config: ConfigOption = None,
) -> None:
    """Sign a bundle's manifest, which holds the hashes of its files; like minisign -S -m model.yaml.

    The key is from `isocenter bundle keygen -o mine.key`, the bundle from `isocenter export -o mine`.

    Example: isocenter bundle sign mine --key mine.key
    """
    from ..bundle.folder import Bundle
    from ..bundle.manifest import MANIFEST, SIGNATURE
    from ..bundle.minisign import SecretKey
    from ..service.settings import load_settings
    from .find_bundle import find

    secret = SecretKey.read(key)
    folder = find(bundle, load_settings(config))
    opened = Bundle.open(folder)
    content = (folder / MANIFEST).read_bytes()
    if hashlib.sha256(content).hexdigest() != opened.manifest.digest:
        usage(f"{folder / MANIFEST} has just changed")
    partial = folder.with_name(f".{folder.name}.minisig")
    with working():
        partial.write_text(secret.sign(content), encoding="utf-8")
        partial.replace(folder / SIGNATURE)
    out.print(f"bundle {opened.manifest.name} is signed by key {secret.public}", markup=False)


@app.command()
def verify(
    bundle: BundleArgument,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    config: ConfigOption = None,
) -> None:
    """Check the hashes of a bundle, its signature, and that every runtime reproduces its probe here.

    Example: isocenter bundle verify sense
    """
    from ..bundle.folder import relative_error
    from ..engine.commission import load_runtime
    from ..service.settings import load_settings
    from .find_bundle import open_bundle
    from .progress import bars

    place = _device(device)
    opened = open_bundle(bundle, load_settings(config))
    failed = False
    with working(), bars() as shown:
        inputs, expected = opened.probe()
        files = opened.runtime_files()
        for number, (name, path) in enumerate(files.items()):
            shown.update("runtimes tried", number, len(files))
            runtime = load_runtime(opened, name, path, place)
            error = relative_error(runtime.infer(inputs), expected)
            passed = error <= opened.manifest.tolerance
            failed = failed or not passed
            verdict = "passed" if passed else f"FAILED, accepted is {opened.manifest.tolerance:.0e}"
            out.print(
                f"{name:<12} deviates by {error:.1e} of the maximum: {verdict}; {runtime.description}", markup=False
            )
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def bench(
    bundle: BundleArgument,
    matrix: Annotated[str, typer.Option(help="Samples along ky and kx, and coils: 320x320x15.")] = "256x256x8",
    frames: Annotated[
        int, typer.Option(min=1, max=65535, help="Of a series, where the bundle reconstructs series.")
    ] = 8,
    repetitions: Annotated[int, typer.Option(min=1, max=10**6, help="How often each runtime is timed.")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    config: ConfigOption = None,
) -> None:
    """Measure how long every runtime takes for one slice or series; the service then uses the fastest on such a device.

    Example: isocenter bundle bench sense --matrix 128x128x8
    """
    from ..engine import choice
    from ..engine.commission import commission
    from ..export.cases import make_case
    from ..service.settings import load_settings
    from .bench_memory import check_memory
    from .find_bundle import open_bundle
    from .progress import bars

    ky, kx, coils = _sizes(matrix)
    sizes = {"batch": 1, "coils": coils, "frames": frames, "kz": 1, "ky": ky, "kx": kx}
    place = _device(device)
    opened = open_bundle(bundle, load_settings(config))
    specs = opened.manifest.inputs
    check_memory(specs, sizes)
    with working(), bars() as shown:
        shown.update("measuring", 0)
        runtimes = commission(opened, place)
        if place.type == "cpu":
            check_memory(specs, sizes, runtimes)
        inputs = make_case(specs, sizes, acs=24, spacing=4, phantom=True)
        first = {
            name: 1000 * choice.timed(lambda runtime=runtime: runtime.infer(inputs))
            for name, runtime in runtimes.items()
        }
        chosen = choice.choose(runtimes, inputs, place, repetitions, math.inf)
        choice.remember(opened, place, chosen)
    table = Table("runtime", "first [ms]", "best [ms]", "to the fastest")
    shortest = chosen.milliseconds[chosen.runtime]
    for name, milliseconds in chosen.milliseconds.items():
        table.add_row(name, f"{first[name]:.1f}", f"{milliseconds:.1f}", f"{milliseconds / shortest:.2f}")
    print_table(table)
    together = f"up to {chosen.batch} slices that wait together" if chosen.batch > 1 else "slices one by one"
    out.print(f"the service will use {chosen.runtime} here, {together}", markup=False)
    if chosen.is_doubtful:
        out.print("other programs kept the processor busy: measure again without them", markup=False)


def _sizes(text: str) -> list[int]:
    sizes = [int(part) for part in text.split("x") if part.isascii() and part.isdecimal() and len(part) <= 5]
    if len(sizes) != 3 or text.count("x") != 2 or not all(1 <= size <= 65535 for size in sizes):
        usage(f"--matrix is {text!r}; accepted: KYxKXxCOILS, such as 320x320x15, each from 1 to 65535")
    return sizes


def _device(name: str) -> "torch.device":
    """Return a device that is there."""
    import torch

    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name not in there and not (name == "cuda" and len(there) > 1):
        usage(f"--device is {name!r}, which is not here; accepted: {', '.join(there)}")
    return torch.device(name)
