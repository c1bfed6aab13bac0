"""Headers and meta attributes of images, as Gadgetron and FIRE set them."""

from collections import defaultdict

import ismrmrd
import numpy as np

from ..wire.header import Encoding
from ..wire.items import ImageHeader
from .kspace import Kspace
from .recon_grid import Lengths
from .scan import Scan

_COPIED = (
    "measurement_uid",
    "position",
    "read_dir",
    "phase_dir",
    "slice_dir",
    "patient_table_position",
    "acquisition_time_stamp",
    "physiology_time_stamp",
    "user_int",
    "user_float",
)
_COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set")


_LONGEST = 1024
"""Characters of the header's texts that images have: it may have any number of them, and every image would."""
MOST_IMAGES = 65535
"""Largest number of an image within its series; MRD keeps it in 16 bits, and DICOM counts from 1."""


def image_header(kspace: Kspace, frame: int, fov: Lengths) -> ImageHeader:
    """Return the header of the image of one frame: geometry, counters and time stamps of its central line.

    Parameters
    ----------
    kspace
        The block.
    frame
        Which of its frames.
    fov
        Field of view (x, y, z) of the image in mm.
    """
    reference = kspace.central_header(frame)
    header = ImageHeader()
    header.version = 1
    for name in _COPIED:
        setattr(header, name, getattr(reference, name))
    for name in _COUNTERS:
        setattr(header, name, getattr(reference.idx, name))
    header.field_of_view = fov
    return header


def image_index(header: ImageHeader, encoding: Encoding) -> int:
    """Number an image from 1 by its counters, slices fastest, as Gadgetron's generic chains do; wraps at ``MOST_IMAGES``.

    ``1 + slice + slices * (contrast + contrasts * (phase + ...))``, with the counts that the header's limits announce.
    """
    index, stride = 0, 1
    for name in ("slice", "contrast", "phase", "set", "repetition", "average"):
        index += getattr(header, name) * stride
        stride *= encoding.count(name)
    return index % MOST_IMAGES + 1


class ImageNumbers:
    """Numbers of images that are unique within their series as long as there are any."""

    def __init__(self) -> None:
        self._next: defaultdict[int, dict[int, int]] = defaultdict(dict)
        """Of the numbers of each series that are taken: where to look for a free one."""

    def running(self, series: int) -> int:
        """Take the number after the last one, from 1."""
        return self.take(series, len(self._next[series]) % MOST_IMAGES + 1)

    def take(self, series: int, wanted: int) -> int:
        """Take a number, or the next free one where the counters exceed the header's limits and give it a second time."""
        following, passed = self._next[series], []
        if len(following) < MOST_IMAGES:
            while wanted in following:
                passed.append(wanted)
                wanted = following[wanted]
        for number in (*passed, wanted):  # so that the next one who comes by needs not look at each again
            following[number] = wanted % MOST_IMAGES + 1
        return wanted


def image_meta(kspace: Kspace, frame: int, header: ImageHeader, scan: Scan) -> ismrmrd.Meta:
    """Meta attributes that say where an image comes from and how its k-space was sampled."""
    encoding = kspace.encoding
    information = scan.header.measurementInformation
    stamps = kspace.headers[frame]["acquisition_time_stamp"][kspace.headers[frame]["number_of_samples"] > 0]
    meta = ismrmrd.Meta()
    meta["DataRole"] = meta["GADGETRON_DataRole"] = "Image"
    meta["ImageProcessingHistory"] = ["Isocenter"]
    meta["GADGETRON_ImageProcessingHistory"] = "Isocenter"
    meta["Keep_image_geometry"] = "1"
    meta["ImageRowDir"] = [f"{value:.18f}" for value in header.read_dir]
    meta["ImageColumnDir"] = [f"{value:.18f}" for value in header.phase_dir]
    meta["encoding"] = str(kspace.encoding_index)
    meta["encoding_FOV"] = [str(value) for value in header.field_of_view]
    meta["recon_FOV"] = [str(value) for value in encoding.recon_fov]
    meta["encoded_matrix"] = [str(value) for value in encoding.encoded_matrix]
    meta["recon_matrix"] = [str(value) for value in encoding.recon_matrix]
    for name, limits in _sampling_limits(kspace, frame).items():
        meta[name] = [str(value) for value in limits]
    meta["PatientPosition"] = [str(value) for value in header.position]
    for name in ("read_dir", "phase_dir", "slice_dir", "patient_table_position"):
        meta[name] = [str(value) for value in getattr(header, name)]
    meta["acquisition_time_stamp"] = str(header.acquisition_time_stamp)
    if stamps.size:
        meta["acquisition_time_range"] = [str(stamps.min()), str(stamps.max())]
    for name in ("measurementID", "protocolName"):
        if value := getattr(information, name, None):
            meta[name] = str(value)[:_LONGEST]
    if information is not None and information.patientPosition is not None:
        meta["patient_position"] = str(getattr(information.patientPosition, "value", information.patientPosition))
    return meta


def _sampling_limits(kspace: Kspace, frame: int) -> dict[str, tuple[int, int, int]]:
    """First, central and last sampled index of the frame along readout, E1 and E2."""
    mask = kspace.mask[frame].cpu().numpy()
    samples = kspace.data.shape[-1]
    limits = {"sampling_limits_RO": (0, samples // 2, samples - 1)}
    for name, axis in (("sampling_limits_E1", 0), ("sampling_limits_E2", 1)):
        measured = np.flatnonzero(mask.any(axis=axis))
        size = mask.shape[1 - axis]
        limits[name] = (int(measured[0]), size // 2, int(measured[-1])) if measured.size else (0, size // 2, size - 1)
    return limits
