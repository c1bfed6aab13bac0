"""Parts of ``gpu_acceptance.py`` in which scans go through a service on the card."""

import re
import statistics
import threading
import time
from itertools import chain
from pathlib import Path

import torch
from gpu_figures import check, figure
from gpu_service import deviation, running

HERE = Path(__file__).parent
PACE_MS = 2.5
REPEATS = 5
IMAGES_DIFFER = 5e-3
"""Relative deviation (2-norm) that images of the two services may have: maps end at another pixel here and there."""
MEMORY_OF_TWO = 1.25


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
        lines = service.log.read_text().splitlines()
        print(*[line for line in lines if "loaded bundle" in line], sep="\n")
        print(*[line for line in lines if "session ended" in line][-40::8], sep="\n")
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
    """Take the card's memory in mid-scan, and then the card; without one nothing is lost, and images are those that they were."""
    from isocenter.simulate.scan import ScanProtocol, simulate

    card, here, problems = arguments.device, torch.cuda.is_available(), []
    said = f"{card} is lost" if here else ""
    scan = simulate(ScanProtocol(matrix=96, coils=6, slices=6, acceleration=4, acs=24, noise=0.2, repetition_time=1))
    options = {"bundle": "modl-brain"}
    network = (HERE.parent / "pipelines" / "network.xml").read_text()

    def with_fault(name):
        return network.replace(
            '<gadget name="reconstruct">', f'<gadget name="{name}"/>\n<gadget name="reconstruct">'
        ).encode()

    def compare(what, result, words):
        metas = [image.meta for image in result.images]
        marked = [meta for meta in metas if words and words in str(meta.get("IsocenterFallback", ""))]
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
        compare("lost", service.send(with_fault("lose_card"), scan, options, realtime=True), said)
        start = time.perf_counter()
        compare("next", service.send("network.xml", scan, options), said)
        figure("lost.next.seconds", time.perf_counter() - start)
        for config in ("rss.xml", "sense.xml"):
            images = service.send(config, scan).images
            check(problems, len(images) == len(expected.images), f"{config} gives {len(images)} images afterwards")
        check(problems, service.process.poll() is None, "the service has ended")
    return problems
