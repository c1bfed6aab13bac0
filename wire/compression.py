"""Compressed readouts: NHLBI fixed-point (own code) and ZFP (through ``zfpy``).

NHLBI's is a uniform quantiser of the real and imaginary parts x, whose error is bounded: with scale s and width b ::

    q = clip(round(s x), -(2^(b-1) - 1), 2^(b-1) - 1)        |x - q / s| <= 1 / (2 s)

Either b is given, and s = (2^(b-1) - 1) / max|x| makes the most of it; or the error is, s = 1 / (2 tolerance), and b follows from
max|x|. ZFP is described by Lindstrom, IEEE TVCG 2014;20:2674.
"""

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import extras
from .errors import ProtocolError

_NHLBI_HEADER = struct.Struct("<QfB")
_MAX_BITS = 32
_PIECE = 2**14
"""Values that are unpacked together; a multiple of eight, so that a piece begins with a byte."""
_ZFP_FLOAT = 3
_ZFP_BITS = (48, 24, 16, 12)
"""Bits of each size in a ZFP header, for 1 to 4 dimensions."""
_ZFP_SLACK = 2**16


def compress_nhlbi(data: NDArray[np.complex64], *, bits: int | None = None, tolerance: float | None = None) -> bytes:
    """Quantise complex samples to signed integers of equal width, packed least significant bit first.

    Parameters
    ----------
    data
        complex64 [...], in C order as they are to be sent: [coils, samples] for a readout.
    bits
        Width of each integer; the scale follows from the largest sample.
    tolerance
        Largest error accepted, in the units of ``data``; width and scale follow from it.

    Returns
    -------
    bytes
        Header of 13 bytes (number of floats as uint64, scale as float32, width as uint8), and the integers.

    Raises
    ------
    ValueError
        Not exactly one of ``bits`` and ``tolerance`` is given, or ``bits`` is not 2 to 32.
    """
    values = np.ascontiguousarray(data).view(np.float32).ravel().astype(np.float64)
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    if (bits is None) == (tolerance is None):
        raise ValueError("give one of bits and tolerance")
    if tolerance is not None:
        scale = 0.5 / tolerance
        bits = max(2, math.ceil(math.log2(largest * scale + 1)) + 1)
    else:
        assert bits is not None
        scale = (2 ** (bits - 1) - 1) / largest
    if not 2 <= bits <= _MAX_BITS:
        raise ValueError(f"NHLBI compression takes 2 to {_MAX_BITS} bits, got {bits}")
    scale = float(np.float32(scale))  # the one that is sent: both ends must use the same
    limit = 2 ** (bits - 1) - 1
    integers = np.clip(np.rint(values * scale), -limit, limit).astype(np.int64)
    shifts = np.arange(bits, dtype=np.int64)
    planes = ((integers[:, None] >> shifts) & 1).astype(np.uint8)
    packed = np.packbits(planes.ravel(), bitorder="little")
    return _NHLBI_HEADER.pack(values.size, scale, bits) + packed.tobytes()


def decompress_nhlbi(blob: bytes | memoryview, count: int) -> NDArray[np.float32]:
    """Undo ``compress_nhlbi``.

    Parameters
    ----------
    blob
        Header of 13 bytes (number of floats, scale, width in bits) and the packed integers.
    count
        How many floats the readout has.

    Returns
    -------
    ndarray
        float32 [count], real and imaginary parts in turns.

    Raises
    ------
    ProtocolError
        The blob does not hold ``count`` values.
    """
    if len(blob) < _NHLBI_HEADER.size:
        raise ProtocolError(f"NHLBI-compressed readout of {len(blob)} bytes is shorter than its header")
    elements, scale, bits = _NHLBI_HEADER.unpack_from(blob)
    packed = np.frombuffer(blob, np.uint8, offset=_NHLBI_HEADER.size)
    valid = elements == count and 1 <= bits <= _MAX_BITS and scale > 0 and packed.size * 8 >= bits * elements
    if not valid:
        raise ProtocolError(
            f"NHLBI-compressed readout says {elements} values of {bits} bits in {packed.size} bytes",
            accepted=f"{count} values",
        )
    # two's complement: the highest bit counts -2^(b-1), the bit i below it 2^i
    weights = (1 << np.arange(bits, dtype=np.int64)).astype(np.float64)
    weights[-1] = -weights[-1]
    values = np.empty(elements, np.float32)
    for first in range(0, elements, _PIECE):
        piece = values[first : first + _PIECE]
        planes = np.unpackbits(packed[first * bits // 8 :], count=bits * piece.size, bitorder="little")
        with np.errstate(over="ignore"):  # infinite samples are left out, and said, like any others
            piece[:] = planes.reshape(-1, bits) @ weights / scale
    return values


def compress_zfp(data: NDArray[np.complex64], tolerance: float) -> bytes:
    """Compress a readout with ZFP; needs the extra ``zfp``.

    Parameters
    ----------
    data
        complex64 [coils, samples].
    tolerance
        Largest error accepted of real and imaginary parts, in the units of ``data``.

    Raises
    ------
    ProtocolError
        ``zfpy`` is not installed.
    """
    field = np.ascontiguousarray(data).view(np.float32)
    return bytes(_load_zfpy().compress_numpy(field, tolerance=tolerance, write_header=True))


def decompress_zfp(blob: bytes | memoryview, count: int) -> NDArray[np.float32]:
    """Undo ``compress_zfp``.

    Parameters
    ----------
    blob
        What ZFP wrote, with its header.
    count
        How many floats the readout has.

    Returns
    -------
    ndarray
        float32 [count], real and imaginary parts in turns.

    Raises
    ------
    ProtocolError
        The blob is not ZFP or does not hold ``count`` floats, or ``zfpy`` is not installed.
    """
    announced = _zfp_values(bytes(blob[:32]))
    if announced != count:
        raise ProtocolError(f"ZFP-compressed readout says that it holds {announced} values", accepted=f"{count} values")
    zfpy = _load_zfpy()
    try:
        # where values are missing, the library reads on behind the end: what it can read at most is there, and zero
        values = zfpy.decompress_numpy(bytes(blob) + bytes(max(0, 8 * count + _ZFP_SLACK - len(blob))))
    except (TypeError, ValueError) as error:
        raise ProtocolError("ZFP-compressed readout cannot be read") from error
    if values.size != count:
        raise ProtocolError(f"ZFP-compressed readout holds {values.size} values", accepted=f"{count} values")
    return np.ascontiguousarray(values, dtype=np.float32).ravel()


def _zfp_values(header: bytes) -> int:
    """Return how many values a ZFP header announces: ``zfp``, version, and 52 bits of type, number and sizes of dimensions.

    Raises
    ------
    ProtocolError
        It is none, or not of single-precision numbers.
    """
    if len(header) < 12 or header[:3] != b"zfp":
        raise ProtocolError("ZFP-compressed readout has no ZFP header")
    meta = int.from_bytes(header[4:11], "little")
    kind, dimensions, sizes = (meta & 3) + 1, (meta >> 2 & 3) + 1, meta >> 4
    if kind != _ZFP_FLOAT:
        raise ProtocolError("ZFP-compressed readout does not hold single-precision numbers")
    bits = _ZFP_BITS[dimensions - 1]
    return math.prod((sizes >> bits * axis & (1 << bits) - 1) + 1 for axis in range(dimensions))


def _load_zfpy() -> Any:
    return extras.load("zfpy", "a ZFP-compressed readout", ProtocolError)
