"""ESPIRiT coil maps and CG-SENSE against BART and SigPy: same data, same cores, same accuracy.

Each method runs in a process of its own kind: ours and SigPy in this one, BART as a program, whose start is measured and
taken off (it reads and writes files in /dev/shm, which is part of its time). All take turns. SigPy is optional
(``pip install sigpy``), and so is BART (``apt-get install bart``).

Accuracy of the maps: of the true image's coil images, the part that the maps do not explain, within the object. Accuracy of
SENSE: the deviation from the solution of the same normal equations, iterated to convergence in float64. Every program gets
as many iterations as it needs to come as close as ours, up to 100.

Run with ``python benchmarks/classical.py [--matrix 256] [--coils 12]``.
"""

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from isocenter.engine.device import LocalDevice, Shelf
from isocenter.export.classical import ensure_classical
from isocenter.models.coil_maps import espirit
from isocenter.models.fourier import fft, ifft
from isocenter.service.settings import default_home
from isocenter.simulate.anatomy import random_slice
from isocenter.simulate.coils import random_coil_maps

ROUNDS = 5
REGULARIZATION = 0.005
CALIBRATION = 24


def make_data(matrix, coils):
    """K-space complex64 [coils, ky, kx] of a brain with a little noise, its coil images, and the mask of R = 4."""
    random = np.random.default_rng(3)
    maps = torch.from_numpy(random_coil_maps(random, coils, (matrix, matrix)))
    images = maps * torch.from_numpy(random_slice(random, (matrix, matrix), "test"))
    kspace = fft(images, [1, 2])
    kspace += 1e-3 * float(images.abs().max()) * torch.randn(kspace.shape, dtype=torch.complex64)
    mask = torch.zeros(matrix)
    mask[::4] = 1
    mask[matrix // 2 - CALIBRATION // 2 : matrix // 2 + CALIBRATION // 2] = 1
    return kspace, images, mask


def unexplained(maps, images):
    """Part of the coil images that is no multiple of the maps, where there is signal."""
    combined = (maps.conj() * images).sum(0)
    inside = images.abs().square().sum(0).sqrt() > 0.05 * float(images.abs().square().sum(0).sqrt().max())
    rest = (images - maps * combined)[:, inside]
    return float(rest.abs().square().sum().sqrt() / images[:, inside].abs().square().sum().sqrt())


def exact_sense(kspace, mask, maps):
    """Solve the normal equations in float64, 300 iterations."""
    k, s, m = kspace.to(torch.complex128), maps.to(torch.complex128), mask.double()[:, None]

    def normal(x):
        return (s.conj() * ifft(fft(s * x, [1, 2]) * m, [1, 2])).sum(0) + REGULARIZATION * x

    right = (s.conj() * ifft(k * m, [1, 2])).sum(0)
    x, r = torch.zeros_like(right), right.clone()
    p, energy = r.clone(), r.abs().square().sum()
    for _ in range(300):
        q = normal(p)
        step = energy / (p.conj() * q).sum().real
        x, r = x + step * p, r - step * q
        energy, before = r.abs().square().sum(), energy
        p = r + energy / before * p
    return x


def deviation(x, reference):
    return float((x - reference).abs().square().sum().sqrt() / reference.abs().square().sum().sqrt())


class Bart:
    """BART's commands on files in memory. Its k-space is centred and orthonormal like ours with -n ... -s flags left alone."""

    def __init__(self, folder, threads):
        self.folder = folder
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def write(self, name, array):
        dims = [*reversed(array.shape)]
        header = self.folder / f"{name}.hdr"
        header.write_text("# Dimensions\n" + " ".join(map(str, dims + [1] * (16 - len(dims)))) + "\n")
        array.astype(np.complex64).tofile(self.folder / f"{name}.cfl")

    def read(self, name):
        dims = [int(part) for part in (self.folder / f"{name}.hdr").read_text().splitlines()[1].split()]
        return np.fromfile(self.folder / f"{name}.cfl", np.complex64).reshape(dims[::-1])

    def __call__(self, *arguments):
        command = ["bart", *map(str, arguments)]
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True, stdout=subprocess.DEVNULL)


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def turns(programs):
    """Median time in seconds of each program, over rounds in which they take turns."""
    for run in programs.values():
        run()
    durations = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, run in programs.items():
            durations[name].append(timed(run))
    return {name: statistics.median(values) for name, values in durations.items()}


