"""What a slice costs by each method that comes with Isocenter, over what SENSE costs, and beside the pace of a scanner.

All bundles run in turns on one slice, as the service runs them. A figure is the median over rounds of a method's time over that
of SENSE in the same round. Beside it stand the time of 64 slices one after the other, and the time over that in which a scanner
measures the slice (``--repetition-time`` per line).

Run with ``python benchmarks/methods.py [--matrix 256] [--coils 8] [--threads 2] [--methods sense,ridge]``.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from isocenter.engine.device import LocalDevice, Shelf
from isocenter.models.coil_maps import espirit
from isocenter.models.fourier import fft
from isocenter.service.settings import default_home
from isocenter.simulate.anatomy import random_slice
from isocenter.simulate.coils import random_coil_maps

ACCELERATION, CALIBRATION, SLICES = 4, 24, 64


def make_slice(matrix, coils):
    """K-space complex64 [coils, ky, kx] with noise, its mask [ky] and ESPIRiT's maps of it."""
    random = np.random.default_rng(3)
    images = torch.from_numpy(
        random_coil_maps(random, coils, (matrix, matrix)) * random_slice(random, (matrix, matrix), "test")
    )
    kspace = fft(images, [1, 2])
    kspace += 0.005 * float(images.abs().max()) * torch.randn(kspace.shape, dtype=torch.complex64)
    mask = torch.zeros(matrix)
    mask[::ACCELERATION] = 1
    low = matrix // 2 - CALIBRATION // 2
    mask[low : low + CALIBRATION] = 1
    region = kspace[:, None, low : low + CALIBRATION, low : low + CALIBRATION].contiguous()
    return kspace * mask[:, None], mask, espirit(region, (1, matrix, matrix))[:, 0]


def inputs_of(manifest, kspace, mask, maps):
    """The slice as a bundle takes it; what is independent has length one."""
    sizes = {"kspace": kspace.shape, "maps": maps.shape}
    values = {"kspace": torch.view_as_real(kspace), "maps": torch.view_as_real(maps.contiguous()), "mask": mask}
    inputs = {}
    for spec in manifest.inputs:
        ky = kspace.shape[1]
        shape = (
            {"coils": len(kspace), "ky": ky, "kx": kspace.shape[2], "complex": 2} if spec.name in sizes else {"ky": ky}
        )
        inputs[spec.name] = values[spec.name].reshape([shape.get(axis, 1) for axis in spec.axes]).float()
    return inputs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrix", type=int, default=256)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--methods", default="sense,jsense,tv,modl-brain,varnet-brain,ridge")
    parser.add_argument("--repetition-time", type=float, default=0.005, help="seconds per line")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kspace, mask, maps = make_slice(arguments.matrix, arguments.coils)
    shelf = Shelf([default_home() / "bundles"])
    device = LocalDevice("cpu", shelf)
    runs = {}
    for name in arguments.methods.split(","):
        model = device.load(name)
        inputs = inputs_of(shelf.manifest(name), kspace, mask, maps)
        runs[name] = lambda model=model, inputs=inputs: model.infer(inputs)
        runs[name]()
    times = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    measured = float(mask.sum()) * arguments.repetition_time
    print(
        f"{arguments.coils} x {arguments.matrix} x {arguments.matrix}, R = {ACCELERATION}, {arguments.threads} threads"
    )
    for name, seconds in times.items():
        median = statistics.median(seconds)
        ratio = statistics.median(one / sense for one, sense in zip(seconds, times["sense"], strict=True))
        print(
            f"figure {name}_over_sense {ratio:.2f}  ({median:.3f} s a slice, {SLICES * median:.1f} s a volume of {SLICES}; "
            f"{median / measured:.2f} of the time of measuring it)"
        )


if __name__ == "__main__":
    main()
