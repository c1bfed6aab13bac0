"""Check an ONNX file before ONNX Runtime reads it: it must hold all of itself, and use no operators but ONNX's and its own.

ONNX Runtime would look for external data in files that no manifest lists, and some of its own operators name files of compiled
code. The file is a protocol buffer. Only its structure is followed here, for which no package is needed: a sequence of fields,
each a number with its wire type (three bits), then a varint, four or eight bytes, or a length and so many bytes. The numbers of
the fields are those of ``onnx.proto``; the walk is a stack, not a recursion, as a file may be nested as deeply as it likes.
"""

from collections.abc import Iterator

from .manifest import BundleError

_DOMAINS = frozenset({b"", b"ai.onnx", b"ai.onnx.ml"})
_DEPTH = 64

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}

_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Which fields of a message are messages of interest."""
_OPERATOR = {"function": (10, 1), "node": (7, 4)}
"""Fields of domain and name."""
_GRAPH, _EXTERNAL_DATA, _DATA_LOCATION = 7, 13, 14
_OF_INTEREST = {
    kind: {*children, *_OPERATOR.get(kind, ()), *((_EXTERNAL_DATA, _DATA_LOCATION) if kind == "tensor" else ())}
    for kind, children in _CHILDREN.items()
}
_PARTS = 2_000_000


def check_onnx(content: bytes) -> None:
    """Refuse an ONNX file that refers to other files, or uses operators of somebody else.

    Parameters
    ----------
    content
        The file.

    Raises
    ------
    BundleError
        It is refused, or is no ONNX file.
    """
    functions: set[tuple[bytes, bytes]] = set()
    used: set[tuple[bytes, bytes]] = set()
    pending = [("model", memoryview(content), 0)]
    parts = 0
    while pending:
        kind, message, depth = pending.pop()
        fields = _fields(message, kind)
        parts += sum(len(values) for values in fields.values())
        if depth > _DEPTH or parts > _PARTS:
            raise BundleError("its graphs are nested too deeply, or have too many nodes")
        if kind == "model" and _GRAPH not in fields:
            raise BundleError("it is no ONNX file")
        if kind == "tensor" and (_EXTERNAL_DATA in fields or any(fields.get(_DATA_LOCATION, ()))):
            raise BundleError("its weights are in another file")
        if kind in _OPERATOR:
            domain, name = (_last(fields, number) for number in _OPERATOR[kind])
            (functions if kind == "function" else used).add((domain, name))
        for number, child in _CHILDREN[kind].items():
            pending += [(child, value, depth + 1) for value in fields.get(number, ()) if isinstance(value, memoryview)]
    _check_operators(functions, used)


def _check_operators(functions: set[tuple[bytes, bytes]], used: set[tuple[bytes, bytes]]) -> None:
    for domain, name in functions:
        if domain == b"com.microsoft":
            raise BundleError(f"it defines the operator {name.decode(errors='replace')!r}, which is ONNX Runtime's")
    for domain, name in used:
        if domain not in _DOMAINS and (domain, name) not in functions:
            raise BundleError(f"it uses the operator {name.decode(errors='replace')!r}, which is not ONNX's")


def _last(fields: dict[int, list[memoryview | int]], number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    return bytes(value) if not isinstance(value, int) else b""


def _fields(message: memoryview, kind: str) -> dict[int, list[memoryview | int]]:
    fields: dict[int, list[memoryview | int]] = {}
    for number, value in _split(message):
        if number in _OF_INTEREST[kind]:
            fields.setdefault(number, []).append(value)
    return fields


def _split(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield number and value of every field."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == _BYTES:
            length, place = _varint(message, place)
        elif wire in _FIXED_BYTES:
            length = _FIXED_BYTES[wire]
        else:
            raise BundleError("it is damaged, or no ONNX file")
        if place + length > len(message):
            raise BundleError("it is damaged, or no ONNX file")
        yield number, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place == len(message):
            break
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), place
    raise BundleError("it is damaged, or no ONNX file")
