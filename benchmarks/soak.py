"""Thousands of scans and faults, mixed: does the service's memory stay flat, and do honest images stay the same?

A service runs in a process of its own. Several clients at once send it honest scans of several pipelines and sizes,
and between them faults from ``tests/faults`` at any point of a session, all drawn from one seed. After each twentieth
of them, when no session runs, resident memory, threads and file descriptors of the service are printed. Every honest
image must be, byte by byte, what it was the first time; images of another batch size count as others, since the same
runtime, device and batching make the same image.

``flat`` is the verdict: memory in the last quarter is at most 5 % above that in the quarter before it, with as many threads and
descriptors.

Run with ``python benchmarks/soak.py [--scans 2000] [--clients 4] [--faults 0.4]``.
"""

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

from isocenter.commands.client import Client, ask, connect, replay
from isocenter.service.settings import default_home
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import ConfigFile

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from faults.cases import CASES, run_case
from faults.faults import FAULTS, Expect
from faults.house import alone, fingerprint

HONEST = {
    "rss small": ("rss.xml", ScanProtocol(matrix=32, coils=4, slices=3, noise=0.5), {}),
    "rss large": ("rss.xml", ScanProtocol(matrix=128, coils=8, noise=0.5), {}),
    "sense": ("sense.xml", ScanProtocol(matrix=64, coils=6, slices=2, acceleration=2, noise=0.5), {}),
    "default": ("default.xml", ScanProtocol(matrix=64, coils=4, frames=4, noise=0.5), {}),
    "network": ("network.xml", ScanProtocol(matrix=96, coils=4, acceleration=4, noise=0.5), {"bundle": "modl-brain"}),
}
"""Pipeline, scan, and parameters."""
SETTINGS = """
handshake_timeout: 5
idle_timeout: 5
message_timeout: 5
send_timeout: 5
drain_timeout: 5
"""
STEPS = 20
GROWTH = 1.05
LEAVES = [case for case in CASES if FAULTS[case[1]].expect is Expect.GONE]


class Service:
    """The service as a program, and what the faults need of it."""

    def __init__(self, process, port):
        self.process, self.port = process, port
        self.small = alone(self)

    def connect(self, receive_bytes=None):
        sock = socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.settimeout(60)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def usage(self):
        """Resident megabytes, threads and descriptors."""
        folder = Path(f"/proc/{self.process.pid}")
        status = (folder / "status").read_text()
        memory, threads = (int(re.search(rf"{name}:\s+(\d+)", status).group(1)) for name in ("VmRSS", "Threads"))
        return memory / 1024, threads, len(list((folder / "fd").iterdir()))


@contextmanager
def running():
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "settings.yaml"
        (Path(folder) / "bundles").symlink_to(default_home() / "bundles")
        settings.write_text(f"home: {folder}\n{SETTINGS}")
        log = Path(folder) / "service.log"
        command = [sys.executable, "-W", "ignore", "-m", "isocenter.commands.cli", "serve", "--port", "0"]
        with log.open("wb") as stderr:
            process = subprocess.Popen([*command, "--config", str(settings)], stderr=stderr)
        try:
            while not (found := re.search(r"listening on \S+:(\d+)", log.read_text())):
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.1)
            yield Service(process, int(found.group(1)))
        finally:
            process.terminate()
            process.wait(60)


