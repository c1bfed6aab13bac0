"""A published-size network on a GPU: every runtime and precision against eager mode, and against what the card can do.

E2E-VarNet with 12 cascades (29,936,966 parameters, random weights) reconstructs 15 coils x 640 x 372. Programs take turns.
Each is compared with eager mode in float32, in time and in its result, and placed between two limits that are measured on
the same card: the time that its multiplications would take at the rate of a large matrix product of the same precision, and
the time that reading and writing every tensor once would take at the rate of a copy. Coil maps and SENSE run as well, on the
GPU against the CPU.

``best`` is the fastest program; ``over_roofline`` is its time over the larger of the two limits. ``could_be`` is the fastest of
those that no runtime is yet, such as stages that share a compiled program.

Run with ``python benchmarks/gpu.py``; without a GPU, ``--small --device cpu`` shows that it works.
"""

import argparse
import copy
import importlib
import statistics
import tempfile
import time
import warnings
from functools import partial
from itertools import chain
from pathlib import Path

import gpu_stages
import torch
from gpu_exports import export, exported, make_inputs, make_network
from isocenter.bundle.folder import relative_error
from isocenter.bundle.manifest import BundleError
from isocenter.engine.device import LocalDevice, Shelf
from isocenter.engine.runtimes import RUNTIMES, readers
from isocenter.export.cases import make_case
from isocenter.export.classical import ensure_classical
from isocenter.export.half_precision import in_precision
from isocenter.models.coil_maps import espirit
from isocenter.service.settings import default_home
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ROUNDS = 5
PRECISIONS = ("float32", "tf32", "fp16", "bf16")
EXPORT_SECONDS = 300


class TrafficCounter(TorchDispatchMode):
    """Adds up the bytes of every operation's inputs and outputs; views count nothing."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, torch.Tensor)]
            tensors += [
                x for x in (outputs if isinstance(outputs, tuple) else (outputs,)) if isinstance(x, torch.Tensor)
            ]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return outputs


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run, device):
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def turns(programs, device):
    for run in programs.values():
        run()
    durations = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, run in programs.items():
            durations[name].append(timed(run, device))
    return {name: statistics.median(values) for name, values in durations.items()}


def tf32(on):
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def card_limits(device):
    """Operations per second of a large matrix product, by precision, and bytes per second of a copy."""
    size = 8192 if device.type == "cuda" else 1024
    limits = {}
    for name, dtype, fast in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("fp16", torch.float16, False),
        ("bf16", torch.bfloat16, False),
    ):
        a = torch.randn(size, size, device=device, dtype=dtype)
        tf32(fast)
        a @ a
        limits[name] = 2 * size**3 / min(timed(lambda a=a: a @ a, device) for _ in range(3))
    tf32(False)
    block = torch.empty(2**28 if device.type == "cuda" else 2**24, device=device)
    copy = torch.empty_like(block)
    copy.copy_(block)
    limits["bandwidth"] = 2 * block.nbytes / min(timed(lambda: copy.copy_(block), device) for _ in range(3))
    return limits


def network_programs(eager, bundles, values, device):
    """Programs by name: eager in three precisions, and every runtime and precision that this machine has."""

    def run_eager(fast=False, half=False):
        tf32(fast)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            result = eager(*values.values())
        tf32(False)
        return {"image": result.float()}

    programs = {
        "eager-float32": run_eager,
        "eager-tf32": lambda: run_eager(fast=True),
        "eager-bf16": lambda: run_eager(half=True),
    }
    kinds = [(bundle.manifest, name, path) for bundle in bundles.values() for name, path in readers(bundle).items()]
    if "onnx" in bundles and device.type == "cuda":
        kinds += [
            (manifest.model_copy(update={"precision": "tf32"}), name, path)
            for manifest, name, path in kinds
            if name == "onnx"
        ]
    for manifest, name, path in kinds:
        try:
            session = RUNTIMES[name](path, manifest, device)
        except BundleError as error:
            print(f"{name}-{manifest.precision} is left out: {error}")
            continue
        programs[f"{name}-{manifest.precision}"] = lambda session=session: session.infer(values)
    return programs


def what_could_be(eager, bundles, values, device, folder):
    """Programs that no runtime of Isocenter is yet: algorithms of cuDNN that were tried out, CUDA graphs of these, and stages."""
    inputs, programs = list(values.values()), {}

    def searching(run):
        def searched():
            torch.backends.cudnn.benchmark = True
            try:
                return run()
            finally:
                torch.backends.cudnn.benchmark = False

        return searched

    def add(name, make):
        try:
            program = make()
            program()
            programs[name] = program
        except Exception as error:  # noqa: BLE001 - it is only information
            print(f"{name} is left out: {type(error).__name__}: {str(error)[:300]}")

    half = in_precision(eager, "fp16")
    last = copy.deepcopy(half).to(memory_format=torch.channels_last)
    for name, module in (("float32", eager), ("fp16", half), ("nhwc-fp16", last)):

        def run(module=module):
            with torch.inference_mode():
                return {"image": module(*inputs).float()}

        add(f"searched-{name}", lambda run=run: searching(run))
        add(f"searched-graph-{name}", lambda run=run: captured(searching(run)))
    for name, module, precision in (("stages", eager, "float32"), ("stages-fp16", half, "fp16")):
        if (folder / name / "stage.pt2").is_file():
            load = partial(gpu_stages.program, folder / name, module, inputs, device)
            add(f"stages-{precision}", load)
            add(f"stages-graph-{precision}", lambda load=load: captured(load()))
            add(f"searched-stages-graph-{precision}", lambda load=load: captured(searching(load())))
    for bundle in bundles.values():
        if path := bundle.runtime_files().get("aoti"):
            precision, load = bundle.manifest.precision, partial(compiled, path, inputs, device)
            add(f"aoti-graph-{precision}", lambda load=load: captured(load()))
            add(f"searched-aoti-graph-{precision}", lambda load=load: captured(searching(load())))
    return programs


def captured(run):
    """Record what a program does on the card, and return a program that does it again."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()

    def replay():
        graph.replay()
        return outputs

    return replay


