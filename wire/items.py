"""What travels: the MRD types, and the composite items that Gadgetron exchanges with external nodes."""

from dataclasses import dataclass, field
from typing import Any

import ismrmrd
import numpy as np
from ismrmrd import Acquisition, AcquisitionHeader, Image, ImageHeader, Waveform
from ismrmrd.hdf5 import acquisition_header_dtype
from numpy.typing import NDArray

__all__ = [
    "ACQUISITION_HEADER",
    "IMAGE_DTYPES",
    "Acquisition",
    "AcquisitionBucket",
    "AcquisitionHeader",
    "DependencyReport",
    "DicomFile",
    "Feedback",
    "Image",
    "ImageArray",
    "ImageHeader",
    "Interruption",
    "ReconBit",
    "ReconBuffer",
    "ReconData",
    "Waveform",
    "header_of",
    "make_acquisition",
    "make_image",
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


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file with its name and MRD meta attributes, as DICOM chains send it."""

    dicom: bytes
    name: bytes = b""
    meta: bytes = b""


@dataclass(frozen=True)
class Feedback:
    """What the service tells the sequence while it runs: a packed struct that both know by its name.

    Gadgetron's client aborts on messages that it does not know, so it goes to peers only that ask for it.
    """

    name: str
    data: bytes


@dataclass(frozen=True)
class Interruption:
    """The stream ended here without its end marker; what came before it may lack lines."""

    reason: str


def header_of(acquisition: Acquisition) -> AcquisitionHeader:
    """Return the header itself, not a deep copy as ``getHead`` does."""
    return acquisition._head


def make_image(data: NDArray[Any], header: ImageHeader, meta: ismrmrd.Meta | None = None) -> Image:
    """Build an MRD image of any MRD data type.

    The constructor of ``ismrmrd.Image`` copies its data and cannot hold int32, so its fields are set directly.

    Parameters
    ----------
    data
        [channels, z, y, x] in one of ``IMAGE_DTYPES``.
    header
        Taken over; data type, channels and matrix size are set from ``data``.
    meta
        The image's meta attributes.

    Raises
    ------
    KeyError
        MRD has no images of this dtype.
    """
    header.data_type = _DATA_TYPES[data.dtype]
    header.channels = data.shape[0]
    header.matrix_size = (data.shape[3], data.shape[2], data.shape[1])
    image = Image.__new__(Image)
    image._head = header
    image._Image__data = data
    image._Image__meta = meta if meta is not None else ismrmrd.Meta()
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
