"""Samples for training: a fully sampled scan, undersampled anew each time it is drawn.

A sample is a dictionary of float32 tensors:

- ``kspace`` [coils, (frames,) ky, kx, 2] as measured, and ``mask`` [1, (frames,) ky, 1, 1], or [1, (frames,) ky, kx, 1] where
  both directions are undersampled;
- ``maps`` [coils, y, x, 2], and ``true_maps`` like it, where they are wanted;
- ``target`` [(frames,) y, x, 2], the true image: of the fully sampled scan, its coils combined by the maps or by the root of
  their sum of squares, whose largest magnitude is one; the middle of it, where a reader gets only that;
- ``image``, all of it, for networks that undersample it themselves.

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

from ..gadgets.estimate_coil_maps import FEWEST_LINES, MapsOptions, calibration_region, defer_maps
from ..gadgets.kspace import Kspace, block_of
from ..gadgets.scan import Scan
from ..models.coil_maps import espirit
from ..models.fourier import ifft
from ..models.metrics import SSIM_WINDOW
from ..models.planar import center_crop
from ..simulate.sampling import SamplingError, acs_lines
from ..wire.errors import DataError
from ..wire.header import NO_HEADER
from .data import FullScan, beside, with_frames
from .masks import Masks, random_mask
from .section import Truth

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
    return block_of((with_frames(kspace) * lines[:, :, None])[:, :, None], lines[:, None])


def measured_maps(block: Kspace) -> Tensor:
    """Return the coil maps complex64 [coils, y, x] that the service makes of a block of one partition."""
    return defer_maps(block, MapsOptions(), Scan(NO_HEADER), begin=False).get()[:, 0]


def maps_of_middle(kspace: Tensor, acs: int) -> Tensor:
    """ESPIRiT maps complex64 [coils, y, x] where points were measured, of which the service knows none: from ``acs`` x ``acs``.

    Parameters
    ----------
    kspace
        complex64 [coils, (frames,) ky, kx]; the mean over frames is used.
    acs
        Length of the fully sampled middle, in points.
    """
    kspace = kspace.mean(dim=1) if kspace.dim() == 4 else kspace
    _, ky, kx = kspace.shape
    block = kspace[:, ky // 2 - acs // 2 :, kx // 2 - min(acs, kx) // 2 :][:, :acs, :acs]
    return espirit(block[:, None].contiguous(), (1, ky, kx))[:, 0]


def maps_of_truth(scan: FullScan) -> Tensor:
    """Return the true maps complex64 [coils, y, x] of a scan, or those that all of its lines give."""
    if scan.maps is not None:
        return scan.maps
    _, frames, lines, _ = with_frames(scan.kspace).shape
    every = torch.ones((frames, lines), dtype=torch.bool)
    return measured_maps(block_of_lines(scan.kspace, every))


def true_image(images: Tensor, maps: Tensor, truth: Truth) -> Tensor:
    """Combine the coils of fully sampled images.

    Parameters
    ----------
    images
        complex64 [coils, (frames,) y, x].
    maps
        complex64 [coils, y, x], for ``combined``.
    truth
        ``combined``: the sum over the coils of the conjugate maps times the images (Roemer et al., MRM 1990;16:192, eq. 28).
        ``rss``: the root of the sum of squares.

    Returns
    -------
    Tensor
        complex64 [(frames,) y, x].
    """
    if truth == "combined":
        return (beside(maps, images[0]).conj() * images).sum(0)
    magnitude = torch.linalg.vector_norm(images, dim=0)
    return torch.complex(magnitude, torch.zeros_like(magnitude))


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
    truth
        How the coils of the true image are combined: ``combined`` by the maps, or ``rss``.
    with_true_maps
        Whether the coils' true maps are needed, or ESPIRiT's from all of k-space where they are not known.
    content
        What tells the scans from others, where the recipe does not; empty where it does.
    fresh
        Whether masks change from epoch to epoch.
    chosen_later
        Whether the network chooses lines beside the calibration lines, which then are all that coil maps are made of.
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
        truth: Truth,
        with_true_maps: bool = False,
        content: str = "",
        fresh: bool,
        chosen_later: bool = False,
        memory: float = math.inf,
    ) -> None:
        self._scan = scan
        self._count = count
        self._masks = masks
        self._seed = seed
        self._makes_maps = with_maps or truth == "combined"
        self._truth: Truth = truth
        self._with_true_maps = with_true_maps
        self.content: str = content
        self._fresh = fresh
        self._chosen_later = chosen_later
        self.label: Callable[[int], Tensor] | None = None
        """Returns what goes with the sample of an index as ``label``."""
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # loaders' processes are told as well
        self._kept: dict[int, FullScan] = {}
        self._maps: dict[int, tuple[Tensor, Tensor]] = {}
        """Coil maps of a scan, and the lines that they were made of."""
        self._room = memory

    def __len__(self) -> int:
        return self._count

    def start(self, epoch: int) -> None:
        """Begin an epoch: a mask is a function of seed, index and epoch, however often a sample was drawn before."""
        if self._fresh:
            self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Sample:
        scan = self._full(index)
        random = np.random.default_rng((self._seed, index, int(self._epoch)))
        mask, acs = self._mask(index, scan, random)
        sample = self._make(index, scan, mask, acs)
        label = {} if self.label is None else {"label": self.label(index)}
        *frames, lines, _ = scan.kspace.shape[1:]
        weights = mask.to(torch.float32).reshape(1, *frames, lines, -1, 1)
        target = center_crop(sample["target"], scan.matrix, (-3, -2))
        kspace = sample["kspace"] * weights
        return {**sample, **label, "image": sample["target"], "target": target, "kspace": kspace, "mask": weights}

    def _mask(self, index: int, scan: FullScan, random: np.random.Generator) -> tuple[Tensor, int]:
        """Return what is measured, bool [frames, ky] or [frames, ky, kx], and the number of calibration lines."""
        *frames, lines, samples = scan.kspace.shape[1:]
        measured = None if scan.measured is None else scan.measured.numpy()
        count = lines if measured is None else int(measured.sum())
        try:
            self._masks.check(lines, samples, measured)
            if self._makes_maps and len(scan.kspace) > 1 and not self._masks.fills_middle(bool(frames)):
                self._masks.check_acs(count, FEWEST_LINES)
        except SamplingError as error:
            error.where = ", ".join(part for part in (scan.name, error.where or "masks") if part)
            raise
        low, high = self._masks.acs_range(count)
        acs = int(np.random.default_rng((self._seed, index)).integers(low, high + 1))
        mask = random_mask(random, lines, acs, self._masks, *frames, samples=samples, measured=measured)
        return torch.from_numpy(mask), acs

    def _full(self, index: int) -> FullScan:
        if index in self._kept:
            return self._kept[index]
        scan = self._scan(index)
        height, width = scan.matrix or scan.kspace.shape[-2:]
        if min(height, width) < SSIM_WINDOW:
            raise DataError(
                f"its image of {height} x {width} pixels cannot be judged",
                where=scan.name,
                accepted=f"at least {SSIM_WINDOW} x {SSIM_WINDOW}, the window of SSIM",
            )
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

    def _make(self, index: int, scan: FullScan, mask: Tensor, acs: int) -> Sample:
        """Return the sample before undersampling, with maps made of what is measured."""
        images = ifft(scan.kspace if scan.clean is None else scan.clean, [-2, -1])
        maps = torch.zeros(0, dtype=torch.complex64)
        if self._makes_maps:
            maps = self._maps_of(index, scan.kspace, mask, acs)
        target = true_image(images, maps, self._truth)
        scale = target.abs().max()
        sample = {"kspace": scan.kspace / scale, "maps": maps, "target": target / scale}
        if self._with_true_maps:
            sample["true_maps"] = maps_of_truth(scan)
        return {name: torch.view_as_real(value.contiguous()) for name, value in sample.items()}

    def _maps_of(self, index: int, kspace: Tensor, mask: Tensor, acs: int) -> Tensor:
        """Return the maps of a scan; those that are kept, where they are made of the same lines."""
        if mask.dim() > 2:
            return maps_of_middle(kspace, acs)
        lines = torch.from_numpy(acs_lines(mask.shape[1], acs)).expand(mask.shape) if self._chosen_later else mask
        block = block_of_lines(kspace, lines)
        if len(kspace) == 1:
            return measured_maps(block)
        region, _ = calibration_region(block, MapsOptions().calibration_size)
        kept = self._maps.get(index)
        if kept is not None and torch.equal(kept[0], region):
            return kept[1]
        maps = measured_maps(block)
        if kept is not None or self._fits(region, maps):
            self._maps[index] = region, maps
        return maps