def compiled(path, inputs, device):
    """Load a program that was compiled ahead of time so that what it does can be recorded."""
    load = importlib.import_module("torch._inductor").aoti_load_package
    model = load(str(path), run_single_threaded=True, device_index=device.index or 0)

    def run():
        result = model(*inputs)
        return {"image": result if isinstance(result, torch.Tensor) else result[0]}

    return run


def show_kernels(run):
    """Print which kernels take how long, and how long the card works in all."""
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as record:
            run()
            torch.cuda.synchronize()
    except RuntimeError as error:
        print(f"kernels cannot be recorded: {error}")
        return
    rows = sorted(record.key_averages(), key=lambda row: -row.self_device_time_total)
    print(f"kernels of eager-float32: {sum(row.self_device_time_total for row in rows) / 1000:.1f} ms")
    for row in rows[:12]:
        print(f"{row.self_device_time_total / 1000:8.2f} ms {row.count:6} x {row.key[:110]}")


def compare_network(arguments, device, limits, folder):
    eager = make_network(arguments.small).to(device)
    values = {name: tensor.to(device) for name, tensor in make_inputs(arguments.small).items()}
    with torch.inference_mode(), FlopCounterMode(display=False) as operations:
        eager(*values.values())
    with torch.inference_mode(), TrafficCounter() as traffic:
        eager(*values.values())
    total = operations.get_total_flops()
    print(f"\n{total / 1e12:.2f} Tflop in convolutions and products, {traffic.bytes / 1e9:.1f} GB read and written")
    yield f"network_tflop {total / 1e12:.3f}"
    yield f"network_gb {traffic.bytes / 1e9:.2f}"
    work = {precision: max(total / limits[precision], traffic.bytes / limits["bandwidth"]) for precision in PRECISIONS}
    bundles = exported(folder)
    programs = network_programs(eager, bundles, values, device)
    truth = {"image": programs["eager-float32"]()["image"].cpu()}
    yield from measured(programs, truth, device, total, work, "best")
    if device.type == "cuda":
        show_kernels(programs["eager-float32"])
        others = what_could_be(eager, bundles, values, device, folder)
        others = {"eager-float32": programs["eager-float32"], **others}
        yield from measured(others, truth, device, total, work, "could_be")


