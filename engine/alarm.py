"""Calls when something has taken too long: one thread for all that is watched."""

import threading
import time
from collections.abc import Callable, Hashable


class Alarm:
    """Watches how long things take, by key.

    Parameters
    ----------
    name
        Of its thread.
    """

    def __init__(self, name: str) -> None:
        self._watched: dict[Hashable, tuple[float, Callable[[], object]]] = {}
        self._wakes_at = float("inf")
        self._closed = False
        self._condition = threading.Condition()
        threading.Thread(target=self._loop, name=name, daemon=True).start()

    def watch(self, key: Hashable, seconds: float, call: Callable[[], object]) -> None:
        """Call after so many seconds, unless the key is forgotten, or watched anew, before."""
        end = time.monotonic() + seconds
        with self._condition:
            self._watched[key] = end, call
            if end < self._wakes_at:  # else it wakes early enough by itself
                self._condition.notify()

    def forget(self, key: Hashable) -> None:
        """Watch no longer."""
        with self._condition:
            self._watched.pop(key, None)

    def close(self) -> None:
        """Watch nothing any more."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def _loop(self) -> None:
        while (calls := self._wait()) is not None:
            for call in calls:
                call()

    def _wait(self) -> list[Callable[[], object]] | None:
        """Wait until something has taken too long, and return what is to be called; None at the end."""
        with self._condition:
            while not self._closed:
                now = time.monotonic()
                due = [key for key, (end, _) in self._watched.items() if end <= now]
                if due:
                    return [self._watched.pop(key)[1] for key in due]
                self._wakes_at = min((end for end, _ in self._watched.values()), default=float("inf"))
                self._condition.wait(None if self._wakes_at == float("inf") else self._wakes_at - now)
            return None