class Soak:
    """Draws what is sent, and keeps what came of it."""

    def __init__(self, service, seed, share_of_faults):
        self.service = service
        self.counts = Counter()
        self.wrong = []
        self._random = Random(seed)
        self._share = share_of_faults
        self._scans = {name: simulate(protocol) for name, (_, protocol, _) in HONEST.items()}
        self._known = {}
        self._lock = threading.Lock()

    def draw(self):
        """Return something to do."""
        if self._random.random() < self._share:
            # clients that simply go away are the most frequent ones
            phase, fault = self._random.choice(CASES if self._random.random() < 0.7 else LEAVES)
            seed = self._random.random()
            return lambda: self._fault(phase, fault, seed)
        name = self._random.choice(list(HONEST))
        return lambda: self._honest(name)

    def run(self, work):
        try:
            work()
        except Exception as error:  # noqa: BLE001 - counted as wrong
            self.wrong.append(repr(error))

    def _fault(self, phase, fault, seed):
        if verdict := run_case(self.service, phase, fault, seed):
            self.wrong.append(f"{fault}, {phase}: {verdict}")
        self.counts["faults"] += 1

    def _honest(self, name):
        pipeline, _, parameters = HONEST[name]
        scan = self._scans[name]
        client = Client(connect("localhost", self.service.port, 30))
        text = json.dumps({"parameters": parameters}) if parameters else None
        result = replay(client, scan.header.encode(), scan.items, ConfigFile(pipeline), parameters=text)
        problems = [text for text in result.texts if "INFO" not in text]
        if problems or not result.images:
            self.wrong.append(f"{name}: {len(result.images)} images, said {''.join(problems)!r}")
        with self._lock:
            self.counts["honest scans"] += 1
            self.counts["images"] += len(result.images)
            for place, (image, print_) in enumerate(zip(result.images, fingerprint(result.images), strict=True)):
                key = name, place, str(image.meta.get("IsocenterBatch"))
                if self._known.setdefault(key, print_) != print_:
                    self.wrong.append(f"{name}: image {place} is not what it was")


def slope(values):
    """Least-squares slope per step."""
    middle = (len(values) - 1) / 2
    mean = statistics.mean(values)
    moments = [(n - middle, value - mean) for n, value in enumerate(values)]
    return sum(x * y for x, y in moments) / sum(x * x for x, _ in moments)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=2000, help="honest scans and faults together")
    parser.add_argument("--clients", type=int, default=4, help="at once")
    parser.add_argument("--faults", type=float, default=0.4, help="share of faults")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    samples, start = [], time.monotonic()
    with running() as service, ThreadPoolExecutor(arguments.clients) as pool:
        soak = Soak(service, arguments.seed, arguments.faults)
        done = 0
        for step in range(1, STEPS + 1):
            works = [soak.draw() for _ in range(arguments.scans * step // STEPS - done)]
            done += len(works)
            list(pool.map(soak.run, works))
            assert ask(connect("localhost", service.port, 30), "isocenter::version")
            time.sleep(0.5)  # until the threads of the last session have ended
            samples.append(service.usage())
            memory, threads, descriptors = samples[-1]
            print(
                f"  {done} after {time.monotonic() - start:.0f} s: {memory:.0f} MB, {threads} threads, "
                f"{descriptors} descriptors, {len(soak.wrong)} wrong",
                flush=True,
            )
    for reason, count in Counter(soak.wrong).most_common(20):
        print(f"  wrong, {count} times: {reason}")
    quarter = STEPS // 4
    before, last = samples[-2 * quarter : -quarter], samples[-quarter:]
    grown = [statistics.median(s[n] for s in last) / statistics.median(s[n] for s in before) for n in range(3)]
    flat = grown[0] <= GROWTH and grown[1] <= 1.0 and grown[2] <= 1.0
    per_thousand = slope([memory for memory, _, _ in samples[-2 * quarter :]]) * 1000 * STEPS / arguments.scans
    print(f"{dict(soak.counts)}, {os.cpu_count()} cores, {arguments.clients} clients")
    print(f"figure soak.memory_mb {samples[-1][0]:.0f}")
    print(f"figure soak.memory_growth {grown[0]:.3f}")
    print(f"figure soak.memory_mb_per_1000_scans {per_thousand:.1f}")
    print(f"figure soak.threads_growth {grown[1]:.3f}")
    print(f"figure soak.descriptors_growth {grown[2]:.3f}")
    print(f"figure soak.wrong {len(soak.wrong)}")
    print(f"figure soak.flat {int(flat)}", flush=True)
    sys.exit(0 if flat and not soak.wrong else 1)


if __name__ == "__main__":
    main()
