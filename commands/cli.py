"""The command line."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from ..service.logs import configure_logging
from ..wire.errors import IsocenterError
from . import bundles as bundle_cli
from . import networks as network_cli
from . import pipelines as pipeline_cli
from .check import check as check_command

app: typer.Typer = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Inline MRI reconstruction: serve, replay, simulate."
)
app.add_typer(pipeline_cli.app, name="pipelines")
app.add_typer(bundle_cli.app, name="bundle")
for _command in (network_cli.models, network_cli.export, network_cli.textures, network_cli.train, network_cli.evaluate):
    app.command()(_command)

app.command("check")(check_command)

out: Console = Console(highlight=False, soft_wrap=True)
err: Console = Console(stderr=True, highlight=False, soft_wrap=True)

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file (YAML).")]


def _fail(error: Exception | str, status: int = 1) -> NoReturn:
    err.print(f"error: {error}", markup=False)
    raise typer.Exit(status)


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 9012 beside a Gadgetron.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of bundles, noise and pipelines.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    spool: Annotated[Path | None, typer.Option(help="Keep every byte received in this folder.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
) -> None:
    """Serve scanners and clients until SIGTERM or Ctrl-C; running scans are finished first. SIGHUP reads the settings again."""
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
    try:
        serving.serve(lambda: load_settings(config, **options), verbose=verbose)
    except (IsocenterError, OSError) as error:
        _fail(error)


@app.command(hidden=True)
def session(descriptor: int) -> None:
    """Serve the one connection with this file descriptor, which the process inherited, then end."""
    from . import serve as serving

    serving.serve_one(descriptor)


@app.command()
def replay(
    filename: Annotated[
        Path | None,
        typer.Option("--filename", "-f", help="Recorded scan (MRD), or a stream of messages (ISMRMRD, or spooled)."),
    ] = None,
    outfile: Annotated[Path, typer.Option("--outfile", "-o", help="Images (HDF5).")] = Path("out.h5"),
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            help="Pipeline's name on the server; default: the one in a spooled stream, or default.xml.",
        ),
    ] = None,
    config_local: Annotated[Path | None, typer.Option("--config-local", "-C", help="Pipeline to send as XML.")] = None,
    address: Annotated[str, typer.Option("--address", "-a")] = "localhost",
    port: Annotated[int, typer.Option("--port", "-p")] = 9002,
    in_group: Annotated[str, typer.Option("--in-group", "-g", help="Group of the scan in the file.")] = "dataset",
    out_group: Annotated[
        str | None, typer.Option("--out-group", "-G", help="Group of the images; default: date and time.")
    ] = None,
    query: Annotated[
        bool, typer.Option("--query", "-q", help="Send the pipeline only, and save what the server reports.")
    ] = False,
    info: Annotated[str | None, typer.Option("--info", "-Q", help="Ask a question, such as gadgetron::info.")] = None,
    loops: Annotated[int, typer.Option("--loops", "-l", min=1, help="Send the scan this often.")] = 1,
    timeout: Annotated[int, typer.Option("--timeout", "-t", help="Milliseconds to connect.")] = 10000,
    precision: Annotated[int, typer.Option("--precision", "-P", help="Compress samples to this many bits.")] = 0,
    tolerance: Annotated[
        float, typer.Option("--tolerance", "-T", help="Compress to this fraction of the noise.")
    ] = 0.0,
    zfp: Annotated[bool, typer.Option("--ZFP", "-Z", help="Compress with ZFP instead; with -T.")] = False,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", help="name=value for the pipeline, as FIRE sends it.")
    ] = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="Keep to the recorded time stamps.")] = False,
    png: Annotated[Path | None, typer.Option("--png", help="Write a montage of the images.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write a latency report.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
) -> None:
    """Send a recorded scan to a server as a scanner would, and save the images. Flags are gadgetron_ismrmrd_client's."""
    from . import replay as replay_command

    configure_logging(verbose=verbose)
    options = replay_command.Options(
        filename=filename,
        outfile=outfile,
        config=config,
        config_local=config_local,
        address=address,
        port=port,
        in_group=in_group,
        out_group=out_group or f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        timeout=timeout / 1000,
        precision=precision,
        tolerance=tolerance,
        zfp=zfp,
        parameters=parameter or [],
        realtime=realtime,
        png=png,
        report=report,
    )
    try:
        if info is not None:
            out.print(replay_command.ask(options, info), markup=False)
        elif query:
            out.print(replay_command.query(options), markup=False)
        else:
            for _ in range(loops):
                _replay_once(options)
    except (IsocenterError, OSError) as error:
        _fail(error)


