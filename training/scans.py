"""Samples of training as undersampled scans in MRD files, to send to a service what a network was validated with."""

from pathlib import Path

import ismrmrd
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.sampling import calibration_mask
from ..simulate.files import FileLayout
from ..simulate.files import write_scan as write_file
from ..wire.errors import DataError
from ..wire.items import Acquisition
from .recipe import Recipe
from .run import datasets
from .samples import Sample

_DWELL_US = 5.0


def write_validation_scans(recipe: Recipe, folder: Path) -> list[Path]:
    """Write the validation's samples of a recipe, undersampled as validation does, one MRD file each.

    What a service reconstructs from them with the exported network has the validation's figures.

    Parameters
    ----------
    recipe
        The recipe.
    folder
        Receives ``sample-000.h5`` and so on.

    Returns
    -------
    list of Path
        The files in the order of the samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = datasets(recipe)[1]
    paths = [folder / f"sample-{index:03d}.h5" for index in range(len(samples))]
    for index, path in enumerate(paths):
        write_scan(path, samples[index])
    return paths


def write_scan(path: Path, sample: Sample, factor: float = 1.0) -> None:
    """Write an undersampled sample as a scan: its measured lines, those of the middle flagged as calibration lines.

    Parameters
    ----------
    path
        MRD file (HDF5).
    sample
        Its k-space and mask; frames become phases.
    factor
        What k-space is multiplied by.

    Raises
    ------
    DataError
        Both in-plane directions are undersampled, which no two-dimensional scan is.
    """
    if sample["mask"].shape[-2] > 1:
        raise DataError(
            "the sample has points of k-space measured", accepted="whole lines, as a two-dimensional scan has"
        )
    kspace = (factor * torch.view_as_complex(sample["kspace"]).numpy()).astype(np.complex64)
    kspace = kspace if kspace.ndim == 4 else kspace[:, None]
    lines = sample["mask"].reshape(-1, kspace.shape[2]) > 0
    header = _header(kspace.shape, lines)
    write_file(path, header.encode(), _readouts(kspace, lines), FileLayout())


def _readouts(kspace: NDArray[np.complex64], lines: Tensor) -> list[Acquisition]:
    """Return the measured lines of [coils, frames, ky, kx], frame by frame."""
    middle = calibration_mask(lines.all(0).to(torch.float32).reshape(1, 1, -1, 1, 1)).flatten() > 0
    readouts = []
    for frame, measured in enumerate(lines):
        rows = torch.nonzero(measured).flatten().tolist()
        for row in rows:
            readout = Acquisition.from_array(
                np.ascontiguousarray(kspace[:, frame, row]),
                sample_time_us=_DWELL_US,
                center_sample=kspace.shape[-1] // 2,
                scan_counter=len(readouts),
            )
            readout.idx.kspace_encode_step_1, readout.idx.phase = row, frame
            readout.read_dir[0] = readout.phase_dir[1] = readout.slice_dir[2] = 1.0
            if middle[row]:
                readout.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
            readouts.append(readout)
    # frames are measured lines of one slice, which ends with the last one
    readouts[-1].set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    readouts[-1].set_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
    return readouts


def _header(shape: tuple[int, ...], lines: Tensor) -> str:
    """Return the MRD header of [coils, frames, ky, kx] with pixels of one millimetre, its lines [frames, ky]."""
    coils, frames, ky, kx = shape
    space = (
        f"<matrixSize><x>{kx}</x><y>{ky}</y><z>1</z></matrixSize>"
        f"<fieldOfView_mm><x>{kx}</x><y>{ky}</y><z>5</z></fieldOfView_mm>"
    )
    limits = "".join(
        f"<{name}><minimum>0</minimum><maximum>{size - 1}</maximum><center>{center}</center></{name}>"
        for name, size, center in (("kspace_encoding_step_1", ky, ky // 2), ("phase", frames, 0))
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<acquisitionSystemInformation><systemVendor>Isocenter</systemVendor><systemModel>training</systemModel>"
        f"<receiverChannels>{coils}</receiverChannels></acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding><encodedSpace>{space}</encodedSpace><reconSpace>{space}</reconSpace>"
        f"<encodingLimits>{limits}</encodingLimits><trajectory>cartesian</trajectory>{_parallel(lines)}</encoding>"
        "</ismrmrdHeader>"
    )


def _parallel(lines: Tensor) -> str:
    """Say how a scan is undersampled: by the distance of equispaced lines, or by how many of the others there are."""
    if bool(lines.all()):
        return ""
    gaps = torch.cat([torch.nonzero(frame).flatten().diff() for frame in lines])
    distances = gaps[gaps > 1].unique().tolist()
    fewest = int(lines.sum(1).min())
    spacing = int(distances[0]) if len(distances) == 1 else -(-lines.shape[1] // fewest)
    return (
        f"<parallelImaging><accelerationFactor><kspace_encoding_step_1>{spacing}</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
        "<calibrationMode>embedded</calibrationMode></parallelImaging>"
    )
