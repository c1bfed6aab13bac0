"""Writes bart.npz: maps and SENSE of the problem, where ``bart`` is installed: ``python tests/references/make_bart.py``."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from problem import CALIBRATION, make

REGULARIZATION = 0.005


def write(path, array):
    """Write [coils, y, x] or [y, x] in BART's format, whose first axis is fastest: x, y, z, coils."""
    array = np.asarray(array, np.complex64).reshape(-1, 1, *array.shape[-2:])
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, reversed(array.shape))) + "\n")
    array.tofile(path.with_suffix(".cfl"))


def read(path):
    shape = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(shape, order="F").squeeze().T


def main():
    _, maps, kspace, measured = make()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def bart(*arguments):
            subprocess.run(["bart", *map(str, arguments)], cwd=place, check=True, capture_output=True)

        write(place / "kspace", kspace)
        write(place / "undersampled", kspace * measured[:, None])
        write(place / "maps", maps)
        bart("ecalib", "-m1", "-c0", f"-r{CALIBRATION}", "kspace", "estimated")
        # -w1: without it BART divides by a scale of its own, and the weight would be another one
        bart("pics", "-w1", "-l2", f"-r{REGULARIZATION}", "-i200", "undersampled", "maps", "image")
        version = subprocess.run(["bart", "version"], check=True, capture_output=True, text=True).stdout.strip()
        np.savez_compressed(
            Path(__file__).with_name("bart.npz"),
            program=f"BART {version}",
            maps=read(place / "estimated")[:, ::2, ::2],
            sense=read(place / "image"),
        )


if __name__ == "__main__":
    main()
