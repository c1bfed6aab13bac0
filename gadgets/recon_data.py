"""Gadgetron's buckets and buffered data (IsmrmrdReconData): taken apart into readouts, and made of blocks of k-space."""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..wire.errors import DataError
from ..wire.items import (
    ACQUISITION_HEADER,
    Acquisition,
    AcquisitionBucket,
    AcquisitionHeader,
    ReconBit,
    ReconBuffer,
    ReconData,
    header_of,
    make_acquisition,
)
from .kspace import Kspace
from .readouts import CALIBRATION, CALIBRATION_AND_IMAGING

_SAMPLING = struct.Struct("<6f6H9H2x")
"""Encoded and recon field of view, encoded and recon matrix, then (minimum, center, maximum) along RO, E1, E2."""


def is_in_data(flags: int) -> bool:
    """Whether Gadgetron has a calibration line among the image's as well: not if it carries both flags of calibration."""
    return bool(flags & CALIBRATION_AND_IMAGING) and not flags & CALIBRATION


def of_bucket(bucket: AcquisitionBucket) -> Iterator[Acquisition]:
    """Readouts of a trigger of Gadgetron's, calibration lines first; those that are in both of its lists come once."""
    for acquisition in bucket.reference:
        if not is_in_data(header_of(acquisition).flags):
            yield acquisition
    yield from bucket.data


def to_acquisitions(recon_data: ReconData) -> Iterator[Acquisition]:
    """Take buffered data apart into the readouts that it was made of, with the counters of their headers.

    Gadgetron's buffers lack what ``accumulate`` knows of a scan: embedded calibration lines stay beside the image, averages
    are buffers of their own, and a buffer may be smaller than the encoded matrix. Readouts are placed, filled in and averaged
    as if they had come one by one.

    Parameters
    ----------
    recon_data
        One bit per encoding space. Readouts lie with their middle in the middle of the buffer.

    Yields
    ------
    Acquisition
        Calibration lines first. Those that belong to the image as well come once.

    Raises
    ------
    DataError
        The arrays do not have the axes of buffered data.
    """
    for index, bit in enumerate(recon_data.bits):
        if bit.reference is not None:
            yield from _lines(bit.reference, index, reference=True)
        yield from _lines(bit.data, index, reference=False)


def _lines(buffer: ReconBuffer, index: int, *, reference: bool) -> Iterator[Acquisition]:
    """Readouts of one buffer of an encoding space."""
    if buffer.data.size == 0:
        return
    if buffer.data.ndim != 7 or buffer.headers.ndim != 5:
        raise DataError(
            f"buffered data of encoding space {index} has {buffer.data.ndim} axes and its headers {buffer.headers.ndim}",
            accepted="7 and 5",
        )
    coils, samples = buffer.data.shape[3], buffer.data.shape[6]
    for place in np.argwhere(buffer.headers["number_of_samples"] > 0).tolist():
        loc, s, n, e2, e1 = place
        header = AcquisitionHeader.from_buffer_copy(buffer.headers[tuple(place)].tobytes())
        if reference and is_in_data(header.flags):
            continue
        if reference and not header.flags & CALIBRATION:
            header.flags |= CALIBRATION  # whatever put it there means it as such
        header.encoding_space_ref = index
        header.active_channels, header.number_of_samples = coils, samples
        header.center_sample, header.discard_pre, header.discard_post = samples // 2, 0, 0
        header.trajectory_dimensions = 0
        points = np.zeros((samples, 0), np.float32)
        if buffer.trajectory is not None and buffer.trajectory.ndim == 7:
            points = _trajectory(buffer.trajectory, (loc, s, n, e2, e1))
            header.trajectory_dimensions = points.shape[1]
        data = np.ascontiguousarray(buffer.data[loc, s, n, :, e2, e1], np.complex64)
        yield make_acquisition(header, data, points)


def _trajectory(trajectory: NDArray[np.float32], place: tuple[int, ...]) -> NDArray[np.float32]:
    """Trajectory [samples, dimensions] of one readout; axes along which all are alike may be left out."""
    nearest = tuple(min(index, size - 1) for index, size in zip(place, trajectory.shape[:5], strict=True))
    return np.ascontiguousarray(trajectory[nearest], np.float32)


def from_kspace(kspace: Kspace) -> ReconData:
    """Pack a block as buffered data; frames become the dimension n."""
    kspace = kspace.only_shown()
    data = kspace.data.permute(1, 0, 2, 3, 4).cpu().numpy()[None, None]
    headers = np.ascontiguousarray(kspace.headers)[None, None]
    buffer = ReconBuffer(np.ascontiguousarray(data), None, None, headers, _sampling(kspace))
    return ReconData([ReconBit(buffer, _reference(kspace))])


def _reference(kspace: Kspace) -> ReconBuffer | None:
    """Calibration lines as a buffer, with headers by which they can be told from lines that were not measured."""
    if kspace.calibration is None:
        return None
    lines = kspace.calibration.cpu().numpy()[None, None, None]
    mask = (lines != 0).any(axis=(3, 6))
    central = np.frombuffer(bytes(kspace.central_header(0)), ACQUISITION_HEADER)[0]
    headers = np.zeros(mask.shape, ACQUISITION_HEADER)
    headers[mask] = central
    z, y = _first_row(kspace)
    rows = np.argwhere(mask)
    headers["idx"]["kspace_encode_step_1"][mask] = rows[:, 4] - y
    headers["idx"]["kspace_encode_step_2"][mask] = rows[:, 3] - z
    headers["flags"][mask] = CALIBRATION
    return ReconBuffer(np.ascontiguousarray(lines), None, None, headers, _sampling(kspace))


def _first_row(kspace: Kspace) -> tuple[int, int]:
    """Row (kz, ky) of the grid on which the lines lie that are numbered 0."""
    frame, kz, ky = np.argwhere(kspace.headers["number_of_samples"] > 0)[0]
    index = kspace.headers["idx"][frame, kz, ky]
    return int(kz) - int(index["kspace_encode_step_2"]), int(ky) - int(index["kspace_encode_step_1"])


def _sampling(kspace: Kspace) -> bytes:
    """Sampling description: fields of view, matrices, and first, middle and last sample that was measured on each axis."""
    encoding, samples = kspace.encoding, kspace.data.shape[-1]
    matrix, fov = list(encoding.encoded_matrix), list(encoding.encoded_fov)
    if samples == encoding.cropped_readout:
        matrix[0], fov[0] = encoding.recon_matrix[0], encoding.recon_fov[0]
    limits = [0, samples // 2, samples - 1]
    mask = np.asarray((kspace.headers["number_of_samples"] > 0).any(axis=0))
    for axis in (1, 0):
        rows = np.flatnonzero(mask.any(axis=1 - axis))
        limits += [int(rows[0]), mask.shape[axis] // 2, int(rows[-1])]
    return _SAMPLING.pack(*fov, *encoding.recon_fov, *matrix, *encoding.recon_matrix, *limits)
