"""Every fault at every point of a session, honest scans beside it: their images are those of the scan alone, byte by byte."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.cases import CASES, run_case
from faults.faults import FAULTS

SHARE = 4
"""Of the phases of a fault, one of so many belongs to the core that every run tries."""
NAMES = list(FAULTS)


def phases_of(fault):
    return [phase for phase, each in CASES if each == fault]


def run_at_once(house, fault, phases):
    """Run a fault in several phases, one client in each."""
    with house.unharmed(), ThreadPoolExecutor(len(phases)) as pool:
        verdicts = list(pool.map(lambda phase: run_case(house, phase, fault), phases))
    assert not {phase: verdict for phase, verdict in zip(phases, verdicts, strict=True) if verdict}


@pytest.mark.parametrize("fault", NAMES)
def test_a_fault_in_some_phases_at_once(house, fault):
    phases = phases_of(fault)
    run_at_once(house, fault, phases[NAMES.index(fault) % min(SHARE, len(phases)) :: SHARE])


@pytest.mark.long
@pytest.mark.parametrize("fault", NAMES)
def test_a_fault_in_every_phase_at_once(house, fault):
    run_at_once(house, fault, phases_of(fault))


@pytest.mark.long
@pytest.mark.parametrize(("phase", "fault"), CASES)
def test_a_fault_in_a_phase(house, phase, fault):
    with house.unharmed():
        assert not run_case(house, phase, fault)
