"""Remove readout oversampling."""

from dataclasses import replace

import numpy as np
import torch
from ismrmrd import ACQ_IS_NOISE_MEASUREMENT
from torch import Tensor

from ..models.fourier import fft, ifft
from ..wire.header import Encoding
from ..wire.items import Acquisition, header_of
from .gadget import Stream, gadget
from .kspace import Kspace
from .scan import Scan


@gadget(early=lambda work, _scan, _options: replace(work, crop=True))
def remove_oversampling(items: Stream, scan: Scan) -> Stream:
    """Crop the readout to the field of view that is reconstructed, in image space.

    Parameters
    ----------
    items
        Blocks, or acquisitions that are not noise.
    scan
        The ratio of encoded and reconstructed field of view along x gives the crop.
    """
    for item in items:
        if isinstance(item, Kspace):
            if item.data.shape[-1] == item.encoding.encoded_matrix[0]:
                item.data = crop_readout(item.data, item.encoding.cropped_readout)
                if item.calibration is not None:
                    item.calibration = crop_readout(item.calibration, item.encoding.cropped_readout)
            yield item
        elif isinstance(item, Acquisition) and not item.is_flag_set(ACQ_IS_NOISE_MEASUREMENT):
            yield _crop_acquisition(item, scan.encodings[0])
        else:
            yield item


def crop_readout(data: Tensor, size: int) -> Tensor:
    """Crop the last axis of k-space to ``size`` in image space."""
    samples = data.shape[-1]
    if size == samples:
        return data
    if size % 2 == 0 and samples % 2 == 0:
        # the middle of k-space is a sign that alternates from pixel to pixel, before and after alike: it cancels
        image = torch.fft.ifft(data, norm="ortho")
        half = size // 2
        return torch.fft.fft(torch.cat((image[..., :half], image[..., samples - half :]), dim=-1), norm="ortho")
    start = samples // 2 - size // 2
    return fft(ifft(data, [-1])[..., start : start + size], [-1])


def _crop_acquisition(acquisition: Acquisition, encoding: Encoding) -> Acquisition:
    ratio = encoding.encoded_fov[0] / encoding.recon_fov[0]
    if ratio == 1:
        return acquisition
    header = acquisition.getHead()
    size = int(acquisition.number_of_samples / ratio)
    data = crop_readout(torch.from_numpy(np.ascontiguousarray(acquisition.data)), size).numpy()
    header.number_of_samples = size
    for name in ("center_sample", "discard_pre", "discard_post"):
        setattr(header, name, int(getattr(header_of(acquisition), name) / ratio))
    trajectory = acquisition.traj[:size] if acquisition.trajectory_dimensions else None
    return Acquisition(header, data, trajectory)
