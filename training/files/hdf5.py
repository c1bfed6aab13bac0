"""Complex arrays in HDF5 files, in the forms in which programs write them."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...wire.errors import FileError
from ...wire.files import open_hdf5

_SHOWN = 8


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 or MATLAB v7.3 file.

    Raises
    ------
    FileError
        It cannot be read, or is a MATLAB file of an older version.
    """
    if path.is_file():
        with path.open("rb") as file:
            if file.read(10) == b"MATLAB 5.0":
                raise FileError(
                    "it is a MATLAB file of a version before 7.3", where=str(path), accepted="save(..., '-v7.3')"
                )
    return open_hdf5(path)


def has_dataset(path: Path, name: str) -> bool:
    """Whether an HDF5 file has a dataset of that name."""
    with open_file(path) as file:
        return isinstance(file.get(name), h5py.Dataset)


def describe(path: Path) -> str:
    """Name what an HDF5 file holds, for messages."""
    with open_file(path) as file:
        found = [f"{name} {_type(file.get(name))}" for name in file]
    more = f" and {len(found) - _SHOWN} others" if len(found) > _SHOWN else ""
    return (", ".join(found[:_SHOWN]) or "nothing") + more


def _type(member: object) -> str:
    if not isinstance(member, h5py.Dataset):
        return "(group)"
    kind = "compound" if member.dtype.names else str(member.dtype)
    return f"{list(member.shape or ())} of {kind}"


def complex_shape(dataset: Any) -> tuple[int, ...]:
    """Shape of a dataset as complex numbers: real ones lie in pairs along the last axis.

    Raises
    ------
    FileError
        It holds no complex numbers.
    """
    shape, kind = tuple(dataset.shape or ()), dataset.dtype
    if 0 in shape or not shape:
        raise _error(dataset, f"it is empty, {list(shape)}", "complex numbers")
    if kind.names is None and kind.kind == "c":
        return shape
    pair = kind.names is not None and len(kind.names) == 2 and all(kind[name].kind in "iuf" for name in kind.names)
    if pair:
        return shape
    if kind.names is None and kind.kind in "iuf" and shape[-1] == 2:
        return shape[:-1]
    raise _error(
        dataset,
        f"it is {_type(dataset)}",
        "complex numbers, compounds of real and imaginary part, or pairs of real numbers along the last axis",
    )


def read_complex(dataset: Any, selection: Any) -> NDArray[np.complex64]:
    """Read a part of a dataset of complex numbers; ``selection`` is along the axes of ``complex_shape``.

    Raises
    ------
    FileError
        The file is damaged there, or cannot be decompressed.
    """
    pairs = len(complex_shape(dataset)) < len(dataset.shape)
    try:
        values: NDArray[Any] = np.asarray(dataset[selection])
    except (OSError, RuntimeError) as error:
        raise _error(dataset, f"it cannot be read: {str(error).partition(chr(10))[0]}", "a whole file") from error
    if values.dtype.names is not None:
        parts = [values[name].astype(np.float32) for name in values.dtype.names]
    elif pairs:
        parts = [values[..., index].astype(np.float32) for index in range(2)]
    else:
        with np.errstate(over="ignore"):  # infinity is refused later
            return values.astype(np.complex64)
    out = np.empty(parts[0].shape, np.complex64)
    out.real, out.imag = parts
    return out


def _error(dataset: Any, what: str, accepted: str) -> FileError:
    name = str(dataset.name).lstrip("/")
    return FileError(what, where=f"{dataset.file.filename}, {name}", accepted=accepted)
