"""Tensors that are computed by whoever needs them first.

Coil maps take longer than most reconstructions, can begin long before the block of k-space is complete, and may not be needed at
all. So they go along with the block as a promise. Who keeps it does not matter: a thread of the engine, as soon as it has nothing
better to do, or the job that needs them. Whoever comes first computes; whoever comes meanwhile waits for that, and not for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Deferred:
    """A tensor that is computed once, when it is started or first asked for. Safe to use from several threads.

    Parameters
    ----------
    compute
        Computes it; forgotten as soon as it has begun, with all that it refers to.
    shape
        What its shape will be.
    seconds
        How long it may take until nobody waits for it any longer; None: whoever asks decides.
    """

    def __init__(self, compute: Callable[[], Tensor], shape: tuple[int, ...], *, seconds: float | None = None) -> None:
        self.shape = shape
        self.seconds = seconds
        self._begun = 0.0
        self._compute: Callable[[], Tensor] | None = compute
        self._outcome: Future[Tensor] = Future()
        self._lock = threading.Lock()

    @classmethod
    def known(cls, tensor: Tensor) -> Deferred:
        """Return one whose tensor, of any shape, is there already."""
        return cls(lambda: tensor, tuple(tensor.shape))

    def start(self) -> None:
        """Compute the tensor in this thread, unless some thread has begun to. What goes wrong is raised by ``get``."""
        with self._lock:
            compute, self._compute = self._compute, None
            self._begun = self._begun or time.monotonic()
        if compute is not None:
            try:
                self._outcome.set_result(compute())
            except Exception as error:  # noqa: BLE001 - whoever asks for the tensor must know
                self._outcome.set_exception(error)

    def get(self) -> Tensor:
        """Return the tensor, of ``shape``; computed in this thread, or waited for.

        Raises
        ------
        TimeoutError
            The thread that computes it has taken too long.
        Exception
            What went wrong.
        """
        self.start()
        if self.seconds is None:
            return self._outcome.result()
        return self._outcome.result(max(0.0, self._begun + self.seconds - time.monotonic()))


def settled(inputs: Mapping[str, Tensor | Deferred]) -> dict[str, Tensor]:
    """Return inputs, of the same shapes, with nothing left to compute.

    Raises
    ------
    TimeoutError
        A thread that computes one of them has taken too long.
    Exception
        What went wrong with one of them.
    """
    return {name: value.get() if isinstance(value, Deferred) else value for name, value in inputs.items()}
