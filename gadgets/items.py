"""What flows through a pipeline: the MRD types, the blocks of Gadgetron's external nodes, and ``Kspace``."""

from dataclasses import dataclass, field
from typing import Any

import ismrmrd
import numpy as np
import torch
from ismrmrd import Acquisition, AcquisitionHeader, Image, ImageHeader, Waveform
from ismrmrd.hdf5 import acquisition_header_dtype
from numpy.typing import NDArray
from torch import Tensor

from .deferred import Deferred
from .header import Encoding

__all__ = [
    "ACQUISITION_HEADER",
    "IMAGE_DTYPES",
    "Acquisition",
    "AcquisitionBucket",
    "AcquisitionHeader",
    "DependencyReport",
    "Image",
    "ImageArray",
    "ImageHeader",
    "Item",
    "Kspace",
    "ReconBit",
    "ReconBuffer",
    "ReconData",
    "Waveform",
    "header_of",
    "make_acquisition",
    "make_image",
    "to_tensor",
]

ACQUISITION_HEADER: np.dtype[Any] = acquisition_header_dtype
"""Structured dtype with the layout of ``AcquisitionHeader`` (340 bytes)."""

IMAGE_DTYPES: dict[int, np.dtype[Any]] = {
    ismrmrd.DATATYPE_USHORT: np.dtype(np.uint16),
    ismrmrd.DATATYPE_SHORT: np.dtype(np.int16),
    ismrmrd.DATATYPE_UINT: np.dtype(np.uint32),
    ismrmrd.DATATYPE_INT: np.dtype(np.int32),
    ismrmrd.DATATYPE_FLOAT: np.dtype(np.float32),
    ismrmrd.DATATYPE_DOUBLE: np.dtype(np.float64),
    ismrmrd.DATATYPE_CXFLOAT: np.dtype(np.complex64),
    ismrmrd.DATATYPE_CXDOUBLE: np.dtype(np.complex128),
}
"""The dtype of every MRD image data type."""

_DATA_TYPES = {dtype: code for code, dtype in IMAGE_DTYPES.items()}


