"""The composite items that Gadgetron exchanges with external nodes: buckets, buffers and image arrays.

Gadgetron writes arrays with the first dimension fastest; read in C order their axes are reversed, and so they are kept.
"""

import math
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .cursor import COMPLEX64, FLOAT32, U64, UINT8, UINT16, UINT32, UINT64, Cursor, Scalar
from .errors import ProtocolError
from .items import (
    ACQUISITION_HEADER,
    Acquisition,
    AcquisitionBucket,
    AcquisitionHeader,
    ImageArray,
    ImageHeader,
    ReconBit,
    ReconBuffer,
    ReconData,
    Waveform,
    header_of,
)

SAMPLING_BYTES = 56
_BUCKET = struct.Struct("<13Q")
_MAX_DIMENSIONS = 10
_MOST_VALUES = 2**16
"""A counter has no more values."""
_VALUE_BYTES = 40
"""What one takes in a list."""
_STATS_PER_SPACE = 9
_WAVEFORM_HEADER = 40
_WAVEFORM_SIZES = np.dtype(
    {"names": ["channels", "samples"], "formats": ["<u2", "<u2"], "offsets": [30, 28], "itemsize": _WAVEFORM_HEADER}
)

Buffer = bytes | memoryview
Value = TypeVar("Value")


def read_array(cursor: Cursor, dtype: np.dtype[Scalar], what: str) -> NDArray[Scalar]:
    """Read an array as Gadgetron's ``hoNDArray`` is written: number of dimensions, dimensions (uint64 each), elements.

    Parameters
    ----------
    cursor
        Stands at the number of dimensions.
    dtype
        Of the elements, little-endian.
    what
        Names the array in errors.

    Returns
    -------
    ndarray
        A view of the received bytes. Gadgetron's first dimension is the fastest, ours the last, so the axes come out reversed;
        [0] for an array without dimensions.

    Raises
    ------
    ProtocolError
        It has more than 10 dimensions, or more elements than a message may have bytes.
    NeedMoreError
        It has not been received completely.
    """
    count = cursor.length(U64, f"number of dimensions of {what}", _MAX_DIMENSIONS)
    dimensions = cursor.array(UINT64, (count,), f"dimensions of {what}")
    shape = tuple(int(n) for n in reversed(dimensions))
    if math.prod(max(n, 1) for n in shape) > cursor.limits.message:
        raise ProtocolError(
            f"{what} announces {shape} elements, which exceeds the limit of {cursor.limits.message} bytes a message"
        )
    return cursor.array(dtype, shape if shape else (0,), what)


def write_array(array: NDArray[Any]) -> list[Buffer]:
    """Write an array [any axes, the slowest first] as ``read_array`` reads it; [0] is written without dimensions."""
    if array.shape == (0,):
        return [U64.pack(0)]
    dimensions = U64.pack(array.ndim) + struct.pack(f"<{array.ndim}Q", *reversed(array.shape))
    return [dimensions, as_bytes(array)]


def as_bytes(array: NDArray[Any]) -> memoryview:
    """View an array's bytes, uint8 [nbytes] in C order; it is copied only if it is not contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_optional(cursor: Cursor, read: Callable[[Cursor], Value], what: str) -> Value | None:
    """Read a flag and, where it is set, what follows."""
    return read(cursor) if cursor.flag(f"presence of {what}") else None


def write_optional(value: Value | None, write: Callable[[Value], list[Buffer]]) -> list[Buffer]:
    """Write a flag and, where there is a value, the value."""
    return [b"\0"] if value is None else [b"\1", *write(value)]


def read_waveform(cursor: Cursor) -> Waveform:
    """Read a waveform's header (40 bytes) and samples [channels, samples]."""
    header = cursor.array(UINT8, (1, _WAVEFORM_HEADER), "waveform header")
    _expect_samples(cursor, header)
    return _fill_waveform(cursor, header[0])


def _expect_samples(cursor: Cursor, headers: NDArray[np.uint8]) -> None:
    """Make sure that the samples that waveform headers [waveforms, 40] announce are there, before memory is taken for them."""
    sizes = headers.view(_WAVEFORM_SIZES)[:, 0]
    samples = 4 * int((sizes["channels"].astype(np.int64) * sizes["samples"]).sum())
    cursor.make(samples, "waveform samples")
    cursor.expect(samples, "waveform samples")


def _fill_waveform(cursor: Cursor, header: NDArray[np.uint8]) -> Waveform:
    waveform = Waveform(header.tobytes())
    waveform.data[:] = cursor.array(UINT32, waveform.data.shape, "waveform samples")
    return waveform


