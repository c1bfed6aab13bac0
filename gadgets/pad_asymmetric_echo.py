"""Fill up asymmetric echoes."""

import numpy as np
from ismrmrd import ACQ_IS_NOISE_MEASUREMENT

from ..wire.items import Acquisition, header_of
from .gadget import Stream, gadget
from .scan import Scan


@gadget
def pad_asymmetric_echo(items: Stream, scan: Scan) -> Stream:
    """Pad readouts whose echo is not in the middle with zeros to the encoded matrix.

    ``accumulate`` places asymmetric echoes by itself; this serves nodes that expect complete readouts before.

    Parameters
    ----------
    items
        Acquisitions that are not noise; others pass by.
    scan
        The encoded matrix gives the length.
    """
    for item in items:
        if isinstance(item, Acquisition) and not item.is_flag_set(ACQ_IS_NOISE_MEASUREMENT):
            yield _pad(item, scan.encodings[0].encoded_matrix[0])
        else:
            yield item


def _pad(acquisition: Acquisition, size: int) -> Acquisition:
    samples, center = acquisition.number_of_samples, header_of(acquisition).center_sample
    if samples >= size or center >= samples or 2 * center == samples:
        return acquisition
    early = 2 * center < samples
    header = acquisition.getHead()
    data = np.zeros((acquisition.active_channels, size), np.complex64)
    start = size - samples if early else 0
    data[:, start : start + samples] = acquisition.data
    header.discard_pre, header.discard_post = (start, 0) if early else (0, size - samples)
    header.number_of_samples, header.center_sample = size, size // 2
    header.trajectory_dimensions = 0
    return Acquisition(header, data)
