"""MRD files (HDF5): read what a scanner sent, write images as Gadgetron's client does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np

from .errors import FileError
from .items import Acquisition, AcquisitionHeader, Image, Waveform

_CHUNK = 128


class MrdFile:
    """A recorded scan.

    Parameters
    ----------
    path
        HDF5 file.
    group
        Group of the scan, ``dataset`` usually.

    Raises
    ------
    FileError
        It is no HDF5 file, or has no such group, or no MRD header in it.
    """

    def __init__(self, path: Path, group: str = "dataset") -> None:
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise FileError(f"{path} cannot be read as HDF5: {error}") from error
        group = group.strip("/")
        if group not in self._file:
            groups = ", ".join(self._file)
            raise FileError(f"{path} has no group {group!r}", accepted=groups)
        self._group: Any = self._file[group]
        if "xml" not in self._group:
            raise FileError(f"group {group!r} holds no MRD header (xml)", where=str(path))

    @property
    def header(self) -> bytes:
        """The MRD header."""
        value = self._group["xml"][0]
        return value if isinstance(value, bytes) else str(value).encode()

    @property
    def acquisition_count(self) -> int:
        """Number of acquisitions."""
        return len(self._group["data"]) if "data" in self._group else 0

    def items(self) -> Iterator[Acquisition | Waveform]:
        """Acquisitions and waveforms, interleaved by their time stamps.

        Raises
        ------
        FileError
            The file was closed.
        """
        if not self._file:
            raise FileError("the file was closed; open it again")
        waveforms = list(self._waveforms())
        for acquisition in self._acquisitions():
            while waveforms and waveforms[0].time_stamp <= acquisition.acquisition_time_stamp:
                yield waveforms.pop(0)
            yield acquisition
        yield from waveforms

    def _acquisitions(self) -> Iterator[Acquisition]:
        for start in range(0, self.acquisition_count, _CHUNK):
            for entry in self._group["data"][start : start + _CHUNK]:
                header = AcquisitionHeader.from_buffer_copy(entry["head"].tobytes())
                shape = (header.active_channels, header.number_of_samples)
                samples = np.ascontiguousarray(entry["data"], np.float32).view(np.complex64).reshape(shape)
                trajectory = np.asarray(entry["traj"], np.float32).reshape(
                    header.number_of_samples, header.trajectory_dimensions
                )
                yield Acquisition(header, samples, trajectory)

    def _waveforms(self) -> Iterator[Waveform]:
        if "waveforms" in self._group:
            for entry in self._group["waveforms"]:
                header = Waveform(entry["head"].tobytes())
                header.data[:] = np.asarray(entry["data"], np.uint32).reshape(header.data.shape)
                yield header

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ImageWriter:
    """Writes images to ``/<group>/image_<series>`` as ``gadgetron_ismrmrd_client`` does; the file is made at the first image."""

    def __init__(self, path: Path, group: str) -> None:
        self._path, self._group = path, group
        self._dataset: ismrmrd.Dataset | None = None

    def write(self, image: Image) -> None:
        """Append an image to its series."""
        if self._dataset is None:
            self._dataset = ismrmrd.Dataset(str(self._path), self._group, create_if_needed=True)
        self._dataset.append_image(f"image_{image.image_series_index}", image)

    def close(self) -> None:
        """Finish the file."""
        if self._dataset is not None:
            self._dataset.close()
