"""Configurations and headers that are made to harm, with a whole scan behind them, honest scans beside."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.cases import verdict
from faults.faults import Expect
from faults.hostile import CONFIGURATIONS, hostile_headers, opening
from faults.peer import Peer, joined
from faults.phases import small_scan

HEADERS = hostile_headers()
TOGETHER = 4
"""So many clients send something hostile side by side."""


def groups(names):
    names = list(names)
    return [names[first : first + TOGETHER] for first in range(0, len(names), TOGETHER)]


def send_all(house, configuration=None, header=None):
    """Send a whole scan behind an opening; return what is wrong with what becomes of it."""
    with house.connect() as sock:
        peer = Peer(sock, small_scan())
        peer.rest[:2] = [joined(message) for message in opening(configuration, header)]
        peer.finish()
        peer.end()
        answer = peer.listen()
    came = answer.is_told or answer.images or answer.others
    return verdict(Expect.CLOSED, answer, house.small) or ("" if came else "nothing is said")


def verdicts(house, names, **sent):
    """Send all at once; return what is wrong, by name."""
    with house.unharmed(), ThreadPoolExecutor(len(names)) as pool:
        said = pool.map(lambda name: send_all(house, **{what: values[name] for what, values in sent.items()}), names)
        return {name: each for name, each in zip(names, said, strict=True) if each}


@pytest.mark.parametrize("names", groups(CONFIGURATIONS), ids=str)
def test_hostile_configurations(house, names):
    assert not verdicts(house, names, configuration=CONFIGURATIONS)


@pytest.mark.parametrize("names", groups(HEADERS), ids=str)
def test_hostile_headers(house, names):
    assert not verdicts(house, names, header=HEADERS)
