"""Whether the ghosts and the noise that are to be expected of SENSE are those that it has, on fully sampled scans.

With ``--method tv`` or ``l1-wavelet`` it is told which images of compressed sensing are marked by what is expected of SENSE.

Every slice of a folder is undersampled in several ways, with coils compressed to fewer or left out, and reconstructed with coil
maps of what is left, as the service does it. Its error is the difference from the fully sampled coil images, combined by the same
maps; its figure the largest root mean square of 7 x 7 pixels, relative to the brightest one. Ghosts are what SENSE makes of the
true image itself, noise is the rest: that of the scan, and what the maps do not explain.

Run with ``python benchmarks/ghosts.py SCANS [--accelerations 2,3,4,5,6] [--acs 12,24] [--coils 2,3,4,6,8,12,16] [--every 1]
[--show] [--method sense]``.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from isocenter.export.classical import METHODS
from isocenter.gadgets.aliasing_check import ACCEPTED
from isocenter.models.expected_error import expected_error
from isocenter.models.fourier import fft, ifft
from isocenter.models.planar import box_mean
from isocenter.simulate import sampling
from isocenter.simulate.sampling import Request
from isocenter.training.files.folder import FileScans
from isocenter.training.samples import block_of_lines, measured_maps
from torch import Tensor

PLANE = [-2, -1]
NEAR = 0.015
"""How near to what is accepted an error is neither good nor bad: it is as much in doubt as what an eye says of it."""
SENSE = METHODS["sense"].configuration
NETWORKS = {"sense": "Sense", "tv": "TotalVariation", "l1-wavelet": "Wavelets"}
"""What manifests call the methods."""


def fewer_coils(kspace: Tensor, count: int, *, compressed: bool) -> Tensor:
    """Compress coils [coils, ky, kx] by their principal components, or take evenly spread ones."""
    if not compressed:
        return kspace[[round(coil * len(kspace) / count) for coil in range(count)]]
    vectors = torch.linalg.eigh(kspace.flatten(1) @ kspace.flatten(1).mH)[1].flip(1)
    return torch.tensordot(vectors[:, :count].mH, kspace, dims=1)


def reconstruct(method: str, kspace: Tensor, lines: Tensor, maps: Tensor) -> Tensor:
    """Image complex64 [y, x] by a classical method."""
    planar = [torch.view_as_real((x * m)[None, :, None].contiguous()) for x, m in ((kspace, lines[:, None]), (maps, 1))]
    with torch.no_grad():
        image = METHODS[method].make(**METHODS[method].configuration)(
            planar[0], lines[None, None].to(torch.float32), planar[1]
        )
    return torch.view_as_complex(image.contiguous())[0, 0]


def largest(error: Tensor) -> float:
    """Largest root mean square of 7 x 7 pixels of [y, x]."""
    return float(box_mean(error.abs().square()[None, ..., None], 7).max().sqrt())


def cases(kspace: Tensor, arguments: argparse.Namespace) -> Iterator[tuple[str, float, Tensor, Tensor]]:
    """How a slice is undersampled: in words, the acceleration, its coils, and the lines bool [ky]."""
    numbers = [
        [int(value) for value in text.split(",")] for text in (arguments.accelerations, arguments.acs, arguments.coils)
    ]
    for count, compressed in product(numbers[2], (True, False)):
        if count > len(kspace) or (count == len(kspace) and not compressed):
            continue
        coils = fewer_coils(kspace, count, compressed=compressed)
        for acceleration, acs, pattern in product(numbers[0], numbers[1], ("equispaced", "uniform-random")):
            request = Request(kspace.shape[1], kspace.shape[2], acceleration=acceleration, acs=acs)
            if sampling.possible(pattern, request):
                lines = sampling.draw(pattern, request, np.random.default_rng(1))[0]
                how = f"{count} coils{'' if compressed else ' of them'}, R = {acceleration}, {acs} lines, {pattern}"
                if lines.sum() > acs:  # else it is a whole scan of low resolution
                    yield how, acceleration, coils, torch.from_numpy(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--accelerations", default="2,3,4,5,6")
    parser.add_argument("--acs", default="12,24")
    parser.add_argument("--coils", default="2,3,4,6,8,12,16")
    parser.add_argument("--slices", type=int, default=1, help="of each volume, from its middle")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th case")
    parser.add_argument("--method", choices=tuple(NETWORKS), default="sense")
    parser.add_argument("--show", action="store_true", help="every case on a line of its own")
    arguments = parser.parse_args()
    method = arguments.method
    accepted = ACCEPTED[NETWORKS[method]]
    bad = ACCEPTED["Sense"]  # an error is visible, whoever made it
    scans = FileScans(arguments.scans, arguments.slices, refused="leave-out")
    ratios: dict[str, list[float]] = {"ghosts": [], "noise": []}
    counts: dict[float, Counter[str]] = {}
    number = -1
    for index in range(len(scans)):
        kspace = scans.scan(index).kspace
        for how, acceleration, coils, lines in cases(kspace, arguments):
            number += 1
            if number % arguments.every:
                continue
            block = block_of_lines(coils, lines[None])
            maps = measured_maps(block)
            found = expected_error(
                block.data[:, 0], block.mask[0], maps[:, None], SENSE["iterations"], SENSE["regularization"]
            )
            image, truth = reconstruct(method, coils, lines, maps), (maps.conj() * ifft(coils, PLANE)).sum(0)
            ideal = reconstruct(method, fft(maps * truth, PLANE), lines, maps)
            bright = float(image.abs().max())
            true = largest(image - truth) / bright
            parts = {"ghosts": largest(ideal - truth) / bright, "noise": largest(image - ideal) / bright}
            for name, part in parts.items():
                if part > NEAR:
                    ratios[name].append(getattr(found, name) / part)
            judged = "good" if true < bad - NEAR else "bad" if true > bad + NEAR else "between"
            marked = "marked" if max(found) > accepted else "unmarked"
            counts.setdefault(acceleration, Counter())[f"{judged} {marked}"] += 1
            if arguments.show or f"{judged} {marked}" in ("good marked", "bad unmarked"):
                expected = ", ".join(
                    f"{name} {getattr(found, name):.3f} (are {part:.3f})" for name, part in parts.items()
                )
                print(f"{judged} {marked}: scan {index}, {how}: {expected}, error {true:.3f}", flush=True)
    kinds = [f"{judged} {marked}" for judged in ("good", "between", "bad") for marked in ("unmarked", "marked")]
    for acceleration, count in sorted(counts.items()):
        print(f"R = {acceleration}: " + ", ".join(f"{kind} {count[kind]}" for kind in kinds))
    for name, values in ratios.items():
        low, middle, high = np.percentile(values, [5, 50, 95])
        print(
            f"figure {name}_expected_over_true {middle:.2f}  (90 % within {low:.2f} to {high:.2f}, {len(values)} cases)"
        )
    total = sum(counts.values(), Counter[str]())
    print(f"figure good_marked {total['good marked']}  (of {total['good marked'] + total['good unmarked']})")
    print(f"figure bad_unmarked {total['bad unmarked']}  (of {total['bad unmarked'] + total['bad marked']})")


if __name__ == "__main__":
    main()
