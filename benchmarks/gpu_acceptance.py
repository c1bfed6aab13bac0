"""A GPU's acceptance: does everything work on this card, as exactly as on the CPU, and what does it gain?

Each part runs in a process of its own with a time limit, so that one that fails, hangs or loses the card costs no other:

- ``prepare``: the bundles that come with Isocenter are built.
- ``tests``: ``tests/test_cuda.py``.
- ``parity``: every bundle in every runtime, against its module in float64 on the CPU.
- ``lost``: a service meets a card without memory, and one that fails for good, in mid-scan; every image comes all the same.
- ``memory``: what two scans at once take of the card, over what one takes.
- ``serve``: scans of several pipelines through a service on the card, one and four at once: latency over that of the bare run,
  images against those of a service on the CPU.
- ``gpu``: ``gpu.py``, a network of published size. Its exports are begun first, in the background.

Figures are printed as ``figure NAME VALUE``. The status is 0 if all parts went well, or if there is no GPU.

Run with ``python benchmarks/gpu_acceptance.py``; without a GPU, ``--device cpu --small`` shows that it works.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import torch

HERE = Path(__file__).parent
LIMITS = {"prepare": 150, "tests": 120, "parity": 90, "lost": 90, "memory": 60, "serve": 120, "gpu": 240}
"""Parts in their order, and how many seconds each may take."""
EXPORT_SECONDS = 150
PACE_MS = 2.5
REPEATS = 5
IMAGES_DIFFER = 5e-3
"""Relative deviation (2-norm) that images of the two services may have: maps end at another pixel here and there."""
MEMORY_OF_TWO = 1.25


def wait_for(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} has not happened within {seconds} s")
        time.sleep(0.02)


def figure(name, value):
    print(f"figure {name} {value:.4g}", flush=True)


def check(problems, holds, text):
    """Note what is wrong, and go on."""
    if not holds:
        print(f"WRONG: {text}", flush=True)
        problems.append(text)


# the bundles


def prepare(_):
    """Build every bundle in a process of its own."""
    from isocenter.commands.prepare import prepare_bundles
    from isocenter.export.classical import METHODS
    from isocenter.export.shipped import SHIPPED
    from isocenter.service.settings import default_home, load_settings

    code = (
        "import sys, pathlib; name, folder = sys.argv[1], pathlib.Path(sys.argv[2]);"
        "from isocenter.export.classical import METHODS, ensure_classical;"
        "from isocenter.export.shipped import ensure_shipped;"
        "(ensure_classical if name in METHODS else ensure_shipped)(folder, only=[name])"
    )
    folder = default_home() / "bundles"
    folder.mkdir(parents=True, exist_ok=True)
    names = [*METHODS, *SHIPPED]

    def build(name):
        start = time.perf_counter()
        command = [sys.executable, "-W", "ignore", "-c", code, name, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
        print(f"{name:<14} {time.perf_counter() - start:6.1f} s {done.stdout}{done.stderr}", flush=True)
        return done.returncode

    with ThreadPoolExecutor(max(os.cpu_count() // 2, 1)) as pool:
        failed = [name for name, code in zip(names, pool.map(build, names), strict=True) if code]
    if not failed:
        prepare_bundles(load_settings(None))  # it notes that they are there
    return [f"bundles {', '.join(failed)} cannot be built"] if failed else []


# what needs no service


def tests(arguments):
    """Run the engine's tests for CUDA; where there is none, they skip themselves."""
    command = [sys.executable, "-m", "pytest", "-v", "-rs", "-W", "default", "-p", "no:cacheprovider", "--tb=long"]
    command += ["--durations=10", str(HERE.parent / "tests" / "test_cuda.py")]
    code = subprocess.run(command, cwd=HERE.parent, check=False).returncode
    none = code == 5 and arguments.device.type == "cpu"
    return [] if code == 0 or none else [f"pytest ended with status {code}"]


def exact_module(bundle):
    """Return the module that a shipped bundle was made from, in float64."""
    from isocenter.export.classical import METHODS
    from isocenter.export.importers.load import load_network
    from isocenter.export.shipped import SHIPPED
    from isocenter.models.networks.last_step import FinishedBySense
    from isocenter.models.scaling import scaled

    manifest = bundle.manifest
    if manifest.name in METHODS:
        module = METHODS[manifest.name].make(**manifest.configuration)
    else:
        shipped = SHIPPED[manifest.name]
        module = load_network(shipped.network, shipped.file).module
        module = scaled(module, manifest.conventions.input_scaling, tuple(spec.name for spec in manifest.inputs))
        module = FinishedBySense(module, manifest.conventions.sense_step)
    return module.eval().double()


