"""A buffered block of k-space, and what flows through a chain of gadgets."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..flow.deferred import Deferred
from ..wire.header import Encoding
from ..wire.items import (
    Acquisition,
    AcquisitionBucket,
    AcquisitionHeader,
    DependencyReport,
    Image,
    ImageArray,
    ReconData,
    Waveform,
)


@dataclass
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

    @property
    def partitions_alike(self) -> bool:
        """Whether every partition was undersampled in the same way, so that each can be reconstructed by itself."""
        return bool((self.mask == self.mask[:, :1]).all())

    @property
    def reference(self) -> list[AcquisitionHeader]:
        """One header per frame, of the measured line closest to the middle of k-space."""
        return [self.central_header(frame) for frame in range(self.headers.shape[0])]

    def central_header(self, frame: int) -> AcquisitionHeader:
        """Header of a frame's measured line that is closest to the middle of k-space; empty if there is none."""
        kz, ky = np.nonzero(self.headers[frame]["number_of_samples"])
        if kz.size == 0:
            return AcquisitionHeader()
        distance = np.abs(kz - self.headers.shape[1] // 2) + np.abs(ky - self.headers.shape[2] // 2)
        nearest = int(np.argmin(distance))
        return AcquisitionHeader.from_buffer_copy(self.headers[frame, kz[nearest], ky[nearest]].tobytes())


Item = Acquisition | Waveform | Image | Kspace | AcquisitionBucket | ReconData | ImageArray | DependencyReport


def to_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Move an array to a device; on the CPU the memory is shared."""
    return torch.from_numpy(array).to(device)
