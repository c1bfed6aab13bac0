"""What Isocenter uses of ``ismrmrd``, which comes without types and adds the headers' fields to its classes at run time."""

from collections.abc import Sequence
from ctypes import Array, Structure, c_float, c_int32, c_uint16, c_uint32, c_uint64
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from . import xsd as xsd
from .constants import *
from .hdf5 import Dataset as Dataset

class _Floats:
    """A field of several numbers: it is read as an array of ctypes, and set from any sequence."""

    def __get__(self, owner: object, kind: type | None = None) -> Array[c_float]: ...
    def __set__(self, owner: object, value: Array[c_float] | Sequence[float] | NDArray[Any]) -> None: ...

class _Int32s:
    def __get__(self, owner: object, kind: type | None = None) -> Array[c_int32]: ...
    def __set__(self, owner: object, value: Array[c_int32] | Sequence[int] | NDArray[Any]) -> None: ...

class _Uint16s:
    def __get__(self, owner: object, kind: type | None = None) -> Array[c_uint16]: ...
    def __set__(self, owner: object, value: Array[c_uint16] | Sequence[int] | NDArray[Any]) -> None: ...

class _Uint32s:
    def __get__(self, owner: object, kind: type | None = None) -> Array[c_uint32]: ...
    def __set__(self, owner: object, value: Array[c_uint32] | Sequence[int] | NDArray[Any]) -> None: ...

class _Uint64s:
    def __get__(self, owner: object, kind: type | None = None) -> Array[c_uint64]: ...
    def __set__(self, owner: object, value: Array[c_uint64] | Sequence[int] | NDArray[Any]) -> None: ...

class _Flags:
    flags: int
    def clear_all_flags(self) -> None: ...
    def is_flag_set(self, flag: int) -> bool: ...
    def set_flag(self, flag: int) -> None: ...
    def clear_flag(self, flag: int) -> None: ...
    def clearAllFlags(self) -> None: ...
    def isFlagSet(self, flag: int) -> bool: ...
    def setFlag(self, flag: int) -> None: ...
    def clearFlag(self, flag: int) -> None: ...

class _ChannelMask:
    channel_mask: _Uint64s
    def isChannelActive(self, channel_id: int) -> bool: ...
    def setChannelActive(self, channel_id: int) -> None: ...
    def setChannelNotActive(self, channel_id: int) -> None: ...
    def setAllChannelsNotActive(self) -> None: ...

class EncodingCounters(Structure):
    """Where a readout belongs."""

    kspace_encode_step_1: int
    kspace_encode_step_2: int
    average: int
    slice: int
    contrast: int
    phase: int
    repetition: int
    set: int
    segment: int
    user: _Uint16s

class _Place:
    """Where something was measured, in mm and as unit vectors in the patient's coordinates."""

    position: _Floats
    read_dir: _Floats
    phase_dir: _Floats
    slice_dir: _Floats
    patient_table_position: _Floats

class _AcquisitionFields(_Flags, _ChannelMask, _Place):
    version: int
    measurement_uid: int
    scan_counter: int
    acquisition_time_stamp: int
    physiology_time_stamp: _Uint32s
    available_channels: int
    discard_pre: int
    discard_post: int
    center_sample: int
    encoding_space_ref: int
    sample_time_us: float
    idx: EncodingCounters
    user_int: _Int32s
    user_float: _Floats

class AcquisitionHeader(_AcquisitionFields, Structure):
    """What goes before a readout: 340 bytes."""

    number_of_samples: int
    active_channels: int
    trajectory_dimensions: int

class Acquisition(_AcquisitionFields):
    """A readout: header, samples complex64 [channels, samples], and trajectory float32 [samples, dimensions]."""

    # set by ``wire.items``, which goes round the constructor
    _head: AcquisitionHeader
    _Acquisition__data: NDArray[np.complex64]
    _Acquisition__traj: NDArray[np.float32]
    def __init__(
        self,
        head: AcquisitionHeader | bytes | NDArray[Any] | None = None,
        data: NDArray[np.complex64] | None = None,
        trajectory: NDArray[np.float32] | None = None,
    ) -> None: ...
    @property
    def number_of_samples(self) -> int: ...
    @property
    def active_channels(self) -> int: ...
    @property
    def trajectory_dimensions(self) -> int: ...
    @property
    def data(self) -> NDArray[np.complex64]: ...
    @property
    def traj(self) -> NDArray[np.float32]: ...
    @staticmethod
    def from_array(
        data: NDArray[np.complex64], trajectory: NDArray[np.float32] | None = None, **kwargs: Any
    ) -> Acquisition: ...
    @staticmethod
    def from_bytes(bytelike: bytes) -> Acquisition: ...
    def to_bytes(self) -> bytes: ...
    def resize(self, number_of_samples: int = 0, active_channels: int = 1, trajectory_dimensions: int = 0) -> None: ...
    def getHead(self) -> AcquisitionHeader: ...
    def setHead(self, hdr: AcquisitionHeader) -> None: ...