def parity(arguments):
    """Compare every bundle in every runtime with float64, on the device and on the CPU."""
    from isocenter.bundle.folder import Bundle, relative_error
    from isocenter.bundle.manifest import BundleError
    from isocenter.engine.runtimes import RUNTIMES, readers
    from isocenter.export.cases import make_case
    from isocenter.service.settings import default_home

    sizes = ({"batch": 2, "coils": 8, "kz": 1, "ky": 192, "kx": 160}, {"batch": 1, "coils": 5, "ky": 101, "kx": 130})
    if arguments.small:
        sizes = ({"batch": 2, "coils": 4, "kz": 1, "ky": 64, "kx": 48}, {"batch": 1, "coils": 3, "ky": 37, "kx": 50})
    problems = []
    for path in sorted((default_home() / "bundles").glob("[!.]*")):
        bundle = Bundle.open(path)
        name, exact = bundle.manifest.name, exact_module(bundle)
        cases = [make_case(bundle.manifest.inputs, each, acs=16, spacing=4, phantom=True) for each in sizes]
        with torch.inference_mode():
            output = bundle.manifest.outputs[0].name
            truths = [{output: exact(*(value.double() for value in case.values()))} for case in cases]
        for runtime, file in readers(bundle).items():
            errors = {}
            try:
                for place in {torch.device("cpu"), arguments.device}:
                    session = RUNTIMES[runtime](file, bundle.manifest, place)
                    errors[place.type] = max(
                        relative_error(session.infer(case), truth) for case, truth in zip(cases, truths, strict=True)
                    )
            except BundleError as error:
                print(f"{name}, {runtime}: left out, {error}", flush=True)
                continue
            except Exception:  # noqa: BLE001 - the others are compared all the same
                traceback.print_exc()
                check(problems, False, f"{name} fails in {runtime}")
                continue
            figure(f"parity.{name}.{runtime}.error", errors[arguments.device.type])
            figure(f"parity.{name}.{runtime}.cpu_error", errors["cpu"])
            within = errors[arguments.device.type] <= bundle.manifest.tolerance
            check(problems, within, f"{name} deviates in {runtime} by more than {bundle.manifest.tolerance}")
    return problems


# services


class Service:
    """A service as a program of its own, and what it was sent."""

    def __init__(self, process, port, log):
        self.process, self.port, self.log = process, port, log

    def send(self, config, scan, parameters=None, *, realtime=False):
        from isocenter.commands.client import Client, connect, replay
        from isocenter.wire import ConfigFile, ConfigScript

        message = ConfigScript(config) if isinstance(config, bytes) else ConfigFile(config)
        text = json.dumps({"parameters": parameters}) if parameters else None
        client = Client(connect("localhost", self.port, 60))
        result = replay(client, scan.header.encode(), scan.items, message, parameters=text, realtime=realtime)
        if not result.images:
            raise RuntimeError(f"{config!r} gave no image: {result.texts}")
        return result

    def together(self, count, *arguments, **options):
        with ThreadPoolExecutor(count) as pool:
            pending = [pool.submit(self.send, *arguments, **options) for _ in range(count)]
            return [each.result() for each in pending]

    def loaded(self, bundle):
        return f"loaded bundle {bundle} " in self.log.read_text()


@contextmanager
def running(device, bundles, **settings):
    """Start a service on a device, wait until it has loaded the bundles, and stop it; its log is shown if something fails."""
    import yaml
    from isocenter.service.settings import default_home

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "bundles").symlink_to(default_home() / "bundles")
        values = {"home": name, "port": 0, "device": str(device), "log_private": True, **settings}
        (home / "settings.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        log = home / "service.log"
        command = [sys.executable, "-W", "ignore", "-m", "isocenter.commands.cli", "serve", "--verbose"]
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, "--config", str(home / "settings.yaml")], stdout=stderr, stderr=stderr
            )
        try:
            found = []

            def listens():
                if process.poll() is not None:
                    raise RuntimeError(f"the service has ended with status {process.returncode}")
                found[:] = re.findall(r"listening on \S+:(\d+)", log.read_text())
                return found

            wait_for(listens, 300, f"that the service on {device} listens")
            service = Service(process, int(found[0]), log)
            wait_for(lambda: all(map(service.loaded, bundles)), 300, f"that {', '.join(bundles)} are loaded")
            yield service
            process.send_signal(signal.SIGTERM)
            if status := process.wait(30):
                raise RuntimeError(f"the service on {device} ended with status {status}")
        except BaseException:
            print(f"--- log of the service on {device}\n{log.read_text()[-12000:]}\n---", flush=True)
            raise
        finally:
            process.kill()
            process.wait()


