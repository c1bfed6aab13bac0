"""Samples for training: a fully sampled scan, undersampled anew each time it is drawn.

A sample is a dictionary of float32 tensors:

- ``kspace`` [coils, (frames,) ky, kx, 2] as measured, and ``mask`` [1, (frames,) ky, 1, 1], or [1, (frames,) ky, kx, 1] where
  both directions are undersampled;
- ``maps`` [coils, y, x, 2], and ``true_maps`` like it, where they are wanted;
- ``target`` [(frames,) y, x, 2], the true image: of the fully sampled scan, its coils combined by the maps or by the root of
  their sum of squares, whose largest magnitude is one; the middle of it, where a reader gets only that;
- ``image``, all of it, for networks that undersample it themselves.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..models.coil_maps import espirit
from ..models.fourier import ifft
from ..models.planar import center_crop
from ..simulate.sampling import SamplingError
from .data import FullScan, beside
from .masks import Masks, random_mask
from .section import Truth

Sample = dict[str, Tensor]
_READOUT_CALIBRATION = 24
"""Readout samples that ESPIRiT's calibration uses."""


@dataclass(frozen=True)
class _Complete:
    """A sample before undersampling, and what its mask needs."""

    sample: Sample
    acs: int
    measured: NDArray[np.bool_] | None
    matrix: tuple[int, int] | None


def calibrated_maps(kspace: Tensor, acs: int, samples: int = _READOUT_CALIBRATION) -> Tensor:
    """ESPIRiT maps complex64 [coils, y, x] from the middle of k-space, the mean over frames, as the service makes them.

    Parameters
    ----------
    kspace
        complex64 [coils, (frames,) ky, kx].
    acs, samples
        How many lines and samples around the middle.
    """
    kspace = kspace.mean(dim=1) if kspace.dim() == 4 else kspace
    _, ky, kx = kspace.shape
    width = min(samples, kx)
    block = kspace[:, ky // 2 - acs // 2 :][:, :acs, kx // 2 - width // 2 :][..., :width]
    return espirit(block[:, None].contiguous(), (1, ky, kx))[:, 0]


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
        truth: Truth,
        with_true_maps: bool = False,
        fresh: bool,
        memory: float = math.inf,
    ) -> None:
        self._scan = scan
        self._count = count
        self._masks = masks
        self._seed = seed
        self._with_maps = with_maps
        self._truth: Truth = truth
        self._with_true_maps = with_true_maps
        self._fresh = fresh
        self.label: Callable[[int], Tensor] | None = None
        """Returns what goes with the sample of an index as ``label``."""
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # loaders' processes are told as well
        self._kept: dict[int, _Complete] = {}
        self._room = memory

    def __len__(self) -> int:
        return self._count

    def start(self, epoch: int) -> None:
        """Begin an epoch: a mask is a function of seed, index and epoch, however often a sample was drawn before."""
        if self._fresh:
            self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Sample:
        complete = self._full(index)
        sample = complete.sample
        random = np.random.default_rng((self._seed, index, int(self._epoch)))
        target = center_crop(sample["target"], complete.matrix, (-3, -2))
        mask = self._mask(random, complete)
        label = {} if self.label is None else {"label": self.label(index)}
        kspace = sample["kspace"] * mask
        return {**sample, **label, "image": sample["target"], "target": target, "kspace": kspace, "mask": mask}

    def _mask(self, random: np.random.Generator, complete: _Complete) -> Tensor:
        *frames, lines, samples = complete.sample["kspace"].shape[1:-1]
        mask = random_mask(
            random, lines, complete.acs, self._masks, *frames, samples=samples, measured=complete.measured
        )
        return torch.from_numpy(mask).to(torch.float32).reshape(1, *frames, lines, -1, 1)

    def _full(self, index: int) -> _Complete:
        """Return the sample before undersampling."""
        if index in self._kept:
            return self._kept[index]
        scan = self._scan(index)
        measured = None if scan.measured is None else scan.measured.numpy()
        *_, lines, samples = scan.kspace.shape
        try:
            self._masks.check(lines, samples, measured)
        except SamplingError as error:
            error.where = ", ".join(part for part in (scan.name, "masks") if part)
            raise
        low, high = self._masks.acs_range(lines if measured is None else int(measured.sum()))
        acs = int(np.random.default_rng((self._seed, index)).integers(low, high + 1))
        sample = self._make(scan, acs)
        complete = _Complete(sample, acs, measured, scan.matrix)
        size = sum(tensor.nbytes for tensor in sample.values())
        if size <= self._room:
            self._room -= size
            self._kept[index] = complete
        return complete

    def _make(self, scan: FullScan, acs: int) -> Sample:
        images = ifft(scan.kspace if scan.clean is None else scan.clean, [-2, -1])
        maps = torch.zeros(0, dtype=torch.complex64)
        if self._with_maps or self._truth == "combined":
            maps = calibrated_maps(scan.kspace, acs, *([acs] if self._masks.points else []))
        target = true_image(images, maps, self._truth)
        scale = target.abs().max()
        sample = {"kspace": scan.kspace / scale, "maps": maps, "target": target / scale}
        if self._with_true_maps:
            most = self._masks.acs_range(scan.kspace.shape[-2])[1]
            sample["true_maps"] = calibrated_maps(scan.kspace, most) if scan.maps is None else scan.maps
        return {name: torch.view_as_real(value.contiguous()) for name, value in sample.items()}
