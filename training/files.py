"""Fully sampled slices and series from files: fastMRI's HDF5 layout and MRD."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py
import ismrmrd
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.fourier import fft, ifft
from .data import FullScan
from .recipe import RecipeError

Kspace = NDArray[np.complex64]


class FileScans:
    """The slices of all files in a folder, one after the other.

    Parameters
    ----------
    folder
        Folder with ``*.h5`` files.
    kind
        ``fastmri``: dataset ``kspace`` [slices, coils, readout, phase]. ``mrd``: Cartesian, fully sampled.
    slices
        Slices from the middle of each volume; None: all.
    series
        Whether the phases and repetitions of MRD files are frames; otherwise they are averaged.

    Raises
    ------
    RecipeError
        The folder has no files, or one is not what ``kind`` says.
    """

    def __init__(
        self, folder: Path, kind: Literal["fastmri", "mrd"], slices: int | None, *, series: bool = False
    ) -> None:
        count, self._read = _KINDS[kind]
        self._series = series
        self._slices: list[tuple[Path, int]] = []
        for path in sorted(path for path in folder.glob("*.h5") if not path.name.endswith(".truth.h5")):
            try:
                total = count(path)
            except (LookupError, OSError, ValueError) as error:
                raise RecipeError(f"{path} is no {kind} file: {error}") from error
            middle = (
                range(total)
                if slices is None
                else range(max((total - slices) // 2, 0), min((total + slices) // 2, total))
            )
            self._slices += [(path, index) for index in middle]
        if not self._slices:
            raise RecipeError(f"{folder} has no *.h5 files")

    def __len__(self) -> int:
        return len(self._slices)

    def scan(self, index: int) -> FullScan:
        """Read one slice or series."""
        return FullScan(self._read(*self._slices[index], self._series))


def _count_fastmri(path: Path) -> int:
    with h5py.File(path) as file:
        return int(file["kspace"].shape[0])


def _read_fastmri(path: Path, index: int, _series: bool) -> Tensor:
    """Return [coils, ky, kx]: phase encoding first, as everywhere here."""
    with h5py.File(path) as file:
        kspace: Any = file["kspace"]
        return torch.from_numpy(np.ascontiguousarray(kspace[index].swapaxes(-1, -2), np.complex64))


def _count_mrd(path: Path) -> int:
    return len(_mrd_slices(path))


def _mrd_slices(path: Path) -> list[int]:
    with ismrmrd.File(str(path), "r") as file:
        heads = file["dataset"].acquisitions
        return sorted({int(item.idx.slice) for item in heads if not item.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)})


def _read_mrd(path: Path, index: int, series: bool) -> Tensor:
    """Place the lines of a slice, average repeated ones, and crop the readout to the reconstructed field of view.

    Returns complex64 [coils, (frames,) ky, kx].
    """
    number = _mrd_slices(path)[index]
    with ismrmrd.File(str(path), "r") as file:
        header = file["dataset"].header
        encoding = header.encoding[0]
        lines = [
            item
            for item in file["dataset"].acquisitions
            if item.idx.slice == number and not item.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        ]
    matrix = encoding.encodedSpace.matrixSize
    limits = encoding.encodingLimits.kspace_encoding_step_1
    shift = matrix.y // 2 - (limits.center if limits is not None else matrix.y // 2)
    times = [(line.idx.repetition, line.idx.phase) if series else (0, 0) for line in lines]
    frames = sorted(set(times))
    kspace = np.zeros((lines[0].active_channels, len(frames), matrix.y, matrix.x), np.complex64)
    count = np.zeros((len(frames), matrix.y))
    for line, time in zip(lines, times, strict=True):
        frame = frames.index(time)
        row = line.idx.kspace_encode_step_1 + shift
        start = matrix.x // 2 - line.center_sample
        kspace[:, frame, row, start : start + line.number_of_samples] += line.data
        count[frame, row] += 1
    if not count.all():
        raise RecipeError(
            f"{int((count == 0).sum())} of {count.size} lines were not measured", where=f"{path}, slice {number}"
        )
    recon = encoding.reconSpace.matrixSize.x
    images = ifft(torch.from_numpy(kspace / count[..., None].astype(np.float32)), [-1])
    start = (matrix.x - recon) // 2
    cropped = fft(images[..., start : start + recon], [-1])
    return cropped if series else cropped[:, 0]


_KINDS: dict[str, tuple[Callable[[Path], int], Callable[[Path, int, bool], Tensor]]] = {
    "fastmri": (_count_fastmri, _read_fastmri),
    "mrd": (_count_mrd, _read_mrd),
}
