"""Whole sessions as bytes, and where the messages in them begin."""

import zlib
from pathlib import Path
from random import Random

from isocenter.wire import Decoder, ProtocolError

FOLDER = Path(__file__).parent.parent / "corpus"
SUFFIX = ".stream"
LARGEST = 2**16
"""Bytes of a case above which it does not join the corpus."""


def split(data: bytes) -> list[bytes]:
    """Split a session into its messages; what the decoder cannot follow stays one piece."""
    decoder, messages, start, end = Decoder(), [], 0, 0
    while end < len(data):
        count = max(1, decoder.announced - decoder.held)
        try:
            complete = decoder.feed(data[end : end + count])
        except ProtocolError:
            break
        end = min(end + count, len(data))
        if complete:
            messages.append(data[start:end])
            start = end
    return [*messages, *([data[start:]] if start < len(data) else [])]


def load(folder: Path = FOLDER) -> list[list[bytes]]:
    """Read the sessions of a folder, in the order of their names, each as its messages."""
    return [split(path.read_bytes()) for path in sorted(folder.glob(f"*{SUFFIX}"))]


def save(folder: Path, name: str, data: bytes) -> Path:
    """Write a session."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{SUFFIX}"
    path.write_bytes(data)
    return path


class Delivery:
    """How the bytes of a case arrive and how its connection ends; all of it follows from the bytes, so that they are the case."""

    def __init__(self, data: bytes) -> None:
        random = Random(zlib.crc32(data))
        self.ending = random.choice(("close", "close", "half close", "reset"))
        count = random.choice((1, 1, 1, 2, 3, 10, 100))
        size = max(1, len(data) // count)
        self.pieces = [data[start : start + size] for start in range(0, len(data), size)]
