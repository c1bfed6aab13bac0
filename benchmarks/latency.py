"""What the service adds to a reconstruction: from the last readout sent to the last image received.

A service runs in a process of its own; scans are replayed to it over the loopback, one readout every 2.5 ms as from a
scanner, or (``burst``) as fast as TCP takes them, which adds the time to work off what has piled up. The bare call of the
same bundle on the same input is measured in between, so that both see the same machine. Run with
``python benchmarks/latency.py [--scans 40]``.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from isocenter.export.classical import ensure_classical
from isocenter.gadgets import load
from isocenter.gadgets.items import Kspace
from isocenter.gadgets.model_inputs import arrange_inputs
from isocenter.gadgets.scan import Scan
from isocenter.service.client import Client, connect, replay
from isocenter.service.engine import Engine
from isocenter.service.settings import default_home
from isocenter.service.wire import ConfigFile
from isocenter.simulate.scan import ScanProtocol, SimulatedScan, simulate

PLAIN = ScanProtocol(matrix=256, coils=16, oversampling=1, noise_scan=False, repetition_time=2.5)
OVERSAMPLED = ScanProtocol(matrix=256, coils=16, repetition_time=2.5)
ACCELERATED = ScanProtocol(matrix=256, coils=8, acceleration=4, repetition_time=2.5)
CASES = {
    "rss": ("rss.xml", "rss", PLAIN, True),
    "default": ("default.xml", "rss", PLAIN, True),
    "default_burst": ("default.xml", "rss", PLAIN, False),
    "rss_oversampled": ("rss.xml", "rss", OVERSAMPLED, True),
    "sense_r4": ("sense.xml", "sense", ACCELERATED, True),
}
"""Pipeline, bundle, scan, and whether it is sent at the scanner's pace."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def start_service(home: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ISOCENTER_HOME": str(home)}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "isocenter.service.cli",
        "serve",
        "--port",
        str(port),
        "--log-format",
        "json",
    ]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, env=environment, stderr=stderr)
    connect("localhost", port, 120).close()
    return process


def bare_run(engine: Engine, case: str, scan: SimulatedScan):
    """Return a function that runs the case's bundle on its buffered input and takes the time in ms."""
    context = Scan(scan.header)
    stream = iter(scan.items)
    names = ("accumulate", "prewhiten", "remove_oversampling", "estimate_coil_maps")
    for name in names[: 4 if CASES[case][1] == "sense" else 3]:
        stream = load(name)(stream, context)
    kspace = next(item for item in stream if isinstance(item, Kspace))
    model = engine.load(CASES[case][1])
    inputs = arrange_inputs(model.manifest, kspace)

    def run() -> float:
        import time

        start = time.perf_counter()
        model.run(inputs)
        return 1000 * (time.perf_counter() - start)

    return run


def measure(case: str, engine: Engine, port: int, log: Path, scans: int) -> dict[str, float]:
    config, _, protocol, realtime = CASES[case]
    scan = simulate(protocol)
    header, run = scan.header.encode(), bare_run(engine, case, scan)
    latencies, bare = [], []
    for index in range(scans + 5):
        result = replay(
            Client(connect("localhost", port, 10)), header, scan.items, ConfigFile(config), realtime=realtime
        )
        if index >= 5:  # the first scans warm up
            latencies.append(1000 * result.arrivals[-1])
            bare.append(run())
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    server = [line.get("last_readout_to_first_image_ms", 0) for line in lines if line["message"] == "session ended"][
        -scans:
    ]
    stages = [line["stages_ms"] for line in lines if line["message"] == "session ended" and "stages_ms" in line][
        -scans:
    ]
    figures = {
        "added_latency_ms": statistics.median(latencies) - statistics.median(bare),
        "latency_ms": statistics.median(latencies),
        "latency_p99_ms": sorted(latencies)[int(0.99 * (len(latencies) - 1))],
        "bare_engine_ms": statistics.median(bare),
        "within_service_ms": statistics.median(server),
    }
    return figures | {f"stage_{name}_ms": statistics.median(stage[name] for stage in stages) for name in stages[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=40)
    parser.add_argument("--case", choices=CASES, action="append")
    arguments = parser.parse_args()
    home = default_home()
    ensure_classical(home / "bundles")
    with tempfile.TemporaryDirectory() as folder:
        port, log = free_port(), Path(folder) / "service.log"
        process = start_service(home, port, log)
        try:
            engine = Engine([home / "bundles"])
            results = {case: measure(case, engine, port, log, arguments.scans) for case in arguments.case or CASES}
        finally:
            process.terminate()
            process.wait(30)
    print(f"{torch.get_num_threads()} threads, {arguments.scans} scans a case, medians in ms\n")
    for case, figures in results.items():
        print(
            f"{case}: {CASES[case][0]}, {CASES[case][2].coils} coils, {CASES[case][2].matrix} x {CASES[case][2].matrix}"
        )
        for name, value in figures.items():
            print(f"  {name:<32} {value:8.2f}")
    print()
    for case, figures in results.items():
        prefix = "" if case == next(iter(results)) else f"{case}_"
        for name, value in figures.items():
            print(f"figure {prefix}{name} {value:.3f}")


if __name__ == "__main__":
    main()
