"""Every fault at every point of a session, honest scans beside it: their images are those of the scan alone, byte by byte."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.cases import CASES, run_case
from faults.faults import FAULTS
from faults.house import fingerprint
from faults.peer import Peer
from faults.phases import PARAMETERS, small_scan


@pytest.fixture(scope="module")
def alone(house):
    """Fingerprint of the images of the faulty clients' scan, before anything was done to the service."""
    with house.connect() as sock:
        peer = Peer(sock, small_scan(), parameters=PARAMETERS)
        peer.finish()
        answer = peer.listen()
    assert not answer.texts
    assert len(answer.images) == 2
    return fingerprint(answer.images)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_every_phase_at_once(house, alone, fault):
    phases = [phase for phase, each in CASES if each == fault]
    assert phases
    with house.unharmed(), ThreadPoolExecutor(len(phases)) as pool:
        verdicts = list(pool.map(lambda phase: run_case(house.connect, phase, fault, alone), phases))
    assert not {phase: verdict for phase, verdict in zip(phases, verdicts, strict=True) if verdict}


@pytest.mark.long
@pytest.mark.parametrize(("phase", "fault"), CASES)
def test_a_fault_in_a_phase(house, alone, phase, fault):
    with house.unharmed():
        assert not run_case(house.connect, phase, fault, alone)
