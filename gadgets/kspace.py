"""A buffered block of k-space, and what flows through a chain of gadgets."""

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..flow.deferred import Deferred
from ..wire.header import Encoding
from ..wire.items import (
    ACQUISITION_HEADER,
    Acquisition,
    AcquisitionBucket,
    AcquisitionHeader,
    DependencyReport,
    DicomFile,
    Feedback,
    Image,
    ImageArray,
    Interruption,
    ReconData,
    Waveform,
)

AXES = ("coils", "frames", "kz", "ky", "kx")


@dataclass(repr=False)
class Kspace:
    """A buffered block of k-space: everything that one reconstruction needs.

    Attributes
    ----------
    data
        complex64 [coils, frames, kz, ky, kx]; zero where nothing was measured.
    mask
        bool [frames, kz, ky]; which lines were measured.
    calibration
        complex64 [coils, kz, ky, kx] or None; reference (ACS) lines, zero where there are none.
    headers
        ``ACQUISITION_HEADER`` [frames, kz, ky]; the header of each line, zero where nothing was measured.
    encoding
        The encoding space that the block was measured in.
    encoding_index
        Its number in the MRD header.
    coil_maps
        complex64 [coils, kz, ky, kx] in image space, computed when they are first needed; or None.
    maps_problem
        Why there are no coil maps.
    whitened
        Whether the noise of the channels is decorrelated already.
    notes
        What a reader of the images must know, for the images' meta attributes.
    trajectory
        float32 [frames, kz, ky, kx, dimensions], where the samples lie in k-space, between -0.5 and 0.5; None on the Cartesian
        grid. What takes Cartesian blocks only refuses others.
    shown
        The frames that become images; the others are there for their sake.
    frame_notes
        What a reader of the image of a frame must know besides, for each frame; empty: nothing.
    """

    data: Tensor
    mask: Tensor
    calibration: Tensor | None
    headers: NDArray[Any]
    encoding: Encoding
    encoding_index: int = 0
    coil_maps: Deferred | None = None
    maps_problem: str = ""
    whitened: bool = False
    notes: dict[str, str] = field(default_factory=dict)
    trajectory: NDArray[np.float32] | None = None
    shown: slice = field(default_factory=lambda: slice(None))
    frame_notes: tuple[dict[str, str], ...] = ()

    def __repr__(self) -> str:
        shape = ", ".join(f"{name} {size}" for name, size in zip(AXES, self.data.shape, strict=True))
        trajectory = "Cartesian" if self.trajectory is None else "with a trajectory"
        return f"<Kspace {shape}: {int(self.mask.sum())} of {self.mask.numel()} lines, {trajectory}>"

    @property
    def nbytes(self) -> int:
        """Bytes that it holds, coil maps that are to be computed yet included."""
        tensors = [self.data, self.mask, *([] if self.calibration is None else [self.calibration])]
        maps = 0 if self.coil_maps is None else 8 * math.prod(self.coil_maps.shape)
        return sum(tensor.nbytes for tensor in tensors) + self.headers.nbytes + maps

    @property
    def partitions_alike(self) -> bool:
        """Whether every partition was undersampled in the same way, so that each can be reconstructed by itself."""
        return bool((self.mask == self.mask[:, :1]).all())

    def notes_of(self, frame: int) -> dict[str, str]:
        """Return what a reader of the image of a frame must know."""
        return {**self.notes, **(self.frame_notes[frame] if self.frame_notes else {})}

    @property
    def is_incomplete(self) -> bool:
        """Whether lines are missing, as the notes say."""
        return any("Incomplete" in notes for notes in (self.notes, *self.frame_notes))

    def only_shown(self) -> "Kspace":
        """Return the frames that become images by themselves."""
        if self.shown == slice(None):
            return self
        return replace(
            self,
            data=self.data[:, self.shown],
            mask=self.mask[self.shown],
            headers=self.headers[self.shown],
            trajectory=None if self.trajectory is None else self.trajectory[self.shown],
            frame_notes=self.frame_notes[self.shown],
            shown=slice(None),
        )

    @property
    def central_headers(self) -> list[AcquisitionHeader]:
        """One header per frame, of the measured line closest to the middle of k-space."""
        return [self.central_header(frame) for frame in range(self.headers.shape[0])]

    @property
    def reference(self) -> list[AcquisitionHeader]:
        """The former name of ``central_headers``."""
        warnings.warn("Kspace.reference is called central_headers now", DeprecationWarning, stacklevel=2)
        return self.central_headers

    def central_header(self, frame: int) -> AcquisitionHeader:
        """Header of a frame's measured line that is closest to the middle of k-space; empty if there is none."""
        mask = self.headers[frame]["number_of_samples"] > 0
        kz, ky = np.nonzero(mask & _usual_place(self.headers[frame], mask))
        if kz.size == 0:
            return AcquisitionHeader()
        distance = np.abs(kz - self.headers.shape[1] // 2) + np.abs(ky - self.headers.shape[2] // 2)
        nearest = int(np.argmin(distance))
        return AcquisitionHeader.from_buffer_copy(self.headers[frame, kz[nearest], ky[nearest]].tobytes())


def _usual_place(headers: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which lines [kz, ky] have the position that most have: a few readouts may lack theirs."""
    positions = headers["position"]
    first = positions[mask][:1]
    usual = (positions == first).all(axis=-1) if first.size else mask
    if 2 * (usual & mask).sum() > mask.sum():
        return usual
    found, counts = np.unique(positions[mask], axis=0, return_counts=True)
    return (positions == found[counts.argmax()]).all(axis=-1) if counts.size else mask


def block_of(data: Tensor, mask: Tensor) -> Kspace:
    """Make a block of arrays that come from no scan: ``data`` and ``mask`` as in ``Kspace``, pixels of one millimetre."""
    _, frames, partitions, lines, samples = data.shape
    matrix, size = (samples, lines, partitions), (float(samples), float(lines), float(partitions))
    encoding = Encoding(matrix, matrix, size, size)
    return Kspace(data, mask, None, np.zeros((frames, partitions, lines), ACQUISITION_HEADER), encoding)


@dataclass(repr=False)
class PartialKspace:
    """A block that lacks lines yet, for previews and for decisions about what to measure next. Gadgets pass it by.

    Attributes
    ----------
    kspace
        A copy of what there is, not whitened nor cropped.
    """

    kspace: Kspace

    def __repr__(self) -> str:
        return f"<Partial {self.kspace!r}>"


Item = (
    Acquisition
    | Waveform
    | Image
    | Kspace
    | PartialKspace
    | AcquisitionBucket
    | ReconData
    | ImageArray
    | DependencyReport
    | DicomFile
    | Feedback
    | Interruption
)


def size_of(item: Item) -> int:
    """Bytes of an item that wait with it."""
    if isinstance(item, PartialKspace):
        return item.kspace.nbytes
    if isinstance(item, Kspace):
        return item.nbytes
    if isinstance(item, Acquisition | Waveform | Image):
        return item.data.nbytes
    if isinstance(item, AcquisitionBucket):
        return sum(acquisition.data.nbytes for acquisition in (*item.data, *item.reference))
    if isinstance(item, ReconData):
        return sum(bit.data.data.nbytes for bit in item.bits)
    if isinstance(item, ImageArray):
        return item.data.nbytes
    return 0
