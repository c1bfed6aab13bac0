"""Files of simulated scans, laid out in the ways that programs lay them out."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from ismrmrd import Acquisition, Waveform
from ismrmrd.hdf5 import acquisition_header_dtype, waveform_dtype, waveform_header_dtype

from ..wire import Close, Header, encode
from ..wire.errors import FileError

_HEADER = np.dtype(acquisition_header_dtype)


@dataclass(frozen=True)
class FileLayout:
    """How a scan is laid out in a file.

    Attributes
    ----------
    stream
        An ISMRMRD stream (header, items, close) instead of HDF5, of which the rest tells.
    group
        Group of the scan.
    big_endian
        Numbers with the most significant byte first.
    xml
        The header as an array of one string, as the ISMRMRD library writes it, as a string, or either of fixed length.
    reversed_members
        Members of the acquisitions' compound types in the opposite order.
    trajectory
        Whether acquisitions have a member ``traj``.
    sizes
        Whether the heads hold the numbers of samples and channels, or 0.
    """

    stream: bool = False
    group: str = "dataset"
    big_endian: bool = False
    xml: Literal["array", "scalar", "fixed array", "fixed scalar"] = "array"
    reversed_members: bool = False
    trajectory: bool = True
    sizes: bool = True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, which then takes the place of another; nothing is left of one that is not finished.

    Raises
    ------
    FileError
        It cannot be written, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # HDF5 raises either
        raise FileError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_scan(path: Path, header: bytes, items: Iterable[Acquisition | Waveform], layout: FileLayout) -> None:
    """Write an MRD file; an older one is replaced."""
    items = list(items)
    if layout.stream:
        with path.open("wb") as stream:
            for message in (Header(header), *items, Close()):
                stream.writelines(encode(message))
        return
    acquisitions = [item for item in items if isinstance(item, Acquisition)]
    waveforms = [item for item in items if isinstance(item, Waveform)]
    with h5py.File(path, "w") as file:
        group = file.create_group(layout.group)
        _write_header(group, header, layout)
        if acquisitions:
            group["data"] = _acquisition_table(acquisitions, layout)
        if waveforms:
            group["waveforms"] = _waveform_table(waveforms)


def _write_header(group: h5py.Group, header: bytes, layout: FileLayout) -> None:
    kind: Any = np.dtype(f"S{len(header)}") if layout.xml.startswith("fixed") else h5py.special_dtype(vlen=bytes)
    shape = () if layout.xml.endswith("scalar") else (1,)
    group.create_dataset("xml", shape, kind)[...] = header


def _acquisition_table(acquisitions: list[Acquisition], layout: FileLayout) -> np.ndarray[Any, Any]:
    table = np.empty(len(acquisitions), _compound(layout))
    for row, acquisition in zip(table, acquisitions, strict=True):
        head = np.frombuffer(bytes(acquisition.getHead()), _HEADER)[0].copy()
        if not layout.sizes:
            head["number_of_samples"] = head["active_channels"] = 0
        _copy_members(head, row["head"])
        samples = np.ascontiguousarray(acquisition.data).view(np.float32).ravel()
        number = row.dtype["data"].metadata["vlen"]
        row["data"] = samples.astype(number)
        if layout.trajectory:
            row["traj"] = acquisition.traj.ravel().astype(number)
    return table


def _compound(layout: FileLayout) -> np.dtype[Any]:
    number = np.dtype(np.float32).newbyteorder(">" if layout.big_endian else "<")
    vector = h5py.vlen_dtype(number)
    members = [("head", _ordered(_HEADER, layout)), ("traj", vector), ("data", vector)]
    kept = [member for member in members if layout.trajectory or member[0] != "traj"]
    return np.dtype(kept[::-1] if layout.reversed_members else kept)


def _ordered(kind: np.dtype[Any], layout: FileLayout) -> np.dtype[Any]:
    """Return a compound type in the layout's byte order, and order of members at each level."""
    if kind.subdtype is not None:
        return np.dtype((_ordered(kind.subdtype[0], layout), kind.shape))
    if kind.names is None:
        return kind.newbyteorder(">" if layout.big_endian else "<")
    members = [(name, _ordered(kind[name], layout)) for name in kind.names]
    return np.dtype(members[::-1] if layout.reversed_members else members)


def _copy_members(source: Any, target: Any) -> None:
    """Copy a compound value by the names of its members."""
    for name in source.dtype.names:
        if source.dtype[name].names is None:
            target[name] = source[name]
        else:
            _copy_members(source[name], target[name])


def _waveform_table(waveforms: list[Waveform]) -> np.ndarray[Any, Any]:
    table = np.empty(len(waveforms), waveform_dtype)
    for row, waveform in zip(table, waveforms, strict=True):
        row["head"] = np.frombuffer(bytes(waveform.getHead()), waveform_header_dtype)[0]
        row["data"] = waveform.data.ravel()
    return table