def _replay_once(options: Any) -> None:
    from . import replay as replay_command

    result = replay_command.replay_shown(options, err)
    out.print(replay_command.latency_table(result), markup=False)
    if result.images:
        out.print(f"{len(result.images)} images in {options.outfile}, group {options.out_group!r}", markup=False)
    if options.png and result.images:
        out.print(f"montage in {options.png}", markup=False)
    if result.failed:
        raise typer.Exit(1)


@app.command()
def recover(
    scans: Annotated[
        list[str] | None, typer.Argument(help="Their ids; default: all that are unfinished or failed.")
    ] = None,
    config: ConfigOption = None,
    spool: Annotated[Path | None, typer.Option(help="Folder of the spool, if not that of the settings.")] = None,
    outfile: Annotated[Path, typer.Option("--outfile", "-o", help="Images (HDF5), a group for each scan.")] = Path(
        "out.h5"
    ),
    pipeline: Annotated[str | None, typer.Option("--pipeline", help="Another pipeline than the scan's own.")] = None,
    show: Annotated[
        bool, typer.Option("--list", help="List what is unfinished, failed or undelivered, and end.")
    ] = False,
    show_all: Annotated[bool, typer.Option("--list-all", help="List every scan of the spool, and end.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Write the images that the spool has already.")] = False,
    beside_service: Annotated[bool, typer.Option(hidden=True)] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
) -> None:
    """Reconstruct spooled scans that a service left unfinished or failed, or fetch images that a client did not."""
    from ..service.settings import load_settings
    from . import recover as recovery

    try:
        settings = load_settings(config, spool=spool)
        configure_logging(settings.log_format, verbose=verbose, private=settings.log_private or not beside_service)
        if beside_service:
            recovery.recover_beside_service(settings)
            return
        if not verbose:  # what a client would be told is said anyway
            logging.getLogger("isocenter").setLevel(logging.ERROR)
        if show or show_all:
            for line in recovery.listing(settings, scans or (), everything=show_all):
                out.print(line, markup=False)
        elif images:
            recovery.fetch(settings, scans or (), outfile, _say)
        elif not recovery.recover(settings, scans or (), outfile, _say, pipeline):
            raise typer.Exit(1)
    except (IsocenterError, OSError) as error:
        _fail(error)


def _say(text: str) -> None:
    out.print(text.rstrip(), markup=False)


