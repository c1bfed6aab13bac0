"""The networks by name, with what they take, what they return and where they come from."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from .modl import Modl
from .varnet import E2EVarNet

Task = Literal["2d", "2d+t", "image", "sampling"]


@dataclass(frozen=True)
class Network:
    """A network of the literature.

    Parameters
    ----------
    make
        Its class.
    task
        ``2d`` slices, ``2d+t`` series, ``image`` to image, or ``sampling``: which lines to measure.
    inputs
        Names of its inputs, in order.
    output
        ``magnitude`` or ``complex`` images, or ``logits`` of lines.
    paper
        Where it was published.
    configuration
        The published configuration, where it differs from the defaults of the class.
    """

    make: type[nn.Module]
    task: Task
    inputs: tuple[str, ...]
    output: Literal["magnitude", "complex", "logits"]
    paper: str
    configuration: dict[str, Any]

    def build(self, **configuration: Any) -> nn.Module:
        """Make the network in its published configuration, with these changes."""
        return self.make(**{**self.configuration, **configuration})


_MAPS = ("kspace", "mask", "maps")

NETWORKS: dict[str, Network] = {
    "e2e-varnet": Network(
        E2EVarNet, "2d", ("kspace", "mask"), "magnitude", "Sriram et al., MICCAI 2020, arXiv:2004.06688", {}
    ),
    "modl": Network(Modl, "2d", _MAPS, "complex", "Aggarwal et al., IEEE TMI 2019, arXiv:1712.02862", {}),
}
