"""A published-size network on a GPU: every runtime and precision against eager mode, and against what the card can do.

E2E-VarNet with 12 cascades (29,936,966 parameters, random weights) reconstructs 15 coils x 640 x 372. Programs take turns.
Each is compared with eager mode in float32, in time and in its result, and placed between two limits that are measured on
the same card: the time that its multiplications would take at the rate of a large matrix product of the same precision, and
the time that reading and writing every tensor once would take at the rate of a copy. Coil maps and SENSE run as well, on the
GPU against the CPU.

``best`` is the fastest program; ``over_roofline`` is its time over the larger of the two limits.

Run with ``python benchmarks/gpu.py``; without a GPU, ``--small --device cpu`` shows that it works.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
import yaml
from isocenter.bundle.folder import Bundle, relative_error
from isocenter.bundle.manifest import BundleError
from isocenter.engine.device import LocalDevice, Shelf
from isocenter.engine.runtimes import RUNTIMES, readers
from isocenter.export.cases import make_case
from isocenter.export.classical import ensure_classical
from isocenter.export.network import network_specs
from isocenter.export.options import ExportOptions
from isocenter.models.coil_maps import espirit
from isocenter.models.networks.registry import NETWORKS
from isocenter.models.scaling import scaled
from isocenter.service.settings import default_home
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ROUNDS = 5
EXPORT_SECONDS = 300
EXPORTS = {
    "torchscript": ("torchscript", {}),
    "fp16": ("torchscript", {"precision": "fp16", "tolerance": 1e-2}),
    "bf16": ("torchscript", {"precision": "bf16", "tolerance": 1e-2}),
    "onnx": ("onnx", {}),
    "aoti": ("aoti", {}),
}
"""Formats and options of the bundles."""
SMALL = {"num_cascades": 2, "chans": 4, "pools": 2, "sens_chans": 4, "sens_pools": 2}


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


def make_network(configuration, weights=None):
    """Make a network with random weights, always the same, and return it as a bundle runs it; they may go to a file."""
    network = NETWORKS["e2e-varnet"]
    torch.manual_seed(1)
    module = network.build(**configuration).eval()
    if weights is not None:
        torch.save(module.state_dict(), weights)
    return scaled(module, network.scaling, network.inputs)


def export(configuration, folder, device, seconds):
    """Export by the command, all formats and precisions at once; those that are not done in time are ended."""
    processes = {}
    # threads of several processes that wait for one another would hold each other up
    environment = {**os.environ, "OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // len(EXPORTS), 1))}
    for name, (formats, options) in EXPORTS.items():
        settings = folder / f"{name}.yaml"
        values = {"configuration": configuration, "compiled_for": device.type, **options}
        settings.write_text(yaml.safe_dump(values), encoding="utf-8")
        command = [sys.executable, "-m", "isocenter.commands.cli", "export", "--network", "e2e-varnet"]
        command += [
            "--checkpoint",
            folder / "weights.pt",
            "-o",
            folder / name,
            "--formats",
            formats,
            "--config",
            settings,
        ]
        with (folder / f"{name}.log").open("wb") as log:
            processes[name] = subprocess.Popen([*map(str, command)], stdout=log, stderr=log, env=environment)
    end = time.monotonic() + seconds
    for name, process in processes.items():
        try:
            process.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            with (folder / f"{name}.log").open("a") as log:
                log.write(f"its export takes more than {seconds} s")


def exported(folder):
    """Return the bundles of a folder; of those that could not be exported, say why."""
    bundles = {}
    for name in EXPORTS:
        if (folder / name).is_dir():
            bundles[name] = Bundle.open(folder / name)
        else:
            print(f"{name} is left out: {(folder / f'{name}.log').read_text()[-3000:].strip()}")
    return bundles


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


def compare_network(arguments, device, limits, folder):
    configuration = SMALL if arguments.small else {}
    sizes = {"batch": 1, "coils": 4, "ky": 93, "kx": 160} if arguments.small else None
    sizes = sizes or {"batch": 1, "coils": 15, "ky": 372, "kx": 640}
    eager = make_network(configuration).to(device)
    specs, _ = network_specs(NETWORKS["e2e-varnet"], ExportOptions())
    inputs = make_case(specs, sizes, acs=26, spacing=4, phantom=True)
    values = {name: tensor.to(device) for name, tensor in inputs.items()}
    with torch.inference_mode(), FlopCounterMode(display=False) as operations:
        eager(*values.values())
    with torch.inference_mode(), TrafficCounter() as traffic:
        eager(*values.values())
    programs = network_programs(eager, exported(folder), values, device)
    truth = {"image": programs["eager-float32"]()["image"].cpu()}
    errors = {
        name: relative_error({"image": run()["image"].cpu()}, truth) if name != "eager-float32" else 0.0
        for name, run in programs.items()
    }
    durations = turns(programs, device)
    total = operations.get_total_flops()
    print(f"\n{total / 1e12:.2f} Tflop in convolutions and products, {traffic.bytes / 1e9:.1f} GB read and written")
    yield f"network_tflop {total / 1e12:.3f}"
    yield f"network_gb {traffic.bytes / 1e9:.2f}"
    base = durations["eager-float32"]
    for name, seconds in durations.items():
        precision = name.rpartition("-")[2]
        compute, memory = total / limits[precision], traffic.bytes / limits["bandwidth"]
        print(
            f"{name:<25} {1000 * seconds:8.1f} ms, {seconds / base:5.2f} of eager, error {errors[name]:.1e}; "
            f"limits: {1000 * compute:.1f} ms computing, {1000 * memory:.1f} ms moving unfused tensors"
        )
        yield f"{name}.over_eager {seconds / base:.3f}"
        yield f"{name}.over_compute_limit {seconds / compute:.2f}"
        yield f"{name}.over_memory_limit {seconds / memory:.2f}"
        yield f"{name}.error {errors[name]:.2e}"
    best = min(durations, key=durations.get)
    precision = best.rpartition("-")[2]
    roofline = max(total / limits[precision], traffic.bytes / limits["bandwidth"])
    print(f"best: {best}")
    yield f"best.eager_over {base / durations[best]:.3f}"
    yield f"best.over_roofline {durations[best] / roofline:.2f}"


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
            configuration = SMALL if arguments.small else {}
            make_network(configuration, folder / "weights.pt")
            export(configuration, folder, device, arguments.export_seconds)
        if arguments.export_only is None:
            compare(arguments, device, folder)


def compare(arguments, device, folder):
    tf32(False)
    limits = card_limits(device)
    for name, value in limits.items():
        print(f"{name:<10} {value / 1e12:8.3f} {'TB/s' if name == 'bandwidth' else 'Tflop/s'}")
    figures = [*compare_network(arguments, device, limits, folder), *compare_classical(arguments, device)]
    for figure in figures:
        print(f"figure {figure}")


if __name__ == "__main__":
    main()
