"""Ctrl-C and SIGTERM, as ``timeout`` sends it: what is done then."""

import signal
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from types import FrameType

_came = threading.Event()


@contextmanager
def on_interruption(
    handler: Callable[[int, FrameType | None], None], numbers: Collection[int] = (signal.SIGINT, signal.SIGTERM)
) -> Generator[None]:
    """Call ``handler`` for Ctrl-C and SIGTERM, or these signals; they come to the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def raised_interruptions() -> Generator[None]:
    """Raise ``KeyboardInterrupt`` for Ctrl-C and SIGTERM, if need be again in ``raise_interruption``.

    Ctrl-C stays ignored where the shell has it ignored, as in what a script runs beside it.
    """

    def note(_number: int, _frame: FrameType | None) -> None:
        _came.set()
        raise KeyboardInterrupt

    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    try:
        with on_interruption(note, numbers):
            yield
    finally:
        _came.clear()


def raise_interruption() -> None:
    """Raise ``KeyboardInterrupt`` if there was an interruption, for code that waits.

    What a handler raises is lost where the interpreter happens to be in a destructor or in the callback of a weak reference,
    which ignore exceptions; and a handler that is called just as a wait begins runs only when that wait is over.
    """
    if _came.is_set():
        raise KeyboardInterrupt
