"""E2E-VarNet: Sriram et al., "End-to-end variational networks for accelerated MRI reconstruction", MICCAI 2020.

Parameters have the names that fastMRI's checkpoints use.
"""

import torch
from torch import Tensor, nn

from ..consistency import adjoint_model, forward_model
from ..fourier import ifft_planar
from ..planar import ratio_or_zero, root_sum_of_squares
from ..sampling import calibration_mask, to_hybrid
from ..unet import NormUnet


class SensitivityModel(nn.Module):
    """Estimates coil maps from the calibration lines (section 3.3, eq. 8).

    Parameters
    ----------
    chans, num_pools
        Of the U-Net, which sees every coil image by itself.
    """

    def __init__(self, chans: int, num_pools: int) -> None:
        super().__init__()
        self.norm_unet: NormUnet = NormUnet(chans, num_pools)

    def forward(self, kspace: Tensor, mask: Tensor, axes: list[int], calibration_lines: int = 0) -> Tensor:
        """Return maps like ``kspace``, unit norm over the coils."""
        images = ifft_planar(kspace * calibration_mask(mask, calibration_lines), axes)
        maps = self.norm_unet(images.flatten(0, 1)).reshape(images.shape)
        return ratio_or_zero(maps, root_sum_of_squares(maps)[:, None, ..., None])


class VarNetBlock(nn.Module):
    """One cascade (eq. 6): a weighted step towards the measured k-space, and a U-Net on the combined image.

    Parameters
    ----------
    model
        The U-Net.
    """

    def __init__(self, model: NormUnet) -> None:
        super().__init__()
        self.model = model
        self.dc_weight: nn.Parameter = nn.Parameter(torch.ones(1))

    def forward(self, kspace: Tensor, measured: Tensor, mask: Tensor, maps: Tensor, axes: list[int]) -> Tensor:
        """Return the next k-space."""
        refinement = forward_model(self.model(adjoint_model(kspace, maps, axes)), maps, axes)
        return kspace - self.dc_weight * mask * (kspace - measured) - refinement


class _Cascades(nn.Module):
    """Sensitivity model and cascades, which fill k-space.

    The mask is broadcast, so k-space may lie either way round; the network is bound to the orientation that it was trained in
    (fastMRI: readout along ky's place, phase encoding last).

    Parameters
    ----------
    num_cascades
        Number of unrolled iterations.
    sens_chans, sens_pools
        U-Net of the sensitivity model.
    chans, pools
        U-Net of the cascades.
    calibration_lines
        Calibration lines in the middle, where their number is fixed; 0: the lines that are sampled without a gap.
    """

    def __init__(
        self,
        num_cascades: int = 12,
        sens_chans: int = 8,
        sens_pools: int = 4,
        chans: int = 18,
        pools: int = 4,
        calibration_lines: int = 0,
    ) -> None:
        super().__init__()
        self.calibration_lines = calibration_lines
        self.sens_net: SensitivityModel = SensitivityModel(sens_chans, sens_pools)
        self.cascades: nn.ModuleList = nn.ModuleList(VarNetBlock(NormUnet(chans, pools)) for _ in range(num_cascades))

    def fill(self, measured: Tensor, weights: Tensor, axes: list[int]) -> Tensor:
        """Return k-space without gaps; see ``to_hybrid``."""
        maps = self.sens_net(measured, weights, axes, self.calibration_lines)
        current = measured
        for cascade in self.cascades:
            current = cascade(current, measured, weights, maps, axes)
        return current


class E2EVarNet(_Cascades):
    """End-to-end variational network; see ``_Cascades`` for its parameters."""

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct.

        Parameters
        ----------
        kspace
            float32 [batch, coils, ky, kx, 2], any scale.
        mask
            Broadcasts against ``kspace``: [batch, 1, ky, 1, 1] for undersampling along ky.

        Returns
        -------
        Tensor
            float32 magnitude [batch, y, x], the root of the sum of squares over the coils.
        """
        measured, weights, axes = to_hybrid(kspace, mask)
        return root_sum_of_squares(ifft_planar(self.fill(measured, weights, axes), axes))


class ComplexVarNet(_Cascades):
    """E2E-VarNet whose coil images are combined with given coil maps to a complex image; it takes the same weights."""

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct.

        Parameters
        ----------
        kspace, mask
            As of ``E2EVarNet``, which estimates maps for its cascades from them.
        maps
            float32 [batch, coils, y, x, 2], unit norm over the coils.

        Returns
        -------
        Tensor
            Complex image [batch, y, x, 2].
        """
        measured, weights, axes = to_hybrid(kspace, mask)
        return adjoint_model(self.fill(measured, weights, axes), maps, axes)
