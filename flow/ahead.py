"""Let the steps before a gadget run on while it waits for its results."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from .threads import keep_to_one_core

T = TypeVar("T")
S = TypeVar("S")

_END = object()
_MOST_THREADS = 256


# threads are used again: torch keeps threads of its own for each one that calls it
_threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="ahead", initializer=keep_to_one_core)


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def run_ahead(items: Iterable[T], start: Callable[[T], S], depth: int = 256) -> Iterator[S]:
    """Take items in another thread, start something with each, and yield what was started, in order.

    Parameters
    ----------
    items
        Taken as soon as there are any, while whoever iterates here still works on those before.
    start
        Called in the other thread.
    depth
        How many may be started and not taken.
    """
    started: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: object) -> bool:
        while not stopped.is_set():
            try:
                started.put(entry, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if stopped.is_set() or not put(start(item)):
                    return
            put(_END)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that iterates
            put(_Failure(error))

    _threads.submit(work)
    try:
        while (entry := started.get()) is not _END:
            if isinstance(entry, _Failure):
                raise entry.error
            yield entry
    finally:
        stopped.set()
