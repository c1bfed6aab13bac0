"""Ctrl-C and SIGTERM, as ``timeout`` sends it: what is done then."""

import signal
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from types import FrameType

_came: list[int] = []
"""Signals that have come. A list, as a handler may be called within a handler, and a lock would wait for itself."""


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

    def note(number: int, _frame: FrameType | None) -> None:
        _came.append(number)
        raise KeyboardInterrupt

    try:
        with on_interruption(note, _heard()):
            yield
    finally:
        _came.clear()


def raise_interruption() -> None:
    """Raise ``KeyboardInterrupt`` if there was an interruption, for code that waits.

    What a handler raises is lost where the interpreter happens to be in a destructor or in the callback of a weak reference,
    which ignore exceptions; and a handler that is called just as a wait begins runs only when that wait is over.
    """
    if _came:
        _came.clear()
        raise KeyboardInterrupt


@contextmanager
def undisturbed() -> Generator[None]:
    """Let interruptions wait until ``raise_interruption``, for what must not end half done."""
    with on_interruption(lambda number, _frame: _came.append(number), _heard()):
        yield


def _heard() -> list[signal.Signals]:
    return [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
