"""How many bytes a scan holds, and all scans together.

Whatever takes memory for a scan charges an account of the scan's ledger before it does, and credits it afterwards. There are
two sorts of bytes, because they end in different ways:

**What waits** between two threads goes away when the thread behind it works. Where the scan or the service holds too much, a
charge waits. An account that holds nothing may always take one entry, however large, so a chain of hand-overs never stands
still: the peer empties the last one, which then has room for an entry of the one before, and so on up to the socket, where TCP
holds the scanner back. A scan never holds more than its capacity and one entry for each hand-over.

**What is kept** until more of the scan comes, such as a block of k-space that is being filled, would wait for the very readouts
that it holds up. So it is never waited for but refused, and whoever asked says so. It does not use up the room of what waits.
"""

import threading
import time
from collections.abc import Callable

NO_LIMIT = 2**62


def _never() -> bool:
    return False


class Ledger:
    """The bytes of one scan, or of all. Safe to use from several threads.

    Parameters
    ----------
    capacity
        Bytes that may wait.
    keeps
        Bytes that may be kept.
    whole
        The ledger of all scans. Its capacity holds for what waits and what is kept together.
    """

    def __init__(self, capacity: int = NO_LIMIT, *, keeps: int = NO_LIMIT, whole: "Ledger | None" = None) -> None:
        self.capacity = capacity
        self.keeps = keeps
        self.whole = whole
        self.waiting = 0
        self.kept = 0
        # one for all: a credit of one scan may be the room that another one waits for
        self.condition: threading.Condition = whole.condition if whole is not None else threading.Condition()

    @property
    def held(self) -> int:
        """Bytes that wait or are kept."""
        return self.waiting + self.kept

    def account(self, name: str) -> "Account":
        """Open an account for one hand-over, buffer or queue."""
        return Account(self, name)

    def wake(self) -> None:
        """Let those who wait for room ask again whether they should leave."""
        with self.condition:
            self.condition.notify_all()

    def _is_full(self, size: int) -> bool:
        whole = self.whole
        return self.waiting + size > self.capacity or (whole is not None and whole.held + size > whole.capacity)

    def _can_keep(self, size: int) -> bool:
        whole = self.whole
        return self.kept + size <= self.keeps and (whole is None or whole.held + size <= whole.capacity)

    def _add(self, waiting: int, kept: int) -> None:
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.waiting += waiting
            ledger.kept += kept
            ledger = ledger.whole
        if waiting < 0 or kept < 0:
            self.condition.notify_all()


class Account:
    """What one holder has of a ledger's bytes.

    Parameters
    ----------
    ledger
        Of the scan.
    name
        Says what it is, to whoever looks at a ledger.
    """

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger = ledger
        self.name = name
        self.waiting = 0
        self.kept = 0

    def charge(self, size: int, *, leave: Callable[[], bool] = _never, timeout: float | None = None) -> bool:
        """Wait for room, and take it.

        Parameters
        ----------
        size
            Bytes.
        leave
            Asked whenever something changes: whether to give up.
        timeout
            Seconds, in all; None waits for ever.

        Returns
        -------
        bool
            False if ``leave`` said so, or the time was over; nothing is charged then.
        """
        return self._wait_for(size, leave, timeout, take=True)

    def wait_for_room(self, *, leave: Callable[[], bool] = _never, timeout: float | None = None) -> bool:
        """Wait until another byte would be taken, before making something whose size is not known yet."""
        return self._wait_for(1, leave, timeout, take=False)

    def _wait_for(self, size: int, leave: Callable[[], bool], timeout: float | None, *, take: bool) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        with self.ledger.condition:
            while self.waiting and self.ledger._is_full(size) and not leave():
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self.ledger.condition.wait(left)
            if leave():
                return False
            if take:
                self.waiting += size
                self.ledger._add(size, 0)
            return True

    def credit(self, size: int) -> None:
        """Give back what was charged."""
        with self.ledger.condition:
            assert size <= self.waiting, f"{self.name}: {size} bytes are given back of {self.waiting}"
            self.waiting -= size
            self.ledger._add(-size, 0)

    def keep(self, size: int) -> bool:
        """Take room for something that stays until more of the scan comes; False if there is none."""
        with self.ledger.condition:
            if not self.ledger._can_keep(size):
                return False
            self.kept += size
            self.ledger._add(0, size)
            return True

    def release(self, size: int) -> None:
        """Give back what was kept."""
        with self.ledger.condition:
            assert size <= self.kept, f"{self.name}: {size} bytes are released of {self.kept}"
            self.kept -= size
            self.ledger._add(0, -size)

    def close(self) -> None:
        """Give back everything."""
        with self.ledger.condition:
            waiting, self.waiting = self.waiting, 0
            kept, self.kept = self.kept, 0
            self.ledger._add(-waiting, -kept)
