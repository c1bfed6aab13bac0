"""What ``isocenter replay`` does: read the file, talk to the server, write images, picture and report."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from statistics import median

import h5py
import ismrmrd
import numpy as np
from rich.console import Console

from ..flow.interruption import raise_interruption, undisturbed
from ..wire import ConfigFile, ConfigScript, extras
from ..wire.errors import FileError, HeaderError, IsocenterError
from ..wire.files import ENDED_EARLY, ImageWriter, MrdFile, open_hdf5
from ..wire.header import parse_header
from ..wire.items import Image
from ..wire.plain_files import read_plain
from ..wire.streams import RecordedStream
from . import client as wire_client
from .client import Client, ClientError, Compression, ReplayResult
from .names import parameter_pairs
from .outputs import check_file, check_picture
from .progress import bars

DEFAULT_CONFIG = "default.xml"
_LONGEST_NAME = 1023
_COUNTERS = ("slice", "contrast", "phase", "repetition", "set")
_NO_IMAGE = sum(
    1 << (flag - 1)
    for flag in (
        *(ismrmrd.ACQ_IS_NOISE_MEASUREMENT, ismrmrd.ACQ_IS_NAVIGATION_DATA, ismrmrd.ACQ_IS_PHASECORR_DATA),
        *(ismrmrd.ACQ_IS_HPFEEDBACK_DATA, ismrmrd.ACQ_IS_RTFEEDBACK_DATA, ismrmrd.ACQ_IS_DUMMYSCAN_DATA),
    )
)
"""Flags of readouts that belong in no image."""
_OF_A_SCAN = {
    "filename": "--filename",
    "parameters": "--parameter",
    "precision": "--precision",
    "tolerance": "--tolerance",
    "zfp": "--ZFP",
    "realtime": "--realtime",
    "png": "--png",
    "report": "--report",
}
"""Options that say something of the scan that is sent, or of its images, with their flags."""
_OF_A_PIPELINE = {"config": "--config", "config_local": "--config-local"}


class ReplayError(IsocenterError):
    """The options of a replay do not fit together."""

    kind = "replay"


@dataclass(frozen=True)
class Options:
    """The options of ``isocenter replay``, by their long names."""

    filename: Path | None = None
    outfile: Path = Path("out.h5")
    config: str | None = None
    config_local: Path | None = None
    address: str = "localhost"
    port: int = 9002
    in_group: str = "dataset"
    out_group: str = "images"
    timeout: float = 10.0
    silence: float = 1800.0
    precision: int = 0
    tolerance: float = 0.0
    zfp: bool = False
    parameters: list[str] = field(default_factory=list)
    realtime: bool = False
    png: Path | None = None
    report: Path | None = None

    @property
    def names_configuration(self) -> bool:
        """Whether a pipeline was chosen, in the place of the default or of the one in the recording."""
        return self.config is not None or self.config_local is not None

    def configuration(self) -> ConfigFile | ConfigScript:
        """Return the message that names or carries the pipeline.

        Raises
        ------
        ReplayError, FileError
            There is no name, or a name and a file, or the file cannot be read.
        """
        if self.config is not None and self.config_local is not None:
            raise ReplayError("give the name of a pipeline (-c), or a file (-C), not both")
        if self.config is not None and not self.config.strip():
            raise ReplayError("an empty text names no pipeline", where="--config")
        if len((self.config or "").encode()) > _LONGEST_NAME:
            raise ReplayError("that is too long for a name", where="--config", accepted=f"{_LONGEST_NAME} bytes")
        return (
            ConfigFile(self.config or DEFAULT_CONFIG)
            if self.config_local is None
            else ConfigScript(read_plain(self.config_local))
        )

    def compression(self) -> Compression | None:
        """Return how to compress, None for not at all."""
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ReplayError(f"the tolerance (-T) is {self.tolerance}", accepted="0 for none, or a positive number")
        if self.precision == 1:
            raise ReplayError("samples of 1 bit (-P) are no samples", accepted="2 to 32, or 0 for no compression")
        if self.precision and self.tolerance:
            raise ReplayError("give a precision (-P) or a tolerance (-T), not both")
        if self.zfp and not self.tolerance:
            raise ReplayError("ZFP (-Z) needs a tolerance (-T)")
        if self.zfp:
            extras.need("zfpy", "ZFP (-Z)")
        if not self.precision and not self.tolerance:
            return None
        return Compression("zfp" if self.zfp else "nhlbi", self.precision or None, self.tolerance or None)

    def parameter_message(self) -> str | None:
        """Return the JSON of the parameters, None if there are none."""
        pairs = parameter_pairs(self.parameters)
        return json.dumps({"parameters": pairs}) if pairs else None

    def refuse(self, flags: Mapping[str, str], beside: str) -> None:
        """Refuse options that nothing reads beside another one.

        Parameters
        ----------
        flags
            Their names, and their flags.
        beside
            The other one's flag.

        Raises
        ------
        ReplayError
            One is not as it is by default.
        """
        default = Options()
        if given := [flag for name, flag in flags.items() if getattr(self, name) != getattr(default, name)]:
            raise ReplayError(f"{beside} does not read {', '.join(given)}: leave it out")


def check(options: Options, *, asks: bool = False, queries: bool = False) -> None:
    """Make sure, before anything is sent, that the options fit together, and that files can be read and written.

    Parameters
    ----------
    options
        Of the replay.
    asks, queries
        Whether a question is asked, or the pipeline sent only, in the place of a scan.

    Raises
    ------
    IsocenterError, OSError
        They do not, or they cannot.
    """
    if asks:
        options.refuse(_OF_A_SCAN | _OF_A_PIPELINE, "--info")
        return
    options.configuration()
    if queries:
        options.refuse(_OF_A_SCAN, "--query")
    else:
        options.parameter_message()
        _check_scan(options)
        ImageWriter(options.outfile, options.out_group)
    check_file(options.outfile, "--outfile")
    if options.png is not None:
        check_picture(options.png, "--png")
    if options.report is not None:
        check_file(options.report, "--report")


def _check_scan(options: Options) -> None:
    compression = options.compression()
    if options.filename is None:
        raise ReplayError("name a recorded scan with -f")
    if not options.filename.is_file():
        raise ReplayError(f"{options.filename} does not exist or is no file", where="--filename")
    if options.outfile.exists() and options.outfile.samefile(options.filename):
        raise ReplayError(f"{options.outfile} is the scan itself", where="--outfile")
    if h5py.is_hdf5(options.filename):
        _check_file(options.filename, options.in_group)
    elif options.realtime or compression:
        raise ReplayError("a recorded stream is sent as it is; --realtime and compression need an MRD file (HDF5)")
    else:
        RecordedStream(options.filename)


def _check_file(path: Path, group: str) -> None:
    """Refuse an MRD file of which nothing could come: without a header that is one, or without readouts that can be used."""
    file = MrdFile(path, group)
    try:
        parse_header(file.header)
    except HeaderError as error:
        raise FileError(str(error), where=str(path)) from error
    if not file.acquisition_count:
        raise FileError(f"{path} holds no readouts", accepted="a recorded scan")
    next(file.items())
    file.close()


def _connect(options: Options) -> wire_client.socket.socket:
    return wire_client.connect(options.address, options.port, options.timeout)


def ask(options: Options, question: str) -> str:
    """Ask the server a question.

    Raises
    ------
    ClientError
        It has no answer.
    """
    answer = wire_client.ask(_connect(options), question, options.silence)
    if answer == "Unknown query":
        raise ClientError(
            f"the server knows no query {question!r}", accepted="such as gadgetron::info, isocenter::ready"
        )
    return answer


def query(options: Options) -> str:
    """Send the pipeline without a scan and save what the server reports, as a list of names and values."""
    client = Client(_connect(options), silence=options.silence)
    client.send(options.configuration())
    result = client.finish()
    lines = [f"{name}: {value}" for report in result.reports for name, value in report.values.items()]
    if result.failed:
        raise ClientError(" ".join(text.strip() for text in result.texts))
    text = "\n".join([*lines, *result.texts])
    if lines:
        options.outfile.write_text(text + "\n", encoding="utf-8")
    return text or "the server reported nothing"


def replay(
    options: Options,
    *,
    on_start: Callable[[int], None],
    on_acquisition: Callable[[], None],
    on_image: Callable[[Image], None],
    on_text: Callable[[str], None],
) -> ReplayResult:
    """Send the scan and write what comes back; also what had come of a session that ends early."""
    check(options)
    assert options.filename is not None
    writer = ImageWriter(options.outfile, options.out_group, on_text)
    client = Client(_connect(options), on_image=on_image, on_text=on_text, silence=options.silence, on_wait=on_text)
    try:
        if h5py.is_hdf5(options.filename):
            result = _send_file(client, options, options.filename, on_start, on_acquisition, on_text)
        else:
            result = _send_stream(client, options, options.filename, on_acquisition, on_text)
    except BaseException as error:
        with undisturbed():
            _keep(options, writer, client.stop(), str(error) or "the client was interrupted", on_text)
        raise
    with undisturbed():
        if result.failed:
            _keep(options, writer, result, "the server reported an error", on_text)
            return result
        _write(options, writer, result)
    raise_interruption()
    if options.png and result.images:
        from .replayed import draw_replayed

        draw_replayed(options.png, options.filename, options.in_group, result, on_text)
    return result


def replay_shown(options: Options, console: Console, label: str = "") -> ReplayResult:
    """Replay with bars for what is sent and received, and the server's texts above them."""
    sent, received, total = count(1), count(1), None

    def note_total(acquisitions: int) -> None:
        nonlocal total
        total = acquisitions

    with bars() as shown:
        return replay(
            options,
            on_start=note_total,
            on_acquisition=lambda: shown.update(f"{label}acquisitions sent", next(sent), total),
            on_image=lambda _image: shown.update(f"{label}images received", next(received)),
            on_text=lambda text: console.print(text.rstrip(), markup=False),
        )


