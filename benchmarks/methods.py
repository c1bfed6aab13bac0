"""What a slice costs by each method that comes with Isocenter, over what SENSE costs, and beside the pace of a scanner.

All bundles run in turns on one slice, as the service runs them. A figure is the median over rounds of a method's time over that
of SENSE in the same round. Beside it stand the time of 64 slices one after the other, and the time over that in which a scanner
measures the slice (``--repetition-time`` per line). ``ghosts`` is not a method: it predicts those of SENSE while SENSE runs.

Run with ``python benchmarks/methods.py [--matrix 256] [--coils 8] [--threads 2] [--methods sense,ridge]``.
"""

import argparse
import statistics
import time

import torch
from classical import CALIBRATION, make_data
from isocenter.engine.device import LocalDevice, Shelf
from isocenter.flow.deferred import Deferred, settled
from isocenter.gadgets.aliasing_check import aliasing_doubt
from isocenter.gadgets.kspace import block_of
from isocenter.gadgets.model_inputs import arrange_inputs
from isocenter.models.coil_maps import espirit
from isocenter.service.settings import default_home

SLICES = 64


def make_slice(matrix, coils):
    """A block of the measured lines of a slice with ESPIRiT's maps of it, and the number of lines."""
    kspace, _, mask = make_data(matrix, coils)
    low = matrix // 2 - CALIBRATION // 2
    region = kspace[:, None, low : low + CALIBRATION, low : low + CALIBRATION].contiguous()
    block = block_of((kspace * mask[:, None])[:, None, None], mask[None, None] > 0)
    block.coil_maps = Deferred.known(espirit(region, (1, matrix, matrix)))
    return block, float(mask.sum())


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
    block, lines = make_slice(arguments.matrix, arguments.coils)
    shelf = Shelf([default_home() / "bundles"])
    device = LocalDevice("cpu", shelf)
    runs = {}
    for name in arguments.methods.split(","):
        model = device.load(name)
        inputs = settled(arrange_inputs(shelf.manifest(name), block))
        runs[name] = lambda model=model, inputs=inputs: model.infer(inputs)
        runs[name]()
    runs["ghosts"] = lambda: aliasing_doubt(block, shelf.manifest("sense"))
    times = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    measured = lines * arguments.repetition_time
    print(f"{arguments.coils} x {arguments.matrix} x {arguments.matrix}, R = 4, {arguments.threads} threads")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        ratio = statistics.median(one / sense for one, sense in zip(seconds, times["sense"], strict=True))
        print(
            f"figure {name}_over_sense {ratio:.2f}  ({median:.3f} s a slice, {SLICES * median:.1f} s a volume of {SLICES}; "
            f"{median / measured:.2f} of the time of measuring it)"
        )


if __name__ == "__main__":
    main()
