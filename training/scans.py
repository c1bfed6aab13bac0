"""Samples of training as undersampled scans in MRD files, to send to a service what a network was validated with."""

from pathlib import Path

import ismrmrd
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..gadgets import load as load_gadget
from ..gadgets.domain import describe_sampling
from ..gadgets.kspace import Kspace
from ..gadgets.scan import Scan
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
    readouts = _readouts(kspace, lines)
    headers = (_header(kspace.shape, acceleration) for acceleration in _accelerations(lines))
    header = next(header for header in headers if _announces(header, readouts))
    write_file(path, header.encode(), readouts, FileLayout())


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


def _header(shape: tuple[int, ...], acceleration: int) -> str:
    """Return the MRD header of [coils, frames, ky, kx] with pixels of one millimetre."""
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
        f"<encodingLimits>{limits}</encodingLimits><trajectory>cartesian</trajectory>{_parallel(acceleration)}</encoding>"
        "</ismrmrdHeader>"
    )


def _parallel(acceleration: int) -> str:
    if acceleration == 1:
        return ""
    return (
        f"<parallelImaging><accelerationFactor><kspace_encoding_step_1>{acceleration}</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
        "<calibrationMode>embedded</calibrationMode></parallelImaging>"
    )


def _accelerations(lines: Tensor) -> list[int]:
    """Return what a header may say of lines [frames, ky], likeliest first: the distance of equispaced ones, or how few there are.

    A header has one whole number, which a service takes for either, and irregular lines may happen to lie as those of a regular
    pattern of that distance. The last one asks for no line at all.
    """
    if bool(lines.all()):
        return [1]
    patterns = [describe_sampling(frame) for frame in lines]
    distance = int(patterns[0].acceleration)
    equispaced = {(pattern.pattern, pattern.acceleration) for pattern in patterns} == {("uniform", distance)}
    # few lines may have one distance by chance; equispaced ones go on to the edges
    edges = lines[:, :distance].any(1) & lines[:, -distance:].any(1)
    spacing = [distance] if equispaced and bool(edges.all()) else []
    net = -(-lines.shape[1] // int(lines.sum(1).min()))
    return [*spacing, *range(net, lines.shape[1] + 1)]


def _announces(header: str, readouts: list[Acquisition]) -> bool:
    """Whether a service takes a scan with this header for complete."""
    blocks = load_gadget("accumulate")(iter(readouts), Scan(header), frames="phase")
    return not any("Incomplete" in block.notes for block in blocks if isinstance(block, Kspace))
