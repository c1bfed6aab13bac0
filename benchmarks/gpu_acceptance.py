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
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

import torch
from gpu_bundles import parity, prepare
from gpu_exports import failed_exports
from gpu_figures import figure
from gpu_scans import lost, memory, serve

HERE = Path(__file__).parent
LIMITS = {"prepare": 150, "tests": 120, "parity": 90, "lost": 90, "memory": 60, "serve": 120, "gpu": 180}
"""Parts in their order, and how many seconds each may take."""


def tests(arguments):
    """Run the engine's tests for CUDA; where there is none, they skip themselves."""
    command = [sys.executable, "-m", "pytest", "-v", "-rs", "-W", "default", "-p", "no:cacheprovider", "--tb=long"]
    command += ["-k", arguments.tests] if arguments.tests else []
    command += ["--durations=10", str(HERE.parent / "tests" / "test_cuda.py")]
    code = subprocess.run(command, cwd=HERE.parent, check=False).returncode
    none = code == 5 and arguments.device.type == "cpu"
    return [] if code == 0 or none else [f"pytest ended with status {code}"]


def gpu(arguments):
    """Run ``gpu.py`` with what was exported in the background."""
    command = [sys.executable, "-W", "ignore", str(HERE / "gpu.py"), "--device", str(arguments.device)]
    command += ["--small"] if arguments.small else []
    command += ["--exports", str(arguments.exports)] if arguments.exports else []
    code = subprocess.run(command, check=False).returncode
    failed = failed_exports(arguments.exports) if arguments.exports else []
    return [f"gpu.py ended with status {code}"] * (code != 0) + [f"the export of {name} failed" for name in failed]


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
    parser.add_argument("--tests", default="", help="expression that chooses among the tests, as pytest's -k")
    parser.add_argument(
        "--export-seconds", type=float, default=240.0, help="how long exports may take in the background"
    )
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
            command = [
                str(HERE / "gpu.py"),
                "--export-only",
                folder,
                "--export-seconds",
                str(arguments.export_seconds),
                *common,
            ]
            exports = start(command)
        for name in names:
            print(f"\n=== {name}", flush=True)
            part_begun = time.monotonic()
            if name == "gpu":
                exports.wait()
                print(f"its exports were waited for: {time.monotonic() - part_begun:.1f} s", flush=True)
            process = start([__file__, "--part", name, "--exports", folder, "--tests", arguments.tests, *common])
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