def measured(programs, truth, device, total, work, title):
    """Let programs take turns; print and yield their times, their errors, and which is the fastest."""
    errors = {name: relative_error({"image": run()["image"].cpu()}, truth) for name, run in programs.items()}
    durations = turns(programs, device)
    base = durations["eager-float32"]
    for name, seconds in durations.items():
        limit = work[name.rpartition("-")[2]]
        print(
            f"{name:<25} {1000 * seconds:8.1f} ms, {seconds / base:5.2f} of eager, error {errors[name]:.1e}; "
            f"{total / seconds / 1e12:.1f} Tflop/s, limit {1000 * limit:.1f} ms",
            flush=True,
        )
        yield f"{name}.ms {1000 * seconds:.2f}"
        yield f"{name}.over_eager {seconds / base:.3f}"
        yield f"{name}.over_roofline {seconds / limit:.2f}"
        yield f"{name}.error {errors[name]:.2e}"
    best = min(durations, key=durations.get)
    print(f"{title}: {best}")
    yield f"{title}.eager_over {base / durations[best]:.3f}"
    yield f"{title}.over_roofline {durations[best] / work[best.rpartition('-')[2]]:.2f}"


def compare_transfers(device):
    """How long inputs of 28 MB take to the card: from torch's pinned memory, copied there first, and as they are."""
    block = torch.randn(15, 640, 372, 2)
    ways = {
        "pinned": lambda: block.pin_memory().to(device, non_blocking=True),
        "plain": lambda: block.to(device),
    }
    for name, seconds in turns(ways, device).items():
        print(f"to the card, {name:<8} {1000 * seconds:8.2f} ms")
        yield f"transfer.{name}_ms {1000 * seconds:.3f}"


def compare_classical(arguments, device):
    matrix, coils = (64, 4) if arguments.small else (256, 12)
    region = torch.randn(coils, 1, 24, 24, dtype=torch.complex64)
    shelf = Shelf([default_home() / "bundles"])
    ensure_classical(default_home() / "bundles")
    sizes = {"batch": 8, "coils": coils, "kz": 1, "ky": matrix, "kx": matrix}
    processor = torch.device("cpu")
    for name in ("espirit", "sense"):
        programs = {}
        for place in (processor, device):
            if name == "espirit":
                data = region.to(place)
                programs[str(place)] = lambda data=data: espirit(data, (1, matrix, matrix))
            else:
                model = LocalDevice(place, shelf, "torchscript").load("sense")
                inputs = make_case(model.manifest.inputs, sizes, acs=24, spacing=4, phantom=True)
                inputs = {key: value.to(place) for key, value in inputs.items()}
                programs[str(place)] = lambda model=model, inputs=inputs: model.infer(inputs)
        durations = turns(programs, device)
        for place, seconds in durations.items():
            print(f"{name:<10} {place:<8} {1000 * seconds:8.1f} ms")
        yield f"{name}.device_over_cpu {durations[str(device)] / durations['cpu']:.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true", help="a small network, to see that everything works")
    parser.add_argument("--exports", type=Path, help="folder in which the bundles are")
    parser.add_argument("--export-only", type=Path, help="folder in which to put the bundles, and nothing more")
    parser.add_argument("--export-seconds", type=float, default=EXPORT_SECONDS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device(arguments.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("there is no CUDA device; --small --device cpu shows that the benchmark works")
        print(torch.cuda.get_device_name(device))
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.exports or arguments.export_only or Path(name)
        if arguments.exports is None:
            export(folder, device, arguments.small, arguments.export_seconds)
        if arguments.export_only is None:
            compare(arguments, device, folder)


def compare(arguments, device, folder):
    tf32(False)
    limits = card_limits(device)
    for name, value in limits.items():
        print(f"{name:<10} {value / 1e12:8.3f} {'TB/s' if name == 'bandwidth' else 'Tflop/s'}")
    for figure in chain(
        compare_classical(arguments, device),
        compare_transfers(device) if device.type == "cuda" else (),
        compare_network(arguments, device, limits, folder),
    ):
        print(f"figure {figure}", flush=True)


if __name__ == "__main__":
    main()
