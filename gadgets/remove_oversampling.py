"""Remove readout oversampling."""

from dataclasses import replace

import numpy as np
import torch
from ismrmrd import ACQ_IS_NOISE_MEASUREMENT, ACQ_IS_REVERSE
from torch import Tensor

from ..models.fourier import fft, ifft
from ..wire.header import Encoding
from ..wire.items import Acquisition, header_of
from .gadget import Stream, gadget
from .kspace import Kspace
from .kspace_buffer import lay_out, read_fields
from .scan import Scan


@gadget(early=lambda work, _scan, _options: replace(work, crop=True))
def remove_oversampling(items: Stream, scan: Scan) -> Stream:
    """Crop the readout to the field of view that is reconstructed, in image space.

    Parameters
    ----------
    items
        Blocks, or acquisitions that are not noise. Those that are no longer than what would be left, and acquisitions with a
        trajectory, pass by.
    scan
        The encoded and the recon field of view along x give the crop.
    """
    for item in items:
        if isinstance(item, Kspace):
            if item.data.shape[-1] == item.encoding.encoded_matrix[0]:
                item.data = crop_readout(item.data, item.encoding.cropped_readout)
                if item.calibration is not None:
                    item.calibration = crop_readout(item.calibration, item.encoding.cropped_readout)
            yield item
        elif isinstance(item, Acquisition) and not item.is_flag_set(ACQ_IS_NOISE_MEASUREMENT):
            index = header_of(item).encoding_space_ref
            yield _crop_acquisition(item, scan.encodings[index]) if index < len(scan.encodings) else item
        else:
            yield item


def crop_readout(data: Tensor, size: int) -> Tensor:
    """Crop the readout in image space: ``F_size C F_n^H`` along the last axis, where C keeps the pixels around ``n // 2``.

    The transforms are centred and orthonormal: white noise keeps its variance, and the samples of an object that lies within
    the crop become ``sqrt(n / size)`` times as large.

    Parameters
    ----------
    data
        complex64 [..., kx], k-space.
    size
        Length of kx that is wanted.

    Returns
    -------
    Tensor
        complex64 [..., size]; ``data`` itself if it is not longer than that.
    """
    samples = data.shape[-1]
    if size >= samples:
        return data
    if size % 2 == 0 and samples % 2 == 0:
        # the middle of k-space is a sign that alternates from pixel to pixel, before and after alike: it cancels
        image = torch.fft.ifft(data, norm="ortho")
        half = size // 2
        return torch.fft.fft(torch.cat((image[..., :half], image[..., samples - half :]), dim=-1), norm="ortho")
    start = samples // 2 - size // 2
    return fft(ifft(data, [-1])[..., start : start + size], [-1])


def _crop_acquisition(acquisition: Acquisition, encoding: Encoding) -> Acquisition:
    """Crop a readout as a block's line is: an asymmetric echo is put in its place first, and discarded samples are zero."""
    header = acquisition.getHead()
    samples, full, size = header.number_of_samples, encoding.encoded_matrix[0], encoding.cropped_readout
    if not size < samples <= full or header.trajectory_dimensions:
        return acquisition
    measured, start = lay_out(acquisition, read_fields(acquisition), full)
    if start < 0 or start + measured.shape[1] > full:
        return acquisition  # accumulate says what is wrong with it
    reverse = acquisition.is_flag_set(ACQ_IS_REVERSE)
    line = np.zeros((acquisition.active_channels, full), np.complex64)
    line[:, start : start + measured.shape[1]] = measured
    data = crop_readout(torch.from_numpy(line), size).numpy()
    header.number_of_samples = size
    header.center_sample = size - size // 2 if reverse else size // 2
    header.discard_pre = header.discard_post = 0
    return Acquisition(header, np.ascontiguousarray(data[:, ::-1] if reverse else data))
