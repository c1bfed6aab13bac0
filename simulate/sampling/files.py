"""Patterns from files."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from .request import Mask, Request, SamplingError

SUFFIXES = (".npy", ".mat", ".h5", ".txt")


def load_mask(path: Path, request: Request) -> Mask:
    """Read a pattern.

    Parameters
    ----------
    path
        ``.npy``, ``.txt`` (zeros and ones), ``.mat`` of any version or ``.h5``, where the array is called ``mask`` or is the only
        one. Shape [ky], [frames, ky], [ky, kx] or [frames, ky, kx].
    request
        The grid, and the calibration lines that must be among those measured.

    Returns
    -------
    ndarray
        bool [frames, ky] where every line is complete or empty, else [frames, ky, kx]; padding is left out.

    Raises
    ------
    SamplingError
        It cannot be read, is not of zeros and ones, does not fit the grid, or lacks calibration lines.
    """
    values = _values(path)
    if not np.isin(values, (0, 1)).all():
        raise SamplingError("the mask has other values than zeros and ones", where=str(path))
    mask = _shaped(values.astype(bool), path, request)
    mask &= request.rows if mask.ndim == 2 else request.rows[:, None]
    needed = request.calibration if mask.ndim == 2 else request.calibration_block
    missing = int((needed & ~mask.all(axis=0)).sum())
    if missing:
        raise SamplingError(
            f"the mask lacks {missing} of the {int(needed.sum())} {'lines' if mask.ndim == 2 else 'points'} of the "
            "calibration region",
            where=str(path),
            accepted="a number of calibration lines that it measures around the middle",
        )
    return mask


def holds_points(path: Path, series: bool) -> bool:
    """Whether a file has a pattern of points, for a series or a still image."""
    values = np.squeeze(_values(path))
    return values.ndim == (3 if series else 2) and not (values == values[..., :1]).all()


def _shaped(mask: Mask, path: Path, request: Request) -> Mask:
    """Return [frames, ky] or [frames, ky, kx]."""
    frames, lines, samples = request.frames, request.lines, request.samples
    mask = np.squeeze(mask)  # MATLAB has no arrays of fewer than two axes
    fitting = {
        (lines,): (1, lines),
        (frames, lines): (frames, lines),
        (lines, samples): (1, lines, samples),
        (frames, lines, samples): (frames, lines, samples),
    }
    if mask.shape not in fitting:
        accepted = " or ".join(str(list(shape)) for shape in fitting if 1 not in shape)
        raise SamplingError(f"the mask is {list(mask.shape)}", where=str(path), accepted=accepted)
    mask = mask.reshape(fitting[mask.shape])
    if mask.ndim == 3 and (mask == mask[..., :1]).all():
        mask = mask[..., 0]
    return np.repeat(mask, frames, axis=0) if len(mask) < frames else mask


def _values(path: Path) -> NDArray[Any]:
    try:
        if path.suffix == ".npy":
            return np.atleast_1d(np.load(path, allow_pickle=False))
        if path.suffix == ".txt":
            return np.loadtxt(path, ndmin=1)
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                arrays = {name: file[name][()] for name in file if isinstance(file[name], h5py.Dataset)}
            # MATLAB's files of version 7.3 have their axes the other way round
            array = _only(arrays, path)
            return array.T if path.suffix == ".mat" else array
        content: dict[str, Any] = loadmat(path) if path.suffix == ".mat" else {}
        return _only({name: value for name, value in content.items() if not name.startswith("__")}, path)
    except (OSError, ValueError, NotImplementedError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise SamplingError(f"the mask cannot be read: {reason}", where=str(path)) from error


def _only(arrays: dict[str, Any], path: Path) -> NDArray[Any]:
    if "mask" in arrays:
        return np.asarray(arrays["mask"])
    if len(arrays) != 1:
        raise SamplingError(
            f"the file has {', '.join(sorted(arrays)) or 'no arrays'}",
            where=str(path),
            accepted="one array, or one called 'mask'",
        )
    return np.asarray(next(iter(arrays.values())))
