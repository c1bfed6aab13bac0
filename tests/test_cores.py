"""A job on a CPU leaves the cores that other programs use."""

import subprocess
import sys

import pytest
from helpers import wait_until
from isocenter.engine.cores import Cores


class Machine:
    """What the kernel would say of a machine with two cores."""

    def __init__(self, monkeypatch):
        self.now = self.others = 0.0
        self.wanting = 0.0
        monkeypatch.setattr(Cores, "_sample", staticmethod(lambda: (self.now, self.others)))
        monkeypatch.setattr(Cores, "_waiting", staticmethod(lambda: self.wanting))

    def goes_on(self, seconds, others, wanting=0.0):
        self.now += seconds
        self.others += seconds * others
        self.wanting = wanting


@pytest.mark.parametrize(
    ("others", "wanting", "expected"),
    [
        (0.0, 0, 2),
        (0.2, 1, 2),  # a little of a core
        (1.0, 1, 1),
        (1.0, 0, 2),  # whoever used it has what it wanted
        (0.6, 1, 2),
        (5.0, 5, 1),  # at least one
    ],
)
def test_what_others_use_and_still_want_is_left_to_them(monkeypatch, others, wanting, expected):
    machine = Machine(monkeypatch)
    cores = Cores(2)
    machine.goes_on(1.0, others, wanting)
    assert cores.free() == expected


def test_what_was_seen_for_too_short_a_time_does_not_count(monkeypatch):
    machine = Machine(monkeypatch)
    cores = Cores(2)
    machine.goes_on(0.01, 1.0, 1)
    assert cores.free() == 2
    machine.goes_on(0.1, 1.0, 1)
    assert cores.free() == 1
    machine.goes_on(1.0, 0.0, 1)
    assert cores.free() == 2


def test_a_busy_program_is_seen_on_this_machine():
    cores = Cores(2)
    if cores._sample()[1] == 0.0:
        pytest.skip("the kernel does not say what others use")
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        wait_until(lambda: cores.free() == 1, 30)
    finally:
        for other in others:
            other.kill()
            other.wait()
