"""Parts of ``gpu_acceptance.py`` that need no service: the bundles are built, and compared with float64."""

import os
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import torch
from gpu_figures import check, figure


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


def exact_module(bundle):
    """Return the module that a bundle that comes with Isocenter was made from, in float64."""
    from isocenter.export.classical import METHODS
    from isocenter.export.shipped import plan_shipped

    name = bundle.manifest.name
    made = METHODS[name].make(**bundle.manifest.configuration) if name in METHODS else plan_shipped(name).module
    return made.eval().double()


def parity(arguments):
    """Compare every bundle in every runtime with float64, on the device and on the CPU."""
    from isocenter.bundle.folder import Bundle, relative_error
    from isocenter.bundle.manifest import BundleError
    from isocenter.engine.runtimes import RUNTIMES, readers
    from isocenter.export.cases import make_case
    from isocenter.export.parity import run_module
    from isocenter.service.settings import default_home

    sizes = ({"batch": 2, "coils": 8, "kz": 1, "ky": 192, "kx": 160}, {"batch": 1, "coils": 5, "ky": 101, "kx": 130})
    if arguments.small:
        sizes = ({"batch": 2, "coils": 4, "kz": 1, "ky": 64, "kx": 48}, {"batch": 1, "coils": 3, "ky": 37, "kx": 50})
    sizes = tuple({**each, "frames": 6} for each in sizes)  # as few as ridge-cine takes
    problems = []
    for path in sorted((default_home() / "bundles").glob("[!.]*")):
        bundle = Bundle.open(path)
        name, exact = bundle.manifest.name, exact_module(bundle)
        cases = [make_case(bundle.manifest.inputs, each, acs=16, spacing=4, phantom=True) for each in sizes]
        doubled = [{key: value.double() for key, value in case.items()} for case in cases]
        truths = [run_module(exact, bundle.manifest, case) for case in doubled]
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
