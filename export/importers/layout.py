"""What a checkpoint's layout is.

A layout renames tensors by rules (the first whose pattern fits the whole name counts; None passes the tensor over), brings
them into PyTorch's order of axes, and reads the configuration from their shapes and from what was written beside them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .errors import CheckpointError
from .files import Checkpoint

State = dict[str, Tensor]
Rules = tuple[tuple[str, str | None], ...]


def _same(_name: str, tensor: Tensor) -> Tensor:
    return tensor


def from_keras(name: str, tensor: Tensor) -> Tensor:
    """Keras keeps inputs and outputs last: [(t,) y, x, in, out], and [in, out] of dense layers."""
    if name.endswith(("kernel", "W")) and tensor.dim() > 1:
        spatial = range(tensor.dim() - 2)
        return tensor.permute(tensor.dim() - 1, tensor.dim() - 2, *spatial).contiguous()
    return tensor


@dataclass(frozen=True)
class Layout:
    """One layout of checkpoints.

    Parameters
    ----------
    rules
        Regular expressions for names, and what they become.
    configure
        Returns the configuration from the renamed tensors and the checkpoint; may change the tensors.
    convert
        Brings a tensor, given its old name, into PyTorch's order.
    """

    rules: Rules
    configure: Callable[[State, Checkpoint], dict[str, Any]]
    convert: Callable[[str, Tensor], Tensor] = _same

    def read(self, checkpoint: Checkpoint) -> tuple[State, dict[str, Any]]:
        """Return the tensors by their names here, and the configuration.

        Raises
        ------
        CheckpointError
            There are tensors that no rule knows, or settings that are not supported.
        """
        state: State = {}
        unknown = []
        for name, tensor in checkpoint.tensors.items():
            for pattern, replacement in self.rules:
                match = re.fullmatch(pattern, name)
                if match:
                    if replacement is not None:
                        state[match.expand(replacement)] = self.convert(_variable(name), tensor)
                    break
            else:
                unknown.append(name)
        if unknown:
            raise CheckpointError(
                f"{checkpoint.path} has tensors that do not belong to this network: {_listed(unknown)}"
            )
        try:
            return state, self.configure(state, checkpoint)
        except (KeyError, IndexError) as error:
            raise CheckpointError(f"{checkpoint.path} lacks tensor {error}") from error


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _variable(name: str) -> str:
    return name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