def _send_file(
    client: Client,
    options: Options,
    path: Path,
    on_start: Callable[[int], None],
    on_acquisition: Callable[[], None],
    on_text: Callable[[str], None],
) -> ReplayResult:
    compression, parameters, configuration = options.compression(), options.parameter_message(), options.configuration()
    file = MrdFile(path, options.in_group)
    header = file.header
    on_start(file.acquisition_count)
    noise_level = _noise_level(options, header) if compression and compression.tolerance else 1.0
    result = wire_client.replay(
        client,
        header,
        file.items(),
        configuration,
        parameters=parameters,
        realtime=options.realtime,
        compression=compression,
        noise_level=noise_level,
        on_acquisition=on_acquisition,
    )
    for problem in file.problems:
        on_text(problem)
    file.close()
    return result


def _send_stream(
    client: Client,
    options: Options,
    path: Path,
    on_acquisition: Callable[[], None],
    on_text: Callable[[str], None],
) -> ReplayResult:
    """Send a recorded stream byte by byte as it came; its configuration gives way to one that was chosen."""
    stream, parameters = RecordedStream(path), options.parameter_message()
    replaces = options.names_configuration or (stream.header and not stream.configuration)
    result = wire_client.replay_stream(
        client,
        stream,
        configuration=options.configuration() if replaces else None,
        parameters=parameters,
        on_acquisition=on_acquisition,
    )
    if stream.is_cut_off:
        on_text(f"{path} ends inside a message; what came before it was sent")
    elif stream.is_interrupted:
        on_text(f"{path} ends without the end of its scan; what is there was sent")
    return result


