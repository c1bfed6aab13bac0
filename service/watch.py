"""What goes on in the service, as events: the log reads them now, figures and a page can as well."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .logs import limited

log: logging.Logger = logging.getLogger("isocenter.watch")

_MOST = 120
"""Lines a minute about connections that bring no scan."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a scan.

    Attributes
    ----------
    scan
        Its name.
    """

    scan: str


@dataclass(frozen=True)
class Connected(Event):
    """A peer has connected."""

    peer: str


@dataclass(frozen=True)
class Refused(Event):
    """A connection is not served; ``kind`` is what it is counted under. It has no scan."""

    kind: str
    peer: str
    reason: str


@dataclass(frozen=True)
class Started(Event):
    """Configuration and header are there, the stream begins."""

    pipeline: str


@dataclass(frozen=True)
class ImageSent(Event):
    """An image was handed to the sender."""

    series: int
    index: int


@dataclass(frozen=True)
class Told(Event):
    """The peer was told something: ``WARNING`` or ``ERROR``."""

    severity: str
    text: str


@dataclass(frozen=True)
class Ended(Event):
    """The session is over; ``figures`` has counts and times by name."""

    figures: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


class Watch:
    """Passes events on to whoever listens, in the thread in which they happen: a listener must be quick and must not wait."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = list(listeners)

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with every event from now on."""
        self._listeners.append(listener)

    def tell(self, event: Event) -> None:
        """Pass an event on; a listener that fails does not harm the scan."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed on %s", type(event).__name__)


def write_to_log(event: Event) -> None:
    """Write an event as a line of the log; what the peer is told is there already."""
    scans = logging.getLogger("isocenter.scan")
    match event:
        case Connected():
            # whoever connects without a scan may do so as often as he likes
            extra = {"scan": event.scan, "fields": {"peer": event.peer}}
            limited(scans, logging.INFO, "connected", "connected", most=_MOST, extra=extra)
        case Refused():
            key, who = f"refused: {event.kind}", event.peer or "a connection"
            limited(log, logging.WARNING, key, "refused %s: %s", who, event.reason)
        case Started():
            scans.info("scan started", extra={"scan": event.scan, "fields": {"pipeline": event.pipeline}})
        case Ended():
            extra = {"scan": event.scan, "fields": dict(event.figures)}
            if event.figures.get("pipeline"):
                scans.info("session ended", extra=extra)
            else:
                limited(scans, logging.INFO, "ended", "session ended", most=_MOST, extra=extra)
        case _:
            return
