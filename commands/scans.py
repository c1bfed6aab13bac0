"""Commands on scans: simulate one, send one to a server, recover those of a spool."""

import logging
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..flow.interruption import raised_interruptions
from . import names
from .frame import FAILED, ConfigOption, VerboseOption, err, out, usage, working

if TYPE_CHECKING:
    from .replay import Options


def simulate(
    output: Annotated[Path, typer.Option("-o", "--output", help="The scan (MRD).")] = Path("scan.h5"),
    phantom: Annotated[str, typer.Option(help="brain, shepp-logan, heart, or template.")] = "brain",
    matrix: Annotated[int, typer.Option(min=8, help="Pixels along x and y.")] = 256,
    coils: Annotated[int, typer.Option(min=1, help="Receiver channels.")] = 8,
    slices: Annotated[int, typer.Option(min=1, help="Slices of a 2-D scan.")] = 1,
    partitions: Annotated[int, typer.Option(min=1, help="More than one: a 3-D scan.")] = 1,
    fov: Annotated[float, typer.Option(help="Field of view in mm.")] = 240.0,
    orientation: Annotated[str, typer.Option(help="transverse, sagittal, coronal, oblique or flipped.")] = "transverse",
    offset: Annotated[
        tuple[float, float, float],
        typer.Option(help="Middle of the slices from the isocentre in mm (LPS), such as 10 0 -20."),
    ] = (0.0, 0.0, 0.0),
    patient_position: Annotated[str, typer.Option(help="HFS, FFS, HFP, ...")] = "HFS",
    recon_matrix: Annotated[
        tuple[int, int], typer.Option(help="Pixels of the image along x and y, such as 128 96; 0 for those measured.")
    ] = (0, 0),
    recon_fov: Annotated[
        tuple[float, float],
        typer.Option(help="Field of view of the image along x and y in mm, such as 240 180; 0 for that measured."),
    ] = (0.0, 0.0),
    oversampling: Annotated[int, typer.Option(help="Of the readout: 1 or 2.")] = 2,
    acceleration: Annotated[int, typer.Option(min=1, help="Every how many lines one is measured.")] = 1,
    acs: Annotated[int, typer.Option(min=0, help="Calibration lines.")] = 24,
    calibration: Annotated[str, typer.Option(help="embedded, separate, external, interleaved or none.")] = "embedded",
    sampling: Annotated[
        str, typer.Option(help="How lines are chosen: a pattern, or a file of zeros and ones; see docs/sampling.md.")
    ] = "equispaced",
    random: Annotated[bool, typer.Option("--random", hidden=True)] = False,
    partial_fourier: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Fraction of the lines that is measured.")
    ] = 1.0,
    asymmetric_echo: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Fraction of the samples that is measured.")
    ] = 1.0,
    phase_resolution: Annotated[float, typer.Option(min=0.1, max=1.0, help="Fraction of k-space along y.")] = 1.0,
    phase_oversampling: Annotated[
        float, typer.Option(min=0.3, max=3.0, help="Below 1: the encoded field of view is smaller than the image's.")
    ] = 1.0,
    partition_oversampling: Annotated[
        float, typer.Option(min=1.0, max=3.0, help="Encoded slab to slab, along z.")
    ] = 1.0,
    frames: Annotated[int, typer.Option(min=1, help="Frames of a series.")] = 1,
    frame_counter: Annotated[str, typer.Option(help="phase or repetition.")] = "phase",
    repeats: Annotated[
        int, typer.Option(min=1, help="How often the frames are scanned, numbered by the other counter.")
    ] = 1,
    contrasts: Annotated[int, typer.Option(min=1, help="Echoes.")] = 1,
    sets: Annotated[int, typer.Option(min=1, help="Images that differ in phase.")] = 1,
    averages: Annotated[int, typer.Option(min=1, help="How often each line is measured.")] = 1,
    noise: Annotated[float, typer.Option(min=0.0, help="In thousandths of the largest sample.")] = 1.0,
    noise_scan: Annotated[
        bool, typer.Option("--noise-scan/--no-noise-scan", help="Whether noise is measured before the scan.")
    ] = True,
    repetition_time: Annotated[float, typer.Option(help="In ms.")] = 5.0,
    reverse_every_second: Annotated[
        bool, typer.Option("--reverse-every-second", help="Play every second readout backwards.")
    ] = False,
    extra_readouts: Annotated[
        bool, typer.Option("--extra-readouts", help="Navigators, feedback, dummies among the lines.")
    ] = False,
    waveforms: Annotated[bool, typer.Option("--waveforms", help="An ECG beside the scan.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 1,
    measurement_id: Annotated[
        str, typer.Option(help="device_subject_study_measurement; the measurement is the seed if not given.")
    ] = "",
    oddity: Annotated[
        list[str] | None, typer.Option(help="name or name:parameter=value,...; may be given several times.")
    ] = None,
    list_oddities: Annotated[bool, typer.Option("--list-oddities", help="List the oddities and end.")] = False,
) -> None:
    """Simulate a scan with exact k-space, and write it as an MRD file with the true image beside it.

    Example: isocenter simulate --matrix 128 --acceleration 3 -o scan.h5
    """
    options = dict(locals())
    for name in ("output", "oddity", "list_oddities", "random"):
        options.pop(name)
    import numpy

    from ..simulate.oddities import ODDITIES, check_oddity, make_odd
    from ..simulate.sampling import current_name
    from ..simulate.scan import ScanProtocol, check_host, truth_path
    from ..simulate.scan import simulate as simulate_scan
    from .outputs import check_file
    from .progress import bars

    if list_oddities:
        for name, known in sorted(ODDITIES.items()):
            parameters = ", ".join(f"{key}={value}" for key, value in known.parameters.items())
            out.print(f"{name:<32} {known.summary}" + (f" [{parameters}]" if parameters else ""), markup=False)
        return
    options["measurement_id"] = measurement_id or f"simulator_phantom_1_{seed}"
    options["sampling"] = current_name("random" if random else sampling)
    options["noise_scan"] = noise_scan and noise > 0  # nothing but zeros would be damaged noise
    protocol = ScanProtocol(**options)
    for request in oddity or []:
        check_oddity(request)
    check_host(protocol)
    protocol.imaging_lines(0)  # which reads the file of a pattern
    if output.suffix not in (".h5", ".hdf5", ".mrd"):
        usage(f"--output: {output} would be an MRD file; accepted: a name that ends with .h5, .hdf5 or .mrd")
    check_file(output, "--output")
    check_file(truth_path(output), "--output")
    with bars() as shown:
        with working():
            scan = simulate_scan(protocol, lambda done, total: shown.update("slices simulated", done, total))
        draw = numpy.random.default_rng(seed)
        for request in oddity or []:  # whether the scan has what they change is only known now
            scan = make_odd(scan, request, draw)
        with working():
            scan.save(output)
    out.print(
        f"{len(scan.items)} acquisitions and waveforms in {output}; the true image is in {truth_path(output)}",
        markup=False,
    )


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
            autocompletion=names.pipelines,
            help="Pipeline's name on the server; default: the one in a spooled stream, or default.xml.",
        ),
    ] = None,
    config_local: Annotated[Path | None, typer.Option("--config-local", "-C", help="Pipeline to send as XML.")] = None,
    address: Annotated[str, typer.Option("--address", "-a", help="Name or number of the server's host.")] = "localhost",
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Port of the server.")] = 9002,
    in_group: Annotated[str, typer.Option("--in-group", "-g", help="Group of the scan in the file.")] = "dataset",
    out_group: Annotated[
        str | None, typer.Option("--out-group", "-G", help="Group of the images; default: date and time.")
    ] = None,
    query: Annotated[
        bool, typer.Option("--query", "-q", help="Send the pipeline only, and save what the server reports.")
    ] = False,
    info: Annotated[str | None, typer.Option("--info", "-Q", help="Ask a question, such as gadgetron::info.")] = None,
    loops: Annotated[int, typer.Option("--loops", "-l", min=1, help="Send the scan this often.")] = 1,
    timeout: Annotated[int, typer.Option("--timeout", "-t", min=1, help="Milliseconds to connect.")] = 10000,
    silence: Annotated[
        int,
        typer.Option(min=1, help="Seconds that the server may be silent while it is waited for; then it has failed."),
    ] = 1800,
    precision: Annotated[
        int, typer.Option("--precision", "-P", min=0, max=32, help="Compress samples to this many bits, 2 or more.")
    ] = 0,
    tolerance: Annotated[
        float, typer.Option("--tolerance", "-T", min=0, help="Compress to this fraction of the noise.")
    ] = 0.0,
    zfp: Annotated[bool, typer.Option("--ZFP", "-Z", help="Compress with ZFP instead; with -T.")] = False,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", help="name=value for the pipeline, as FIRE sends it; may be given several times."),
    ] = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="Keep to the recorded time stamps.")] = False,
    png: Annotated[Path | None, typer.Option("--png", help="Write a montage of the images.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write a latency report.")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Send a recorded scan to a server as a scanner would, and save the images. Flags are gadgetron_ismrmrd_client's.

    It needs a scan, from `isocenter simulate -o scan.h5` at the least, and a server, such as `isocenter serve`.

    Example: isocenter replay -f scan.h5 -c sense.xml -o images.h5 --png a.png
    """
    from ..service.logs import configure_logging
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
        silence=silence,
        precision=precision,
        tolerance=tolerance,
        zfp=zfp,
        parameters=parameter or [],
        realtime=realtime,
        png=png,
        report=report,
    )
    replay_command.check(options, asks=info is not None, queries=query)
    with working(), raised_interruptions():
        if info is not None:
            out.print(replay_command.ask(options, info), markup=False)
        elif query:
            out.print(replay_command.query(options), markup=False)
        else:
            for _ in range(loops):
                _replay_once(options)


def _replay_once(options: "Options") -> None:
    from . import replay as replay_command

    result = replay_command.replay_shown(options, err)
    out.print(replay_command.latency_table(result), markup=False)
    if result.images:
        out.print(f"{len(result.images)} images in {options.outfile}, group {options.out_group!r}", markup=False)
    if options.png and result.images:
        out.print(f"montage in {options.png}", markup=False)
    if result.failed:
        raise typer.Exit(FAILED)


def recover(
    scans: Annotated[
        list[str] | None, typer.Argument(help="Their ids; default: all that are unfinished or failed.")
    ] = None,
    config: ConfigOption = None,
    spool: Annotated[Path | None, typer.Option(help="Folder of the spool, if not that of the settings.")] = None,
    outfile: Annotated[Path, typer.Option("--outfile", "-o", help="Images (HDF5), a group for each scan.")] = Path(
        "out.h5"
    ),
    pipeline: Annotated[
        str | None,
        typer.Option("--pipeline", help="Another pipeline than the scan's own.", autocompletion=names.pipelines),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="List what is unfinished, failed or undelivered, and end.")
    ] = False,
    show_all: Annotated[bool, typer.Option("--list-all", help="List every scan of the spool, and end.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Write the images that the spool has already.")] = False,
    beside_service: Annotated[bool, typer.Option(hidden=True)] = False,
    verbose: VerboseOption = False,
) -> None:
    """Reconstruct spooled scans that a service left unfinished or failed, or fetch images that a client did not.

    The folder is the one that `isocenter serve --spool` keeps scans in.

    Example: isocenter recover --spool spool --list-all
    """
    from ..pipelines import loader
    from ..service.logs import configure_logging
    from ..service.settings import load_settings
    from . import recover as recovery
    from .outputs import check_file
    from .progress import bars

    settings = load_settings(config, spool=spool)
    configure_logging(settings.log_format, verbose=verbose, private=settings.log_private or not beside_service)
    if beside_service:
        recovery.recover_beside_service(settings)
        return
    if not verbose:  # what a client would be told is said anyway
        logging.getLogger("isocenter").setLevel(logging.ERROR)
    recovery.find(recovery.spool_of(settings), scans or ())
    if pipeline is not None:
        loader.find(pipeline, settings.pipeline_folders)
    if not (show or show_all):
        check_file(outfile, "--outfile")
    with working(), bars() as shown:
        if show or show_all:
            for line in recovery.listing(settings, scans or (), everything=show_all):
                out.print(line, markup=False)
        elif images:
            recovery.fetch(settings, scans or (), outfile, _say)
        else:
            shown.update("reconstructing", 0)
            if not recovery.recover(settings, scans or (), outfile, _say, pipeline):
                raise typer.Exit(FAILED)


def _say(text: str) -> None:
    out.print(text.rstrip(), markup=False)
