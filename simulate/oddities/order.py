"""Orders in which lines are played, and FIRST and LAST flags that do not tell the end of an image."""

from collections import defaultdict
from collections.abc import Iterable

import ismrmrd
import numpy as np
from ismrmrd import Acquisition

from ..errors import SimulationError
from ..scan import SimulatedScan
from .edit import EDGES, ENDS, block, change_readouts, copy, flag_edges, image_readouts, is_image, line, reorder
from .edit import without_edges as remove_edges
from .registry import oddity


@oddity
def no_flags(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """No readout carries a FIRST or LAST flag."""
    return remove_edges(scan)


@oddity
def line_order(scan: SimulatedScan, random: np.random.Generator, *, kind: str = "random") -> SimulatedScan:
    """The lines of every image are played in another order: random, reversed, or from the middle (centric)."""
    ranks = {"random": lambda _: random.random(), "reversed": lambda r: [-n for n in line(r)], "centric": _from_middle}
    if kind not in ranks:
        raise SimulationError(f"kind must be one of {', '.join(ranks)}, got {kind!r}")
    place = _places(scan)
    return flag_edges(reorder(scan, lambda readout: (place[block(readout)], ranks[kind](readout))))


@oddity
def segments(scan: SimulatedScan, _random: np.random.Generator, *, count: int = 4) -> SimulatedScan:
    """Lines are played in interleaved segments, and each segment ends with LAST_IN_SLICE."""
    place, number = _places(scan), _numbers(scan)
    ordered = reorder(scan, lambda r: (place[block(r)], number[line(r)] % count, line(r)))
    segmented = change_readouts(
        ordered,
        lambda item: is_image(scan, item),
        lambda r: [copy(r, segment=number[line(r)] % count)],
    )
    return flag_edges(segmented)


@oddity
def passes(scan: SimulatedScan, _random: np.random.Generator, *, count: int = 3) -> SimulatedScan:
    """Lines are played in several passes; the LAST flags are on the highest line, which comes in the first of them."""
    place, number = _places(scan), _numbers(scan)
    top = max(number.values())
    return reorder(scan, lambda r: (place[block(r)], (top - number[line(r)]) % count, line(r)))


@oddity
def last_flag_early(scan: SimulatedScan, _random: np.random.Generator, *, fraction: float = 0.5) -> SimulatedScan:
    """LAST_IN_SLICE comes before the image is complete, and again at its end."""
    blocks: defaultdict[tuple[int, ...], list[Acquisition]] = defaultdict(list)
    for readout in image_readouts(scan):
        blocks[block(readout)].append(readout)
    early = {id(readouts[round(fraction * (len(readouts) - 1))]) for readouts in blocks.values()}

    def mark(readout: Acquisition) -> list[Acquisition]:
        marked = copy(readout)
        marked.set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
        return [marked]

    return change_readouts(scan, lambda item: id(item) in early, mark)


@oddity
def last_in_each_partition(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """LAST_IN_SLICE ends each partition of a 3-D scan."""
    if scan.protocol.encoded_partitions == 1:
        raise SimulationError("the scan is 2-D")
    lasts = {id(r) for r in {(block(r), line(r)[0]): r for r in image_readouts(scan)}.values()}

    def mark(readout: Acquisition) -> list[Acquisition]:
        marked = copy(readout)
        marked.set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
        return [marked]

    return change_readouts(scan, lambda item: id(item) in lasts, mark)


@oddity
def dynamics_interleaved(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """Repetitions, phases, sets and echoes are the inner loop: each line is played for all of them before the next."""
    index = ("average", "slice")
    return flag_edges(reorder(scan, lambda r: ([getattr(r.idx, name) for name in index], line(r), block(r))))


@oddity
def slices_interleaved(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """Slices are the inner loop: each line is played for all of them before the next."""
    index = ("repetition", "phase", "set", "contrast", "average")
    return flag_edges(reorder(scan, lambda r: ([getattr(r.idx, name) for name in index], line(r), r.idx.slice)))


@oddity
def averages_interleaved(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """Averages are the inner loop: each line is played for all of them before the next."""
    return flag_edges(reorder(scan, lambda r: ([*block(r)[:5], r.idx.slice], line(r), r.idx.average)))


@oddity
def ends_unmarked(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """LAST_IN_REPETITION and LAST_IN_MEASUREMENT are missing."""
    return _without_flags(scan, ENDS)


@oddity
def only_ends_marked(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """LAST_IN_REPETITION and LAST_IN_MEASUREMENT are the only flags."""
    return _without_flags(scan, EDGES)


def _without_flags(scan: SimulatedScan, flags: Iterable[int]) -> SimulatedScan:
    """Clear flags of all readouts of an image."""

    def clear(readout: Acquisition) -> list[Acquisition]:
        plain = copy(readout)
        for flag in flags:
            plain.clear_flag(flag)
        return [plain]

    return change_readouts(scan, lambda item: is_image(scan, item), clear)


def _from_middle(readout: Acquisition) -> tuple[int, int]:
    kz, ky = line(readout)
    return kz, abs(ky - readout.idx.user[5])


def _places(scan: SimulatedScan) -> dict[tuple[int, ...], int]:
    """Number the images in the order in which they begin."""
    return {key: n for n, key in enumerate(dict.fromkeys(block(readout) for readout in image_readouts(scan)))}


def _numbers(scan: SimulatedScan) -> dict[tuple[int, int], int]:
    """Number the lines that are measured."""
    return {key: n for n, key in enumerate(sorted({line(readout) for readout in image_readouts(scan)}))}
