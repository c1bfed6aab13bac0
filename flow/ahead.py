"""Let the steps before a gadget run on while it waits for its results."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from .channel import Channel
from .ledger import Account
from .threads import keep_to_one_core

T = TypeVar("T")
S = TypeVar("S")


def run_ahead(
    items: Iterable[T],
    start: Callable[[T], S],
    *,
    account: Account | None = None,
    size: Callable[[T], int] = lambda _: 0,
) -> Iterator[S]:
    """Take items in another thread, start something with each, and yield what was started, in order.

    Parameters
    ----------
    items
        Taken as soon as there are any and the scan may hold another one, while whoever iterates here works on those before.
    start
        Called in the other thread.
    account
        Charged with what was started and not taken.
    size
        Bytes of an item.
    """
    channel: Channel[S] = Channel(account)

    def work() -> None:
        keep_to_one_core()
        error: BaseException | None = None
        try:
            # what is not taken is not made: the steps before this one make their items when they are asked for them
            iterator = iter(items)
            while channel.wait_for_room():
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                if not channel.put(start(item), size(item)):
                    break
        except BaseException as failure:  # noqa: BLE001 - raised in the thread that iterates
            error = failure
        channel.finish(error)

    threading.Thread(target=work, name="ahead", daemon=True).start()
    try:
        yield from channel
    finally:
        channel.stop()
