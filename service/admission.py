"""Who may connect, and how many scans at once: a rule about addresses, without sockets."""

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .settings import Network, Settings

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Refusal:
    """Why a peer is not served.

    Attributes
    ----------
    kind
        By which refusals are counted.
    reason
        What the peer is told.
    """

    kind: str
    reason: str


def refusal(peer: str, running: Collection[str], settings: Settings) -> Refusal | None:
    """Say whether a peer must be refused.

    Parameters
    ----------
    peer
        Its address.
    running
        Addresses of the scans that run, one for each.
    settings
        Hold the limits: ``allow``, ``max_connections``, ``max_per_address``, and ``scanners`` with their ``reserved_slots``.
    """
    is_scanner = _is_in(peer, settings.scanners)
    if settings.allow and not is_scanner and not _is_in(peer, settings.allow):
        return Refusal(
            "not allowed", "this address is not among those that this service is for ('allow' in its settings)"
        )
    if len(running) >= settings.max_connections:
        what = f"{_scans(len(running))} running already, which is this service's limit; try again later"
        return Refusal("no slot", what)
    alike = sum(_same(peer, other) for other in running)
    if settings.max_per_address is not None and not is_scanner and alike >= settings.max_per_address:
        what = f"{_scans(alike)} running already from this address, which is its limit; try again later"
        return Refusal("address limit", what)
    free = settings.max_connections - len(running)
    if free <= _kept_free(running, settings) and not is_scanner:
        return Refusal("reserved", "the slots that are left are reserved for scanners; try again later")
    return None


def _scans(number: int) -> str:
    return "1 scan is" if number == 1 else f"{number} scans are"


def _kept_free(running: Collection[str], settings: Settings) -> int:
    """Slots that only a scanner may take: the reserved ones, less those that scanners have."""
    taken = sum(_is_in(address, settings.scanners) for address in running)
    return max(0, settings.reserved_slots - taken)


def _parse(address: str) -> _Address | None:
    """Return an address without its zone; one of IPv4 that is written as IPv6 is the same as itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return mapped or parsed


def _same(one: str, other: str) -> bool:
    return (_parse(one) or one) == (_parse(other) or other)


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in networks)
