"""The way to a device and back."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of a card, one for all models: memory that one of them has freed serves only what runs on the same."""
    return torch.cuda.Stream(device)


class Link:
    """The way to a device and back: on CUDA in another stream than what else the process does there.

    No pinned memory of torch's: its destructor records an event, and where the card has failed meanwhile that ends the process.
    The driver has its own.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # cuDNN's convolutions use TF32 unless they are told not to
        torch.backends.cudnn.allow_tf32 = False
        self._stream = _stream(device) if device.type == "cuda" else None

    def open(self) -> AbstractContextManager[object]:
        """Return a context for everything that runs on the device, one for each call: threads must not share it."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def other_stream(self) -> torch.cuda.Stream:
        """Return a stream of the card that is not the one of all models: torch has 32, and gives them out again and again."""
        stream = torch.cuda.Stream(self.device)
        return stream if stream != self._stream else torch.cuda.Stream(self.device)

    def to_device(self, tensor: Tensor) -> Tensor:
        if self._stream is not None and tensor.is_cuda:
            # what made it there, on whichever card, comes first
            self._stream.wait_stream(torch.cuda.default_stream(tensor.device))
        return tensor.to(self.device)

    def to_host(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.cpu() for tensor in tensors]

    def named(self, names: Sequence[str], result: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what a module returned, one tensor or several, by name and on the host."""
        values = (result,) if isinstance(result, Tensor) else result
        return dict(zip(names, self.to_host(values), strict=True))

    def wait(self) -> None:
        """Wait until everything on the device is done."""
        if self._stream is not None:
            self._stream.synchronize()
