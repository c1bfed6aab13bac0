"""Read TensorFlow's checkpoints without TensorFlow.

A checkpoint is ``PREFIX.index``, a LevelDB table from variable names to entries (``tensor_bundle.proto``), and
``PREFIX.data-00000-of-00001``, the bytes of the tensors. Every tensor is checked against its checksum.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError

_MAGIC = 0xDB4775248B80FB57
_DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    8: "<c8",
    9: "<i8",
    10: "?",
    18: "<c16",
    19: "<f2",
}
"""TensorFlow's numbers of the types that are read; strings and resources are passed over."""
_BLOCK_LIMIT = 1 << 28
_MAXIMUM_SHARDS = 1024


@dataclass(frozen=True)
class _Entry:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def checkpoint_prefix(path: Path) -> Path:
    """Return the prefix that a folder's ``checkpoint`` file, an index file or a prefix itself stands for.

    Raises
    ------
    CheckpointError
        There is no such checkpoint, or the folder has several and does not say which is the latest.
    """
    if path.is_dir():
        path = _latest(path)
    prefix = path.with_name(path.name.removesuffix(".index"))
    if not prefix.with_name(prefix.name + ".index").is_file():
        raise CheckpointError(f"{path} is no TensorFlow checkpoint: {prefix.name}.index is missing")
    return prefix


def _latest(folder: Path) -> Path:
    """Return the checkpoint that the folder's ``checkpoint`` file names, or the only one."""
    named = named_checkpoint(folder)
    if named is not None and (folder / f"{named}.index").is_file():
        return folder / named
    found = sorted(folder.glob("*.index"))
    if len(found) != 1:
        raise CheckpointError(f"{folder} holds {len(found)} TensorFlow checkpoints; name one of them")
    return found[0]


def named_checkpoint(folder: Path) -> str | None:
    """Return the name that a folder's ``checkpoint`` file gives as the latest."""
    file = folder / "checkpoint"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model_checkpoint_path":
            return Path(value.strip().strip('"')).name
    return None


def read_tensorflow(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return all numeric variables by name.

    Raises
    ------
    CheckpointError
        A file is missing, cut off or damaged.
    """
    prefix = checkpoint_prefix(path)
    index = prefix.with_name(prefix.name + ".index")
    try:
        shards, entries = _read_index(index.read_bytes())
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{index} is damaged: {error}") from error
    variables = {}
    data: dict[int, bytes] = {}
    for name, entry in entries.items():
        if entry.dtype not in _DTYPES:
            continue
        if entry.shard not in data:
            file = prefix.with_name(f"{prefix.name}.data-{entry.shard:05d}-of-{shards:05d}")
            if not file.is_file():
                raise CheckpointError(f"{file} is missing")
            data[entry.shard] = file.read_bytes()
        variables[name] = _tensor(name, entry, data[entry.shard])
    return variables


def _tensor(name: str, entry: _Entry, data: bytes) -> NDArray[np.generic]:
    dtype = np.dtype(_DTYPES[entry.dtype])
    if math.prod(entry.shape) * dtype.itemsize != entry.size or entry.offset + entry.size > len(data):
        raise CheckpointError(f"variable {name!r} has {entry.size} bytes, which do not fit shape {entry.shape}")
    raw = data[entry.offset : entry.offset + entry.size]
    if _masked(_crc32c(raw)) != entry.checksum:
        raise CheckpointError(f"variable {name!r} is damaged: its checksum differs")
    return np.frombuffer(raw, dtype).reshape(entry.shape)


def _read_index(raw: bytes) -> tuple[int, dict[str, _Entry]]:
    footer = raw[-48:]
    if len(footer) < 48 or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise CheckpointError("the index is no LevelDB table")
    _, position = _handle(footer, 0)
    (offset, size), _ = _handle(footer, position)
    shards, entries = 1, {}
    for _, handle in _block(raw, offset, size):
        for key, value in _block(raw, *_handle(handle, 0)[0]):
            if key:
                entries[key.decode("utf-8")] = _entry(value)
            else:
                shards = _only_integers(value).get(1, 1)
    if not 1 <= shards <= _MAXIMUM_SHARDS:
        raise CheckpointError(f"the index names {shards} data files")
    return shards, entries


def _entry(value: bytes) -> _Entry:
    shape = []
    for number, field in _fields(value):
        if number == 2 and isinstance(field, bytes):
            shape = [
                _only_integers(dim).get(1, 0) for key, dim in _fields(field) if key == 2 and isinstance(dim, bytes)
            ]
    numbers = _only_integers(value)
    return _Entry(*(numbers.get(1, 0), tuple(shape)), *(numbers.get(number, 0) for number in (3, 4, 5, 6)))


def _only_integers(message: bytes) -> dict[int, int]:
    return {number: field for number, field in _fields(message) if isinstance(field, int)}


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of a protocol buffer message: number and value."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(message, position)
        elif wire == 2:
            length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
            value, position = int.from_bytes(message[position : position + length], "little"), position + length
        else:
            raise CheckpointError(f"the index has a field of unknown wire type {wire}")
        yield number, value


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise CheckpointError("the index has a number that does not end")


def _handle(raw: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = _varint(raw, position)
    size, position = _varint(raw, position)
    return (offset, size), position


def _block(raw: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table's block; keys share their beginning with the one before."""
    content = raw[offset : offset + size]
    kind = raw[offset + size]
    if kind == 1:
        content = _unpack_snappy(content)
    elif kind != 0:
        raise CheckpointError(f"the index is compressed by method {kind}, which is not known")
    restarts = struct.unpack("<I", content[-4:])[0]
    end = len(content) - 4 * (restarts + 1)
    position, key = 0, b""
    while position < end:
        shared, position = _varint(content, position)
        added, position = _varint(content, position)
        length, position = _varint(content, position)
        key = key[:shared] + content[position : position + added]
        position += added
        yield key, content[position : position + length]
        position += length


def _unpack_snappy(raw: bytes) -> bytes:
    length, position = _varint(raw, 0)
    if length > _BLOCK_LIMIT:
        raise CheckpointError(f"the index announces a block of {length} bytes")
    out = bytearray()
    while position < len(raw) and len(out) <= length:
        tag = raw[position]
        position += 1
        if tag & 3 == 0:
            count = tag >> 2
            if count >= 60:
                width = count - 59
                count, position = int.from_bytes(raw[position : position + width], "little"), position + width
            out += raw[position : position + count + 1]
            position += count + 1
            continue
        if tag & 3 == 1:
            count, back, width = 4 + (tag >> 2 & 7), (tag >> 5) << 8 | raw[position], 1
        else:
            width = 2 if tag & 3 == 2 else 4
            count, back = (tag >> 2) + 1, int.from_bytes(raw[position : position + width], "little")
        position += width
        if not 0 < back <= len(out):
            raise CheckpointError("a compressed block of the index is damaged")
        for _ in range(count):
            out.append(out[-back])
    if len(out) != length:
        raise CheckpointError("a compressed block of the index is damaged")
    return bytes(out)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def _crc32c(raw: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in raw:
        value = _CRC_TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    """Rotate and offset a checksum, as LevelDB stores it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
