"""Bundles that are not there yet: what is being built beside the engine, what is wanted first, and who waits for it."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator

_TELL_SECONDS = 10.0
"""Whoever waits is told so often that it goes on: a client that hears nothing takes the service for dead."""


class Supply:
    """What is known of bundles that somebody builds while scans are served. It builds nothing itself; threads may share it.

    A bundle is *missing* until whoever builds has looked at it, also where its folder is there: what it was made from may
    have changed. Then it is there, or has failed.

    Parameters
    ----------
    missing
        Names of the bundles that are to come.
    there
        Names of those among them whose folder is there: they are looked at, and perhaps not built.

    Attributes
    ----------
    loading
        What is said while the bundles are loaded for the first time, after they are built; empty afterwards.
    """

    def __init__(self, missing: Iterable[str] = (), there: Iterable[str] = ()) -> None:
        self._missing = dict.fromkeys(missing)
        self._there = frozenset(there)
        self._number = len(self._missing)
        self._wanted: list[str] = []
        self._building = ""
        self._failures: dict[str, str] = {}
        self._closed = False
        self.loading = ""
        self._changed = threading.Condition()

    @property
    def failures(self) -> dict[str, str]:
        """Why bundles could not be built, by name."""
        with self._changed:
            return dict(self._failures)

    @property
    def missing(self) -> list[str]:
        """Names of the bundles that are to come."""
        with self._changed:
            return list(self._missing)

    @property
    def state(self) -> str:
        """What is going on, such as ``bundle 'sense' is being built (2 of 9 are done)``; empty where all is ready."""
        with self._changed:
            return self._state(self._building or next(iter(self._missing), "")) or self.loading

    def _state(self, name: str) -> str:
        if name not in self._missing:
            return ""
        when = "is being" if name == self._building else "is to be"
        what = "checked, and built again if it is out of date" if name in self._there else "built"
        return f"bundle {name!r} {when} {what} ({self._number - len(self._missing)} of {self._number} are done)"

    def want(self, names: Iterable[str]) -> bool:
        """Let the missing ones of these be built before all others, in this order; return whether there are any."""
        with self._changed:
            wanted = [name for name in dict.fromkeys(names) if name in self._missing and not self._closed]
            self._wanted = wanted + [name for name in self._wanted if name not in wanted]
            self._changed.notify_all()
            return bool(wanted)

    def take(self) -> str | None:
        """Wait for something to build, and return its name; None where nothing more will be wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._closed or not self._missing)
            if self._closed or not self._missing:
                return None
            self._building = self._wanted.pop(0)
            self._changed.notify_all()
            return self._building

    def done(self, name: str, failure: str = "") -> None:
        """Note that a bundle is there, or why it could not be built."""
        with self._changed:
            self._missing.pop(name, None)
            self._wanted = [other for other in self._wanted if other != name]
            self._building = ""
            if failure:
                self._failures[name] = failure
            self._changed.notify_all()

    def wait(self, names: Iterable[str], leave: Callable[[], bool], seconds: float = _TELL_SECONDS) -> Iterator[str]:
        """Wait for bundles. Whenever there is something to tell whoever waits, and every so many seconds, say why.

        Parameters
        ----------
        names
            Of the bundles; those that are not missing are not waited for.
        leave
            Asked whether to wait no longer, also whenever ``wake`` is called.
        seconds
            After which is said again that it goes on.
        """
        names, said, begin = list(names), "", time.monotonic()
        while not leave() and (reason := self._reason(names)):
            yield reason if reason != said else f"{reason}; {time.monotonic() - begin:.0f} s so far"
            said = reason
            with self._changed:
                self._changed.wait_for(lambda said=said: leave() or self._reason(names) != said, seconds)

    def wake(self) -> None:
        """Let those that wait see whether they are to leave."""
        with self._changed:
            self._changed.notify_all()

    def _reason(self, names: Iterable[str]) -> str:
        with self._changed:
            if self._closed:
                return ""
            waiting = [name for name in names if name in self._missing]
            return self._state(self._building if self._building in waiting else next(iter(waiting), ""))

    def close(self) -> None:
        """Let nobody wait any longer: nothing more is built."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
