"""Changes of a session: of the order of its messages, of what stands at known places in them, and of any bytes."""

import re
import struct
from collections.abc import Callable
from random import Random

from isocenter.wire.items import ACQUISITION_HEADER

Session = list[bytes]

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    1000,
    2**15 - 1,
    2**15,
    2**16 - 1,
    2**16,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
"""Where arithmetic goes wrong; as far as a field holds them."""
LARGE_NUMBERS = (*NUMBERS, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (0.0, -0.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
IDS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 1008, 1018, 1019, 1022, 1023, 1024, 1026, 1028, 1050, 65535)
TEXTS = (
    b"",
    b"NaN",
    b"-1",
    b"1e400",
    b"0",
    b"\0",
    b"99999999999999999999",
    b"<",
    b"&#0;",
    b"\xff\xfe",
    b"]]>",
    b'"',
    b"x" * 5000,
)
ACQUISITION = 1008
LENGTHS = {2: (2, "<I"), 3: (2, "<I"), 5: (2, "<I"), 6: (18, "<Q"), 7: (10, "<Q"), 8: (2, "<Q"), 1018: (2, "<I")}
LENGTHS |= {1019: (2, "<Q"), 1022: (200, "<Q"), 1023: (2, "<Q"), 1024: (2, "<Q"), 1028: (2, "<I"), 1050: (2, "<Q")}
"""Where the first length or count of a message stands, and how it is written."""
_WHOLE = {"u1": "<B", "u2": "<H", "u4": "<I", "u8": "<Q", "i4": "<i", "f4": "<f"}


def _leaves(dtype, start=0):
    """Offset and struct format of every number of a structured dtype."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        for index in range(shape[0]):
            yield from _leaves(base, start + index * base.itemsize)
    elif dtype.names:
        for name in dtype.names:
            yield from _leaves(dtype.fields[name][0], start + dtype.fields[name][1])
    else:
        yield start, _WHOLE[dtype.str[1:]]


FIELDS = tuple(_leaves(ACQUISITION_HEADER))


def mutate(session: Session, corpus: list[Session], random: Random) -> Session:
    """Return a changed copy, after one to four changes.

    Parameters
    ----------
    session
        The messages of a session.
    corpus
        Others, of which parts may be taken.
    random
        Decides.
    """
    session = list(session)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        change = random.choice(CHANGES)
        if session:
            change(session, corpus, random)
    return session


def _drop(session: Session, corpus: list[Session], random: Random) -> None:
    start = random.randrange(len(session))
    del session[start : start + random.choice((1, 1, 2, 8))]


def _duplicate(session: Session, corpus: list[Session], random: Random) -> None:
    place = random.randrange(len(session))
    session[place:place] = [session[place]] * random.choice((1, 1, 2, 20))


def _move(session: Session, corpus: list[Session], random: Random) -> None:
    session.insert(random.randrange(len(session)), session.pop(random.randrange(len(session))))


def _splice(session: Session, corpus: list[Session], random: Random) -> None:
    other = random.choice(corpus)
    session[random.randrange(len(session) + 1) :] = other[random.randrange(len(other)) :]


def _insert(session: Session, corpus: list[Session], random: Random) -> None:
    session.insert(random.randrange(len(session) + 1), random.choice(random.choice(corpus)))


def _change_bytes(change: Callable[[bytearray, Random], None]) -> Callable[[Session, list[Session], Random], None]:
    """Make a change of a session of one of the bytes of a message."""

    def apply(session: Session, corpus: list[Session], random: Random) -> None:
        place = random.randrange(len(session))
        message = bytearray(session[place])
        if message:
            change(message, random)
        session[place] = bytes(message)

    return apply


def _put(message: bytearray, offset: int, layout: str, value: float) -> None:
    size = struct.calcsize(layout)
    if 0 <= offset <= len(message) - size:
        if layout == "<f":
            struct.pack_into(layout, message, offset, value)
        else:
            message[offset : offset + size] = (int(value) % 2 ** (8 * size)).to_bytes(size, "little")


def _id_of(message: bytearray) -> int:
    return int.from_bytes(message[:2], "little")


def _field(message: bytearray, random: Random) -> None:
    """Set a field of a readout's header, most often to what it might also be."""
    if _id_of(message) != ACQUISITION:
        return _number(message, random)
    offset, layout = random.choice(FIELDS)
    small = random.randrange(70)
    value = random.choice(FLOATS) if layout == "<f" else random.choice((small, small, random.choice(LARGE_NUMBERS)))
    return _put(message, 2 + offset, layout, value)


def _length(message: bytearray, random: Random) -> None:
    offset, layout = LENGTHS.get(_id_of(message), (2, "<I"))
    size = struct.calcsize(layout)
    now = int.from_bytes(message[offset : offset + size], "little")
    _put(message, offset, layout, random.choice((now + 1, now - 1, 2 * now, now // 2, random.choice(LARGE_NUMBERS))))


def _number(message: bytearray, random: Random) -> None:
    layout = random.choice(("<B", "<H", "<I", "<Q", "<f"))
    offset = 2 + struct.calcsize(layout) * random.randrange(len(message) // struct.calcsize(layout) + 1)
    _put(message, offset, layout, random.choice(FLOATS if layout == "<f" else LARGE_NUMBERS))


def _flip(message: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        message[random.randrange(len(message))] ^= 1 << random.randrange(8)


def _cut(message: bytearray, random: Random) -> None:
    start = random.randrange(len(message))
    del message[start : start + random.choice((1, 2, 4, 100, len(message)))]


def _stuff(message: bytearray, random: Random) -> None:
    start = random.randrange(len(message) + 1)
    message[start:start] = random.choice(
        (random.randbytes(random.choice((1, 2, 4, 50))), bytes(random.choice((1, 8, 400))))
    )


def _text(message: bytearray, random: Random) -> None:
    """Change words of a text, or tags of XML, and the length that stands before it."""
    offset, layout = LENGTHS.get(_id_of(message), (2, "<I"))
    start = offset + struct.calcsize(layout)
    text = bytes(message[start:])
    words = list(re.finditer(rb"</?[\w:]+>|[\w.+-]+|[{}\[\]\"]", text))
    if not words:
        return
    first, last = sorted((random.choice(words), random.choice(words)), key=lambda word: word.start())
    part = text[first.start() : last.end()]
    new = random.choice((b"", 2 * part, 50 * part[:200], random.choice(TEXTS), random.choice(words).group()))
    place = random.choice((first, last)) if random.random() < 0.7 else None
    begin, end = (place.start(), place.end()) if place else (first.start(), last.end())
    text = text[:begin] + new + text[end:]
    message[start:] = text
    _put(message, offset, layout, len(text))


def _identity(message: bytearray, random: Random) -> None:
    _put(message, 0, "<H", random.choice(IDS))


CHANGES = (
    *(_drop, _duplicate, _move, _splice, _splice, _insert, _insert),
    *(
        _change_bytes(change)
        for change in (_field, _field, _field, _length, _length, _number, _number, _text, _text, _text)
    ),
    *(_change_bytes(change) for change in (_flip, _cut, _stuff, _identity)),
)
