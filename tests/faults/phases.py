"""How far an honest scanner has come before something goes wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.items import AcquisitionHeader, make_acquisition

from .peer import Peer

LINES = 24
"""Of a slice of the small scan."""
MATRIX, REPETITIONS = 128, 8
"""Of the long scan."""
PARAMETERS = '{"parameters": {"beside": ""}}'


@cache
def small_scan():
    """Two slices of 24 lines, after a noise readout."""
    return simulate(ScanProtocol(matrix=24, coils=2, slices=2, noise=0.5, measurement_id="faulty_small_1_1"))


@cache
def long_scan():
    """The same image of 64 kB eight times: more than the buffers of two sockets hold."""
    scan = simulate(ScanProtocol(matrix=MATRIX, coils=1, noise=0.0, noise_scan=False, measurement_id="faulty_long_1_1"))
    one, scan.items = scan.items, []
    for repetition in range(REPETITIONS):
        for item in one:
            header = AcquisitionHeader.from_buffer_copy(item.getHead())
            header.idx.repetition = repetition
            scan.items.append(make_acquisition(header, item.data, item.traj))
    limit = "<repetition><minimum>0</minimum><maximum>{}</maximum>"
    scan.header = scan.header.replace(limit.format(0), limit.format(REPETITIONS - 1))
    return scan


@dataclass(frozen=True)
class Phase:
    """A point of a session.

    Attributes
    ----------
    bring
        Brings a peer to this point.
    part
        ``opening`` until the header is there, ``stream`` while readouts come, ``end`` after the last one.
    inside
        Whether it lies inside a message.
    long
        Whether the scan is one whose images the peer does not read.
    """

    bring: Callable[[Peer], None]
    part: str
    inside: bool = False
    parameters: bool = False
    long: bool = False


def stay(peer: Peer) -> None:
    """Send nothing."""


def _to_readout(number: int, *, inside: bool = False) -> Callable[[Peer], None]:
    """Bring a peer to a readout, counted from the last one if it is negative."""

    def bring(peer: Peer) -> None:
        count = peer.opening + number % len(peer.items)
        peer.advance_inside(count) if inside else peer.advance(count)

    return bring


def _to_the_end(peer: Peer) -> None:
    peer.advance(peer.opening + len(peer.items))


def _idle(peer: Peer) -> None:
    """One image is there, the next slice does not come yet."""
    peer.advance(peer.opening + 1 + 24 + 1)
    peer.listen(lambda answer: answer.images)


PHASES = {
    "before anything": Phase(stay, "opening"),
    "inside the configuration": Phase(lambda peer: peer.advance_inside(0), "opening", inside=True),
    "before the header": Phase(lambda peer: peer.advance(1), "opening"),
    "inside the header": Phase(lambda peer: peer.advance_inside(1), "opening", inside=True),
    "after the header": Phase(_to_readout(0), "stream"),
    "after parameters": Phase(_to_readout(0), "stream", parameters=True),
    "inside the noise readout": Phase(_to_readout(0, inside=True), "stream", inside=True),
    "before the first line": Phase(_to_readout(1), "stream"),
    "inside the first line": Phase(_to_readout(1, inside=True), "stream", inside=True),
    "in the middle of a slice": Phase(_to_readout(1 + LINES // 2), "stream"),
    "inside a readout": Phase(_to_readout(1 + LINES // 2, inside=True), "stream", inside=True),
    "between slices": Phase(_to_readout(1 + LINES), "stream"),
    "while idle": Phase(_idle, "stream"),
    "inside the last readout": Phase(_to_readout(-1, inside=True), "end", inside=True),
    "before CLOSE": Phase(_to_the_end, "end"),
    "inside CLOSE": Phase(lambda peer: (_to_the_end(peer), peer.advance_inside(peer.sent)), "end", inside=True),
    "after CLOSE": Phase(lambda peer: peer.finish(), "closed"),
    "while images are sent": Phase(lambda peer: peer.advance(peer.opening + 7 * MATRIX), "stream", long=True),
}