def write_waveform(waveform: Waveform) -> list[Buffer]:
    """Write a waveform without its message id."""
    return [bytes(waveform.getHead()), as_bytes(waveform.data.astype(UINT32, copy=False))]


def read_bucket(cursor: Cursor) -> AcquisitionBucket:
    """Read an acquisition bucket: for data and reference all headers, all trajectories, all samples; then waveforms.

    The 13 numbers in front are, for data and for reference, how many readouts and the bytes of their headers, samples and
    trajectories; then how many encoding spaces the statistics of each are for; then how many waveforms, and the bytes of
    their headers and samples. Sizes in bytes are not believed: they follow from the headers.
    """
    meta = cursor.unpack(_BUCKET, "bucket header")
    data = _read_acquisitions(cursor, meta[0])
    data_stats = _read_stats(cursor)
    reference = _read_acquisitions(cursor, meta[4])
    reference_stats = _read_stats(cursor)
    return AcquisitionBucket(data, reference, data_stats, reference_stats, _read_waveforms_of_bucket(cursor, meta[10]))


def _read_waveforms_of_bucket(cursor: Cursor, count: int) -> list[Waveform]:
    """Read all headers, then all samples."""
    cursor.make_objects(count, "waveforms")
    headers = cursor.array(UINT8, (count, _WAVEFORM_HEADER), "waveform headers")
    _expect_samples(cursor, headers)
    return [_fill_waveform(cursor, header) for header in headers]


def _read_acquisitions(cursor: Cursor, count: int) -> list[Acquisition]:
    cursor.make_objects(count, "readouts")
    table = cursor.array(ACQUISITION_HEADER, (count,), "acquisition headers")
    samples, channels, dimensions = (
        table[name].astype(np.int64) for name in ("number_of_samples", "active_channels", "trajectory_dimensions")
    )
    cursor.expect(int((samples * (8 * channels + 4 * dimensions)).sum()), "trajectories and samples of a bucket")
    headers = [AcquisitionHeader.from_buffer_copy(table[index].tobytes()) for index in range(count)]
    trajectories = [
        cursor.array(FLOAT32, (h.number_of_samples, h.trajectory_dimensions), "trajectory")
        if h.trajectory_dimensions
        else None
        for h in headers
    ]
    data = [cursor.array(COMPLEX64, (h.active_channels, h.number_of_samples), "samples") for h in headers]
    return [Acquisition(*parts) for parts in zip(headers, data, trajectories, strict=True)]


def _read_stats(cursor: Cursor) -> list[list[list[int]]]:
    return cursor.each(U64, _read_stats_of_space, "encoding spaces")


def _read_stats_of_space(cursor: Cursor) -> list[list[int]]:
    space: list[list[int]] = []
    for _ in range(_STATS_PER_SPACE):
        count = cursor.length(U64, "counter values", _MOST_VALUES)
        cursor.make(_VALUE_BYTES * count, "counter values")
        space.append(cursor.array(UINT16, (count,), "counter values").tolist())
    return space


def write_bucket(bucket: AcquisitionBucket) -> list[Buffer]:
    """Write an acquisition bucket as ``read_bucket`` reads it."""
    data, reference = _write_acquisitions(bucket.data), _write_acquisitions(bucket.reference)
    data_stats, reference_stats = _write_stats(bucket.data_stats), _write_stats(bucket.reference_stats)
    waveform_headers: list[Buffer] = [bytes(waveform.getHead()) for waveform in bucket.waveforms]
    waveform_data: list[Buffer] = [as_bytes(waveform.data) for waveform in bucket.waveforms]
    meta = _BUCKET.pack(
        *_bundle_meta(bucket.data, data),
        *_bundle_meta(bucket.reference, reference),
        len(data_stats),
        len(reference_stats),
        len(waveform_headers),
        _size(waveform_headers),
        _size(waveform_data),
    )
    flat = [buffer for part in (*data, [data_stats], *reference, [reference_stats]) for buffer in part]
    return [meta, *flat, *waveform_headers, *waveform_data]


def _write_acquisitions(acquisitions: list[Acquisition]) -> tuple[list[Buffer], list[Buffer], list[Buffer]]:
    headers: list[Buffer] = [bytes(header_of(acquisition)) for acquisition in acquisitions]
    trajectories: list[Buffer] = [
        as_bytes(a.traj.astype(FLOAT32, copy=False)) for a in acquisitions if a.trajectory_dimensions
    ]
    samples: list[Buffer] = [as_bytes(a.data.astype(COMPLEX64, copy=False)) for a in acquisitions]
    return headers, trajectories, samples


