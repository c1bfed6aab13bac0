"""Commands on networks: models, export, textures, cache, train, evaluate."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import names
from .frame import FAILED, err, out, usage, working

if TYPE_CHECKING:
    from ..bundle.minisign import SecretKey
    from ..training.files.kept import Kept


def models() -> None:
    """List the networks: what they reconstruct, what they take, their size, where they come from.

    Example: isocenter models
    """
    import torch

    from ..export.shipped import SHIPPED
    from ..models.networks.registry import NETWORKS

    shipped = {entry.network for entry in SHIPPED.values()}
    out.print(f"{'network':<22} {'task':<9} {'inputs':<19} {'parameters':>11}  {'weights':<8} paper")
    for name, network in sorted(NETWORKS.items()):
        with torch.device("meta"):
            parameters = network.build().parameters()
        count = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        weights = "shipped" if name in shipped else ""
        inputs = ", ".join(network.inputs)
        out.print(f"{name:<22} {network.task:<9} {inputs:<19} {count:>11,}  {weights:<8} {network.paper}", markup=False)


def export(
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", help="Name by which pipelines are to find the bundle; or a folder, with a / in it."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of a bundle that is there already.")
    ] = False,
    network: Annotated[
        str | None, typer.Option(help="One of `isocenter models`.", autocompletion=names.networks)
    ] = None,
    module: Annotated[str | None, typer.Option(help="An own torch.nn.Module: package.module:Class.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights: PyTorch, Lightning, NumPy, or a TensorFlow folder or prefix.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration of the export (YAML).")] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            help="Of onnx, torchscript and aoti, separated by commas: one that cannot be had is an error, and the others "
            "are kept. Without: onnx and torchscript, where the network can have them."
        ),
    ] = None,
    show_wrapper: Annotated[
        bool, typer.Option("--show-wrapper", help="Print what is put around the own module, and write nothing.")
    ] = False,
) -> None:
    """Turn a checkpoint into a bundle, after comparing every runtime with the network in float64.

    Weights are those of your own training, or what `isocenter train -o run` has written.

    Example: isocenter export --network modl --checkpoint run/weights.pt -o mine
    """
    from ..export.formats import check_formats
    from ..export.importers.load import find_network
    from ..export.network import plan_network
    from ..export.options import load_options
    from ..export.own_module import find_wrapper, plan_module
    from ..service.logs import configure_logging
    from ..service.settings import load_settings
    from ..wire.errors import OptionError
    from .find_bundle import how_to_name, output_folder
    from .outputs import check_folder
    from .progress import bars

    configure_logging(private=True)
    if (network is None) == (module is None):
        usage("name either --network or --module")
    chosen = None if formats is None else _parse_formats(formats)
    check_formats(chosen or ())
    options = load_options(config)
    if show_wrapper:
        if module is None:
            usage("--show-wrapper is for an own module, --module")
        out.print(find_wrapper(module, checkpoint, options).source, markup=False, end="")
        return
    if output is None:
        usage("say how the bundle is to be called, or give its folder, --output")
    if network is not None:
        find_network(network)
    settings = load_settings(None)
    folder = output_folder(output, settings, replace=replace)
    check_folder(folder.parent, "--output")
    # TensorFlow's are prefixes of files
    if checkpoint is not None and not any(checkpoint.parent.glob(f"{escape(checkpoint.name)}*")):
        usage(f"--checkpoint: there is no checkpoint {checkpoint}")
    try:
        if module is not None:
            plan = plan_module(module, checkpoint, options)
        elif network is not None and checkpoint is not None:
            plan = plan_network(network, checkpoint, options)
        else:
            usage("--network needs its weights, --checkpoint")
    except OptionError as error:
        error.where = f"export configuration {config}" if config is not None else f"checkpoint {checkpoint}"
        raise
    key = _host_key()
    with working(), bars() as shown:
        shown.update(f"writing {folder.name} and comparing its runtimes", 0)
        bundle = plan.write(folder, chosen, key)
    for runtime, parity in bundle.manifest.parity.items():
        out.print(
            f"{runtime:<12} deviates from float64 by {parity.error:.1e} of the maximum "
            f"(accepted {parity.accepted:.1e}, eager mode {parity.eager:.1e}), {parity.cases} inputs",
            markup=False,
        )
    out.print(f"bundle in {folder}; {how_to_name(folder, settings)}", markup=False)


def _parse_formats(text: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",")]
    if "pt2" in chosen:
        err.print("warning: the format pt2 is called aoti now", markup=False)
        chosen = ["aoti" if name == "pt2" else name for name in chosen]
    unknown = set(chosen) - {"onnx", "torchscript", "aoti"}
    if unknown:
        usage(f"format {', '.join(map(repr, sorted(unknown)))} is not known; accepted are onnx, torchscript and aoti")
    return chosen


def _host_key() -> "SecretKey | None":
    """Return the key with which this host signs; a bundle can do without."""
    from ..bundle.minisign import SignatureError
    from ..bundle.trust import host_key
    from ..service.settings import default_home

    try:
        return host_key(default_home())
    except SignatureError as error:
        err.print(f"warning: the bundle will not be signed: {error}", markup=False)
        return None


def textures(
    folder: Annotated[Path, typer.Argument(help="Where they are put.")],
    packages: Annotated[
        Path | None, typer.Option(help="Folder that has the packages (NAME_*.deb); nothing is fetched then.")
    ] = None,
    mirror: Annotated[str | None, typer.Option(help="Address of a mirror of Debian.")] = None,
) -> None:
    """Build the set of photographs and of a head that data of the kind 'textures' are made of, from Debian packages.

    Example: isocenter textures photographs
    """
    from ..training.debian import MIRROR, find
    from ..training.textures import PACKAGES, build_textures, sources
    from ..wire.extras import need
    from .outputs import check_folder
    from .progress import bars

    need("nibabel", "the head among the textures")
    check_folder(folder, "FOLDER")
    if mirror is not None and not mirror.startswith(("http://", "https://")):
        usage(f"--mirror is {mirror!r}; accepted: an address such as {MIRROR}")
    if packages is not None:
        if not packages.is_dir():
            usage(f"--packages: there is no folder {packages}")
        for package in PACKAGES:
            find(package, packages)
    with working(), bars() as shown:
        path = build_textures(folder, shown.update, packages=packages, mirror=mirror or MIRROR)
    for source in sources(path):
        out.print(f"{source['package']} {source['version']}: {source['licences']}", markup=False)
    out.print(f"textures in {path}, with the packages' terms", markup=False)
    if packages is None:
        out.print(f"{folder / 'packages'} is not needed any more", markup=False)


def cache(
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder of the cache, a recipe's data.cache; without it cache in ISOCENTER_HOME."),
    ] = None,
    unused: Annotated[
        int | None, typer.Option(min=0, max=36500, help="Delete what was not used for so many days; 0 for all of it.")
    ] = None,
) -> None:
    """Tell how much room scans take that were prepared for training, and delete what is not used any more.

    Example: isocenter cache --unused 30
    """
    from ..training.files.kept import kept, remove
    from ..wire.home import default_home

    if folder is not None and not folder.is_dir():
        usage(f"--folder: {folder} is no folder")
    folder = folder or default_home() / "cache"
    with working():
        entries = kept(folder)
        unwanted = [] if unused is None else [entry for entry in entries if entry.unused_days >= unused]
        for entry in unwanted:
            remove(entry)
    left = [entry for entry in entries if entry not in unwanted]
    if unused is not None:
        out.print(f"deleted {_amount(unwanted)}", markup=False)
    out.print(f"{folder} holds {_amount(left)}", markup=False)
    for entry in left:
        out.print(
            f"{entry.size / 1e6:>10,.1f} MB, unused for {entry.unused_days:.0f} days  {entry.folder.name}", markup=False
        )


def _amount(entries: "list[Kept]") -> str:
    return f"{len(entries)} prepared files, {sum(entry.size for entry in entries) / 1e9:.2f} GB"


def train(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="A file (YAML), or the name of a recipe that comes with Isocenter, such as ridge.",
            autocompletion=names.recipes,
        ),
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: runs/NAME.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, exactly where it was interrupted.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew in a folder that has a run.")] = False,
    devices: Annotated[
        str, typer.Option(help="auto, cpu, a number of devices, or GPUs such as cuda:0 or 0,1.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make samples; 0: the training's own.")] = 0,
    memory: Annotated[float, typer.Option(min=0, help="Gigabytes of samples that are kept from epoch to epoch.")] = 8.0,
) -> None:
    """Train a network by a recipe; writes weights, metrics, curves and sample images.

    It takes hours, and shows how long each epoch takes; docs/training.md tells what the recipes train on, and how to write one.

    Example: isocenter train modl-brain -o run
    """
    from ..training import run
    from ..training.recipe import load_recipe
    from .outputs import check_folder

    loaded = load_recipe(recipe)
    folder = output or Path("runs") / loaded.name
    check_folder(folder, "--output")
    run.check_run(loaded, folder, resume=resume, overwrite=overwrite, devices=devices)
    with working(), _shown_log("isocenter.training"):
        weights = run.train(
            loaded, folder, resume=resume, overwrite=overwrite, devices=devices, workers=workers, memory=memory
        )
    out.print(f"weights of the best epoch: {weights}", markup=False)
    out.print(f"curves in {folder / 'curves.png'}, images in {folder / 'samples'}", markup=False)


def evaluate(
    bundle: Annotated[
        list[Path] | None,
        typer.Option(help="Folder or name of a bundle; may be given several times.", autocompletion=names.bundles),
    ] = None,
    gate: Annotated[
        Path | None,
        typer.Option(
            help="Folder or name of a bundle that is tried on a fixed battery, with --data if it is a folder; its report "
            "card is written into it.",
            autocompletion=names.bundles,
        ),
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="With --gate: a battery of seconds, which nothing passes.")
    ] = False,
    data: Annotated[
        str, typer.Option(help="'simulated', or a folder of fully sampled files (MRD, fastMRI, CMRxRecon).")
    ] = "simulated",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of tables and images.")] = Path("evaluation"),
    accelerations: Annotated[str, typer.Option(help="Separated by commas.")] = "2,4,6,8",
    acs: Annotated[
        str, typer.Option(help="Numbers of calibration lines or fractions of all lines, separated by commas.")
    ] = "8,16,24",
    scans: Annotated[
        int, typer.Option(min=1, help="Number of slices or series; of a folder, evenly spread over its files.")
    ] = 10,
    sampling: Annotated[
        str,
        typer.Option(
            help="A pattern, or a file of zeros and ones, whose own acceleration and calibration lines then count; see "
            "docs/sampling.md."
        ),
    ] = "equispaced",
    convention: Annotated[str, typer.Option(help="fastmri (of volumes) or slice.")] = "fastmri",
    truth: Annotated[
        str, typer.Option(help="rss, combined (by coil maps), or auto: combined where all bundles take maps.")
    ] = "auto",
    region: Annotated[
        str, typer.Option(help="Pixels that are judged: all, object, or auto: object where the truth is rss.")
    ] = "auto",
    crop: Annotated[
        str, typer.Option(help="matrix (the header's), none, or a size such as 320 or 320x256 along y and x.")
    ] = "matrix",
    fit_scale: Annotated[bool, typer.Option("--fit-scale", help="Scale images to fit the truth best.")] = False,
    reference: Annotated[str, typer.Option(help="Method that the others are compared with.")] = "SENSE",
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Go on without files that cannot be used, and name them.")
    ] = False,
    keep_images: Annotated[
        bool,
        typer.Option("--keep-images", help="Write all images, as fastMRI's evaluate.py reads them: the readout first."),
    ] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Add the classical methods with their best strength, found on the truth of every scan."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the scans and the lines that are drawn.")] = 1,
) -> None:
    """Compare bundles with zero-filled images, SENSE and compressed sensing: SSIM, PSNR, NMSE, NRMSE and HFEN, and images.

    Or try a bundle on all that it must stand before it ships or becomes a default, with --gate; see docs/quality.md.

    Where a bundle reconstructs series, all methods get series: simulated hearts, or the frames of files. The figures of
    fastMRI's leaderboard are those of --truth rss --region all.

    Example: isocenter evaluate --bundle varnet-brain --scans 3 --accelerations 4
    """
    if (gate is None) == (not bundle):
        usage("name either --bundle or --gate")
    if gate is not None:
        _gate(gate, data, short=short)
        return
    from .evaluation.protocol import parse_protocol
    from .evaluation.run import run_evaluation

    protocol = parse_protocol(
        accelerations=accelerations,
        acs=acs,
        scans=scans,
        seed=seed,
        crop=crop,
        fit_scale=fit_scale,
        reference=reference,
        leave_out=leave_out,
        keep_images=keep_images,
        tune=tune,
        sampling=sampling,
        convention=convention,
        truth=truth,
        region=region,
    )
    run_evaluation(bundle or [], data, protocol, output, out)


def _gate(bundle: Path, data: str, *, short: bool) -> None:
    from .gate.run import run_gate

    folder = None if data == "simulated" else Path(data)
    tried = run_gate(bundle, folder, short=short, key=_host_key(), console=out)
    out.print(f"report card in {tried.folder}", markup=False)
    if tried.manifest.gate is None or not tried.manifest.gate.passed:
        raise typer.Exit(FAILED)


class _Shown(logging.Handler):
    """Prints what is logged, beside the results."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(record.getMessage(), markup=False)


@contextmanager
def _shown_log(name: str) -> Iterator[None]:
    """Print what a part of the program logs meanwhile."""
    logger, handler = logging.getLogger(name), _Shown()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
