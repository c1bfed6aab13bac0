"""What a client can do wrong at any point of a session. Each fault is a function on a peer that has come so far."""

import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import ismrmrd
import numpy as np
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import (
    Close,
    ConfigFile,
    ErrorReport,
    Header,
    Query,
    Response,
    Text,
)
from isocenter.wire.items import (
    ACQUISITION_HEADER,
    AcquisitionBucket,
    DependencyReport,
    DicomFile,
    Feedback,
    ReconData,
    make_image,
)

from .house import TIMEOUT
from .peer import Peer, joined
from .phases import Phase, stay

HEADER_BYTES = ACQUISITION_HEADER.itemsize
READOUT = struct.pack("<H", 1008)


class Expect(Enum):
    """What must become of the session."""

    GONE = "nobody listens any more"
    ENDED = "the service ends it within its time-outs"
    CLOSED = "it ends with CLOSE, whatever else comes"
    TOLD = "the client is told what is wrong, then CLOSE"
    SERVED = "the images are those of the scan alone, then CLOSE"


@dataclass(frozen=True)
class Fault:
    """A fault, and what must become of the session.

    Attributes
    ----------
    act
        Does it.
    expect
        What must come of it; a session whose CLOSE has been sent is served, whatever comes after.
    fits
        Whether it means something in a phase.
    holds
        Whether the client keeps its side of the connection open.
    """

    act: Callable[[Peer], None]
    expect: Expect
    fits: Callable[[Phase], bool] = lambda phase: True
    holds: bool = False


def whole(phase: Phase) -> bool:
    """Between two messages, while the service still reads them."""
    return not phase.inside and phase.part != "closed"


def opening(phase: Phase) -> bool:
    return whole(phase) and phase.part == "opening"


def past_the_opening(phase: Phase) -> bool:
    return whole(phase) and phase.part != "opening"


def streaming(phase: Phase) -> bool:
    """Readouts are still to come."""
    return phase.part == "stream" and not phase.long


def says(data: bytes | Callable[[], bytes], *, goes_on: bool = True) -> Callable[[Peer], None]:
    """Make a fault that sends something, and then what was to come anyway."""

    def act(peer: Peer) -> None:
        peer.send(data() if callable(data) else data)
        if goes_on:
            peer.finish()

    return act


def changes(change: Callable[[bytearray, Peer], bytes | bytearray | None], count: int = 3) -> Callable[[Peer], None]:
    """Make a fault that changes the next readouts that are whole; ``change`` returns another one, or changes it."""

    def act(peer: Peer) -> None:
        places = [n for n, message in enumerate(peer.rest) if message[:2] == READOUT and len(message) > HEADER_BYTES]
        for place in places[:count]:
            message = bytearray(peer.rest[place])
            peer.rest[place] = bytes(change(message, peer) or message)
        peer.finish()

    return act


def header_of(message: bytearray):
    """A view of the header of a readout."""
    return np.frombuffer(message, ACQUISITION_HEADER, 1, 2)


def sets(**fields: int | Callable[[Peer], int]) -> Callable[[bytearray, Peer], None]:
    """Change fields of a readout's header; ``idx__slice`` is a field in a field."""

    def change(message: bytearray, peer: Peer) -> None:
        for name, value in fields.items():
            outer, _, inner = name.partition("__")
            view = header_of(message)[outer]
            (view[inner] if inner else view)[0] = value(peer) if callable(value) else value

    return change


def samples(value: complex) -> Callable[[bytearray, Peer], None]:
    def change(message: bytearray, peer: Peer) -> None:
        np.frombuffer(message, np.complex64, offset=2 + HEADER_BYTES)[::3] = value

    return change


def another_size(channels: int, count: int) -> Callable[[bytearray, Peer], bytes]:
    """Whole readouts that are not of the size of the scan."""

    def change(message: bytearray, peer: Peer) -> bytes:
        sets(number_of_samples=count, active_channels=channels)(message, peer)
        return bytes(message[: 2 + HEADER_BYTES]) + bytes(8 * channels * count)

    return change


def noise(value: complex, channels: int = 2, count: int = 256) -> Callable[[Peer], None]:
    """A noise readout at the wrong time, or of the wrong sort."""
    acquisition = ismrmrd.Acquisition.from_array(np.full((channels, count), value, np.complex64))
    acquisition.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    return says(joined(acquisition))