def _bundle_meta(
    acquisitions: list[Acquisition], parts: tuple[list[Buffer], list[Buffer], list[Buffer]]
) -> tuple[int, ...]:
    headers, trajectories, samples = parts
    return len(acquisitions), _size(headers), _size(samples), _size(trajectories)


def _size(buffers: list[Buffer]) -> int:
    return sum(len(buffer) for buffer in buffers)


def _write_stats(stats: list[list[list[int]]]) -> bytes:
    parts = [U64.pack(len(stats))]
    parts += [U64.pack(len(values)) + struct.pack(f"<{len(values)}H", *values) for space in stats for values in space]
    return b"".join(parts)


def read_recon_data(cursor: Cursor) -> ReconData:
    """Read buffered data: one bit per encoding space, each with data and optional reference."""
    return ReconData(cursor.each(U64, _read_bit, "buffers"))


def _read_bit(cursor: Cursor) -> ReconBit:
    return ReconBit(_read_buffer(cursor), read_optional(cursor, _read_buffer, "reference"))


def _read_buffer(cursor: Cursor) -> ReconBuffer:
    return ReconBuffer(
        data=read_array(cursor, COMPLEX64, "buffer"),
        trajectory=read_optional(cursor, lambda c: read_array(c, FLOAT32, "trajectory"), "trajectory"),
        density=read_optional(cursor, lambda c: read_array(c, FLOAT32, "density"), "density"),
        headers=read_array(cursor, ACQUISITION_HEADER, "buffer headers"),
        sampling=cursor.array(UINT8, (SAMPLING_BYTES,), "sampling description").tobytes(),
    )


def write_recon_data(recon_data: ReconData) -> list[Buffer]:
    """Write buffered data as ``read_recon_data`` reads it."""
    buffers: list[Buffer] = [U64.pack(len(recon_data.bits))]
    for bit in recon_data.bits:
        buffers += _write_buffer(bit.data)
        buffers += write_optional(bit.reference, _write_buffer)
    return buffers


def _write_buffer(buffer: ReconBuffer) -> list[Buffer]:
    return [
        *write_array(buffer.data.astype(COMPLEX64, copy=False)),
        *write_optional(buffer.trajectory, write_array),
        *write_optional(buffer.density, write_array),
        *write_array(buffer.headers),
        buffer.sampling,
    ]


def read_image_array(cursor: Cursor) -> ImageArray:
    """Read an image array: data, headers, meta, optional waveforms, optional acquisition headers.

    Raises
    ------
    ProtocolError
        Its headers do not have three dimensions (N, S, LOC), or a part exceeds the limits.
    NeedMoreError
        It has not been received completely.
    """
    data = read_array(cursor, COMPLEX64, "image array")
    header_dtype = np.dtype((np.void, 198))
    table = read_array(cursor, header_dtype, "image headers")
    if table.ndim != 3:
        raise ProtocolError(f"image array has headers with {table.ndim} dimensions", accepted="3 (N, S, LOC)")
    cursor.make_objects(table.size, "image headers")
    return ImageArray(
        data=data,
        meta=cursor.each(U64, _read_meta_text, "meta attributes"),
        headers=[ImageHeader.from_buffer_copy(entry.tobytes()) for entry in table.ravel()],
        shape=(table.shape[0], table.shape[1], table.shape[2]),
        waveforms=read_optional(cursor, _read_waveforms, "waveforms"),
        acquisition_headers=read_optional(cursor, lambda c: read_array(c, ACQUISITION_HEADER, "headers"), "headers"),
    )


def _read_meta_text(cursor: Cursor) -> str:
    text = cursor.blob(U64, "meta attributes", cursor.limits.text)
    cursor.make(len(text), "meta attributes")
    return text.decode("utf-8", "replace")


def _read_waveforms(cursor: Cursor) -> list[Waveform]:
    return cursor.each(U64, read_waveform, "waveforms")


def write_image_array(array: ImageArray) -> list[Buffer]:
    """Write an image array as ``read_image_array`` reads it."""
    shape = U64.pack(3) + struct.pack("<3Q", *reversed(array.shape))
    meta = [entry.encode() for entry in array.meta]
    return [
        *write_array(array.data.astype(COMPLEX64, copy=False)),
        shape,
        *[bytes(header) for header in array.headers],
        U64.pack(len(meta)),
        *[part for entry in meta for part in (U64.pack(len(entry)), entry)],
        *write_optional(array.waveforms, _write_waveforms),
        *write_optional(array.acquisition_headers, write_array),
    ]


def _write_waveforms(waveforms: list[Waveform]) -> list[Buffer]:
    return [U64.pack(len(waveforms)), *[part for waveform in waveforms for part in write_waveform(waveform)]]
