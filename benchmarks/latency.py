"""What the service adds to a reconstruction: from the last readout sent to the last image received.

A service runs in a process of its own; scans are replayed to it over the loopback, one readout every 2.5 ms as from a
scanner, by one client or several at once. The bare call of the same bundle on the same input, with the same number of
threads and the same settings, is measured in between, so that both see the same machine: after a pause as long as a scan, as a
processor that has slept is slower at first (``bare_ms``), and once more right after it (``bare_again_ms``).

- ``added``: latency minus one bare call, median and p99. Several scans that end at the same moment share one device, so
  that all but the first wait for others as well; ``last_added`` is when the last of them has its image, minus as many bare
  calls as there are scans: what no queue could avoid is taken off.
- ``first_over_others``: latency of the very first scan with a network after the service has started, over the median of the
  following ones.

Of a series that is reconstructed while it is scanned (``cine.xml``), every frame has a latency: from its own last readout to its
image. Frames wait for those after them, as many as the window takes at once; where the network is slower than the scanner, they
wait for one another as well, and the last ones the longest. ``wait`` is what the windows alone make of it, at no time for
computing; ``bare_per_frame`` is a bare call on a window over the frames that it shows.

Run with ``python benchmarks/latency.py [--scans 20]``.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

from isocenter.commands.serve import SPIN_COUNT

os.environ.setdefault(*SPIN_COUNT)  # OpenMP reads it when torch is loaded

import torch
from isocenter.commands.client import Client, connect, replay
from isocenter.engine.device import LocalDevice, Shelf
from isocenter.export.classical import ensure_classical
from isocenter.export.shipped import ensure_shipped
from isocenter.flow.deferred import settled
from isocenter.gadgets import load
from isocenter.gadgets.estimate_coil_maps import MapsOptions, calibration_region, estimate_maps
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.model_inputs import arrange_inputs
from isocenter.gadgets.scan import Scan
from isocenter.service.memory import keep_freed_memory
from isocenter.service.settings import default_home
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import ConfigFile

PLAIN = ScanProtocol(matrix=256, coils=16, oversampling=1, noise_scan=False, repetition_time=2.5)
OVERSAMPLED = ScanProtocol(matrix=256, coils=16, repetition_time=2.5)
ACCELERATED = ScanProtocol(matrix=256, coils=8, acceleration=4, repetition_time=2.5)
BRAIN = ScanProtocol(phantom="template", matrix=192, coils=8, acceleration=4, noise=0.3, repetition_time=2.5)
CASES = {
    "rss": ("rss.xml", "rss", PLAIN, {}),
    "rss_oversampled": ("rss.xml", "rss", OVERSAMPLED, {}),
    "sense_r4": ("sense.xml", "sense", ACCELERATED, {}),
    "modl": ("network.xml", "modl-brain", BRAIN, {"bundle": "modl-brain"}),
    "varnet": ("network.xml", "varnet-brain", BRAIN, {"bundle": "varnet-brain"}),
}
"""Pipeline, bundle, scan, and the parameters sent with it."""
CINES = {
    f"cine_{matrix}": ScanProtocol(
        phantom="heart",
        matrix=matrix,
        coils=8,
        frames=40,
        frame_counter="repetition",
        acceleration=4,
        acs=8,
        sampling="kt-interleaved",
        oversampling=1,
        noise_scan=False,
        repetition_time=2.5,
    )
    for matrix in (96, 128)
}
"""Series."""
AT_ONCE = (1, 2, 4)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def running_service(home, bundles):
    """Start a service, wait until it has loaded the bundles, and stop it at the end; gives process, port and log file."""
    ensure_classical(home / "bundles")
    ensure_shipped(home / "bundles")
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "isocenter.commands.cli", "serve", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "service.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, "--log-format", "json"], env={**os.environ, "ISOCENTER_HOME": str(home)}, stderr=stderr
            )
        try:
            connect("localhost", port, 300).close()
            while not all(f"loaded bundle {name} " in log.read_text() for name in bundles):
                time.sleep(0.1)
            yield process, port, log
        finally:
            process.terminate()
            process.wait(60)


def bare_call(device, bundle, scan):
    """Return a function that runs a bundle on the next buffered slice of a scan and takes the time in ms."""
    model = device.load(bundle)
    slices = cycle([settled(arrange_inputs(model.manifest, kspace)) for kspace in blocks(scan)])

    def run():
        inputs = next(slices)
        start = time.perf_counter()
        model.infer(inputs)
        return 1000 * (time.perf_counter() - start)

    run()
    return run


def bare_maps(scan):
    """Return a function that makes the coil maps of the next buffered slice, with all cores, and takes the time in ms."""
    options = MapsOptions()
    slices = cycle(blocks(scan))

    def run():
        kspace = next(slices)
        start = time.perf_counter()
        estimate_maps(calibration_region(kspace, options.calibration_size), kspace.data.shape[2:], options)
        return 1000 * (time.perf_counter() - start)

    run()
    return run


def blocks(scan):
    """Buffer a scan, and return its blocks, for which coil maps can be made."""
    context = Scan(scan.header)
    stream = iter(scan.items)
    for name in ("accumulate", "remove_oversampling", "prewhiten", "estimate_coil_maps"):
        stream = load(name)(stream, context)
    return [item for item in stream if isinstance(item, Kspace)]


def send(config, scan, port, parameters):
    """Replay a scan; return ms from its last readout to its last image."""
    header = scan.header.encode()
    client = Client(connect("localhost", port, 10))
    result = replay(
        client, header, scan.items, ConfigFile(config), realtime=True, parameters=json.dumps({"parameters": parameters})
    )
    if not result.images:
        raise SystemExit(f"{config} returned no image: {result.texts}")
    bundle = parameters.get("bundle")
    if bundle and result.images[0].meta["IsocenterBundle"] != bundle:
        raise SystemExit(f"{bundle} did not make the images: {result.texts}")
    return 1000 * result.arrivals[-1]


def send_together(count, *arguments):
    latencies = []
    threads = [threading.Thread(target=lambda: latencies.append(send(*arguments))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def measure(case, device, port, repetitions):
    config, bundle, protocol, parameters = CASES[case]
    scan = simulate(protocol)
    run = bare_call(device, bundle, scan)
    figures = {}
    first = send(config, scan, port, parameters)
    others = [send(config, scan, port, parameters) for _ in range(5)]
    figures["first_over_others"] = first / statistics.median(others)
    for count in AT_ONCE:
        latencies, last, bare, again = [], [], [], []
        for _ in range(max(repetitions // count, 5)):
            start = time.perf_counter()
            together = send_together(count, config, scan, port, parameters)
            latencies += together
            last.append(max(together))
            time.sleep(time.perf_counter() - start)
            bare.append(run())
            again.append(run())
        one = statistics.median(bare)
        p99 = sorted(latencies)[min(len(latencies) - 1, round(0.99 * len(latencies)))]
        prefix = f"{count}_at_once_"
        figures[f"{prefix}bare_ms"] = one
        figures[f"{prefix}bare_again_ms"] = statistics.median(again)
        figures[f"{prefix}latency_ms"] = statistics.median(latencies)
        figures[f"{prefix}added_ms"] = statistics.median(latencies) - one
        figures[f"{prefix}added_p99_ms"] = p99 - one
        figures[f"{prefix}last_added_ms"] = statistics.median(last) - count * one
        figures[f"{prefix}last_added_over_aim"] = figures[f"{prefix}last_added_ms"] / max(5, 0.05 * one)
    return figures


def measure_cine(protocol, device, port, repetitions):
    """Latencies of the frames of a series."""
    scan = simulate(protocol)
    frames = [item.idx.repetition for item in scan.items]
    last = {frame: number for number, frame in enumerate(frames, 1)}
    ended = {frame: -protocol.repetition_time * (len(frames) - number) for frame, number in last.items()}
    found = []
    for _ in range(repetitions):
        client = Client(connect("localhost", port, 10))
        result = replay(client, scan.header.encode(), scan.items, ConfigFile("cine.xml"), realtime=True)
        if {image.meta["IsocenterBundle"] for image in result.images} != {"ridge-cine"}:
            raise SystemExit(f"ridge-cine did not make the images: {result.texts}")
        found.append(
            {
                image.repetition: 1000 * arrival - ended[image.repetition]
                for image, arrival in zip(result.images, result.arrivals, strict=True)
            }
        )
    latency = [statistics.median(each[frame] for each in found) for frame in sorted(ended)]
    windows = list(cine_windows(scan))
    shown = [range(window.data.shape[1])[window.shown] for window in windows]
    steady = len(shown[1])
    model = device.load("ridge-cine")
    inputs = settled(arrange_inputs(model.manifest, windows[1]))
    model.infer(inputs)
    start = time.perf_counter()
    model.infer(inputs)
    bare = 1000 * (time.perf_counter() - start)
    waits = [ended[window.central_header(-1).idx.repetition] for window in windows]
    wait = [
        waits[number] - ended[windows[number].central_header(f).idx.repetition]
        for number, s in enumerate(shown)
        for f in s
    ]
    pace = protocol.repetition_time * len(frames) / protocol.frames
    return {
        "scanner_per_frame_ms": pace,
        "bare_per_frame_ms": bare / steady,
        "wait_ms": statistics.median(wait),
        "latency_ms": statistics.median(latency),
        "latency_first_ms": latency[0],
        "latency_longest_ms": max(latency),
        "last_image_after_scan_ms": statistics.median(max(each[f] + ended[f] for f in each) for each in found),
    }


def cine_windows(scan):
    """Buffer a series, and return its windows, for which coil maps can be made."""
    context = Scan(scan.header)
    stream = load("accumulate")(iter(scan.items), context, joined=True)
    for name in ("prewhiten", "sliding_window", "estimate_coil_maps"):
        stream = load(name)(stream, context)
    return (item for item in stream if isinstance(item, Kspace))


def stages(log, count):
    """Median time of the service's own stages over the last sessions."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    found = [line["stages_ms"] for line in lines if line["message"] == "session ended" and "stages_ms" in line][-count:]
    return {name: statistics.median(each.get(name, 0) for each in found) for name in found[-1]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=20)
    parser.add_argument("--case", choices=[*CASES, *CINES], action="append")
    arguments = parser.parse_args()
    keep_freed_memory()
    home = default_home()
    cases = arguments.case or [*CASES, *CINES]
    results = {}
    bundles = {CASES[case][1] if case in CASES else "ridge-cine" for case in cases}
    with running_service(home, bundles) as (_, port, log):
        device = LocalDevice("cpu", Shelf([home / "bundles"]))
        for case in cases:
            config, protocol = CASES[case][::2][:2] if case in CASES else ("cine.xml", CINES[case])
            print(f"{case}: {config}, {protocol.coils} coils, {protocol.matrix} x {protocol.matrix}", flush=True)
            if case in CASES:
                results[case] = measure(case, device, port, arguments.scans)
            else:
                results[case] = measure_cine(protocol, device, port, max(arguments.scans // 10, 1))
            for name, value in results[case].items():
                print(f"  {name:<32} {value:8.2f}")
            print(f"  stages within the service [ms]: {stages(log, 10)}", flush=True)
    print(f"\n{torch.get_num_threads()} threads")
    for case, figures in results.items():
        for name, value in figures.items():
            print(f"figure {case}.{name} {value:.3f}")


if __name__ == "__main__":
    main()