def _noise_level(options: Options, header: bytes) -> float:
    """Smallest noise level of the noise scan that the header names, 1 if the server does not know it."""
    information = parse_header(header).measurementInformation
    for dependency in getattr(information, "measurementDependency", None) or []:
        if str(dependency.dependencyType).lower() == "noise" and dependency.measurementID:
            values = wire_client.noise_statistics(_connect(options), dependency.measurementID, options.silence)
            return float(values.get("min_sigma", 1.0))
    return 1.0


def _keep(
    options: Options, writer: ImageWriter, result: ReplayResult, reason: str, on_text: Callable[[str], None]
) -> None:
    """Write what had come of a session that ended early, with the reason on each image."""
    images, path = len(result.images), options.filename
    places = _places(path, options.in_group) if path is not None and h5py.is_hdf5(path) else 0
    of = f" of {places}" if places >= images else ""
    for image in result.images:
        image.meta[ENDED_EARLY] = f"{images}{of} images had come when the session ended: {reason}"
        writer.write(image)
    writer.close()
    where = f": in {options.outfile}, group {options.out_group!r}, marked {ENDED_EARLY}" if images else ""
    on_text(f"{images}{of} images had come when the session ended{where}")


def _places(scan: Path, group: str) -> int:
    """Count the slices, echoes, frames and sets of an MRD file, each of which is an image at least; 0 where it does not tell."""
    with open_hdf5(scan, "MRD file") as file:
        try:
            heads = file[group]["data"]["head"]  # pyright: ignore[reportIndexIssue] - h5py does not say what a name stands for
            counters = np.stack([heads["idx"][name] for name in _COUNTERS], axis=1)
            imaging = heads["flags"].astype(np.uint64) & np.uint64(_NO_IMAGE) == 0
        except (LookupError, OSError, RuntimeError, TypeError, ValueError):
            return 0
    return len(np.unique(counters[imaging], axis=0))


def _write(options: Options, writer: ImageWriter, result: ReplayResult) -> None:
    for image in result.images:
        writer.write(image)
    writer.close()
    if options.report:
        options.report.write_text(latency_table(result) + "\n", encoding="utf-8")


def latency_table(result: ReplayResult) -> str:
    """Describe the replay's speed and latency, one figure a line."""
    rows = [("acquisitions sent", f"{result.acquisitions}"), ("megabytes sent", f"{result.bytes_sent / 1e6:.1f}")]
    if result.send_seconds:
        rows.append(
            ("sending took", f"{result.send_seconds:.3f} s ({result.bytes_sent / 1e6 / result.send_seconds:.0f} MB/s)")
        )
    if result.arrivals:
        milliseconds = [1000 * arrival for arrival in result.arrivals]
        rows += [
            ("images received", f"{len(milliseconds)}"),
            ("images before the last readout was sent", f"{sum(value < 0 for value in milliseconds)}"),
            ("last readout sent to first image", f"{milliseconds[0]:.1f} ms"),
            ("last readout sent to last image", f"{milliseconds[-1]:.1f} ms"),
        ]
        if len(milliseconds) > 2:
            gaps = [after - before for before, after in pairwise(milliseconds)]
            rows.append(("median time between images", f"{median(gaps):.1f} ms"))
    return "\n".join(f"{name:<42} {value}" for name, value in rows)
