"""The last step of a reconstruction: SENSE regularised towards a network's image."""

from torch import Tensor, nn

from ..consistency import ProximalStep
from .steps import prepare


class FinishedBySense(nn.Module):
    """A network of k-space, mask and coil maps, and SENSE towards its image ``x0``: ``min |M F S x - y|^2 + w |x - x0|^2``.

    A network leaves errors where the coils alone would leave none, and takes the texture of an object unlike those that it
    has seen for noise. Some steps of conjugate gradients from its image mend what the data can mend; where they say little,
    the image stays as the network has it. The step is MoDL's data consistency (Aggarwal et al., IEEE TMI 2019, eq. 10a).

    Parameters
    ----------
    network
        Returns complex images [batch, (frames,) y, x, 2].
    weight
        w, relative to maps of unit norm; the smaller, the closer to the data and their noise.
    iterations
        Steps of conjugate gradients.
    """

    def __init__(self, network: nn.Module, weight: float, iterations: int = 6) -> None:
        super().__init__()
        self.network = network
        self.weight = weight
        self.solve: ProximalStep = ProximalStep(iterations)

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Return complex images like the network's."""
        image = self.network(kspace, mask, maps)
        _, lines, maps, axes, zero_filled = prepare(kspace, mask, maps)
        target = zero_filled + self.weight * image
        return self.solve(target, maps, lines, axes, image.new_full([1], self.weight), image)
