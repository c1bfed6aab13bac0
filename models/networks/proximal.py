"""HC-PGD: Hosseini et al., "Dense recurrent neural networks for accelerated MRI", IEEE JSTSP 2020;14:1280.

Its full title goes on: "history-cognizant unrolling of optimization algorithms" (arXiv:1912.07197).
"""

import torch
from torch import Tensor, nn

from ..cnn import ConvStack
from ..consistency import data_gradient
from ..planar import from_channels, to_channels
from .steps import prepare


class HcPgd(nn.Module):
    """Proximal gradient descent whose steps start from a learned combination of all previous regularised images.

    Parameters
    ----------
    iterations
        Number of unrolled iterations; the regulariser has the same weights in all.
    chans, layers
        Features and convolutions of the regulariser, a residual CNN.
    """

    def __init__(self, iterations: int = 10, chans: int = 64, layers: int = 5) -> None:
        super().__init__()
        self.iterations = iterations
        self.regulariser: ConvStack = ConvStack([2, *[chans] * (layers - 1), 2], bias=True)
        self.steps: nn.Parameter = nn.Parameter(torch.full((iterations,), 0.5))
        self.combination: nn.Parameter = nn.Parameter(torch.eye(iterations))

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct the complex image [batch, y, x, 2]; inputs as in ``prepare``."""
        measured, weights, maps, axes, image = prepare(kspace, mask, maps)
        history = [image]
        for index in range(self.iterations):
            combined = torch.zeros_like(image)
            for earlier, previous in enumerate(history):
                combined = combined + self.combination[index, earlier] * previous
            stepped = combined - self.steps[index] * data_gradient(combined, measured, maps, weights, axes)
            image = stepped + from_channels(self.regulariser(to_channels(stepped)))
            history.append(image)
        return image
