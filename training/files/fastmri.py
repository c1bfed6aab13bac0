"""fastMRI's layout: ``kspace`` [slices, coils, readout, lines], the MRD header as text beside it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from ...models.fourier import ifft
from ...wire.errors import FileError, HeaderError
from ...wire.header import Encoding, parse_encodings, parse_header
from .full_scans import check_lines
from .hdf5 import complex_shape, has_dataset, open_file, read_complex
from .layouts import Block, Reading, layout, make_kspace

_AXES = "kspace [slices, coils, readout, lines], or [slices, readout, lines] beside reconstruction_esc"
_ALIKE = 0.9
"""Correlation of the file's image with that of its k-space below which the two are not of one scan."""


@layout("fastmri", holds=f"fastMRI's {_AXES}", recognises=lambda path: has_dataset(path, "kspace"))
def read_fastmri(reading: Reading) -> Iterator[Block]:
    """Read the slices of a volume, each as a block [coils, 1, 1, ky, kx]."""
    with open_file(reading.path) as file:
        shape = _shape(file, reading)
        _check_mask(file, shape[-1], reading)
        encoding, matrix = _geometry(file, shape, reading)
        patient = file.attrs.get("patient_id", "")
        reading.patient = patient.decode() if isinstance(patient, bytes) else str(patient)
        middle = shape[0] // 2
        for index in reading.middle(shape[0]):
            data = read_complex(file["kspace"], index).reshape(shape[1:]).swapaxes(-1, -2)
            kspace = make_kspace(data[:, None, None], encoding)
            if index == middle:
                _compare(file, index, data, reading)
            yield Block(kspace, index, matrix=matrix)


def _image(file: h5py.File) -> Any:
    """The image [slices, readout, lines] that comes with the file."""
    for name in ("reconstruction_rss", "reconstruction_esc"):
        if isinstance(file.get(name), h5py.Dataset) and len(file[name].shape) == 3:
            return file[name]
    return None


def _shape(file: h5py.File, reading: Reading) -> tuple[int, int, int, int]:
    """Slices, coils, readout, lines; files of a single coil have no axis of coils."""
    shape, image = complex_shape(file["kspace"]), _image(file)
    if len(shape) == 3 and image is not None and image.shape[0] == shape[0]:
        return shape[0], 1, shape[1], shape[2]
    if len(shape) != 4:
        others = {
            3: "three axes: slices or coils?",
            5: "five axes, as SKM-TEA and fastMRI's breasts and prostates have",
        }
        raise FileError(
            f"it is {list(shape)}, {others.get(len(shape), f'{len(shape)} axes')}",
            where=f"{reading.path}, kspace",
            accepted=_AXES,
            kind="layout",
        )
    if image is not None and image.shape[0] != shape[0]:
        raise FileError(
            f"it is {list(shape)}, and {str(image.name).lstrip('/')} beside it {list(image.shape)}",
            where=f"{reading.path}, kspace",
            accepted=_AXES,
            kind="layout",
        )
    if shape[1] > min(shape[2:]):
        raise FileError(
            f"it is {list(shape)}, {shape[1]} coils of {shape[3]} lines with {shape[2]} samples: are its axes in another order?",
            where=f"{reading.path}, kspace",
            accepted=_AXES,
            kind="layout",
        )
    return shape[0], shape[1], shape[2], shape[3]


def _check_mask(file: h5py.File, lines: int, reading: Reading) -> None:
    """Refuse a file that says itself that lines are missing."""
    if not isinstance(file.get("mask"), h5py.Dataset):
        return
    mask = np.asarray(file["mask"][()]).astype(bool)
    if mask.size % lines:
        raise FileError(f"it is {list(mask.shape)}", where=f"{reading.path}, mask", accepted=f"one of {lines} lines")
    check_lines(np.asarray(mask.reshape(-1, lines).any(axis=0)), "lines", f"{reading.path}, mask")


def _geometry(
    file: h5py.File, shape: tuple[int, int, int, int], reading: Reading
) -> tuple[Encoding | None, tuple[int, int] | None]:
    """Encoding space by the header, and the pixels (y, x) of the image that it wants, or that comes with the file.

    Where the header's matrix and field of view along the readout do not agree, the oversampling is not known and stays.
    """
    _, _, readout, lines = shape
    image = _image(file)
    matrix = None if image is None else (min(image.shape[2], lines), min(image.shape[1], readout))
    try:
        header = np.asarray(file["ismrmrd_header"][()]).ravel()[0] if "ismrmrd_header" in file else None
        encodings = () if header is None else parse_encodings(parse_header(header))
    except (HeaderError, OSError, TypeError) as error:
        reading.remark(f"its ismrmrd_header cannot be used, so that nothing is cropped by it: {error}")
        return None, matrix
    if not encodings:
        return None, matrix
    encoding = encodings[0]
    samples, rows, _ = encoding.encoded_matrix
    if readout != samples and lines != rows:
        exchanged = ": readout and lines are exchanged" if (samples, rows) == (lines, readout) else ""
        raise FileError(
            f"it is {list(shape)}, and its header has {rows} lines of {samples} samples{exchanged}",
            where=f"{reading.path}, kspace",
            accepted=_AXES,
            kind="layout",
        )
    matrix = (min(encoding.recon_matrix[1], lines), min(encoding.recon_matrix[0], readout))
    if readout != samples:
        reading.remark("its readouts have another length than its header says; no oversampling is removed")
        return None, matrix
    if encoding.cropped_readout not in (readout, matrix[1]):
        reading.remark("its header has a matrix and a field of view that do not agree; no oversampling is removed")
        return None, matrix
    return replace(encoding, encoded_matrix=(readout, lines, 1)), matrix


def _compare(file: h5py.File, index: int, data: NDArray[np.complex64], reading: Reading) -> None:
    """Compare a slice's image with the one that comes with the file."""
    image = _image(file)
    if image is None:
        return
    expected = np.asarray(image[index], np.float64).T
    ours = torch.linalg.vector_norm(ifft(torch.from_numpy(data), [-2, -1]), dim=0).numpy()
    y, x = (max(have // 2 - want // 2, 0) for have, want in zip(ours.shape, expected.shape, strict=True))
    ours = ours[y : y + expected.shape[0], x : x + expected.shape[1]]
    norm = np.linalg.norm(ours) * np.linalg.norm(expected)
    if ours.shape != expected.shape or not norm > 0 or (ours * expected).sum() < _ALIKE * norm:
        name = str(image.name).lstrip("/")
        reading.remark(f"its {name} is not the image of its k-space: one of them was changed, or is of another scan")
