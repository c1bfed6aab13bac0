"""Between Gadgetron's buffered data (IsmrmrdReconData) and blocks of k-space."""

import struct
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ..wire.errors import DataError
from ..wire.header import Encoding
from ..wire.items import ReconBit, ReconBuffer, ReconData
from .kspace import Kspace, to_tensor
from .scan import Scan

_SAMPLING = struct.Struct("<6f6H9H2x")
"""Encoded and recon field of view, encoded and recon matrix, then (minimum, center, maximum) along RO, E1, E2."""


def to_kspaces(recon_data: ReconData, scan: Scan) -> Iterator[Kspace]:
    """Split buffered data into blocks: one per encoding space, location, s and n."""
    for index, bit in enumerate(recon_data.bits):
        buffer = bit.data
        if buffer.data.size == 0:
            continue
        if index >= len(scan.encodings) or buffer.data.ndim != 7 or buffer.headers.ndim != 5:
            raise DataError(
                f"buffered data of encoding space {index} has {buffer.data.ndim} dimensions", accepted="7, or no header"
            )
        for place in np.ndindex(buffer.data.shape[:3]):
            yield _to_kspace(bit, place, scan, index)


def _to_kspace(bit: ReconBit, place: tuple[int, ...], scan: Scan, index: int) -> Kspace:
    data = np.array(bit.data.data[place], np.complex64)
    headers = bit.data.headers[place]
    return Kspace(
        data=to_tensor(data, scan.device)[:, None],
        mask=torch.from_numpy(headers["number_of_samples"] > 0).to(scan.device)[None],
        calibration=_calibration(bit, place, data.shape, scan),
        headers=headers[None].copy(),
        encoding=scan.encodings[index],
        encoding_index=index,
    )


def _calibration(bit: ReconBit, place: tuple[int, ...], shape: tuple[int, ...], scan: Scan) -> torch.Tensor | None:
    """Reference lines put on the grid of the data, their centre in its middle."""
    reference = bit.reference
    if reference is None or reference.data.size == 0:
        return None
    nearest = tuple(min(i, n - 1) for i, n in zip(place, reference.data.shape[:3], strict=True))
    lines = np.asarray(reference.data[nearest], np.complex64)
    limits = _SAMPLING.unpack(reference.sampling)[12:]
    centers = (limits[7], limits[4], limits[1])
    full = np.zeros(shape, np.complex64)
    target, source = [slice(None)], [slice(None)]
    for size, part, center in zip(shape[1:], lines.shape[1:], centers, strict=True):
        start = 0 if part == size else size // 2 - center
        target.append(slice(max(start, 0), min(start + part, size)))
        source.append(slice(max(-start, 0), max(-start, 0) + target[-1].stop - target[-1].start))
    full[tuple(target)] = lines[tuple(source)]
    return to_tensor(full, scan.device)


def from_kspace(kspace: Kspace) -> ReconData:
    """Pack a block as buffered data; frames become the dimension n."""
    data = kspace.data.permute(1, 0, 2, 3, 4).cpu().numpy()[None, None]
    sampling = _sampling(kspace.encoding, kspace.data.shape[-1])
    headers = np.ascontiguousarray(kspace.headers)[None, None]
    reference = None
    if kspace.calibration is not None:
        lines = kspace.calibration.cpu().numpy()[None, None, None]
        reference = ReconBuffer(
            _contiguous(lines), None, None, np.zeros((1, 1, 1, *headers.shape[3:]), headers.dtype), sampling
        )
    return ReconData([ReconBit(ReconBuffer(_contiguous(data), None, None, headers, sampling), reference)])


def _contiguous(array: NDArray[np.complex64]) -> NDArray[np.complex64]:
    return np.ascontiguousarray(array)


def _sampling(encoding: Encoding, samples: int) -> bytes:
    matrix, fov = list(encoding.encoded_matrix), list(encoding.encoded_fov)
    if samples == encoding.cropped_readout:
        matrix[0], fov[0] = encoding.recon_matrix[0], encoding.recon_fov[0]
    limits = [0, samples // 2, samples - 1]
    for step in (1, 2):
        limit = encoding.limits.get(f"kspace_encoding_step_{step}")
        offset = encoding.line_offset(step)
        first, last = (limit.minimum, limit.maximum) if limit else (0, encoding.encoded_matrix[step] - 1)
        limits += [first + offset, encoding.encoded_matrix[step] // 2, last + offset]
    return _SAMPLING.pack(*fov, *encoding.recon_fov, *matrix, *encoding.recon_matrix, *limits)
