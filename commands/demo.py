"""The main job in one go: a simulated accelerated scan, the service, a replay over TCP, images beside the truth."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ..simulate.scan import ScanProtocol, SimulatedScan, simulate, truth_path
from ..wire.errors import FileError
from . import replay as replay_command
from .client import ClientError, ReplayResult, connect
from .frame import print_table
from .picture import Panel, Row, Sheet, draw, error_panels, show
from .picture.geometry import Geometry, geometry_of, radiological
from .picture.images import planes
from .picture.panel import brightest
from .picture.truth import VISIBLE_ALIASING, Numbers, Score, compare, matched, mean_score
from .replayed import Lines, read_lines

PROTOCOL = ScanProtocol(matrix=192, coils=12, slices=2, acceleration=4, acs=32, noise=0.3, repetition_time=4.0)
"""So fast that SENSE leaves aliasing to be seen, and not so fast that the network does; a test holds it to that."""
_METHODS = {"zero-filled": "rss.xml", "SENSE": "sense.xml", "network": "network.xml"}
_START_SECONDS = 900.0


@dataclass(frozen=True)
class _Made:
    """What a method made of the scan: images by slice, on the scale of the truth, and how far they are from it."""

    name: str
    images: list[Numbers]
    scores: list[Score]
    milliseconds: float

    @property
    def mean(self) -> Score:
        """The mean over slices; of the ghosts the largest."""
        return mean_score(self.scores)


def run_demo(folder: Path, console: Console, protocol: ScanProtocol = PROTOCOL) -> None:
    """Simulate, serve, replay and compare; write everything to ``folder``.

    Raises
    ------
    ClientError
        The service does not start, or does not return an image for each slice.
    FileError
        The folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {folder} cannot be made: {os.strerror(error.errno or 0)}") from error
    path = folder / "scan.h5"
    console.print(
        f"1. simulating {protocol.slices} slices of a head, {protocol.matrix} x {protocol.matrix}, "
        f"{protocol.coils} coils, acceleration {protocol.acceleration}"
    )
    scan = simulate(protocol)
    scan.save(path)
    console.print("2. starting the service and warming it up (the first time, it builds its reconstructions)")
    with _service(folder / "service.log") as port:
        _warm_up(protocol, folder, port, console)
        console.print(f"3. replaying the scan to port {port} in real time, as a scanner would")
        results = {
            name: _replay(path, pipeline, folder / f"{pipeline[:-4]}.h5", port, console, realtime=True)
            for name, pipeline in _METHODS.items()
        }
    for name, result in results.items():
        if len(result.images) != protocol.slices:
            raise ClientError(
                f"{_METHODS[name]} returned {len(result.images)} images of {protocol.slices} slices; "
                f"the service's log, {folder / 'service.log'}, says why"
            )
    made = [_judge(name, result, scan) for name, result in results.items()]
    _, lines = read_lines(path, "dataset")
    sheet = _sheet(made, results, scan, lines)
    draw(sheet, folder / "montage.png")
    latency = replay_command.latency_table(results["network"])
    (folder / "latency.txt").write_text(latency + "\n", encoding="utf-8")
    console.print("4. compared with the truth:")
    if console.is_terminal:
        show(Sheet("", sheet.rows[:1]), console, most=4)
    print_table(_table(made), console)
    console.print(_verdict(made[-1]), markup=False)
    for file, what in (
        ("scan.h5", "the scan (MRD): `isocenter view` shows it"),
        ("network.h5", "the network's images (MRD); beside it those of rss and sense"),
        ("montage.png", "zero-filled, SENSE, network and truth, and the errors"),
        ("latency.txt", "the latency report of the network"),
        ("service.log", "the service's log"),
    ):
        console.print(f"{folder / file!s:<28} {what}", markup=False)


def _warm_up(protocol: ScanProtocol, folder: Path, port: int, console: Console) -> None:
    """Let one slice be reconstructed in each way: what is measured afterwards is not how long bundles take to load."""
    scan, output = folder / "warm-up.h5", folder / "warm-up-images.h5"
    simulate(replace(protocol, slices=1)).save(scan)
    for pipeline in _METHODS.values():
        _replay(scan, pipeline, output, port, console, realtime=False)
    for path in (scan, truth_path(scan), output):
        path.unlink()