def compare_maps(kspace, images, bart):
    coils, matrix, _ = kspace.shape
    low = matrix // 2 - CALIBRATION // 2
    region = kspace[:, None, low : low + CALIBRATION, low : low + CALIBRATION].contiguous()
    results = {}

    def ours():
        results["isocenter"] = espirit(region, (1, matrix, matrix))[:, 0]

    programs = {"isocenter": ours}
    if bart is not None:
        bart.write("kspace", kspace[:, None].numpy())
        programs["bart"] = lambda: bart("ecalib", "-m1", f"-r{CALIBRATION}", "-k6", "kspace", "maps")
        programs["bart start"] = lambda: bart("version")
    if importlib.util.find_spec("sigpy"):
        import sigpy.mri.app

        def run_sigpy():
            app = sigpy.mri.app.EspiritCalib(kspace.numpy(), calib_width=CALIBRATION, kernel_width=6, show_pbar=False)
            results["sigpy"] = torch.from_numpy(app.run())

        programs["sigpy"] = run_sigpy
    durations = turns(programs)
    if bart is not None:
        results["bart"] = torch.from_numpy(bart.read("maps").reshape(coils, matrix, matrix))
        durations["bart"] -= durations.pop("bart start")
    errors = {name: unexplained(maps, images) for name, maps in results.items()}
    return durations, errors, results["isocenter"]


def compare_sense(kspace, mask, maps, bart, device):
    matrix = kspace.shape[1]
    measured = kspace * mask[:, None]
    reference = exact_sense(kspace, mask, maps)
    model = device.load("sense")
    inputs = {
        "kspace": torch.view_as_real(measured[None, :, None].contiguous()),
        "mask": mask[None, None],
        "maps": torch.view_as_real(maps[None, :, None].contiguous()),
    }
    results = {}

    def ours():
        results["isocenter"] = torch.view_as_complex(model.infer(inputs)["image"].contiguous())[0, 0]

    ours()
    target = deviation(results["isocenter"], reference)
    programs = {"isocenter": ours}
    if bart is not None:
        bart.write("measured", measured[:, None].numpy())
        bart.write("sens", maps[:, None].numpy())

        def run_bart(iterations):
            bart("pics", "-S", "-w1", f"-i{iterations}", "-R", f"Q:{REGULARIZATION}", "measured", "sens", "image")
            results["bart"] = torch.from_numpy(bart.read("image").reshape(matrix, matrix))

        iterations = enough(run_bart, lambda: deviation(results["bart"], reference), target)
        programs["bart"] = lambda: run_bart(iterations)
        programs["bart start"] = lambda: bart("version")
    if importlib.util.find_spec("sigpy"):
        import sigpy.mri.app

        def run_sigpy(iterations):
            app = sigpy.mri.app.SenseRecon(
                measured.numpy(), maps.numpy(), lamda=REGULARIZATION, max_iter=iterations, show_pbar=False
            )
            results["sigpy"] = torch.from_numpy(app.run())

        count = enough(run_sigpy, lambda: deviation(results["sigpy"], reference), target)
        programs["sigpy"] = lambda: run_sigpy(count)
    durations = turns(programs)
    if bart is not None:
        durations["bart"] -= durations.pop("bart start")
    return durations, {name: deviation(image, reference) for name, image in results.items()}


def enough(run, error, target):
    """Fewest iterations, of a few, that come (within 5 %) as close as ``target``; the closest if none does."""
    errors = {}
    for iterations in (10, 15, 20, 30, 50, 100):
        run(iterations)
        errors[iterations] = error()
        if errors[iterations] <= 1.05 * target:
            return iterations
    return min(errors, key=lambda count: errors[count])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrix", type=int, default=256)
    parser.add_argument("--coils", type=int, default=12)
    arguments = parser.parse_args()
    home = default_home()
    ensure_classical(home / "bundles")
    kspace, images, mask = make_data(arguments.matrix, arguments.coils)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        bart = Bart(Path(folder), torch.get_num_threads()) if shutil.which("bart") else None
        map_times, map_errors, maps = compare_maps(kspace, images, bart)
        device = LocalDevice("cpu", Shelf([home / "bundles"]))
        sense_times, sense_errors = compare_sense(kspace, mask, maps, bart, device)
    print(f"{arguments.coils} coils, {arguments.matrix} x {arguments.matrix}, {torch.get_num_threads()} threads")
    figures = []
    for task, times, errors in (("espirit", map_times, map_errors), ("sense", sense_times, sense_errors)):
        for name, seconds in times.items():
            print(f"{task:<8} {name:<10} {1000 * seconds:9.1f} ms, error {errors[name]:.2e}")
            figures.append(f"figure {task}.{name}.error {errors[name]:.3e}")
            if name != "isocenter":
                figures.append(f"figure {task}.isocenter_over_{name} {times['isocenter'] / seconds:.3f}")
    print("\n".join(figures))


if __name__ == "__main__":
    main()
