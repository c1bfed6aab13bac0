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
from numpy.typing import NDArray
from rich.console import Console

from ..gadgets.items import Image
from ..simulate.scan import ScanProtocol, simulate, truth_path
from . import replay_command
from .client import ClientError, ReplayResult, connect
from .picture import montage, planes

_PROTOCOL = ScanProtocol(coils=16, slices=4, acceleration=4, noise=0.5, repetition_time=4.0)
_START_SECONDS = 300.0


def run_demo(folder: Path, console: Console) -> None:
    """Simulate, serve, replay and compare; write everything to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    scan = folder / "scan.h5"
    protocol = _PROTOCOL
    console.print(
        f"1. simulating a brain: {protocol.slices} slices, {protocol.matrix} x {protocol.matrix}, {protocol.coils} coils, "
        f"acceleration {protocol.acceleration}"
    )
    simulate(protocol).save(scan)
    console.print("2. starting the service (the first time, it builds its reconstructions, which takes a minute)")
    with _service(folder / "service.log") as port:
        console.print(f"3. replaying the scan to port {port} as a scanner would, in real time")
        zero_filled = _replay(scan, "rss.xml", folder / "zero_filled.h5", port, console, realtime=False)
        result = _replay(scan, "sense.xml", folder / "images.h5", port, console, realtime=True)
    table = replay_command.latency_table(result)
    (folder / "latency.txt").write_text(table + "\n", encoding="utf-8")
    with h5py.File(truth_path(scan)) as file:
        truth = list(np.asarray(file["image"])[0])
    console.print(_compare(folder / "montage.png", truth, _by_slice(zero_filled.images), _by_slice(result.images)))
    console.print(table, markup=False)
    for name, what in (
        ("scan.h5", "the scan (MRD)"),
        ("images.h5", "the images (MRD)"),
        ("montage.png", "truth, zero-filled, SENSE, and SENSE's error times 5"),
        ("latency.txt", "the latency report"),
        ("service.log", "the service's log"),
    ):
        console.print(f"{folder / name!s:<28} {what}", markup=False)


@contextmanager
def _service(log: Path) -> Iterator[int]:
    """Run ``isocenter serve`` on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "isocenter.service.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
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
    return replay_command.run_shown(options, console, f"   {config:<10}")


def _by_slice(images: list[Image]) -> list[NDArray[np.float32]]:
    return planes(sorted(images, key=lambda image: image.slice))


def _compare(
    path: Path,
    truth: list[NDArray[np.float32]],
    zero_filled: list[NDArray[np.float32]],
    sense: list[NDArray[np.float32]],
) -> str:
    """Write a row of truth, zero-filled, SENSE and error for each slice; return the errors in words."""
    rows, errors = [], {"zero-filled": [], "SENSE": []}
    for true, before, after in zip(truth, zero_filled, sense, strict=True):
        before, after = _scaled(before, true), _scaled(after, true)
        rows += [true, before, after, 5 * np.abs(after - true)]
        errors["zero-filled"].append(_psnr(before, true))
        errors["SENSE"].append(_psnr(after, true))
    montage(rows, path)
    return "4. compared with the truth: " + ", ".join(
        f"{name} {np.mean(values):.1f} dB" for name, values in errors.items()
    )


def _scaled(image: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float32]:
    return image * np.float32((image * truth).sum() / (image * image).sum())


def _psnr(image: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return float(20 * np.log10(truth.max() / np.sqrt(np.mean((image - truth) ** 2))))
