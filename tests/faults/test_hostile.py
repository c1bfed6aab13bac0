"""Configurations and headers that are made to harm, with a whole scan behind them, honest scans beside."""

import pytest
from faults.cases import verdict
from faults.faults import Expect
from faults.hostile import CONFIGURATIONS, hostile_headers, opening
from faults.peer import Peer, joined
from faults.phases import small_scan

HEADERS = hostile_headers()


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


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_hostile_configuration(house, name):
    with house.unharmed():
        assert not send_all(house, CONFIGURATIONS[name])


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header(house, name):
    with house.unharmed():
        assert not send_all(house, header=HEADERS[name])