def pixels(result):
    import numpy as np

    return np.stack([image.data for image in result.images])


def deviation(result, reference):
    """Relative deviation of all images together, 2-norm; infinite if there are others."""
    import numpy as np

    a, b = pixels(result), pixels(reference)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if a.shape == b.shape else float("inf")


def protocols(small):
    """Pipeline, bundle, scan and parameters of each case."""
    from isocenter.simulate.scan import ScanProtocol, simulate

    matrix, coils, pace = (128, 8, 0.5) if small else (256, 16, PACE_MS)
    full = simulate(ScanProtocol(matrix=matrix, coils=coils, noise_scan=False, noise=0.2, repetition_time=pace))
    fast = simulate(
        ScanProtocol(matrix=matrix, coils=coils // 2, acceleration=4, acs=16, noise=0.2, repetition_time=pace)
    )
    return {
        "rss": ("rss.xml", "rss", full, {}),
        "sense": ("sense.xml", "sense", fast, {}),
        "modl": ("network.xml", "modl-brain", fast, {"bundle": "modl-brain"}),
        "varnet": ("network.xml", "varnet-brain", fast, {"bundle": "varnet-brain"}),
    }


def bare_seconds(device, bundle, scan):
    """Return the median time that a bundle takes for a block of a scan, which lies on the host."""
    from isocenter.engine.device import LocalDevice, Shelf
    from isocenter.flow.deferred import settled
    from isocenter.gadgets import load
    from isocenter.gadgets.kspace import Kspace
    from isocenter.gadgets.model_inputs import arrange_inputs
    from isocenter.gadgets.scan import Scan
    from isocenter.service.settings import default_home

    context = Scan(scan.header)
    stream = iter(scan.items)
    for name in ("accumulate", "remove_oversampling", "prewhiten", "estimate_coil_maps"):
        stream = load(name)(stream, context)
    block = next(item for item in stream if isinstance(item, Kspace))
    model = LocalDevice(device, Shelf([default_home() / "bundles"])).load(bundle)
    inputs = settled(arrange_inputs(model.manifest, block))
    durations = []
    for _ in range(2 + 2 * REPEATS):
        start = time.perf_counter()
        model.infer(inputs)
        durations.append(time.perf_counter() - start)
    return statistics.median(durations[2:])


def serve(arguments):
    """Compare a service on the device with one on the CPU, and its latency with the bare run."""
    cases, problems = protocols(arguments.small), []
    bundles = [bundle for _, bundle, _, _ in cases.values()]
    with running("cpu", bundles) as service:
        expected = {name: service.send(config, scan, options) for name, (config, _, scan, options) in cases.items()}
    bare = {name: bare_seconds(arguments.device, bundle, scan) for name, (_, bundle, scan, _) in cases.items()}
    with running(arguments.device, bundles) as service:
        for name, (config, bundle, scan, options) in cases.items():
            first = service.send(config, scan, options, realtime=True)
            alone = [service.send(config, scan, options, realtime=True) for _ in range(REPEATS)]
            four = [service.together(4, config, scan, options, realtime=True) for _ in range(2)]
            latency = statistics.median(result.arrivals[-1] for result in alone)
            last = min(max(result.arrivals[-1] for result in each) for each in four)
            results = [first, *alone, *chain.from_iterable(four)]
            error = max(deviation(result, expected[name]) for result in results)
            figure(f"serve.{name}.bare_ms", 1000 * bare[name])
            figure(f"serve.{name}.latency_ms", 1000 * latency)
            figure(f"serve.{name}.added_ms", 1000 * (latency - bare[name]))
            figure(f"serve.{name}.first_ms", 1000 * first.arrivals[-1])
            figure(f"serve.{name}.four_last_ms", 1000 * last)
            figure(f"serve.{name}.four_last_added_ms", 1000 * (last - 4 * bare[name]))
            figure(f"serve.{name}.error", error)
            check(problems, error <= IMAGES_DIFFER, f"images of {name} deviate by {error:.1e} from those of the CPU")
            for meta in [image.meta for result in results for image in result.images]:
                made = meta.get("IsocenterBundle") == bundle and meta.get("IsocenterDevice") == str(arguments.device)
                if not made or "IsocenterFallback" in meta:
                    said = {key: meta[key] for key in meta if key.startswith("Isocenter")}
                    check(problems, False, f"an image of {name} was made otherwise: {said}, {first.texts}")
                    break
        for line in [line for line in service.log.read_text().splitlines() if "session ended" in line][-40::8]:
            print(line)
    return problems


def used_bytes(device, process):
    """Memory of the card that is in use, or of the process where there is no card."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    status = Path(f"/proc/{process.pid}/status").read_text() if process else "VmRSS: 0 kB"
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status).group(1))


def peak(device, process, work):
    """Return the most memory that was in use while something was done."""
    samples, done = [], threading.Event()

    def watch():
        while not done.wait(0.002):
            samples.append(used_bytes(device, process))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return max(samples)


def memory(arguments):
    """Measure what one scan takes, and then two at once, by the driver's own account."""
    from isocenter.simulate.scan import ScanProtocol, simulate

    matrix, coils = (96, 4) if arguments.small else (384, 16)
    slices = 2 if arguments.small else 4
    scan = simulate(ScanProtocol(matrix=matrix, coils=coils, slices=slices, acceleration=4, acs=24, noise=0.2))
    before, problems = used_bytes(arguments.device, None), []
    with running(arguments.device, ["varnet-brain"]) as service:
        work = "network.xml", scan, {"bundle": "varnet-brain"}
        figure("memory.loaded_mb", (used_bytes(arguments.device, service.process) - before) / 1e6)
        one = peak(arguments.device, service.process, lambda: service.send(*work)) - before
        two = peak(arguments.device, service.process, lambda: service.together(2, *work)) - before
    figure("memory.one_mb", one / 1e6)
    figure("memory.two_mb", two / 1e6)
    figure("memory.two_over_one", two / one)
    check(problems, two <= MEMORY_OF_TWO * one, f"two scans at once take {two / one:.2f} times the memory of one")
    return problems


def lost(arguments):
    """Take the card's memory in mid-scan, and then the card; without one, the service is told to use it all the same."""
    from isocenter.simulate.scan import ScanProtocol, simulate

    card = arguments.device if arguments.device.type == "cuda" else torch.device("cuda:0")
    here, problems = torch.cuda.is_available(), []
    scan = simulate(ScanProtocol(matrix=96, coils=6, slices=6, acceleration=4, acs=24, noise=0.2, repetition_time=1))
    options = {"bundle": "modl-brain"}
    network = (HERE.parent / "pipelines" / "network.xml").read_text()

    def with_fault(name):
        return network.replace(
            '<gadget name="reconstruct">', f'<gadget name="{name}"/>\n<gadget name="reconstruct">'
        ).encode()

    def compare(what, result, words):
        metas = [image.meta for image in result.images]
        marked = [meta for meta in metas if words in str(meta.get("IsocenterFallback", ""))]
        error = deviation(result, expected)
        print(f"{what}: {len(metas)} images, {len(marked)} of them by the CPU, error {error:.1e}; said {result.texts}")
        print(
            *sorted({(str(meta.get("IsocenterDevice")), str(meta.get("IsocenterFallback"))) for meta in metas}),
            sep="\n",
        )
        figure(f"lost.{what}.images", len(metas))
        figure(f"lost.{what}.by_cpu", len(marked))
        figure(f"lost.{what}.error", error)
        check(problems, error <= IMAGES_DIFFER, f"{what}: images are missing or others, deviation {error:.1e}")
        check(problems, marked if words else True, f"{what}: no image says that it '{words}'")
        return marked

    with running("cpu", ["modl-brain"]) as service:
        expected = service.send("network.xml", scan, options)
    gadgets = {name: f"card_faults:{name}" for name in ("lose_card", "fill_card")}
    with running(card, ["modl-brain", "sense", "rss"], gadgets=gadgets, python_path=[str(HERE)]) as service:
        if here:
            compare("filled", service.send(with_fault("fill_card"), scan, options, realtime=True), "had no memory")
            after = service.send("network.xml", scan, options)
            devices = {str(image.meta["IsocenterDevice"]) for image in after.images}
            check(problems, devices == {str(card)}, f"after the card was full, {devices} made the images")
        compare("lost", service.send(with_fault("lose_card"), scan, options, realtime=True), f"{card} is lost")
        start = time.perf_counter()
        compare("next", service.send("network.xml", scan, options), f"{card} is lost")
        figure("lost.next.seconds", time.perf_counter() - start)
        for config in ("rss.xml", "sense.xml"):
            images = service.send(config, scan).images
            check(problems, len(images) == len(expected.images), f"{config} gives {len(images)} images afterwards")
        check(problems, service.process.poll() is None, "the service has ended")
    return problems


# the parts


def gpu(arguments):
    """Run ``gpu.py`` with what was exported in the background."""
    command = [sys.executable, "-W", "ignore", str(HERE / "gpu.py"), "--device", str(arguments.device)]
    command += ["--small"] if arguments.small else []
    command += ["--exports", str(arguments.exports)] if arguments.exports else []
    code = subprocess.run(command, check=False).returncode
    return [f"gpu.py ended with status {code}"] if code else []


PARTS = {part.__name__: part for part in (prepare, tests, parity, lost, memory, serve, gpu)}


def run_part(name, arguments):
    """Run a part in this process; return the status."""
    if name in ("parity", "serve"):
        torch.backends.cudnn.allow_tf32 = False
    try:
        problems = PARTS[name](arguments)
    except BaseException:  # noqa: BLE001 - whatever it is, it is shown
        traceback.print_exc(file=sys.stdout)
        return 1
    for problem in problems:
        print(f"WRONG in {name}: {problem}", flush=True)
    return int(bool(problems))


def start(command, **options):
    """Start a program whose processes can be ended together."""
    return subprocess.Popen([sys.executable, "-W", "ignore", *command], start_new_session=True, **options)


def end(process):
    """End a program and all that it has started; return its status, None if it had to be ended."""
    status = process.poll()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return status


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda:0"))
    parser.add_argument("--small", action="store_true", help="small scans and networks, to see that everything works")
    parser.add_argument("--only", help=f"parts, separated by commas, of {', '.join(PARTS)}")
    parser.add_argument("--patience", type=float, default=1.0, help="times the time limits")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--exports", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        raise SystemExit(run_part(arguments.part, arguments))
    if arguments.device.type == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no CUDA device here; --device cpu --small runs what can be run without one")
        return
    if arguments.device.type == "cuda":
        print(torch.cuda.get_device_name(arguments.device), f"torch {torch.__version__}", f"{os.cpu_count()} cores")
    names = arguments.only.split(",") if arguments.only else list(PARTS)
    common = ["--device", str(arguments.device), *(["--small"] if arguments.small else [])]
    outcomes, begun = {}, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        exports = None
        if "gpu" in names:
            command = [str(HERE / "gpu.py"), "--export-only", folder, "--export-seconds", str(EXPORT_SECONDS), *common]
            exports = start(command)
        for name in names:
            print(f"\n=== {name}", flush=True)
            part_begun = time.monotonic()
            if name == "gpu":
                exports.wait()
                print(f"its exports were waited for: {time.monotonic() - part_begun:.1f} s", flush=True)
            process = start([__file__, "--part", name, "--exports", folder, *common])
            try:
                process.wait(arguments.patience * LIMITS[name])
            except subprocess.TimeoutExpired:
                print(f"{name} takes more than {arguments.patience * LIMITS[name]:g} s and is ended", flush=True)
                process.send_signal(signal.SIGINT)  # it says where it is
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
            finally:
                status = end(process)
            outcomes[name] = status
            figure(f"{name}.seconds", time.monotonic() - part_begun)
            print(f"=== {name}: {'good' if status == 0 else 'FAILED'}", flush=True)
        if exports is not None:
            end(exports)
    figure("seconds", time.monotonic() - begun)
    failed = [name for name, status in outcomes.items() if status != 0]
    print(f"failed: {', '.join(failed)}" if failed else "all parts went well")
    raise SystemExit(int(bool(failed)))


if __name__ == "__main__":
    main()
