"""Reference lines for calibration that are numbered, measured or placed otherwise than the image."""

from collections.abc import Callable
from dataclasses import replace

import ismrmrd
import numpy as np
from ismrmrd import Acquisition

from ..errors import SimulationError
from ..scan import SimulatedScan
from .edit import change_readouts, copy, edit_header, flag_edges, image_readouts, is_reference, references, with_items
from .registry import oddity


def _change(scan: SimulatedScan, change: Callable[[Acquisition], Acquisition]) -> SimulatedScan:
    """Change every reference line that is measured on its own."""
    chosen = {id(readout) for readout in references(scan)}
    return change_readouts(scan, lambda item: id(item) in chosen, lambda readout: [change(readout)])


@oddity
def reference_half_resolution(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """Reference lines have half as many samples, around the middle of k-space."""

    def halve(readout: Acquisition) -> Acquisition:
        kept = readout.number_of_samples // 2
        first = readout.center_sample - kept // 2
        return copy(readout, readout.data[:, first : first + kept], center_sample=kept // 2)

    return _change(scan, halve)


@oddity
def reference_in_second_encoding(
    scan: SimulatedScan, _random: np.random.Generator, *, own_matrix: bool = False
) -> SimulatedScan:
    """Reference lines are in an encoding space of their own, like the first or with a matrix and numbers of their own."""
    lines = references(scan)
    first = scan.header[scan.header.index("<encoding>") : scan.header.index("</encoding>") + len("</encoding>")]
    if not own_matrix:
        odd = edit_header(scan, "</encoding>(?=<sequenceParameters>)", f"</encoding>{first}")
        return _change(odd, lambda readout: copy(readout, encoding_space_ref=1))
    start = min(readout.idx.kspace_encode_step_1 for readout in lines)
    count = len({readout.idx.kspace_encode_step_1 for readout in lines})
    middle = lines[0].idx.user[5] - start
    depth = scan.protocol.encoded_partitions
    own = edit_header(
        replace(scan, header=first),
        "<matrixSize>.*?</matrixSize>",
        f"<matrixSize><x>{lines[0].number_of_samples}</x><y>{count}</y><z>{depth}</z></matrixSize>",
    )
    name = "kspace_encoding_step_1"
    limits = f"<{name}><minimum>0</minimum><maximum>{count - 1}</maximum><center>{middle}</center></{name}>"
    own = edit_header(own, f"<{name}><minimum>.*?</{name}>", limits)
    odd = edit_header(scan, "</encoding>(?=<sequenceParameters>)", f"</encoding>{own.header}")
    return _change(odd, lambda readout: copy(_renumbered(readout, start), encoding_space_ref=1))


@oddity
def reference_numbered_from_zero(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """Reference lines have numbers of their own, from 0."""
    start = min(readout.idx.kspace_encode_step_1 for readout in references(scan))
    return _change(scan, lambda readout: _renumbered(readout, start))


def _renumbered(readout: Acquisition, start: int) -> Acquisition:
    numbered = copy(readout, kspace_encode_step_1=readout.idx.kspace_encode_step_1 - start)
    numbered.idx.user[5] = readout.idx.user[5] - start
    return numbered


@oddity
def reference_other_channels(scan: SimulatedScan, _random: np.random.Generator, *, fewer: int = 1) -> SimulatedScan:
    """Reference lines have fewer channels than the image."""
    if fewer >= scan.protocol.coils:
        raise SimulationError(f"the scan has {scan.protocol.coils} channels")
    return _change(scan, lambda readout: copy(readout, readout.data[:-fewer]))


@oddity
def reference_after_image(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """Reference lines come after the image."""
    late = {id(readout) for readout in references(scan)}
    return with_items(scan, sorted(scan.items, key=lambda item: id(item) in late))


@oddity
def slice_without_reference(scan: SimulatedScan, _random: np.random.Generator, *, first: bool = True) -> SimulatedScan:
    """The slice that comes first, or last, has no reference lines."""
    readouts = image_readouts(scan)
    lost = readouts[0 if first else -1].idx.slice
    if scan.protocol.slices == 1:
        raise SimulationError("the scan has one slice")
    chosen = {id(readout) for readout in references(scan) if readout.idx.slice == lost}
    return change_readouts(scan, lambda item: id(item) in chosen, lambda _: ())


@oddity
def reference_in_first_contrast(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The calibration lines among those of the image come in the first echo alone."""
    if scan.protocol.contrasts == 1 or not any(map(is_reference, scan.items)):
        raise SimulationError("the scan has one echo, or no calibration lines")
    both = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING

    def later(readout: Acquisition) -> list[Acquisition]:
        if is_reference(readout):
            return []
        plain = copy(readout)
        plain.clear_flag(both)
        return [plain]

    return flag_edges(change_readouts(scan, lambda item: _echo(item) > 0, later))


def _echo(item: object) -> int:
    return item.idx.contrast if isinstance(item, Acquisition) else 0


@oddity
def both_calibration_flags(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """Calibration lines that belong to the image carry both flags of calibration."""
    both = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING

    def mark(readout: Acquisition) -> list[Acquisition]:
        marked = copy(readout)
        marked.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
        return [marked]

    return change_readouts(scan, lambda item: isinstance(item, Acquisition) and item.is_flag_set(both), mark)
