"""How much slower reconstructions are while another process keeps a core busy.

Calls
    of bundles with all cores, as the service waits and as OpenMP does by itself. Each measurement runs in a process of its own,
    since OpenMP reads how long its threads spin when it is loaded. ``slowdown`` is the time of a call beside the busy process
    over that without it; ``idle`` the time without it as the service waits, over that as OpenMP does by itself.
Service
    at full speed, from the last readout sent to the first image: the time beside the busy process over that without it, in turns.

Run with ``python benchmarks/busy.py [--replays 20]``.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

BUNDLES = ("sense", "varnet-brain", "modl-brain")
SIZES = {"batch": 1, "coils": 8, "frames": 1, "kz": 1, "ky": 192, "kx": 192}
ROUNDS = 2


def child():
    """Print milliseconds of a call of each bundle, with all cores."""
    from isocenter.commands.serve import SPIN_COUNT

    os.environ.setdefault(*SPIN_COUNT)
    import torch
    from isocenter.bundle.folder import Bundle
    from isocenter.engine.runtimes import RUNTIMES
    from isocenter.export.cases import make_case
    from isocenter.service.settings import default_home

    torch.set_num_threads(os.cpu_count() or 1)
    times = []
    for name in BUNDLES:
        bundle = Bundle.open(default_home() / "bundles" / name)
        runtime = RUNTIMES["torchscript"](bundle.runtime_files()["torchscript"], bundle.manifest, torch.device("cpu"))
        inputs = make_case(bundle.manifest.inputs, SIZES, acs=16, spacing=4, phantom=True)
        runtime.infer(inputs)
        calls = []
        for _ in range(5):
            start = time.perf_counter()
            runtime.infer(inputs)
            calls.append(1000 * (time.perf_counter() - start))
        times.append(statistics.median(calls))
    print(*times)


@contextmanager
def other_program(busy):
    """A process that computes without end beside this one, if ``busy``."""
    # in a session of its own, which the scheduler treats as a group, like another container
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) if busy else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()
            other.wait()


def measure(spin, *, busy):
    """Run a child, beside a process that computes without end if ``busy``; return milliseconds by bundle."""
    environment = {**os.environ, **({"GOMP_SPINCOUNT": spin} if spin else {})}
    with other_program(busy):
        command = [sys.executable, "-W", "ignore", __file__, "--child"]
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return dict(zip(BUNDLES, map(float, output.split()), strict=True))


def service(replays):
    """Print figures of whole scans through a service."""
    from isocenter.commands.client import Client, connect, replay
    from isocenter.service.settings import default_home
    from isocenter.simulate.scan import ScanProtocol, simulate
    from isocenter.wire import ConfigFile
    from latency import running_service

    scans = {
        "rss": simulate(ScanProtocol(matrix=256, coils=16)),
        "sense": simulate(ScanProtocol(matrix=256, coils=8, acceleration=4)),
    }
    times = {(name, busy): [] for name in scans for busy in (False, True)}
    with running_service(Path(default_home()), scans) as (_process, port, _log):
        for _ in range(ROUNDS):
            for busy in (False, True):
                with other_program(busy):
                    time.sleep(1)  # until the other program has started
                    for name, scan in scans.items():
                        for count in range(replays):
                            client = Client(connect("localhost", port, 10))
                            result = replay(client, scan.header.encode(), scan.items, ConfigFile(f"{name}.xml"))
                            if count > 1:
                                times[name, busy].append(1000 * result.arrivals[0])
    for (name, busy), values in times.items():
        worst = statistics.quantiles(values, n=20)[-1]
        where = "beside a busy process" if busy else "alone"
        print(f"  {name}.xml, {where}: median {statistics.median(values):.0f} ms, 95 % {worst:.0f} ms")
    for name in scans:
        slowdown = statistics.median(times[name, True]) / statistics.median(times[name, False])
        print(f"figure busy.service_{name}.slowdown {slowdown:.2f}", flush=True)


def main():
    if "--child" in sys.argv:
        child()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=20, help="scans of each pipeline and turn")
    service(parser.parse_args().replays)
    # what libgomp takes where nothing is said
    ways = {"service": None, "openmp": "300000"}
    figures = {}
    for _ in range(ROUNDS):
        for way, spin in ways.items():
            for busy in (False, True):
                for name, milliseconds in measure(spin, busy=busy).items():
                    figures.setdefault((way, busy, name), []).append(milliseconds)
                    print(
                        f"  {name}, {way}, {'beside a busy process' if busy else 'alone'}: {milliseconds:.0f} ms",
                        flush=True,
                    )
    middle = {key: statistics.median(values) for key, values in figures.items()}
    for name in BUNDLES:
        for way in ways:
            print(f"figure busy.{name}.slowdown_{way} {middle[way, True, name] / middle[way, False, name]:.2f}")
        print(f"figure busy.{name}.idle {middle['service', False, name] / middle['openmp', False, name]:.2f}")


if __name__ == "__main__":
    main()
