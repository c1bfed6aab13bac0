"""What oddities need to change a scan: its readouts, their order and flags, and its header."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import ismrmrd
import numpy as np
from ismrmrd import Acquisition, Waveform
from numpy.typing import NDArray

from ..errors import SimulationError
from ..scan import SimulatedScan

Item = Acquisition | Waveform
_NO_IMAGE = (
    ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
)
EDGES = (ismrmrd.ACQ_FIRST_IN_SLICE, ismrmrd.ACQ_LAST_IN_SLICE)
ENDS = (ismrmrd.ACQ_LAST_IN_REPETITION, ismrmrd.ACQ_LAST_IN_MEASUREMENT)


def is_noise(item: Item) -> bool:
    """Tell whether a readout measures noise."""
    return isinstance(item, Acquisition) and item.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)


def is_reference(item: Item) -> bool:
    """Tell whether a readout is there for calibration alone."""
    return isinstance(item, Acquisition) and item.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)


def is_image(scan: SimulatedScan, item: Item) -> bool:
    """Tell whether a readout belongs to the lines of an image; calibration lines among them do."""
    if not isinstance(item, Acquisition) or any(item.is_flag_set(flag) for flag in _NO_IMAGE):
        return False
    return not (is_reference(item) and scan.protocol.calibration in ("separate", "external"))


def image_readouts(scan: SimulatedScan) -> list[Acquisition]:
    """Readouts that belong to the lines of images, in the order of the scan."""
    return [item for item in scan.items if isinstance(item, Acquisition) and is_image(scan, item)]


def references(scan: SimulatedScan) -> list[Acquisition]:
    """Separately measured calibration readouts.

    Raises
    ------
    SimulationError
        There are none.
    """
    found = [item for item in scan.items if isinstance(item, Acquisition) and is_reference(item)]
    if not found or scan.protocol.calibration not in ("separate", "external"):
        raise SimulationError("the scan measures no calibration lines of their own (calibration separate or external)")
    return found


def copy(
    readout: Acquisition,
    data: NDArray[np.complex64] | None = None,
    trajectory: NDArray[np.float32] | None = None,
    **fields: Any,
) -> Acquisition:
    """Copy a readout with other samples [channels, samples], trajectory [samples, dimensions], fields of the head or counters.

    A trajectory is kept with as many samples.
    """
    samples = readout.data.copy() if data is None else np.ascontiguousarray(data, np.complex64)
    if trajectory is None and readout.traj.size and len(readout.traj) == samples.shape[1]:
        trajectory = readout.traj.copy()
    head = ismrmrd.AcquisitionHeader.from_buffer_copy(readout.getHead())
    head.active_channels, head.number_of_samples = samples.shape
    head.available_channels = samples.shape[0]
    head.trajectory_dimensions = 0 if trajectory is None else trajectory.shape[1]
    for name, value in fields.items():
        setattr(head if hasattr(head, name) else head.idx, name, value)
    return Acquisition(head, samples, trajectory)


def with_items(scan: SimulatedScan, items: Iterable[Item]) -> SimulatedScan:
    """Return the scan with other items, numbered and stamped anew in their order."""
    stamps = iter(sorted(item.acquisition_time_stamp for item in scan.items if isinstance(item, Acquisition)))
    done, stamp = [], 0
    for counter, item in enumerate(items):
        if isinstance(item, Acquisition):
            stamp = next(stamps, stamp + 2)
            done.append(copy(item, scan_counter=counter, acquisition_time_stamp=stamp))
        else:
            done.append(item)
    return replace(scan, items=done)


def change_readouts(
    scan: SimulatedScan, chosen: Callable[[Acquisition], bool], change: Callable[[Acquisition], Iterable[Acquisition]]
) -> SimulatedScan:
    """Put others, or none, in the place of chosen readouts.

    Raises
    ------
    SimulationError
        None is chosen.
    """
    items, found = [], False
    for item in scan.items:
        if isinstance(item, Acquisition) and chosen(item):
            found = True
            items += change(item)
        else:
            items.append(item)
    if not found:
        raise SimulationError("the scan has no such readouts")
    return with_items(scan, items)


def reorder(scan: SimulatedScan, order: Callable[[Acquisition], Any]) -> SimulatedScan:
    """Play the readouts of images in the order of a key, in the places that they have among the others, flags as they are."""
    sequence = iter(sorted(image_readouts(scan), key=order))
    return with_items(scan, [next(sequence) if is_image(scan, item) else item for item in scan.items])


def line(readout: Acquisition) -> tuple[int, int]:
    """Partition and line."""
    return readout.idx.kspace_encode_step_2, readout.idx.kspace_encode_step_1


def block(readout: Acquisition) -> tuple[int, ...]:
    """Counters of the image that a readout belongs to, its average and segment among them."""
    index = readout.idx
    names = ("repetition", "phase", "set", "contrast", "average", "slice", "segment")
    return (readout.encoding_space_ref, *(getattr(index, name) for name in names))


def flag_edges(scan: SimulatedScan) -> SimulatedScan:
    """Set the FIRST and LAST flags anew, after readouts were moved or left out."""
    ends = {flag for item in image_readouts(scan) for flag in ENDS if item.is_flag_set(flag)}
    scan = without_edges(scan)
    readouts = image_readouts(scan)
    firsts = {block(readout): readout for readout in reversed(readouts)}
    lasts = {block(readout): readout for readout in readouts}
    for flag, marked in zip(EDGES, (firsts, lasts), strict=True):
        for readout in marked.values():
            readout.set_flag(flag)
    if ismrmrd.ACQ_LAST_IN_REPETITION in ends:
        for readout in {readout.idx.repetition: readout for readout in readouts}.values():
            readout.set_flag(ismrmrd.ACQ_LAST_IN_REPETITION)
    if ismrmrd.ACQ_LAST_IN_MEASUREMENT in ends:
        readouts[-1].set_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
    return scan


def without_edges(scan: SimulatedScan) -> SimulatedScan:
    """Take the FIRST and LAST flags from all readouts."""
    scan = with_items(scan, scan.items)
    for item in scan.items:
        if isinstance(item, Acquisition):
            for flag in (*EDGES, *ENDS):
                item.clear_flag(flag)
    return scan


def edit_header(scan: SimulatedScan, pattern: str, replacement: str | Callable[[Any], str]) -> SimulatedScan:
    """Replace a regular expression in the header wherever it is.

    Raises
    ------
    SimulationError
        It is nowhere.
    """
    header, count = re.subn(pattern, replacement, scan.header, flags=re.DOTALL)
    if not count:
        raise SimulationError(f"the header has nothing like {pattern}")
    return replace(scan, header=header)


def central(values: Sequence[int], count: int) -> set[int]:
    """Return the ``count`` values around the middle of those that there are."""
    ordered = sorted(set(values))
    start = len(ordered) // 2 - count // 2
    return set(ordered[max(start, 0) : start + count])
