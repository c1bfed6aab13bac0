"""What a client says while it waits for a server that neither takes nor sends anything, and when it gives up."""

import threading
import time
from collections.abc import Callable

_TICK = 0.25
_TELL_SECONDS = 5.0
"""After so long it is said what is waited for; then after twice as long each time."""


class Silence:
    """Watches, in a thread, a session with a server from its beginning until ``close``.

    Parameters
    ----------
    limit
        Seconds that the server may be silent while it is waited for.
    moved
        Returns how many bytes went to and fro: as long as they become more, nobody is silent.
    say
        Told what is waited for.
    give_up
        Called with a sentence when the time is over; what waits must then end.

    Attributes
    ----------
    waits_for
        What the client waits for; empty while it does not.
    """

    def __init__(
        self, limit: float, moved: Callable[[], int], say: Callable[[str], None], give_up: Callable[[str], None]
    ) -> None:
        self.waits_for: str = ""
        self._limit = limit
        self._moved = moved
        self._say = say
        self._give_up = give_up
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="silence", daemon=True).start()

    def _watch(self) -> None:
        before, since, tell = ("", 0), time.monotonic(), _TELL_SECONDS
        while not self._over.wait(_TICK):
            state = self.waits_for, self._moved()
            if state != before or not self.waits_for:
                before, since, tell = state, time.monotonic(), _TELL_SECONDS
                continue
            silent = time.monotonic() - since
            if silent >= self._limit:
                self._give_up(
                    f"gave up waiting for {self.waits_for}: it was silent for {self._limit:g} seconds (--silence)"
                )
                return
            if silent >= tell:
                self._say(f"waiting for {self.waits_for}: it is silent for {silent:.0f} of {self._limit:g} seconds")
                tell *= 2

    def close(self) -> None:
        """Watch no longer."""
        self._over.set()
