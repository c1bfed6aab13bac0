"""Slices per second of the service, over those of the bare runtime in a loop; and its memory over many slices.

A service in a process of its own gets multi-slice scans as fast as TCP takes them, so that slices pile up. In between, the
same bundle runs on the same slices in a loop, in this process, with the same number of threads: the ratio is the share of the
device's time that the service turns into images. Coil maps are on the service's side only; in ``service_over_bare_with_maps``
the loop makes them as well.

The memory test sends small slices until there were ``--slices``, and prints the resident memory of the service after each
tenth of them; ``growth`` compares the last with that after the second tenth, when all pools have been filled.

Run with ``python benchmarks/throughput.py [--slices 10000]``.
"""

import argparse
import json
import re
import statistics
import time
from pathlib import Path

from isocenter.commands.client import Client, connect, replay
from isocenter.engine.device import LocalDevice, Shelf
from isocenter.service.memory import keep_freed_memory
from isocenter.service.settings import default_home
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import ConfigFile
from latency import bare_call, bare_maps, running_service

SLICES = 24
CASES = {
    "modl": ("network.xml", "modl-brain"),
    "varnet": ("network.xml", "varnet-brain"),
    "sense": ("sense.xml", "sense"),
}
PROTOCOL = ScanProtocol(phantom="template", matrix=192, coils=8, slices=SLICES, acceleration=4, noise=0.3)
SMALL = ScanProtocol(matrix=64, coils=4, slices=50, noise=0.5)


def send(config, scan, port, parameters):
    """Replay as fast as possible; return slices per second from the first byte to the last image."""
    start = time.perf_counter()
    result = replay(
        Client(connect("localhost", port, 10)),
        scan.header.encode(),
        scan.items,
        ConfigFile(config),
        parameters=json.dumps({"parameters": parameters}),
    )
    if result.failed or not result.images:
        raise SystemExit(f"{config} failed: {result.texts}")
    return len(result.images) / (time.perf_counter() - start)


def measure(case, device, port, rounds):
    config, bundle = CASES[case]
    scan = simulate(PROTOCOL)
    run = bare_call(device, bundle, scan)
    make_maps = bare_maps(scan)
    parameters = {"bundle": bundle}
    send(config, scan, port, parameters)
    ratios, with_maps = [], []
    for _ in range(rounds):
        service = send(config, scan, port, parameters)
        calls = sum(run() for _ in range(SLICES)) / 1000
        both = sum(make_maps() + run() for _ in range(SLICES)) / 1000
        ratios.append(service * calls / SLICES)
        with_maps.append(service * both / SLICES)
        bare = f"{SLICES / calls:.2f} slices/s, {SLICES / both:.2f} with coil maps"
        print(f"  {case}: service {service:.2f} slices/s, bare {bare}", flush=True)
    return {"service_over_bare": statistics.median(ratios), "service_over_bare_with_maps": statistics.median(with_maps)}


def resident_mb(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024


def measure_memory(process, port, slices):
    scan = simulate(SMALL)
    sizes = []
    sent = 0
    for tenth in range(1, 11):
        while sent < slices * tenth / 10:
            send("default.xml", scan, port, {})
            sent += SMALL.slices
        sizes.append(resident_mb(process))
        print(f"  {sent} slices: {sizes[-1]:.0f} MB", flush=True)
    return sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES, action="append")
    arguments = parser.parse_args()
    keep_freed_memory()
    home = default_home()
    cases = arguments.case or list(CASES)
    with running_service(home, {CASES[case][1] for case in cases}) as (process, port, _):
        device = LocalDevice("cpu", Shelf([home / "bundles"]))
        ratios = {case: measure(case, device, port, arguments.rounds) for case in cases}
        sizes = measure_memory(process, port, arguments.slices) if arguments.slices else []
    for case, figures in ratios.items():
        for name, value in figures.items():
            print(f"figure {case}.{name} {value:.3f}")
    if sizes:
        print(f"figure memory_after_{arguments.slices}_slices_mb {sizes[-1]:.0f}")
        print(f"figure memory_growth {sizes[-1] / sizes[1]:.3f}")


if __name__ == "__main__":
    main()
