"""Every fault at every point of a session, honest scans beside it: their images are those of the scan alone, byte by byte."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.cases import CASES, run_case
from faults.faults import FAULTS

SHARE = 4
"""Of the phases of a fault, one of so many belongs to the core that every run tries."""
TOGETHER = 4
"""So many faults of the core are tried side by side."""
CLIENTS = 8
"""So many clients of one test do something wrong at a time."""
NAMES = list(FAULTS)


def phases_of(fault):
    return [phase for phase, each in CASES if each == fault]


def core_of(fault):
    phases = phases_of(fault)
    return [(phase, fault) for phase in phases[NAMES.index(fault) % min(SHARE, len(phases)) :: SHARE]]


def run_at_once(house, cases, clients):
    """Run cases side by side."""
    with house.unharmed(), ThreadPoolExecutor(clients) as pool:
        verdicts = list(pool.map(lambda case: run_case(house, *case), cases))
    assert not {case: verdict for case, verdict in zip(cases, verdicts, strict=True) if verdict}


@pytest.mark.parametrize(
    "faults", [NAMES[first : first + TOGETHER] for first in range(0, len(NAMES), TOGETHER)], ids=str
)
def test_some_faults_in_some_phases_at_once(house, faults):
    run_at_once(house, [case for fault in faults for case in core_of(fault)], CLIENTS)


@pytest.mark.long
@pytest.mark.parametrize("fault", NAMES)
def test_a_fault_in_every_phase_at_once(house, fault):
    cases = [(phase, fault) for phase in phases_of(fault)]
    run_at_once(house, cases, len(cases))


@pytest.mark.long
@pytest.mark.parametrize(("phase", "fault"), CASES)
def test_a_fault_in_a_phase(house, phase, fault):
    with house.unharmed():
        assert not run_case(house, phase, fault)
