"""CMRxRecon's layout: MATLAB v7.3 files with ``kspace_full`` [frames, slices, coils, ky, kx], as HDF5 has MATLAB's axes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...wire.errors import FileError
from .hdf5 import complex_shape, open_file, read_complex
from .layouts import Block, Reading, layout, make_kspace

_NAME = re.compile(r"kspace(_single)?_(full|sub\d+)")
_AXES = "kspace_full [(frames,) slices, coils, ky, kx], kspace_single_full [(frames,) slices, ky, kx]"


def _find(file: h5py.File) -> Any:
    found = (file[name] for name in sorted(file) if _NAME.fullmatch(name))
    return next((member for member in found if isinstance(member, h5py.Dataset)), None)


def _recognises(path: Path) -> bool:
    with open_file(path) as file:
        return _find(file) is not None


def _check_order(shape: tuple[int, ...], where: str) -> None:
    """Refuse axes in another order, such as MATLAB's written by another program: lines and samples are more than all else."""
    if max(shape[:-2]) > min(shape[-2:]):
        raise FileError(
            f"it is {list(shape)}, {shape[-2]} lines of {shape[-1]} samples: are its axes in another order?",
            where=where,
            accepted=_AXES,
            kind="layout",
        )


@layout("cmrxrecon", holds=f"CMRxRecon's {_AXES}", recognises=_recognises, suffixes=(".mat", ".h5", ".hdf5"))
def read_cmrxrecon(reading: Reading) -> Iterator[Block]:
    """Read the slices of a series, each as a block [coils, frames, 1, ky, kx]."""
    with open_file(reading.path) as file:
        dataset = _find(file)
        name, shape = str(dataset.name).lstrip("/"), complex_shape(dataset)
        where = f"{reading.path}, {name}"
        if "_sub" in name:
            raise FileError("it is undersampled", where=where, accepted=_AXES)
        single = "_single" in name
        if len(shape) not in ((3, 4) if single else (4, 5)):
            raise FileError(f"it has {len(shape)} axes, {list(shape)}", where=where, accepted=_AXES, kind="layout")
        _check_order(shape, where)
        still = len(shape) == (3 if single else 4)
        for index in reading.middle(shape[0 if still else 1]):
            data = read_complex(dataset, index if still else np.s_[:, index])
            data = data.reshape(1 if still else shape[0], 1 if single else shape[-3], 1, *shape[-2:])
            yield Block(make_kspace(data.swapaxes(0, 1)), index)
