"""How long each runtime of a network takes, against eager mode, and how exact it is.

Every network is exported with random weights; all runtimes then reconstruct the same inputs in turn, in one process, so that
the ratios hold on a noisy machine. Peak memory is that of a process that only loads one runtime and runs it once.

    python benchmarks/runtimes.py [--networks e2e-varnet,modl] [--formats torchscript,onnx,aoti] [--full] [--shares]
"""

import argparse
import copy
import logging
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from isocenter.bundle.folder import Bundle, relative_error
from isocenter.engine.commission import commission
from isocenter.engine.runtimes import RUNTIMES, readers
from isocenter.export.cases import make_case
from isocenter.export.network import export_network
from isocenter.export.options import ExportOptions
from isocenter.models.networks.registry import NETWORKS
from isocenter.models.scaling import scaled

# size of the networks without --full, which a CPU can run in a benchmark of some minutes
SMALL = {
    "e2e-varnet": {"num_cascades": 6, "sens_chans": 4, "sens_pools": 3, "chans": 10, "pools": 3},
    "modl": {"iterations": 5, "cg_iterations": 6},
    "deep-jsense": {"unrolls": 2},
    "dynamic-dccnn": {"cascades": 3},
    "jotlasnet": {"iterations": 2},
}
SHAPES = {
    "2d": ({"batch": 1, "coils": 8, "ky": 192, "kx": 160}, {"batch": 1, "coils": 15, "ky": 320, "kx": 186}),
    "2d+t": ({"batch": 1, "coils": 6, "frames": 8, "ky": 64, "kx": 80},),
}
ROUNDS = 4


def probe_memory(folder, runtime, shape):
    """Peak resident memory in MB of a process that runs one runtime once, printed by that process."""
    bundle = Bundle.open(Path(folder))
    session = RUNTIMES[runtime](readers(bundle)[runtime], bundle.manifest, torch.device("cpu"))
    sizes = dict(zip(("batch", "coils", "frames", "ky", "kx"), map(int, shape.split("x")), strict=True))
    session.infer(make_case(bundle.manifest.inputs, sizes, acs=16, spacing=4, phantom=True))
    # not getrusage, whose peak includes that of the process that started this one
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024)


def memory_of(folder, runtime, sizes):
    shape = "x".join(str(sizes.get(axis, 1)) for axis in ("batch", "coils", "frames", "ky", "kx"))
    command = [sys.executable, "-W", "ignore", __file__, "--memory", str(folder), runtime, shape]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_shares(program):
    """Print which operations of eager mode take most of its time, and how much."""
    with torch.profiler.profile() as record:
        program()
    rows = sorted(record.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    print("eager:", ", ".join(f"{row.key} {row.self_cpu_time_total / total:.0%}" for row in rows[:8]), flush=True)


def measure(name, configuration, formats, folder, shares):
    network = NETWORKS[name]
    torch.manual_seed(1)
    module = network.build(**configuration).eval()
    torch.save(module.state_dict(), folder / "weights.pt")
    wanted = [runtime for runtime in formats if runtime == "torchscript" or not network.loops_over_frames]
    bundle = export_network(
        name, folder / "weights.pt", folder / name, ExportOptions(configuration=configuration), wanted
    )
    eager = scaled(module, network.scaling, network.inputs)
    exact = copy.deepcopy(eager).double()
    sessions = commission(bundle, torch.device("cpu"))
    for sizes in SHAPES[network.task]:
        inputs = make_case(bundle.manifest.inputs, sizes, acs=16, spacing=4, phantom=True)
        with torch.inference_mode():
            truth = {"image": exact(*(value.double() for value in inputs.values()))}

        def run_eager(inputs=inputs):
            with torch.inference_mode():
                return {"image": eager(*inputs.values())}

        programs = {"eager": run_eager}
        programs |= {runtime: lambda s=session, i=inputs: s.infer(i) for runtime, session in sessions.items()}
        errors = {runtime: relative_error(program(), truth) for runtime, program in programs.items()}
        durations = {runtime: [] for runtime in programs}
        for _ in range(ROUNDS):
            for runtime, program in programs.items():
                start = time.perf_counter()
                program()
                durations[runtime].append(time.perf_counter() - start)
        base = min(durations["eager"])
        shape = "x".join(str(size) for size in sizes.values())
        best = min((runtime for runtime in sessions), key=lambda runtime: min(durations[runtime]))
        for runtime, values in durations.items():
            memory = "" if runtime == "eager" else f"{memory_of(folder / name, runtime, sizes):8.0f} MB"
            print(
                f"{name:<22} {shape:<16} {runtime:<16} {1000 * min(values):9.1f} ms  {min(values) / base:5.2f} of eager  "
                f"error {errors[runtime]:.1e} {memory}",
                flush=True,
            )
        key = f"{name}.{shape}"
        for runtime in sessions:
            print(f"figure {key}.{runtime}.over_eager {min(durations[runtime]) / base:.3f}")
        print(f"figure {key}.best_over_eager {min(durations[best]) / base:.3f}")
        print(f"figure {key}.worst_error {max(errors.values()):.2e}", flush=True)
        if shares:
            print_shares(programs["eager"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default="e2e-varnet,modl,deep-jsense,dynamic-dccnn,jotlasnet")
    parser.add_argument("--formats", default="torchscript,onnx")
    parser.add_argument("--full", action="store_true", help="networks at their published size")
    parser.add_argument("--shares", action="store_true", help="also print what eager mode's time goes to")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if arguments.memory:
        probe_memory(*arguments.memory)
        return
    for name in arguments.networks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            configuration = {} if arguments.full else SMALL.get(name, {})
            measure(name, configuration, arguments.formats.split(","), Path(folder), arguments.shares)


if __name__ == "__main__":
    main()
