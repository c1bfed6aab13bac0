"""Commands on bundles: list, prepare, show, keygen, sign, verify, bench."""

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from .frame import FAILED, Commands, ConfigOption, out, usage, working

if TYPE_CHECKING:
    import torch

    from ..bundle.folder import Bundle
    from ..bundle.trust import Trust
    from ..service.settings import Settings

app: typer.Typer = typer.Typer(cls=Commands, help="Bundles: the reconstructions that pipelines name.")


@app.command("list")
def list_bundles(config: ConfigOption = None) -> None:
    """List the bundles and how they deviate from the module that they were made from.

    Example: isocenter bundle list
    """
    from ..engine.device import Shelf
    from ..service.settings import load_settings
    from ..wire.errors import IsocenterError

    shelf = Shelf(load_settings(config).bundle_folders, _trust(config))
    for name in sorted(shelf.available()):
        try:
            manifest = shelf.open(name).manifest
        except IsocenterError as error:
            out.print(f"{name:<20} cannot be used: {error}", markup=False)
            continue
        parity = ", ".join(f"{runtime} {value.error:.0e}" for runtime, value in manifest.parity.items())
        out.print(f"{name:<20} {manifest.version:<8} {manifest.network:<20} {parity}", markup=False)


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

    settings = load_settings(config, home=home, runtime=runtime, log_format=log_format)
    configure_logging(settings.log_format, private=True)
    check_folder(settings.home / "bundles", "--home")
    with working():
        _prepare(settings, onnx=onnx, build_only=build_only, sign=sign)


def _prepare(settings: "Settings", *, onnx: bool, build_only: bool, sign: bool) -> None:
    from ..service.host import make_engine
    from .prepare import prepare_bundles

    prepare_bundles(settings, onnx=onnx, sign=sign)
    if build_only:
        return
    engine = make_engine(settings)
    for name in sorted(engine.available()):
        for device in engine.devices:
            device.load(name)
            out.print(f"{name:<20} passed its probe on {device.name}", markup=False)
    engine.close()


@app.command()
def show(bundle: Annotated[Path, typer.Argument(help="Its folder, or its name.")], config: ConfigOption = None) -> None:
    """Show what a bundle takes, returns, was made from, how exact it is, who signed it, and its report card from the gate.

    Example: isocenter bundle show sense
    """
    import yaml

    opened = _open(bundle, config)
    signature, card = _signature(opened), _card(opened)
    content = opened.manifest.model_dump(mode="json", exclude={"files"})
    out.print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), markup=False, end="")
    for name in opened.manifest.files:
        out.print(f"{name:<12} {(opened.folder / name).stat().st_size / 1e6:8.2f} MB", markup=False)
    out.print(signature, markup=False)
    out.print(card, markup=False, end="")