class _ImageFields(_Flags, _Place):
    version: int
    measurement_uid: int
    field_of_view: _Floats
    average: int
    slice: int
    contrast: int
    phase: int
    repetition: int
    set: int
    acquisition_time_stamp: int
    physiology_time_stamp: _Uint32s
    image_type: int
    image_index: int
    image_series_index: int
    user_int: _Int32s
    user_float: _Floats

class ImageHeader(_ImageFields, Structure):
    """What goes before an image: 198 bytes. Lengths are in mm, ``matrix_size`` is (x, y, z)."""

    data_type: int
    matrix_size: _Uint16s
    channels: int
    attribute_string_len: int
    @staticmethod
    def from_acquisition(acquisition: Acquisition | AcquisitionHeader, **kwargs: Any) -> ImageHeader: ...

class Image(_ImageFields):
    """An image: header, meta attributes, and pixels [channels, z, y, x]."""

    # set by ``wire.items``, which goes round the constructor
    _head: ImageHeader
    _Image__data: NDArray[Any]
    _Image__meta: Meta
    meta: Meta
    attribute_string: str
    def __init__(
        self,
        head: ImageHeader | bytes | NDArray[Any] | None = None,
        attribute_string: str | None = None,
        meta: Meta | None = None,
        data: NDArray[Any] | None = None,
    ) -> None: ...
    @property
    def data_type(self) -> int: ...
    @property
    def matrix_size(self) -> tuple[int, ...]: ...
    @property
    def channels(self) -> int: ...
    @property
    def attribute_string_len(self) -> int: ...
    @property
    def data(self) -> NDArray[Any]: ...
    @staticmethod
    def from_array(
        array: NDArray[Any], acquisition: Acquisition | AcquisitionHeader = ..., transpose: bool = False, **kwargs: Any
    ) -> Image: ...
    @staticmethod
    def from_bytes(bytelike: bytes) -> Image: ...
    def to_bytes(self) -> bytes: ...
    def getHead(self) -> ImageHeader: ...
    def setHead(self, hdr: ImageHeader) -> None: ...
    def setDataType(self, val: int) -> None: ...
    def resize(self, nc: int, nz: int, ny: int, nx: int) -> None: ...

class _WaveformFields(_Flags):
    version: int
    measurement_uid: int
    scan_counter: int
    time_stamp: int
    sample_time_us: float
    waveform_id: int

class WaveformHeader(_WaveformFields, Structure):
    """What goes before a waveform: 40 bytes."""

    number_of_samples: int
    channels: int

class Waveform(_WaveformFields):
    """A physiological or other waveform: header, and samples uint32 [channels, samples]."""

    _head: WaveformHeader
    def __init__(
        self, head: WaveformHeader | bytes | NDArray[Any] | None = None, data: NDArray[np.uint32] | None = None
    ) -> None: ...
    @property
    def number_of_samples(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def data(self) -> NDArray[np.uint32]: ...
    @staticmethod
    def from_array(data: NDArray[np.uint32], **kwargs: Any) -> Waveform: ...
    @staticmethod
    def from_bytes(bytelike: bytes) -> Waveform: ...
    def to_bytes(self) -> bytes: ...
    def resize(self, number_of_samples: int = 0, channels: int = 1) -> None: ...
    def getHead(self) -> WaveformHeader: ...
    def setHead(self, hdr: WaveformHeader) -> None: ...

class Meta(dict[str, Any]):
    """Meta attributes of an image: texts, or lists of texts."""

    def serialize(self) -> str: ...
    @staticmethod
    def deserialize(xml: str) -> Meta: ...
    def append(self, key: str, value: Any) -> None: ...

class Container:
    header: xsd.ismrmrdHeader
    acquisitions: Sequence[Acquisition]
    waveforms: Sequence[Waveform]
    images: Any
    def has_header(self) -> bool: ...
    def has_images(self) -> bool: ...
    def has_data(self) -> bool: ...
    def has_waveforms(self) -> bool: ...
    def has_acquisitions(self) -> bool: ...

class File:
    def __init__(self, filename: str | Path, mode: str = "a") -> None: ...
    def __getitem__(self, key: str) -> Container: ...
    def __contains__(self, key: str) -> bool: ...
    def keys(self) -> Sequence[str]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def close(self) -> None: ...