@app.command()
def simulate(
    output: Annotated[Path, typer.Option("-o", "--output")] = Path("scan.h5"),
    phantom: Annotated[str, typer.Option(help="brain, shepp-logan, heart, or template.")] = "brain",
    matrix: Annotated[int, typer.Option(min=8)] = 256,
    coils: Annotated[int, typer.Option(min=1)] = 8,
    slices: Annotated[int, typer.Option(min=1)] = 1,
    partitions: Annotated[int, typer.Option(min=1, help="More than one: a 3-D scan.")] = 1,
    fov: Annotated[float, typer.Option(help="Field of view in mm.")] = 240.0,
    orientation: Annotated[str, typer.Option(help="transverse, sagittal, coronal, oblique or flipped.")] = "transverse",
    offset: Annotated[
        tuple[float, float, float], typer.Option(help="Middle of the slices from the isocentre in mm (LPS).")
    ] = (0.0, 0.0, 0.0),
    patient_position: Annotated[str, typer.Option(help="HFS, FFS, HFP, ...")] = "HFS",
    recon_matrix: Annotated[
        tuple[int, int], typer.Option(help="Pixels of the image along x and y, 0 for those measured.")
    ] = (0, 0),
    recon_fov: Annotated[
        tuple[float, float], typer.Option(help="Field of view of the image along x and y, 0 for that measured.")
    ] = (0.0, 0.0),
    oversampling: Annotated[int, typer.Option(help="Of the readout: 1 or 2.")] = 2,
    acceleration: Annotated[int, typer.Option(min=1)] = 1,
    acs: Annotated[int, typer.Option(min=0, help="Calibration lines.")] = 24,
    calibration: Annotated[str, typer.Option(help="embedded, separate, external, interleaved or none.")] = "embedded",
    sampling: Annotated[
        str, typer.Option(help="How lines are chosen: a pattern, or a file of zeros and ones; see docs/sampling.md.")
    ] = "equispaced",
    random: Annotated[bool, typer.Option("--random", hidden=True)] = False,
    partial_fourier: Annotated[float, typer.Option(min=0.5, max=1.0)] = 1.0,
    asymmetric_echo: Annotated[float, typer.Option(min=0.5, max=1.0)] = 1.0,
    phase_resolution: Annotated[float, typer.Option(min=0.1, max=1.0)] = 1.0,
    phase_oversampling: Annotated[
        float, typer.Option(min=0.3, max=3.0, help="Below 1: the encoded field of view is smaller than the image's.")
    ] = 1.0,
    partition_oversampling: Annotated[float, typer.Option(min=1.0, max=3.0)] = 1.0,
    frames: Annotated[int, typer.Option(min=1)] = 1,
    frame_counter: Annotated[str, typer.Option(help="phase or repetition.")] = "phase",
    repeats: Annotated[
        int, typer.Option(min=1, help="How often the frames are scanned, numbered by the other counter.")
    ] = 1,
    contrasts: Annotated[int, typer.Option(min=1, help="Echoes.")] = 1,
    sets: Annotated[int, typer.Option(min=1)] = 1,
    averages: Annotated[int, typer.Option(min=1)] = 1,
    noise: Annotated[float, typer.Option(min=0.0, help="In thousandths of the largest sample.")] = 1.0,
    noise_scan: Annotated[bool, typer.Option("--noise-scan/--no-noise-scan")] = True,
    repetition_time: Annotated[float, typer.Option(help="In ms.")] = 5.0,
    reverse_every_second: Annotated[bool, typer.Option("--reverse-every-second")] = False,
    extra_readouts: Annotated[
        bool, typer.Option("--extra-readouts", help="Navigators, feedback, dummies among the lines.")
    ] = False,
    waveforms: Annotated[bool, typer.Option("--waveforms", help="An ECG beside the scan.")] = False,
    seed: int = 1,
    measurement_id: Annotated[
        str, typer.Option(help="device_subject_study_measurement; the measurement is the seed if not given.")
    ] = "",
    oddity: Annotated[
        list[str] | None, typer.Option(help="name or name:parameter=value,...; may be given several times.")
    ] = None,
    list_oddities: Annotated[bool, typer.Option("--list-oddities", help="List the oddities and end.")] = False,
) -> None:
    """Simulate a scan with exact k-space, and write it as an MRD file with the true image beside it."""
    options = dict(locals())
    for name in ("output", "oddity", "list_oddities", "random"):
        options.pop(name)
    import numpy

    from ..simulate.oddities import ODDITIES, make_odd
    from ..simulate.sampling import current_name
    from ..simulate.scan import ScanProtocol, truth_path
    from ..simulate.scan import simulate as simulate_scan

    if list_oddities:
        for name, known in sorted(ODDITIES.items()):
            parameters = ", ".join(f"{key}={value}" for key, value in known.parameters.items())
            out.print(f"{name:<32} {known.summary}" + (f" [{parameters}]" if parameters else ""), markup=False)
        return
    options["measurement_id"] = measurement_id or f"simulator_phantom_1_{seed}"
    try:
        options["sampling"] = current_name("random" if random else sampling)
        scan = simulate_scan(ScanProtocol(**options))
        draw = numpy.random.default_rng(seed)
        for request in oddity or []:
            scan = make_odd(scan, request, draw)
    except (IsocenterError, ValueError, ImportError) as error:
        _fail(error)
    scan.save(output)
    out.print(
        f"{len(scan.items)} acquisitions and waveforms in {output}; the true image is in {truth_path(output)}",
        markup=False,
    )


@app.command()
def demo(folder: Annotated[Path, typer.Option("-o", "--output")] = Path("demo")) -> None:
    """Simulate an accelerated brain scan, serve, replay it over TCP, and compare the images with the truth."""
    from .demo import run_demo

    try:
        run_demo(folder, out)
    except (IsocenterError, OSError) as error:
        _fail(error)


if __name__ == "__main__":
    app()