@dataclass
class Kspace:
    """A buffered block of k-space: everything that one reconstruction needs.

    Attributes
    ----------
    data
        complex64 [coils, frames, kz, ky, kx]; zero where nothing was measured.
    mask
        bool [frames, kz, ky]; which lines were measured.
    calibration
        complex64 [coils, kz, ky, kx] or None; reference (ACS) lines, zero where there are none.
    headers
        ``ACQUISITION_HEADER`` [frames, kz, ky]; the header of each line, zero where nothing was measured.
    encoding
        The encoding space that the block was measured in.
    encoding_index
        Its number in the MRD header.
    coil_maps
        complex64 [coils, kz, ky, kx] in image space, computed when they are first needed; or None.
    maps_problem
        Why there are no coil maps.
    whitened
        Whether the noise of the channels is decorrelated already.
    notes
        What a reader of the images must know, for the images' meta attributes.
    """

    data: Tensor
    mask: Tensor
    calibration: Tensor | None
    headers: NDArray[Any]
    encoding: Encoding
    encoding_index: int = 0
    coil_maps: Deferred | None = None
    maps_problem: str = ""
    whitened: bool = False
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def partitions_alike(self) -> bool:
        """Whether every partition was undersampled in the same way, so that each can be reconstructed by itself."""
        return bool((self.mask == self.mask[:, :1]).all())

    @property
    def reference(self) -> list[AcquisitionHeader]:
        """One header per frame, of the measured line closest to the middle of k-space."""
        return [self.central_header(frame) for frame in range(self.headers.shape[0])]

    def central_header(self, frame: int) -> AcquisitionHeader:
        """Header of a frame's measured line that is closest to the middle of k-space; empty if there is none."""
        kz, ky = np.nonzero(self.headers[frame]["number_of_samples"])
        if kz.size == 0:
            return AcquisitionHeader()
        distance = np.abs(kz - self.headers.shape[1] // 2) + np.abs(ky - self.headers.shape[2] // 2)
        nearest = int(np.argmin(distance))
        return AcquisitionHeader.from_buffer_copy(self.headers[frame, kz[nearest], ky[nearest]].tobytes())


@dataclass
class AcquisitionBucket:
    """Gadgetron's acquisition bucket: the readouts of one trigger.

    ``data_stats`` and ``reference_stats`` hold, per encoding space, nine sorted lists of counter values in the order
    kspace_encode_step_1, kspace_encode_step_2, slice, phase, contrast, repetition, set, segment, average.
    """

    data: list[Acquisition] = field(default_factory=list)
    reference: list[Acquisition] = field(default_factory=list)
    data_stats: list[list[list[int]]] = field(default_factory=list)
    reference_stats: list[list[list[int]]] = field(default_factory=list)
    waveforms: list[Waveform] = field(default_factory=list)


@dataclass
class ReconBuffer:
    """One buffer of Gadgetron's ``IsmrmrdReconData``; arrays are in the reverse of Gadgetron's (Fortran) axis order.

    Attributes
    ----------
    data
        complex64 [loc, s, n, coils, e2, e1, e0].
    trajectory
        float32 [loc, s, n, e2, e1, e0, dimension] or None.
    density
        float32 [loc, s, n, e2, e1, e0] or None.
    headers
        ``ACQUISITION_HEADER`` [loc, s, n, e2, e1].
    sampling
        The 56 bytes of Gadgetron's sampling description (fields of view, matrices, limits).
    """

    data: NDArray[np.complex64]
    trajectory: NDArray[np.float32] | None
    density: NDArray[np.float32] | None
    headers: NDArray[Any]
    sampling: bytes


@dataclass
class ReconBit:
    """Imaging and reference data of one encoding space."""

    data: ReconBuffer
    reference: ReconBuffer | None = None


@dataclass
class ReconData:
    """Gadgetron's ``IsmrmrdReconData``: one bit per encoding space."""

    bits: list[ReconBit] = field(default_factory=list)


@dataclass
class ImageArray:
    """Gadgetron's ``IsmrmrdImageArray``.

    Attributes
    ----------
    data
        complex64 [loc, s, n, coils, z, y, x].
    headers
        Image headers, nested [loc][s][n] flattened in that order.
    shape
        (loc, s, n).
    meta
        MRD meta XML, one per image (loc, s, n in that order) or none.
    waveforms, acquisition_headers
        None when absent; the headers are ``ACQUISITION_HEADER`` [loc, s, n, z, y].
    """

    data: NDArray[np.complex64]
    headers: list[ImageHeader]
    shape: tuple[int, int, int]
    meta: list[str] = field(default_factory=list)
    waveforms: list[Waveform] | None = None
    acquisition_headers: NDArray[Any] | None = None


@dataclass
class DependencyReport:
    """Answer to a question about a stored dependency, such as noise statistics: names and values."""

    values: dict[str, str]


Item = Acquisition | Waveform | Image | Kspace | AcquisitionBucket | ReconData | ImageArray | DependencyReport


def header_of(acquisition: Acquisition) -> AcquisitionHeader:
    """Return the header itself, not a deep copy as ``getHead`` does."""
    return acquisition._head


def make_image(data: NDArray[Any], header: ImageHeader, meta: ismrmrd.Meta | None = None) -> Image:
    """Build an MRD image of any MRD data type.

    ``ismrmrd.Image`` copies its data and cannot hold int32, so its fields are set directly.

    Parameters
    ----------
    data
        [channels, z, y, x] in one of ``IMAGE_DTYPES``.
    header
        Taken over; data type, channels and matrix size are set from ``data``.
    meta
        The image's meta attributes.
    """
    header.data_type = _DATA_TYPES[data.dtype]
    header.channels = data.shape[0]
    header.matrix_size = (data.shape[3], data.shape[2], data.shape[1])
    image = Image.__new__(Image)
    image._head = header
    image._Image__data = data  # pyright: ignore[reportAttributeAccessIssue]
    image._Image__meta = meta if meta is not None else ismrmrd.Meta()  # pyright: ignore[reportAttributeAccessIssue]
    return image


def make_acquisition(
    header: AcquisitionHeader, data: NDArray[np.complex64], trajectory: NDArray[np.float32]
) -> Acquisition:
    """Build an acquisition around existing memory; the constructor of ``ismrmrd.Acquisition`` takes three times as long.

    Parameters
    ----------
    header
        Taken over, not copied.
    data
        complex64 [channels, samples].
    trajectory
        float32 [samples, dimensions].
    """
    acquisition = Acquisition.__new__(Acquisition)
    acquisition._head = header
    acquisition._Acquisition__data = data
    acquisition._Acquisition__traj = trajectory
    return acquisition


def to_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Move an array to a device; on the CPU the memory is shared."""
    return torch.from_numpy(array).to(device)
