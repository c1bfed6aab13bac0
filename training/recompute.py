"""Gradient checkpointing: cascades are computed anew for their gradients (Chen et al., arXiv:1604.06174).

What a cascade computes on the way is not kept for the backward pass, only what goes into it; so memory no longer grows with
all layers of all cascades. Gradients are the same.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_activations(network: nn.Module) -> None:
    """Let every cascade of a network, or every part that its iterations share, be computed anew."""
    for part in _parts(network):
        part.forward = partial(checkpoint, part.forward, use_reentrant=False, context_fn=partial(_contexts, part))


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    """Yield a network's own parts; of its lists, their entries."""
    for child in network.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _parts(child)
        else:
            yield child


def _contexts(part: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first pass and of the second, which must not count in running statistics again."""
    return nullcontext(), _same_statistics(part)


@contextmanager
def _same_statistics(part: nn.Module) -> Iterator[None]:
    norms = [module for module in part.modules() if isinstance(module, _BatchNorm)]
    buffers = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    try:
        yield
    finally:
        for norm, kept in zip(norms, buffers, strict=True):
            for name, value in norm.named_buffers():
                value.copy_(kept[name])
