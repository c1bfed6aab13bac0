"""Every fault at every point of a session, honest scans beside it: their images are those of the scan alone, byte by byte."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.cases import CASES, run_case
from faults.faults import FAULTS


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_every_phase_at_once(house, fault):
    phases = [phase for phase, each in CASES if each == fault]
    assert phases
    with house.unharmed(), ThreadPoolExecutor(len(phases)) as pool:
        verdicts = list(pool.map(lambda phase: run_case(house, phase, fault), phases))
    assert not {phase: verdict for phase, verdict in zip(phases, verdicts, strict=True) if verdict}


@pytest.mark.long
@pytest.mark.parametrize(("phase", "fault"), CASES)
def test_a_fault_in_a_phase(house, phase, fault):
    with house.unharmed():
        assert not run_case(house, phase, fault)
