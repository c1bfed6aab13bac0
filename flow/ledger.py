"""How many bytes a scan holds, and all scans together.

Whatever takes memory for a scan charges an account of the scan's ledger before it does, and credits it afterwards. There are
two sorts of bytes, because they end in different ways:

**What waits** between two threads goes away when the thread behind it works. Where the scan or the service holds too much, a
charge waits. An account that holds nothing may always take one entry, however large, so a chain of hand-overs never stands
still: the peer empties the last one, which then has room for an entry of the one before, and so on up to the socket, where TCP
holds the scanner back. A scan never holds more than its capacity and one entry for each hand-over.

**What is kept** until more of the scan comes, such as a block of k-space that is being filled, would wait for the very readouts
that it holds up. So it is refused where the scan keeps too much, and whoever asked says so. It does not use up the room of what
waits, but for blocks that were handed on: these are no longer kept and not gone yet. A new block waits until there is room beside
them.

Where all scans together hold too much, a scan is patient for a while, and then refused.
"""

import threading
import time
from collections.abc import Callable

NO_LIMIT = 2**62
PATIENCE = 60.0
"""Seconds, in all, that a scan waits for what others hold."""


def _never() -> bool:
    return False


def in_words(size: int) -> str:
    """Write a number of bytes as it is read best."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


class Ledger:
    """The bytes of one scan, or of all. Safe to use from several threads.

    Parameters
    ----------
    capacity
        Bytes that may wait.
    keeps
        Bytes that may be kept, with blocks that were handed on.
    whole
        The ledger of all scans. Its capacity holds for what waits and what is kept together.
    """

    def __init__(self, capacity: int = NO_LIMIT, *, keeps: int = NO_LIMIT, whole: "Ledger | None" = None) -> None:
        self.capacity = capacity
        self.keeps = keeps
        self.whole = whole
        self.waiting = 0
        self.kept = 0
        self.peak = 0
        """The most that was held since whoever looks at it set it back."""
        self.in_flight = 0
        """Those bytes of what waits that are of blocks which were handed on."""
        self.patience: float = PATIENCE
        """Seconds that are left of it."""
        # one for all: a credit of one scan may be the room that another one waits for
        self.condition: threading.Condition = whole.condition if whole is not None else threading.Condition()

    @property
    def held(self) -> int:
        """Bytes that wait or are kept."""
        return self.waiting + self.kept

    def account(self, name: str, *, of_blocks: bool = False) -> "Account":
        """Open an account for one hand-over, buffer or queue.

        Parameters
        ----------
        name
            Says what it is, to whoever looks at a ledger.
        of_blocks
            Whether what waits there are blocks that were kept before.
        """
        return Account(self, name, of_blocks=of_blocks)

    def shortage(self, size: int) -> str:
        """Say why there is no room for so many bytes more, and how many there is room for."""
        words = f"it needs {in_words(size)} more"
        if self.keeps < NO_LIMIT:
            scan, free = in_words(self.keeps), in_words(max(0, self.keeps - self.kept))
            words += f"; the scan may keep {scan} (three quarters of scan_bytes), of which {free} are free"
        if self.whole is not None and self.whole.capacity < NO_LIMIT:
            service, free = in_words(self.whole.capacity), in_words(max(0, self.whole.capacity - self.whole.held))
            words += f"; all scans may hold {service} (memory_bytes), of which {free} are free"
        return words

    def settle(self) -> None:
        """Give everything back to the ledger of all scans: this one is over. What is still credited to it counts for nobody."""
        with self.condition:
            whole, self.whole = self.whole, None
            if whole is not None:
                whole.add(-self.waiting, -self.kept, in_flight=-self.in_flight)
            self.condition.notify_all()

    def wake(self) -> None:
        """Let those who wait for room ask again whether they should leave."""
        with self.condition:
            self.condition.notify_all()

    # what follows is for the accounts, which hold ``condition``

    def is_full(self, size: int) -> bool:
        """Whether so many bytes more would be too many to wait, for the scan or for all scans."""
        whole = self.whole
        return self.waiting + size > self.capacity or (whole is not None and whole.held + size > whole.capacity)

    def service_is_full(self, size: int) -> bool:
        """Whether so many bytes more would be too many for all scans together."""
        return self.whole is not None and self.whole.held + size > self.whole.capacity

    def be_patient(self) -> bool:
        """Wait for others; False once that has lasted too long."""
        start = time.monotonic()
        if self.patience <= 0:
            return False
        self.condition.wait(self.patience)
        self.patience -= time.monotonic() - start
        return True

    def add(self, waiting: int, kept: int, *, in_flight: int = 0) -> None:
        """Count bytes here and in the ledger of all scans; where some are given back, whoever waits for room is woken."""
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.waiting += waiting
            ledger.kept += kept
            ledger.in_flight += in_flight
            if ledger.peak < ledger.waiting + ledger.kept:
                ledger.peak = ledger.waiting + ledger.kept
            ledger = ledger.whole
        if waiting < 0 or kept < 0:
            self.condition.notify_all()


class Account:
    """What one holder has of a ledger's bytes.

    Parameters
    ----------
    ledger
        Of the scan.
    name, of_blocks
        As ``Ledger.account`` has them.
    """

    def __init__(self, ledger: Ledger, name: str, *, of_blocks: bool = False) -> None:
        self.ledger = ledger
        self.name = name
        self.of_blocks = of_blocks
        self.waiting: int = 0
        self.kept: int = 0

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
            while self.waiting and self.ledger.is_full(size) and not leave():
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self.ledger.condition.wait(left)
            if leave():
                return False
            if take:
                self._wait_with(size)
            return True

    def admit(self, size: int, *, leave: Callable[[], bool] = _never) -> bool:
        """Charge for a large entry, for which all scans together must have room even if this account holds nothing.

        Returns
        -------
        bool
            False if ``leave`` said so, or there is no room; nothing is charged then.
        """
        ledger = self.ledger
        with ledger.condition:
            while not leave():
                if self.waiting and ledger.waiting + size > ledger.capacity:
                    ledger.condition.wait()
                elif not ledger.service_is_full(size):
                    self._wait_with(size)
                    return True
                elif not ledger.be_patient():
                    return False
            return False

    def _wait_with(self, size: int) -> None:
        self.waiting += size
        self.ledger.add(size, 0, in_flight=size if self.of_blocks else 0)

    def credit(self, size: int) -> None:
        """Give back what was charged."""
        with self.ledger.condition:
            assert size <= self.waiting, f"{self.name}: {size} bytes are given back of {self.waiting}"
            self._wait_with(-size)

    def keep(self, size: int, *, spare: int = 0) -> bool:
        """Take room for something that stays until more of the scan comes; False if there is none.

        Blocks of the scan that were handed on are waited for.

        Parameters
        ----------
        size
            Bytes.
        spare
            Bytes that must be free besides, for what will be made of it for a moment.
        """
        ledger, whole = self.ledger, size + spare
        with ledger.condition:
            while ledger.kept + whole <= ledger.keeps:
                if ledger.in_flight and ledger.kept + ledger.in_flight + whole > ledger.keeps:
                    ledger.condition.wait()
                elif not ledger.service_is_full(whole):
                    self.kept += size
                    ledger.add(0, size)
                    return True
                elif not ledger.be_patient():
                    return False
            return False

    def release(self, size: int) -> None:
        """Give back what was kept."""
        with self.ledger.condition:
            assert size <= self.kept, f"{self.name}: {size} bytes are released of {self.kept}"
            self.kept -= size
            self.ledger.add(0, -size)

    def close(self) -> None:
        """Give back everything."""
        with self.ledger.condition:
            kept, self.kept = self.kept, 0
            self.ledger.add(0, -kept)
            self._wait_with(-self.waiting)