def _judge(name: str, result: ReplayResult, scan: SimulatedScan) -> _Made:
    every = planes(result.images)
    truths = matched(every, scan.truth)
    if truths is None:
        raise ClientError(f"the images of {_METHODS[name]} are not those of the scan that was sent")
    compared = compare(every, truths, scan.protocol.acceleration)
    bundle = str(result.images[0].meta.get("IsocenterBundle", "none"))
    return _Made(
        f"{name}\nbundle {bundle}",
        [image for image, _ in compared],
        [each for _, each in compared],
        1000 * result.arrivals[-1],
    )


def _sheet(made: list[_Made], results: Mapping[str, ReplayResult], scan: SimulatedScan, lines: Lines | None) -> Sheet:
    """Two rows of the slice in which the network leaves most aliasing: images and truth, sampling and errors."""
    protocol, network = scan.protocol, made[-1]
    worst = int(np.argmax([score.ghosts or 0.0 for score in network.scores]))
    geometry = geometry_of(planes(results["network"].images)[worst].image.getHead())
    truth, turned, _ = radiological(scan.truth[0, worst], geometry)
    white = brightest(truth)
    shown = [radiological(each.images[worst], geometry)[0] for each in made]
    panels = [_panel(each, worst, image, white, turned) for each, image in zip(made, shown, strict=True)]
    errors = [
        replace(error, title=f"{each.name.splitlines()[0]}: {error.title}")
        for each, error in zip(made, error_panels(shown, truth, white, turned), strict=True)
    ]
    measured = protocol.imaging_lines(0) | protocol.calibration_lines()
    pattern = np.repeat(measured[:, None], truth.shape[1], axis=1).astype(np.float32)
    sampling = Panel(pattern, "lines that were measured, ky down", (0.0, 1.0), legend="")
    title = (
        f"{protocol.phantom} phantom, {protocol.coils} coils, {lines or f'R {protocol.acceleration}'}; "
        f"slice {worst + 1} of {protocol.slices}, where the network leaves most aliasing"
    )
    return Sheet(title, [Row([*panels, Panel(truth, "truth", (0.0, white), turned)]), Row([*errors, sampling])])


def _panel(made: _Made, index: int, image: Numbers, white: float, geometry: Geometry | None) -> Panel:
    score = made.scores[index]
    title = f"{made.name}, {made.milliseconds:.0f} ms after the scan\n{score}"
    warning = f"! {score.aliasing}" if score.is_aliased else ""
    return Panel(image, title, (0.0, white), geometry, warning=warning)


def _table(made: list[_Made]) -> Table:
    table = Table("method", "SSIM", "PSNR [dB]", "aliases [%]", "ms after the scan")
    for each in made:
        name = each.name.replace("\n", ": ")
        table.add_row(
            name, f"{each.mean.ssim:.3f}", f"{each.mean.psnr:.1f}", each.mean.percent, f"{each.milliseconds:.0f}"
        )
    return table


def _verdict(network: _Made) -> str:
    """Say whether aliasing is to be seen in what should have none."""
    if network.mean.ghosts is None:
        return "every line was measured: there is nothing to unfold"
    limit = f"seen from {100 * VISIBLE_ALIASING:g} % of the object on"
    if network.mean.is_aliased:
        return f"the network does NOT unfold this scan: aliases of up to {network.mean.percent} % are left ({limit})"
    return f"no aliasing is visible in the network's images: up to {network.mean.percent} % is left ({limit})"


@contextmanager
def _service(log: Path) -> Iterator[int]:
    """Run ``isocenter serve`` on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "isocenter.commands.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=os.environ)  # noqa: S603
    try:
        try:
            connect("127.0.0.1", port, _START_SECONDS).close()
        except ClientError as error:
            raise ClientError(f"the service did not start, see {log}: {error}") from error
        yield port
    finally:
        process.terminate()
        process.wait()


def _replay(scan: Path, config: str, output: Path, port: int, console: Console, *, realtime: bool) -> ReplayResult:
    output.unlink(missing_ok=True)
    options = replay_command.Options(
        filename=scan, outfile=output, config=config, port=port, address="127.0.0.1", realtime=realtime
    )
    return replay_command.replay_shown(options, console, f"   {config:<12}")
