"""Parameters that training keeps in a set: after every step of the optimiser the network puts them back there."""

from typing import Protocol, runtime_checkable

from torch import nn
from torch.optim import Optimizer


@runtime_checkable
class Projected(Protocol):
    """A network whose parameters have sets of their own, as the kernels of variational networks."""

    def project(self) -> None:
        """Move the parameters to the nearest point of their sets."""
        ...


def keep_projected(optimizer: Optimizer, network: nn.Module) -> None:
    """Let a network that has a projection do it after every step of its optimiser."""
    if isinstance(network, Projected):
        optimizer.register_step_post_hook(lambda *_: network.project())
