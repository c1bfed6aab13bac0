"""Samples for training: a fully sampled scan, undersampled anew each time it is drawn.

A sample is a dictionary of float32 tensors:

- ``kspace`` [coils, (frames,) ky, kx, 2] as measured, and ``mask`` [1, (frames,) ky, 1, 1];
- ``maps`` [coils, y, x, 2], and ``true_maps`` like it, where they are wanted;
- ``target`` [(frames,) y, x, 2], the coil-combined image of the fully sampled scan, whose largest magnitude is one;
- ``image``, the same for networks that undersample it themselves.

All but the maps are divided by the largest magnitude of the fully sampled image, so that losses are of one scale. A network does
not see that factor: it scales its input by what was measured, or does not mind (``training.scale``).
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..gadgets.estimate_coil_maps import MapsOptions, calibration_region, defer_maps
from ..gadgets.kspace import Kspace, block_of
from ..gadgets.scan import Scan
from ..models.fourier import ifft
from ..simulate.sampling import acs_lines
from ..wire.header import NO_HEADER
from .data import FullScan, beside
from .masks import Masks, random_mask

Sample = dict[str, Tensor]


def block_of_lines(kspace: Tensor, lines: Tensor) -> Kspace:
    """Return the block that the service makes of the measured lines of a slice or series.

    Parameters
    ----------
    kspace
        complex64 [coils, (frames,) ky, kx]; what was not measured does not count.
    lines
        bool [frames, ky], the measured lines; one frame of a slice.
    """
    full = kspace if kspace.dim() == 4 else kspace[:, None]
    return block_of((full * lines[:, :, None])[:, :, None], lines[:, None])


def measured_maps(block: Kspace) -> Tensor:
    """Return the coil maps complex64 [coils, y, x] that the service makes of a block of one partition."""
    return defer_maps(block, MapsOptions(), Scan(NO_HEADER), begin=False).get()[:, 0]


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
    chosen_later
        Whether the network chooses lines beside the calibration lines, which then are all that coil maps are made of.
    label
        Makes something of a fully sampled slice that goes with it as ``label``, once.
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
        chosen_later: bool = False,
        label: Callable[[Sample], Tensor] | None = None,
        memory: float = math.inf,
    ) -> None:
        self._scan = scan
        self._count = count
        self._masks = masks
        self._seed = seed
        self._with_maps = with_maps
        self._with_true_maps = with_true_maps
        self._fresh = fresh
        self._chosen_later = chosen_later
        self._label = label
        # an index may come to another loader's process in every epoch, and gets another mask all the same
        self._drawn = torch.zeros(count, dtype=torch.int64).share_memory_()
        self._kept: dict[int, FullScan] = {}
        self._maps: dict[int, tuple[Tensor, Tensor]] = {}
        """Coil maps of a scan, and the lines that they were made of."""
        self._labels: dict[int, Tensor] = {}
        self._room = memory

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        scan = self._full(index)
        acs = int(np.random.default_rng((self._seed, index)).integers(self._masks.acs[0], self._masks.acs[1] + 1))
        draw = int(self._drawn[index])
        self._drawn[index] += int(self._fresh)
        random = np.random.default_rng((self._seed, index, draw))
        *frames, height, _ = scan.kspace.shape[1:]
        lines = torch.from_numpy(random_mask(random, height, acs, self._masks, *frames))
        sample = self._make(index, scan, lines, acs)
        if self._label is not None:
            if index not in self._labels:
                self._labels[index] = self._label(sample)
            sample["label"] = self._labels[index]
        mask = lines.to(torch.float32).reshape(1, *frames, height, 1, 1)
        return {**sample, "image": sample["target"], "kspace": sample["kspace"] * mask, "mask": mask}

    def _full(self, index: int) -> FullScan:
        if index in self._kept:
            return self._kept[index]
        scan = self._scan(index)
        scan = scan if self._with_true_maps else replace(scan, maps=None)
        if self._fits(scan.kspace, scan.clean, scan.maps):
            self._kept[index] = scan
        return scan

    def _fits(self, *tensors: Tensor | None) -> bool:
        """Whether there is memory for these; if so, it is taken."""
        size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        if size > self._room:
            return False
        self._room -= size
        return True

    def _make(self, index: int, scan: FullScan, lines: Tensor, acs: int) -> Sample:
        """Return the sample before undersampling, with maps made of the lines that are measured."""
        images = ifft(scan.kspace if scan.clean is None else scan.clean, [-2, -1])
        if self._with_maps:
            if self._chosen_later:
                lines = torch.from_numpy(acs_lines(lines.shape[1], acs)).expand(lines.shape)
            maps = self._maps_of(index, block_of_lines(scan.kspace, lines))
            target = (beside(maps, images[0]).conj() * images).sum(0)
        else:
            maps = torch.zeros(0, dtype=torch.complex64)
            target = torch.complex(torch.linalg.vector_norm(images, dim=0), torch.zeros(images.shape[1:]))
        scale = target.abs().max()
        sample = {"kspace": scan.kspace / scale, "maps": maps, "target": target / scale}
        if self._with_true_maps:
            sample["true_maps"] = self._true_maps(scan)
        return {name: torch.view_as_real(value.contiguous()) for name, value in sample.items()}

    def _maps_of(self, index: int, block: Kspace) -> Tensor:
        """Return the maps of a scan; those that are kept, where they are made of the same lines."""
        if block.data.shape[0] == 1:
            return measured_maps(block)
        region, _ = calibration_region(block, MapsOptions().calibration_size)
        kept = self._maps.get(index)
        if kept is not None and torch.equal(kept[0], region):
            return kept[1]
        maps = measured_maps(block)
        if kept is not None or self._fits(region, maps):
            self._maps[index] = region, maps
        return maps

    @staticmethod
    def _true_maps(scan: FullScan) -> Tensor:
        if scan.maps is not None:
            return scan.maps
        frames = scan.kspace.shape[1] if scan.kspace.dim() == 4 else 1
        every = torch.ones((frames, scan.kspace.shape[-2]), dtype=torch.bool)
        return measured_maps(block_of_lines(scan.kspace, every))