def compressed(blob: bytes, count: int, channels: int) -> bytes:
    """A readout whose samples are compressed (NHLBI)."""
    header = np.zeros(1, ACQUISITION_HEADER)
    header["version"], header["number_of_samples"], header["active_channels"] = 1, count, channels
    header["flags"] = 1 << (ismrmrd.ACQ_COMPRESSION2 - 1)
    return READOUT + header.tobytes() + struct.pack("<I", len(blob)) + blob


def claim(count: int, channels: int, dimensions: int = 0) -> bytes:
    """The header of a readout that is never sent."""
    header = np.zeros(1, ACQUISITION_HEADER)
    header["version"], header["number_of_samples"], header["active_channels"] = 1, count, channels
    header["trajectory_dimensions"] = dimensions
    return READOUT + header.tobytes()


def _flip(peer: Peer) -> None:
    """Change bits of everything that is to come."""
    data = bytearray(b"".join(peer.rest))
    for _ in range(20):
        data[peer.random.randrange(len(data))] ^= 1 << peer.random.randrange(8)
    peer.rest.clear()
    peer.send(bytes(data))


def _cut(peer: Peer) -> None:
    """Leave out the second half of the next message, and go on."""
    peer.rest[0] = peer.rest[0][: len(peer.rest[0]) // 2]
    peer.finish()


def _in_small_pieces(peer: Peer) -> None:
    data = b"".join(peer.rest)
    peer.rest.clear()
    for byte in range(min(1500, len(data))):
        peer.send(data[byte : byte + 1])
    for start in range(1500, len(data), 701):
        peer.send(data[start : start + 701])


def _trickle(peer: Peer) -> None:
    """Send a byte now and then, each before a time-out of the silent would end the connection."""
    data = (b"".join(peer.rest) or b"\0") * 100
    for byte in range(int(4 * TIMEOUT / 0.1)):
        peer.send(data[byte : byte + 1])
        if peer.answer.ended:
            return
        time.sleep(0.1)


def _shuffle(peer: Peer) -> None:
    peer.random.shuffle(peer.rest)
    peer.finish()


def _another_noise_scan() -> bytes:
    return joined(*simulate(ScanProtocol(matrix=16, coils=8, noise=1.0)).items[:1])


def _image() -> bytes:
    return joined(make_image(np.ones((1, 1, 8, 8), np.float32), ismrmrd.ImageHeader()))


def _deep(count: int) -> bytes:
    return joined(Text('{"parameters": ' + '{"a": ' * count + "1" + "}" * count + "}"))


def _array(*dimensions: int) -> bytes:
    return struct.pack(f"<{len(dimensions) + 1}Q", len(dimensions), *dimensions)


def _random_flags(peer: Peer) -> int:
    return peer.random.getrandbits(64) & ~(3 << (ismrmrd.ACQ_COMPRESSION1 - 1))


VANISHES = {
    "vanishes (FIN)": Fault(lambda peer: peer.vanish(), Expect.GONE),
    "vanishes (RST)": Fault(lambda peer: peer.vanish(reset=True), Expect.GONE),
    "ends its side": Fault(lambda peer: None, Expect.ENDED),
    "goes silent": Fault(lambda peer: None, Expect.ENDED, holds=True),
    "sends a byte now and then": Fault(_trickle, Expect.ENDED, holds=True),
    "sends in small pieces": Fault(_in_small_pieces, Expect.SERVED, lambda phase: not phase.long),
}
BYTES = {
    "garbage": Fault(lambda peer: peer.send(peer.random.randbytes(4000)), Expect.ENDED),
    "garbage that never ends": Fault(
        lambda peer: [peer.send(b"\xff" * 2**16) for _ in range(64)], Expect.ENDED, lambda phase: not phase.long
    ),
    "zeros": Fault(lambda peer: peer.send(bytes(4000)), Expect.ENDED),
    "flipped bits": Fault(_flip, Expect.ENDED, lambda phase: phase.part != "closed"),
    "a truncated message": Fault(_cut, Expect.ENDED, lambda phase: phase.part != "closed"),
    "shuffled messages": Fault(_shuffle, Expect.ENDED, lambda phase: whole(phase) and not phase.long),
    "an unknown id": Fault(says(struct.pack("<H", 777), goes_on=False), Expect.TOLD, whole),
    "HTTP": Fault(says(b"GET / HTTP/1.1\r\nHost: scanner\r\n\r\n", goes_on=False), Expect.TOLD, whole),
}
LENGTHS = {
    f"{name} of length {length}": Fault(says(head + struct.pack(layout, length), goes_on=False), expect, whole)
    for name, head, layout in (
        ("a configuration", struct.pack("<H", 2), "<I"),
        ("a header", struct.pack("<H", 3), "<I"),
        ("a text", struct.pack("<H", 5), "<I"),
        ("a query", struct.pack("<HQQ", 6, 0, 1), "<Q"),
        ("a bucket", struct.pack("<H", 1050) + bytes(12 * 8), "<Q"),
        ("recon data", struct.pack("<H", 1023), "<Q"),
        ("an image array", struct.pack("<H", 1024), "<Q"),
    )
    for length, expect in (
        (0, Expect.ENDED),
        (1, Expect.ENDED),
        (2**31, Expect.TOLD),
        (2**32 - 1, Expect.TOLD),
        (2**63, Expect.TOLD),
        (2**64 - 1, Expect.TOLD),
    )
    if length < 2**32 or layout == "<Q"
}
ORDER = {
    "a second configuration": Fault(
        says(joined(ConfigFile("rss.xml"))), Expect.TOLD, lambda phase: whole(phase) and phase.bring is not stay
    ),
    "a second header": Fault(says(joined(Header(b"<ismrmrdHeader/>"))), Expect.TOLD, past_the_opening),
    "CLOSE too early": Fault(says(joined(Close()), goes_on=False), Expect.CLOSED, whole),
    "CLOSE three times": Fault(says(3 * joined(Close()), goes_on=False), Expect.ENDED),
    **{
        f"{name} out of place": Fault(says(joined(message)), Expect.TOLD, whole)
        for name, message in {
            "an error report": ErrorReport("no"),
            "a response": Response("no", 1),
            "a feedback": Feedback("no", b"no"),
            "a dependency report": DependencyReport({"status": "success"}),
        }.items()
    },
    **{
        f"{name} before the header": Fault(says(data), Expect.TOLD, opening)
        for name, data in {
            "a readout": claim(4, 1) + bytes(32),
            "a bucket": joined(AcquisitionBucket()),
            "an image": _image(),
        }.items()
    },
    **{
        f"{name} among the readouts": Fault(says(data), Expect.CLOSED, past_the_opening)
        for name, data in {
            "an image": _image(),
            "an empty bucket": joined(AcquisitionBucket()),
            "empty recon data": joined(ReconData()),
            "a DICOM file": joined(DicomFile(b"DICM")),
        }.items()
    },
}
READOUTS = {
    "NaN samples": Fault(changes(samples(np.nan)), Expect.TOLD, streaming),
    "infinite samples": Fault(changes(samples(np.inf)), Expect.TOLD, streaming),
    "huge samples": Fault(changes(samples(3e38)), Expect.CLOSED, streaming),
    "zeros in every sample": Fault(changes(samples(0)), Expect.CLOSED, streaming),
    "more channels": Fault(changes(another_size(5, 48)), Expect.TOLD, streaming),
    "no channels": Fault(changes(another_size(0, 48)), Expect.TOLD, streaming),
    "fewer samples": Fault(changes(another_size(2, 7)), Expect.TOLD, streaming),
    "no samples": Fault(changes(another_size(2, 0)), Expect.TOLD, streaming),
    "far more samples": Fault(changes(another_size(2, 60000)), Expect.TOLD, streaming),
    "every readout with more samples": Fault(changes(another_size(2, 3000), 1000), Expect.TOLD, streaming),
    "lines out of range": Fault(
        changes(sets(idx__kspace_encode_step_1=lambda p: 30 + p.random.randrange(60000))), Expect.TOLD, streaming
    ),
    "partitions out of range": Fault(changes(sets(idx__kspace_encode_step_2=60000)), Expect.TOLD, streaming),
    **{
        f"huge {name}": Fault(changes(sets(**{f"idx__{name}": 65535})), Expect.CLOSED, streaming)
        for name in ("slice", "contrast", "phase", "repetition", "set", "segment", "average")
    },
    "ever new counters": Fault(
        changes(
            sets(
                **{
                    f"idx__{name}": lambda p: p.random.getrandbits(16)
                    for name in ("slice", "contrast", "phase", "repetition", "set", "average")
                }
            ),
            1000,
        ),
        Expect.CLOSED,
        streaming,
    ),
    "an encoding space that is not there": Fault(changes(sets(encoding_space_ref=7)), Expect.CLOSED, streaming),
    "flags at random": Fault(changes(sets(flags=_random_flags), 1000), Expect.CLOSED, streaming),
    "every flag": Fault(changes(sets(flags=2**52 - 1), 1000), Expect.CLOSED, streaming),
    "a random header": Fault(
        changes(lambda m, p: m[:2] + p.random.randbytes(HEADER_BYTES) + m[2 + HEADER_BYTES :], 1),
        Expect.ENDED,
        streaming,
    ),
    "centre sample out of range": Fault(changes(sets(center_sample=65535)), Expect.CLOSED, streaming),
    "discards more than there is": Fault(
        changes(sets(discard_pre=65535, discard_post=65535)), Expect.CLOSED, streaming
    ),
    "NaN positions": Fault(changes(sets(position=np.nan, read_dir=np.nan, phase_dir=np.inf)), Expect.CLOSED, streaming),
    "huge time stamps": Fault(
        changes(sets(acquisition_time_stamp=2**32 - 1, scan_counter=2**32 - 1)), Expect.CLOSED, streaming
    ),
    "every readout twice": Fault(changes(lambda m, p: m + m, 1000), Expect.CLOSED, streaming),
    "no readouts": Fault(lambda p: (p.rest.__setitem__(slice(1, -1), []), p.finish()), Expect.TOLD, streaming),
}
NOISE = {
    "noise without noise": Fault(noise(0), Expect.CLOSED, past_the_opening),
    "noise of NaN": Fault(noise(np.nan), Expect.CLOSED, past_the_opening),
    "infinite noise": Fault(noise(np.inf), Expect.CLOSED, past_the_opening),
    "huge noise": Fault(noise(1e38), Expect.CLOSED, past_the_opening),
    "noise of other channels": Fault(says(_another_noise_scan), Expect.CLOSED, past_the_opening),
    "one sample of noise": Fault(noise(1, count=1), Expect.CLOSED, past_the_opening),
    "noise without end": Fault(says(lambda: 100 * _another_noise_scan()), Expect.CLOSED, past_the_opening),
}
FLOODS = {
    "queries": Fault(
        says(2000 * joined(Query("gadgetron::info::memory", 7))), Expect.SERVED, lambda p: whole(p) and not p.long
    ),
    "texts": Fault(says(2000 * joined(Text("still here"))), Expect.SERVED, lambda p: whole(p) and not p.long),
    "large texts": Fault(says(8 * joined(Text("x" * 2**20))), Expect.SERVED, lambda p: whole(p) and not p.long),
    "parameters": Fault(
        says(300 * joined(Text('{"parameters": {"a": "b"}}'))), Expect.SERVED, lambda p: whole(p) and not p.long
    ),
    "deep parameters": Fault(says(lambda: _deep(100_000)), Expect.CLOSED, whole),
    "deep lists as parameters": Fault(says(joined(Text("[" * 500_000))), Expect.CLOSED, whole),
    "huge numbers as parameters": Fault(
        says(joined(Text(json.dumps({"parameters": {"bundle": 1.0}}).replace("1.0", "9" * 10_000)))),
        Expect.CLOSED,
        whole,
    ),
    "parameters of every type": Fault(
        says(
            joined(Text('{"parameters": {"config": [1], "customconfig": {"a": NaN}, "bundle": {"b": []}, "": null}}'))
        ),
        Expect.CLOSED,
        whole,
    ),
}
CLAIMS = {
    "the claim of a huge readout": Fault(says(claim(65535, 65535), goes_on=False), Expect.TOLD, whole),
    "the claim of a large readout": Fault(says(claim(65535, 1024), goes_on=False), Expect.ENDED, whole, holds=True),
    "the claim of a huge trajectory": Fault(says(claim(65535, 1, 65535), goes_on=False), Expect.TOLD, whole),
    "samples compressed to nothing": Fault(
        says(lambda: compressed(struct.pack("<QfB", 2 * 65535 * 64, 1.0, 1) + bytes(65535 * 16), 65535, 64)),
        Expect.CLOSED,
        past_the_opening,
    ),
    "compressed samples that are none": Fault(
        says(compressed(struct.pack("<QfB", 96, np.nan, 77) + bytes(9), 24, 2)), Expect.TOLD, past_the_opening
    ),
    "a huge array": Fault(
        says(struct.pack("<HQ", 1023, 1) + _array(2**31, 2**31, 2**31), goes_on=False), Expect.TOLD, whole
    ),
    "an array without an element": Fault(
        says(struct.pack("<HQ", 1023, 1) + _array(2**63, 0, 2**63), goes_on=False), Expect.ENDED, whole
    ),
}
FAULTS = {**VANISHES, **BYTES, **LENGTHS, **ORDER, **READOUTS, **NOISE, **FLOODS, **CLAIMS}
