"""MRD files (HDF5): read what a scanner sent, write images as Gadgetron's client does."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
from ismrmrd.hdf5 import get_hdf5type, waveform_header_dtype
from numpy.typing import NDArray

from .errors import FileError
from .items import ACQUISITION_HEADER, Acquisition, AcquisitionHeader, Image, Waveform, make_acquisition

ENDED_EARLY = "IsocenterEndedEarly"
"""Meta attribute of images whose session did not come to its end: why, so that nobody takes them for all there are."""

_CHUNK = 128
_MOST = 65535
_COUNTED = frozenset(
    (
        *("number_of_samples", "active_channels", "channels", "center_sample", "discard_pre", "discard_post"),
        *("encoding_space_ref", "trajectory_dimensions", "kspace_encode_step_1", "kspace_encode_step_2", "average"),
        *("slice", "contrast", "phase", "repetition", "set", "segment"),
    )
)
"""Members of headers whose numbers decide where data go: one that does not fit must not become another."""
_DAMAGED = (OSError, RuntimeError, ValueError)
"""What HDF5 raises where a file is damaged."""


class MrdFile:
    """A recorded scan, read by the names of HDF5's members whatever their types and order.

    Parameters
    ----------
    path
        HDF5 file.
    group
        Group of the scan, ``dataset`` usually.

    Attributes
    ----------
    problems
        Readouts and waveforms that ``items`` left out and why, one entry a kind; and what it mended.

    Raises
    ------
    FileError
        It is no HDF5 file, or is damaged, or has no such group, or no MRD header in it.
    """

    def __init__(self, path: Path, group: str = "dataset") -> None:
        self._path = path
        self._file = open_hdf5(path, "MRD file")
        group = group.strip("/")
        found = self._file.get(group) if group else self._file
        if not isinstance(found, h5py.Group):
            what = "holds images, and no scan" if self._holds_only_images() else f"has no group {group!r}"
            raise FileError(f"{path} {what}", accepted=self._groups())
        self._group = found
        if not isinstance(self._group.get("xml"), h5py.Dataset):
            raise FileError(f"group {group!r} holds no MRD header (xml)", where=str(path), accepted=self._groups())
        self._problems: dict[str, tuple[int, str]] = {}

    def _holds_only_images(self) -> bool:
        found: set[str] = set()
        self._file.visititems(lambda name, _member: found.add(name.rpartition("/")[2]))
        return {"data", "header"} <= found and "xml" not in found

    def _groups(self) -> str:
        """Groups that hold a scan."""
        found: list[str] = []

        def look(name: str, member: object) -> None:
            if isinstance(member, h5py.Dataset) and name.rpartition("/")[2] == "xml":
                found.append(name.rpartition("/")[0] or "/")

        self._file.visititems(look)
        return ", ".join(found) or "a file with a scan in it, this one has none"

    @property
    def problems(self) -> list[str]:
        """What was left out or mended, with how often."""
        return [text if count == 1 else f"{text} ({count} times)" for count, text in self._problems.values()]

    def _report(self, kind: str, text: str) -> None:
        count, first = self._problems.get(kind, (0, text))
        self._problems[kind] = (count + 1, first)

    @property
    def header(self) -> bytes:
        """The MRD header.

        Raises
        ------
        FileError
            It is empty or damaged.
        """
        try:
            value = np.asarray(self._group["xml"][()])
        except _DAMAGED as error:
            raise FileError(f"the MRD header (xml) of {self._path} is damaged") from error
        if value.dtype.kind in "iu" or value.dtype == "S1":  # characters, one by one
            return value.tobytes()
        texts = [text if isinstance(text, bytes) else str(text).encode() for text in value.ravel()[:1]]
        if not texts or not texts[0].strip():
            raise FileError(f"the MRD header (xml) of {self._path} is empty")
        return texts[0]

    @property
    def acquisition_count(self) -> int:
        """Number of acquisitions."""
        return getattr(self._group.get("data"), "size", 0)

    def items(self) -> Iterator[Acquisition | Waveform]:
        """Acquisitions and waveforms, interleaved by their time stamps; what cannot be used is in ``problems``.

        Raises
        ------
        FileError
            The file was closed, or holds readouts of which none can be used.
        """
        if not self._file:
            raise FileError("the file was closed; open it again")
        self._problems.clear()
        waveforms = list(self._waveforms())
        usable = 0
        for acquisition in self._acquisitions():
            usable += 1
            while waveforms and waveforms[0].time_stamp <= acquisition.acquisition_time_stamp:
                yield waveforms.pop(0)
            yield acquisition
        if self.acquisition_count and not usable:
            raise FileError(f"no readout of {self._path} can be used: {'; '.join(self.problems)}")
        yield from waveforms

    def _acquisitions(self) -> Iterator[Acquisition]:
        for start, rows in self._rows("data", "readout"):
            heads, faults = _as_layout(rows["head"], ACQUISITION_HEADER)
            memory = heads.view(np.uint8)
            trajectories = rows["traj"] if "traj" in (rows.dtype.names or ()) else [()] * len(rows)
            for index, (data, trajectory) in enumerate(zip(rows["data"], trajectories, strict=True)):
                try:
                    if index in faults:
                        raise faults[index]
                    header = AcquisitionHeader.from_buffer(memory, index * ACQUISITION_HEADER.itemsize)  # type: ignore[arg-type]
                    samples = _complex(data)
                    header.number_of_samples, header.active_channels = self._resolve(
                        f"readout {start + index}", header.number_of_samples, header.active_channels, samples.size
                    )
                    points = self._trajectory(start + index, header, np.asarray(trajectory, np.float32))
                except FileError as error:
                    self._report(error.kind, f"readout {start + index} is left out: {error}")
                else:
                    shape = (header.active_channels, header.number_of_samples)
                    yield make_acquisition(header, samples.reshape(shape), points)

    def _resolve(self, name: str, samples: int, channels: int, length: int) -> tuple[int, int]:
        """Return samples and channels that agree with the length of the data; one that is zero is told by the other."""
        if samples * channels == length:
            return samples, channels
        found = (samples, channels)
        if channels and not samples and length % channels == 0:
            found = (length // channels, channels)
        elif samples and not channels and length % samples == 0:
            found = (samples, length // samples)
        if not length or found[0] * found[1] != length or max(found) > _MOST:
            raise FileError(
                f"its header says {samples} samples of {channels} channels, its data are {length} samples in all",
                accepted="as many as samples times channels",
                kind="sizes",
            )
        text = f"{name}: its header says {samples} samples of {channels} channels, taken as {found[0]} of {found[1]}"
        self._report("mended", text)
        return found

    def _trajectory(self, number: int, header: AcquisitionHeader, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Arrange the trajectory as [samples, dimensions]; a header that tells no dimensions is mended."""
        samples, dimensions = header.number_of_samples, header.trajectory_dimensions
        if points.size and not dimensions and samples and points.size % samples == 0:
            header.trajectory_dimensions = dimensions = points.size // samples
            text = f"readout {number}: its header says 0 dimensions of the trajectory, taken as {dimensions}"
            self._report("mended trajectory", text)
        if samples * dimensions != points.size:
            raise FileError(
                f"its header says {samples} samples and a trajectory of {dimensions} dimensions, the trajectory has "
                f"{points.size} values",
                accepted="as many as samples times dimensions",
                kind="trajectory",
            )
        return points.reshape(samples, dimensions)

    def _waveforms(self) -> Iterator[Waveform]:
        for start, rows in self._rows("waveforms", "waveform"):
            heads, faults = _as_layout(rows["head"], waveform_header_dtype)
            for index, data in enumerate(rows["data"]):
                try:
                    if index in faults:
                        raise faults[index]
                    head, values = heads[index], np.asarray(data).ravel()
                    sizes = int(head["number_of_samples"]), int(head["channels"])
                    head["number_of_samples"], head["channels"] = self._resolve(
                        f"waveform {start + index}", *sizes, values.size
                    )
                except FileError as error:
                    self._report(f"waveform {error.kind}", f"waveform {start + index} is left out: {error}")
                else:
                    waveform = Waveform(head.tobytes())
                    waveform.data[:] = values.astype(np.uint32, copy=False).reshape(waveform.data.shape)
                    yield waveform

    def _rows(self, name: str, what: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """Pieces of a dataset with the number of their first row; rows that cannot be read are left out.

        Raises
        ------
        FileError
            It is no dataset of headers and data.
        """
        dataset: Any = self._group.get(name)
        if dataset is None:
            return
        members = getattr(getattr(dataset, "dtype", None), "names", None) or ()
        if not {"head", "data"} <= set(members):
            raise FileError(
                f"{name!r} of {self._path} has the members {', '.join(members) or 'none'}", accepted="head, traj, data"
            )
        orders = _orders_that_get_lost(dataset.dtype)
        for start in range(0, dataset.shape[0], _CHUNK):
            stop = min(start + _CHUNK, dataset.shape[0])
            if (piece := _read(dataset, start, stop, orders)) is not None:
                yield start, piece
                continue
            for row in range(start, stop):  # one damaged row costs only itself
                if (piece := _read(dataset, row, row + 1, orders)) is not None:
                    yield row, piece
                else:
                    self._report(f"damaged {what}", f"{what} {row} is left out: the file is damaged there")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_hdf5(path: Path, what: str = "file") -> h5py.File:
    """Open an HDF5 file for reading.

    Raises
    ------
    FileError
        There is none, or it is empty, damaged or something else; ``what`` is accepted.
    """
    if not path.is_file():
        raise FileError(f"{path} does not exist or is no file")
    if not path.stat().st_size:
        raise FileError(f"{path} is empty", accepted=f"a whole {what} (HDF5)")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno:
            raise FileError(f"{path} cannot be read: {os.strerror(error.errno)}") from error
        damaged = h5py.is_hdf5(path)
        reason = "is damaged or cut off" if damaged else "is no HDF5 file"
        raise FileError(f"{path} {reason}", accepted=f"a whole {what} (HDF5)") from error


def _read(dataset: Any, start: int, stop: int, orders: dict[str, np.dtype[Any]]) -> NDArray[Any] | None:
    try:
        rows = np.ravel(dataset[start:stop])
    except _DAMAGED:
        return None
    for name, order in orders.items():
        column = rows[name]
        for index, values in enumerate(column):
            column[index] = values.view(order)
    return rows


def _orders_that_get_lost(members: np.dtype[Any]) -> dict[str, np.dtype[Any]]:
    """Types of the members of variable length that h5py gives in the file's order of bytes as if it were this machine's."""
    bases = {name: h5py.check_vlen_dtype(members[name]) for name in members.names or ()}
    others = {name: base for name, base in bases.items() if base is not None and base != base.newbyteorder("=")}
    return others if others and _loses_order() else {}


@cache
def _loses_order() -> bool:
    """Whether this h5py takes numbers of variable length from a file without bringing their bytes into order."""
    other = np.dtype(np.uint16).newbyteorder("S")
    with h5py.File("order", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("values", (1,), h5py.vlen_dtype(other))
        dataset[0] = np.array([1], other)
        return bool(dataset[0][0] != 1)


def _as_layout(source: NDArray[Any], layout: np.dtype[Any]) -> tuple[NDArray[Any], dict[int, FileError]]:
    """Arrange headers in memory as the protocol has them: by name, zero where the file has no such member.

    Returns
    -------
    numpy.ndarray
        [rows] of ``layout``.
    dict
        For the rows whose numbers are too large or negative, what is wrong with them.
    """
    if source.dtype == layout:
        return np.ascontiguousarray(source), {}
    target = np.zeros(source.shape, layout)
    faults: dict[int, FileError] = {}
    _copy_members(source, target, faults)
    return target, faults


def _copy_members(source: NDArray[Any], target: NDArray[Any], faults: dict[int, FileError]) -> None:
    for name in target.dtype.names or ():
        if name not in (source.dtype.names or ()):
            continue
        if target[name].dtype.names:
            _copy_members(source[name], target[name], faults)
            continue
        values = source[name].reshape(len(source), -1)
        into = target[name] if target[name].ndim == 2 else target[name][:, None]
        count = min(values.shape[1], into.shape[1])
        with np.errstate(invalid="ignore", over="ignore"):
            into[:, :count] = values[:, :count]
        if name in _COUNTED:
            for row in np.flatnonzero((into[:, :count] != values[:, :count]).any(axis=1)):
                found = f"{name} is {values[row, 0]}"
                faults[int(row)] = FileError(found, accepted=f"a whole number from 0 to {_MOST}", kind="range")


def _complex(values: Any) -> NDArray[np.complex64]:
    """Samples as complex64 [all], from pairs of numbers, pairs of members, or complex numbers."""
    values = np.asarray(values)
    if values.dtype == np.float32 and values.size % 2 == 0 and values.flags.c_contiguous:  # as MRD has it
        return values.view(np.complex64)
    if values.dtype.names and len(values.dtype.names) == 2:
        real, imaginary = values.dtype.names
        values = values[real] + 1j * values[imaginary]
    with np.errstate(over="ignore"):
        if values.dtype.kind == "c":
            return np.ascontiguousarray(values, np.complex64).ravel()
        if values.dtype.kind not in "iuf" or values.size % 2:
            raise FileError(
                f"its data are {values.size} values of type {values.dtype}", accepted="pairs of numbers", kind="data"
            )
        return np.ascontiguousarray(values, np.float32).ravel().view(np.complex64)


class ImageWriter:
    """Writes images to ``/<group>/image_<series>`` as ``gadgetron_ismrmrd_client`` does; the file is made at the first image.

    Images of a series that differ in size or type cannot share a dataset: others go to ``image_<series>_2`` and so on.

    Parameters
    ----------
    path
        HDF5 file; what is in it stays.
    group
        Group of the images.
    on_text
        Is told where images are if not where they are expected.

    Raises
    ------
    FileError
        Nothing can be written there.
    """

    def __init__(self, path: Path, group: str, on_text: Callable[[str], None] | None = None) -> None:
        self._path, self._group = path, group
        self._on_text = on_text
        self._dataset: ismrmrd.Dataset | None = None
        self._names: dict[tuple[object, ...], str] = {}
        if path.exists() and not h5py.is_hdf5(path):
            raise FileError(f"{path} is there already and is no HDF5 file", accepted="a new file, or one of images")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise FileError(f"{path} cannot be written: its folder is missing, or may not be written to")

    def write(self, image: Image) -> None:
        """Append an image to its series.

        Raises
        ------
        FileError
            It cannot be written: the disk is full, or the group is something else.
        """
        try:
            if self._dataset is None:
                self._dataset = ismrmrd.Dataset(str(self._path), self._group, create_if_needed=True)
            group = self._dataset._file.require_group(self._group)
            self._dataset.append_image(self._name(group, image), image)
        except (*_DAMAGED, TypeError, LookupError) as error:
            raise self._failure(error) from error

    def _name(self, group: h5py.Group, image: Image) -> str:
        kind = (image.image_series_index, image.data.shape, image.data_type)
        if kind not in self._names:
            first = name = f"image_{image.image_series_index}"
            number = 1
            while not _takes(group.get(name), image):
                number += 1
                name = f"{first}_{number}"
            self._names[kind] = name
            if number > 1 and self._on_text is not None:
                size = " x ".join(str(length) for length in image.data.shape)
                self._on_text(
                    f"images of series {image.image_series_index} differ in size or type: those of [channels, z, y, x] "
                    f"{size} ({image.data.dtype}) are in {name}"
                )
        return self._names[kind]

    def close(self) -> None:
        """Finish the file.

        Raises
        ------
        FileError
            What was written does not reach the disk.
        """
        try:
            if self._dataset is not None:
                self._dataset.close()
        except _DAMAGED as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> FileError:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else "HDF5 does not take it there"
        return FileError(f"images cannot be written to {self._path}, group {self._group!r}: {reason}")


def _takes(series: object, image: Image) -> bool:
    """Whether a series is new, or holds images of this size and type."""
    if series is None:
        return True
    data = series.get("data") if isinstance(series, h5py.Group) else None
    return (
        isinstance(data, h5py.Dataset)
        and data.shape[1:] == image.data.shape
        and data.dtype == get_hdf5type(image.data_type)
    )
