"""The main job in one go: a simulated accelerated scan, the service, a replay over TCP, images beside the truth."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from ..models import metrics
from ..simulate.scan import ScanProtocol, simulate, truth_path
from ..wire.items import Image
from . import replay as replay_command
from .client import ClientError, ReplayResult, connect
from .picture import montage, planes

_PROTOCOL = ScanProtocol(
    phantom="template", matrix=192, coils=12, slices=4, acceleration=4, noise=0.3, repetition_time=4.0
)
_METHODS = {"zero-filled": "rss.xml", "SENSE": "sense.xml", "network": "network.xml"}
_START_SECONDS = 900.0

Planes = list[NDArray[np.float32]]


def run_demo(folder: Path, console: Console) -> None:
    """Simulate, serve, replay and compare; write everything to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    scan = folder / "scan.h5"
    protocol = _PROTOCOL
    console.print(
        f"1. simulating {protocol.slices} slices of brains from the MNI152 template, {protocol.matrix} x {protocol.matrix}, "
        f"{protocol.coils} coils, acceleration {protocol.acceleration}"
    )
    simulate(protocol).save(scan)
    console.print("2. starting the service (the first time, it builds its reconstructions)")
    with _service(folder / "service.log") as port:
        console.print(f"3. replaying the scan to port {port} as a scanner would, at last in real time")
        results = {
            name: _replay(scan, pipeline, folder / f"{pipeline[:-4]}.h5", port, console, realtime=name == "network")
            for name, pipeline in _METHODS.items()
        }
    for name, result in results.items():
        if len(result.images) != protocol.slices:
            raise ClientError(
                f"{_METHODS[name]} returned {len(result.images)} images of {protocol.slices} slices; "
                f"the service's log, {folder / 'service.log'}, says why"
            )
    images = {name: _by_slice(result.images) for name, result in results.items()}
    table = replay_command.latency_table(results["network"])
    (folder / "latency.txt").write_text(table + "\n", encoding="utf-8")
    with h5py.File(truth_path(scan)) as file:
        truth = list(np.asarray(file["image"])[0])
    console.print(_compare(folder / "montage.png", images, truth), markup=False)
    console.print(table, markup=False)
    for name, what in (
        ("scan.h5", "the scan (MRD)"),
        ("network.h5", "the network's images (MRD); beside it those of rss and sense"),
        ("montage.png", "zero-filled, SENSE, network and truth"),
        ("latency.txt", "the latency report"),
        ("service.log", "the service's log"),
    ):
        console.print(f"{folder / name!s:<28} {what}", markup=False)


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


def _by_slice(images: list[Image]) -> Planes:
    return planes(sorted(images, key=lambda image: image.slice))


def _compare(path: Path, images: dict[str, Planes], truth: Planes) -> str:
    """Write a row of all methods and the truth for each slice; return SSIM and PSNR in words."""
    rows: Planes = []
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in images}
    for index, true in enumerate(truth):
        for name, slices in images.items():
            image = slices[index] * np.float32((slices[index] * true).sum() / (slices[index] ** 2).sum())
            rows.append(image)
            pair = torch.from_numpy(image)[None], torch.from_numpy(true.astype(np.float32))[None]
            figures[name].append((float(metrics.ssim(*pair)), float(metrics.psnr(*pair))))
        rows.append(true)
    montage(rows, path)
    words = []
    for name, values in figures.items():
        ssim, psnr = np.mean(values, axis=0)
        words.append(f"{name} SSIM {ssim:.3f}, {psnr:.1f} dB")
    return "4. compared with the truth: " + "; ".join(words)