def _open(bundle: Path, config: Path | None) -> "Bundle":
    """Open a bundle that is given by its folder, or by its name where there is no such folder."""
    from ..bundle.folder import Bundle
    from ..engine.device import Shelf
    from ..service.settings import load_settings

    if bundle.is_dir() or bundle.name != str(bundle):
        return Bundle.open(bundle, _trust(config))
    return Shelf(load_settings(config).bundle_folders, _trust(config)).open(bundle.name)


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
    folder: Annotated[Path, typer.Argument(help="The bundle's.")],
    key: Annotated[Path, typer.Option(help="File of the secret key, or one of minisign -G -W.")],
) -> None:
    """Sign a bundle's manifest, which holds the hashes of its files; like minisign -S -m model.yaml.

    Example: isocenter bundle sign bundles/mine --key mine.key
    """
    from ..bundle.folder import Bundle
    from ..bundle.manifest import MANIFEST, SIGNATURE
    from ..bundle.minisign import SecretKey

    secret = SecretKey.read(key)
    bundle = Bundle.open(folder)
    content = (folder / MANIFEST).read_bytes()
    if hashlib.sha256(content).hexdigest() != bundle.manifest.digest:
        usage(f"{folder / MANIFEST} has just changed")
    partial = folder.with_name(f".{folder.name}.minisig")
    with working():
        partial.write_text(secret.sign(content), encoding="utf-8")
        partial.replace(folder / SIGNATURE)
    out.print(f"bundle {bundle.manifest.name} is signed by key {secret.public}", markup=False)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="The bundle's.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    config: ConfigOption = None,
) -> None:
    """Check the hashes of a bundle, its signature, and that every runtime reproduces its probe here.

    Example: isocenter bundle verify bundles/mine
    """
    from ..bundle.folder import Bundle, relative_error
    from ..engine.commission import load_runtime
    from .progress import bars

    place = _device(device)
    bundle = Bundle.open(folder, _trust(config))
    failed = False
    with working(), bars() as shown:
        inputs, expected = bundle.probe()
        files = bundle.runtime_files()
        for number, (name, path) in enumerate(files.items()):
            shown.update("runtimes tried", number, len(files))
            runtime = load_runtime(bundle, name, path, place)
            error = relative_error(runtime.infer(inputs), expected)
            passed = error <= bundle.manifest.tolerance
            failed = failed or not passed
            verdict = "passed" if passed else f"FAILED, accepted is {bundle.manifest.tolerance:.0e}"
            out.print(
                f"{name:<12} deviates by {error:.1e} of the maximum: {verdict}; {runtime.description}", markup=False
            )
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def bench(
    folder: Annotated[Path, typer.Argument(help="The bundle's.")],
    matrix: Annotated[str, typer.Option(help="Samples along ky and kx, and coils: 320x320x15.")] = "256x256x8",
    frames: Annotated[int, typer.Option(min=1, help="Of a series, where the bundle reconstructs series.")] = 8,
    repetitions: Annotated[int, typer.Option(min=1, help="How often each runtime is timed.")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    config: ConfigOption = None,
) -> None:
    """Measure how long every runtime takes for one slice or series; the service then uses the fastest on such a device.

    Example: isocenter bundle bench bundles/mine --matrix 320x320x15
    """
    from ..bundle.folder import Bundle
    from ..engine import choice
    from ..engine.commission import commission
    from ..export.cases import make_case
    from .progress import bars

    ky, kx, coils = _sizes(matrix)
    sizes = {"batch": 1, "coils": coils, "frames": frames, "kz": 1, "ky": ky, "kx": kx}
    place = _device(device)
    bundle = Bundle.open(folder, _trust(config))
    with working(), bars() as shown:
        shown.update("measuring", 0)
        inputs = make_case(bundle.manifest.inputs, sizes, acs=24, spacing=4, phantom=True)
        runtimes = commission(bundle, place)
        first = {
            name: 1000 * choice.timed(lambda runtime=runtime: runtime.infer(inputs))
            for name, runtime in runtimes.items()
        }
        chosen = choice.choose(runtimes, inputs, place, repetitions, math.inf)
        choice.remember(bundle, place, chosen)
    table = Table("runtime", "first [ms]", "best [ms]", "to the fastest")
    shortest = chosen.milliseconds[chosen.runtime]
    for name, milliseconds in chosen.milliseconds.items():
        table.add_row(name, f"{first[name]:.1f}", f"{milliseconds:.1f}", f"{milliseconds / shortest:.2f}")
    out.print(table)
    together = f"up to {chosen.batch} slices that wait together" if chosen.batch > 1 else "slices one by one"
    out.print(f"the service will use {chosen.runtime} here, {together}", markup=False)
    if chosen.is_doubtful:
        out.print("other programs kept the processor busy: measure again without them", markup=False)


def _sizes(text: str) -> list[int]:
    sizes = [int(part) for part in text.split("x") if part.isascii() and part.isdecimal()]
    if len(sizes) != 3 or text.count("x") != 2 or min(sizes) < 1:
        usage(f"--matrix is {text!r}; accepted: KYxKXxCOILS, such as 320x320x15")
    return sizes


def _device(name: str) -> "torch.device":
    """Return a device that is there."""
    import torch

    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name not in there and not (name == "cuda" and len(there) > 1):
        usage(f"--device is {name!r}, which is not here; accepted: {', '.join(there)}")
    return torch.device(name)


def _trust(config: Path | None) -> "Trust":
    from ..bundle.trust import Trust
    from ..service.settings import load_settings

    settings = load_settings(config)
    return Trust.of(settings.home, settings.keys)
