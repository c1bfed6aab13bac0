"""The network of published size that ``gpu.py`` measures, as bundles, each made in a process of its own.

Weights are random, always the same, and the last convolution of each U-Net is scaled down: as in a trained network, a cascade
changes the image by some percent, and rounding does not grow from one cascade to the next. Ahead of time it is compiled for
one size: tracing with axes of any length takes many times as long, and tells nothing more of the speed.
"""

import argparse
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_stages
import torch
from isocenter.bundle.axes import fixed_length
from isocenter.bundle.folder import Bundle
from isocenter.bundle.manifest import Manifest, Provenance, TensorSpec
from isocenter.export.build import build_bundle
from isocenter.export.cases import comparison_cases, make_case
from isocenter.export.half_precision import HALF, in_precision
from isocenter.export.network import network_specs
from isocenter.export.options import ExportOptions
from isocenter.models.networks.registry import NETWORKS
from isocenter.models.scaling import scaled

NETWORK = NETWORKS["e2e-varnet"]
SMALL = {"num_cascades": 2, "chans": 4, "pools": 2, "sens_chans": 4, "sens_pools": 2}
SIZES = {False: {"batch": 1, "coils": 15, "ky": 372, "kx": 640}, True: {"batch": 1, "coils": 4, "ky": 93, "kx": 160}}
"""Of the scan, by whether it is a small one."""
EXPORTS = {
    "aoti": ("aoti", "float32"),
    "aoti-fp16": ("aoti", "fp16"),
    "stages": ("stages", "float32"),
    "stages-fp16": ("stages", "fp16"),
    "torchscript": ("torchscript", "float32"),
    "fp16": ("torchscript", "fp16"),
    "bf16": ("torchscript", "bf16"),
    "onnx": ("onnx", "float32"),
}
"""Format and precision of the bundles, those first that take long."""
TOLERANCES = {"float32": 1e-4, "fp16": 1e-2, "bf16": 1e-2}
"""In half precision the largest that a manifest may state: what is measured is the time, and the error is printed."""
STAGES = (
    ("isocenter.export.lowering", "trace"),
    ("torch._inductor", "aoti_compile_and_package"),
    ("isocenter.export.build", "Comparison"),
    ("isocenter.export.build", "_load"),
)
"""Functions whose time is printed."""
_FAILED = "its export failed"
"""Last words in the log of an export."""
_CHANGE = 0.03
"""What the last convolutions are multiplied with."""


def make_network(small: bool) -> torch.nn.Module:
    """Make the network as a bundle runs it."""
    torch.manual_seed(1)
    module = NETWORK.build(**(SMALL if small else {})).eval()
    with torch.no_grad():
        for cascade in module.cascades:
            for parameter in cascade.model.unet.up_conv[-1][-1].parameters():
                parameter *= _CHANGE
    return scaled(module, NETWORK.scaling, NETWORK.inputs)


def make_inputs(small: bool) -> dict[str, torch.Tensor]:
    """Make the inputs that are reconstructed."""
    specs, _ = network_specs(NETWORK, ExportOptions())
    return make_case(specs, SIZES[small], acs=26, spacing=4, phantom=True)


def fixed(spec: TensorSpec, sizes: dict[str, int]) -> TensorSpec:
    """Return what a bundle takes or returns at one size only."""
    axes = tuple(axis if fixed_length(axis) else str(sizes[axis]) for axis in spec.axes)
    return spec.model_copy(update={"axes": axes})


def build(name: str, folder: Path, device: torch.device, small: bool) -> None:
    """Build a bundle, in this process."""
    form, precision = EXPORTS[name]
    if form == "stages":
        module = in_precision(make_network(small), precision)
        gpu_stages.build(folder / name, module, list(make_inputs(small).values()), device)
        return
    inputs, output = network_specs(NETWORK, ExportOptions())
    cases = comparison_cases(inputs)[2:3] if precision in HALF else comparison_cases(inputs)
    if form == "aoti":
        inputs, output = tuple(fixed(spec, SIZES[small]) for spec in inputs), fixed(output, SIZES[small])
        cases = [make_inputs(small)]
    manifest = Manifest(
        name=name,
        version="1.0",
        network="e2e-varnet",
        configuration=SMALL if small else {},
        inputs=inputs,
        outputs=(output,),
        tolerance=TOLERANCES[precision],
        precision=precision,
        compiled_for=device.type,
        provenance=Provenance(source="random weights", licence="none", fingerprint="", training_data="none"),
        intended_use="research only",
    )
    build_bundle(make_network(small), manifest, cases, folder / name, formats=(form,))


def reason_to_leave_out(name: str, device: torch.device) -> str:
    """Say why a bundle is not worth building on this machine; nothing if it is."""
    if name != "onnx" or device.type != "cuda":
        return ""
    try:
        providers = importlib.import_module("onnxruntime").get_available_providers()
    except ImportError:
        providers = []
    return "" if "CUDAExecutionProvider" in providers else "this ONNX Runtime, if any, does not run on CUDA"


def export(folder: Path, device: torch.device, small: bool, seconds: float) -> None:
    """Build all bundles at once; those that are not done in time are ended."""
    processes, begun = {}, time.monotonic()
    for name in EXPORTS:
        with (folder / f"{name}.log").open("wb") as log:
            if reason := reason_to_leave_out(name, device):
                log.write(reason.encode())
                continue
            # threads of several processes that wait for one another would hold each other up
            threads = max((os.cpu_count() or 1) // (2 if EXPORTS[name][0] == "aoti" else 8), 1)
            command = [sys.executable, "-W", "ignore", __file__, name, str(folder), "--device", str(device)]
            processes[name] = subprocess.Popen(
                [*command, *(["--small"] if small else [])],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
    for name, process in processes.items():
        try:
            status = process.wait(max(begun + seconds - time.monotonic(), 0))
            with (folder / f"{name}.log").open("a") as log:
                log.write(_FAILED if status else "")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            with (folder / f"{name}.log").open("a") as log:
                log.write(f"its export takes more than {seconds} s")


def exported(folder: Path) -> dict[str, Bundle]:
    """Return the bundles of a folder; of those that could not be exported, say why."""
    bundles = {}
    for name in EXPORTS:
        print(f"export of {name}: {(folder / f'{name}.log').read_text()[-3000:].strip()}")
        if EXPORTS[name][0] != "stages" and (folder / name).is_dir():
            bundles[name] = Bundle.open(folder / name)
    return bundles


def failed_exports(folder: Path) -> list[str]:
    """Return what could not be exported; what was only not done in time is told, and no fault."""
    return [name for name in EXPORTS if (folder / f"{name}.log").read_text().endswith(_FAILED)]


def show_time(module: str, name: str) -> None:
    """Print how long each call of a function takes."""
    owner = importlib.import_module(module)
    function = getattr(owner, name)

    def timed(*args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            print(f"{name} {time.perf_counter() - begun:.1f} s", flush=True)

    setattr(owner, name, timed)


def main() -> None:
    """Build one bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=EXPORTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda:0"))
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    for module, name in STAGES:
        show_time(module, name)
    begun = time.perf_counter()
    build(arguments.name, arguments.folder, arguments.device, arguments.small)
    print(f"built in {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
