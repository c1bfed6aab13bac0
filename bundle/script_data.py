"""Check the pickles in a TorchScript archive, which hold its weights and attributes, before torch reads them.

Torch believes what they say about the sizes of tensors: it would read memory that is not the tensor's, or crash. And they may
name classes of torch that are on no list. So they are read here first, by a reader that makes nothing of what they name.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .manifest import BundleError

_OPCODES_NAMES = """
APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE BUILD EMPTY_DICT EMPTY_LIST EMPTY_TUPLE
GLOBAL LONG1 LONG_BINGET LONG_BINPUT MARK NEWFALSE NEWOBJ NEWTRUE NONE POP PROTO REDUCE SETITEM SETITEMS STOP TUPLE TUPLE1
TUPLE2 TUPLE3
"""
_OPCODES = frozenset(_OPCODES_NAMES.split())
"""What torch writes."""
_PUTS = frozenset({"BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"})
_ITEM_BYTES = {
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}
_LISTS = frozenset({"build_boollist", "build_doublelist", "build_intlist", "build_tensorlist", "restore_type_tag"})
_DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?")


class _Object:
    """Stands for an object of a class of the archive, whose attributes are of no interest."""

    def __new__(cls, *_: object) -> "_Object":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forget the attributes."""


@dataclass(frozen=True)
class _StorageType:
    item_bytes: int


@dataclass(frozen=True)
class _Storage:
    items: int


class _Reader(pickle.Unpickler):
    """Reads a pickle and makes nothing of it but checks."""

    def __init__(self, content: bytes, tensors: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self._tensors = tensors

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path.startswith("__torch__.") and not path.startswith("__torch__.torch.classes."):
            return _Object
        if module == "torch" and name in _ITEM_BYTES:
            return _StorageType(_ITEM_BYTES[name])
        if module == "torch.jit._pickle" and name in _LISTS:
            return _first
        known: dict[str, Callable[..., object]] = {
            "torch._utils._rebuild_tensor_v2": _check_tensor,
            "collections.OrderedDict": _nothing,
        }
        if path not in known:
            raise BundleError(f"it names {path!r}, which no reconstruction may")
        return known[path]

    def persistent_load(self, pid: Any) -> _Storage:
        what, kind, key, device, items = pid
        fits = (
            what == "storage"
            and isinstance(kind, _StorageType)
            and type(items) is int
            and 0 <= items * kind.item_bytes <= self._tensors.get(key, -1)
            and _DEVICE.fullmatch(device)
        )
        if not fits:
            raise BundleError("a tensor is larger than what is there of it")
        return _Storage(items)


def _first(value: object, *_: object) -> object:
    return value


def _nothing(*_: object) -> dict[str, object]:
    return {}


def _check_tensor(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> _Object:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or any(type(number) is not int or number < 0 for number in numbers):
        raise BundleError("a tensor has no proper size")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.items:
        raise BundleError("a tensor is larger than what is there of it")
    return _Object()


def check_data(content: bytes, where: str, tensors: Mapping[str, int]) -> None:
    """Refuse a pickle that names anything but tensors and the archive's own classes, or tensors that are not there.

    Parameters
    ----------
    content
        The pickle.
    where
        What it is called.
    tensors
        Bytes of each tensor's file.

    Raises
    ------
    BundleError
        It is refused.
    """
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                raise BundleError(f"it has the instruction {opcode.name}")
            if opcode.name in _PUTS and isinstance(argument, int) and argument > len(content):
                raise BundleError("it counts more objects than it has")
        reader = _Reader(content, tensors)
        reader.load()
    except BundleError as error:
        raise BundleError(error.what, where=where) from error
    except Exception as error:
        raise BundleError("it cannot be read", where=where) from error
