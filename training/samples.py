"""Samples for training: a fully sampled scan, undersampled anew each time it is drawn.

A sample is a dictionary of float32 tensors:

- ``kspace`` [coils, (frames,) ky, kx, 2] as measured, and ``mask`` [1, (frames,) ky, 1, 1];
- ``maps`` [coils, y, x, 2], and ``true_maps`` like it, where they are wanted;
- ``target`` [(frames,) y, x, 2], the coil-combined image of the fully sampled scan, whose largest magnitude is one;
- ``image``, the same for networks that undersample it themselves.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..models.coil_maps import espirit
from ..models.fourier import ifft
from .data import FullScan, beside
from .masks import Masks, random_mask

Sample = dict[str, Tensor]
_READOUT_CALIBRATION = 24
"""Readout samples that ESPIRiT's calibration uses."""


def calibrated_maps(kspace: Tensor, acs: int) -> Tensor:
    """ESPIRiT maps complex64 [coils, y, x] from the ``acs`` middle lines, the mean over frames, as the service makes them."""
    kspace = kspace.mean(dim=1) if kspace.dim() == 4 else kspace
    _, ky, kx = kspace.shape
    width = min(_READOUT_CALIBRATION, kx)
    block = kspace[:, ky // 2 - acs // 2 :][:, :acs, kx // 2 - width // 2 :][..., :width]
    return espirit(block[:, None].contiguous(), (1, ky, kx))[:, 0]


class TrainingSamples(Dataset[Sample]):
    """Scans that are undersampled anew in every epoch.

    Parameters
    ----------
    scan
        Returns the fully sampled scan of an index; called anew for those that are not kept.
    count
        Number of scans.
    masks
        How to undersample.
    seed
        Of the masks.
    with_maps
        Whether coil maps are needed.
    with_true_maps
        Whether the coils' true maps are needed, or ESPIRiT's from all of k-space where they are not known.
    fresh
        Whether masks change from epoch to epoch.
    memory
        Bytes of samples that a process keeps from epoch to epoch.
    """

    def __init__(
        self,
        scan: Callable[[int], FullScan],
        count: int,
        masks: Masks,
        seed: int,
        *,
        with_maps: bool,
        with_true_maps: bool = False,
        fresh: bool,
        memory: float = math.inf,
    ) -> None:
        self._scan = scan
        self._count = count
        self._masks = masks
        self._seed = seed
        self._with_maps = with_maps
        self._with_true_maps = with_true_maps
        self._fresh = fresh
        self.label: Callable[[int], Tensor] | None = None
        """Returns what goes with the sample of an index as ``label``."""
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # loaders' processes are told as well
        self._kept: dict[int, tuple[Sample, int]] = {}
        self._room = memory

    def __len__(self) -> int:
        return self._count

    def start(self, epoch: int) -> None:
        """Begin an epoch: a mask is a function of seed, index and epoch, however often a sample was drawn before."""
        if self._fresh:
            self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Sample:
        sample, acs = self._full(index)
        random = np.random.default_rng((self._seed, index, int(self._epoch)))
        *frames, height = sample["kspace"].shape[1:-2]
        mask = random_mask(random, height, acs, self._masks, *frames)
        lines = torch.from_numpy(mask).to(torch.float32).reshape(1, *frames, height, 1, 1)
        label = {} if self.label is None else {"label": self.label(index)}
        return {**sample, **label, "image": sample["target"], "kspace": sample["kspace"] * lines, "mask": lines}

    def _full(self, index: int) -> tuple[Sample, int]:
        """Return the sample before undersampling, and its number of calibration lines."""
        if index in self._kept:
            return self._kept[index]
        acs = int(np.random.default_rng((self._seed, index)).integers(self._masks.acs[0], self._masks.acs[1] + 1))
        sample = self._make(self._scan(index), acs)
        size = sum(tensor.nbytes for tensor in sample.values())
        if size <= self._room:
            self._room -= size
            self._kept[index] = sample, acs
        return sample, acs

    def _make(self, scan: FullScan, acs: int) -> Sample:
        images = ifft(scan.kspace if scan.clean is None else scan.clean, [-2, -1])
        if self._with_maps:
            maps = calibrated_maps(scan.kspace, acs)
            target = (beside(maps, images[0]).conj() * images).sum(0)
        else:
            maps = torch.zeros(0, dtype=torch.complex64)
            target = torch.complex(torch.linalg.vector_norm(images, dim=0), torch.zeros(images.shape[1:]))
        scale = target.abs().max()
        sample = {"kspace": scan.kspace / scale, "maps": maps, "target": target / scale}
        if self._with_true_maps:
            sample["true_maps"] = calibrated_maps(scan.kspace, self._masks.acs[1]) if scan.maps is None else scan.maps
        return {name: torch.view_as_real(value.contiguous()) for name, value in sample.items()}
