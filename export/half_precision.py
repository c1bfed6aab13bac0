"""Networks whose convolutions compute with half as many bits, which GPUs do several times faster."""

import copy

import torch
from torch import Tensor, nn

from ..bundle.manifest import BundleError, Precision

HALF: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
_REDUCED = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)


class HalfLayer(nn.Module):
    """A layer that computes in half precision, between float32 tensors.

    Parameters
    ----------
    layer
        Taken over, with its weights.
    dtype
        ``torch.float16`` or ``torch.bfloat16``.
    """

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer.to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer."""
        return self.layer(x.to(self.dtype)).to(torch.float32)


def in_precision(module: nn.Module, precision: Precision) -> nn.Module:
    """Return a module whose convolutions and linear layers have this precision; ``module`` itself if that is float32.

    Everything else stays in float32: a Fourier transform, a data consistency step or a normalisation with half the bits would
    cost several digits, and takes little of the time.

    Raises
    ------
    BundleError
        It has no such layers.
    """
    if precision not in HALF:
        return module
    result = copy.deepcopy(module)
    layers = [layer for layer in result.modules() if isinstance(layer, _REDUCED)]
    if not layers:
        raise BundleError(f"precision {precision} is for convolutions and linear layers, and the module has none")
    # replaced by parent, as a layer may be used in several places
    parents = list(result.modules())
    halves: dict[nn.Module | None, nn.Module] = {layer: HalfLayer(layer, HALF[precision]) for layer in layers}
    for parent in parents:
        parent._modules.update({name: halves.get(child, child) for name, child in parent._modules.items()})
    return result
