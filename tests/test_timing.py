"""What a session counts, with a clock that goes on only where somebody works."""

from types import SimpleNamespace

import ismrmrd
import numpy as np
import pytest
from helpers import random_acquisition
from isocenter.gadgets.early import EarlyWork
from isocenter.gadgets.gadget import FromChain, gadget
from isocenter.pipelines.loader import GadgetStep
from isocenter.service import timing
from isocenter.service.timing import Timing
from isocenter.wire.items import ImageHeader, make_image


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def image():
    return make_image(np.ones((1, 1, 2, 2), np.float32), ImageHeader())


def test_a_stage_is_the_time_of_its_gadget_without_that_of_those_before_it(clock):
    def source():
        for item in range(3):
            clock.now += 10
            yield item

    @gadget
    def doubled(items, scan, *, pause: int = 1):
        """Give every item twice."""
        for item in items:
            clock.now += pause
            yield item
            clock.now += pause / 2
            yield item

    @gadget
    def passed(items, scan):
        """Give every item once."""
        for item in items:
            clock.now += 0.25
            yield item

    times = Timing()
    first = times.timed(GadgetStep(doubled, {"pause": 2}), source(), None, {})
    second = times.timed(GadgetStep(passed, {}), first, None, {})
    assert list(second) == [0, 0, 1, 1, 2, 2]
    assert dict(times.stages) == {"doubled": 9.0, "passed": 1.5}


def test_a_gadget_that_waits_has_no_time_of_its_own(clock):
    @gadget(waits=True)
    def waiting(items, scan):
        """Wait."""
        for item in items:
            clock.now += 1
            yield item

    times = Timing()
    assert list(times.timed(GadgetStep(waiting, {}), iter([1, 2]), None, {})) == [1, 2]
    assert not times.stages


def test_a_gadget_gets_what_its_chain_shares_and_no_more():
    from typing import Annotated

    given = []

    @gadget
    def sharing(items, scan, *, early: Annotated[EarlyWork | None, FromChain] = None, other: int = 3):
        """Note what is given."""
        given.append((scan, early, other))
        yield from items

    context = {"early": EarlyWork(crop=True), "other": 4, "begin_maps": True}
    assert list(Timing().timed(GadgetStep(sharing, {}), iter([1]), "scan", context)) == [1]
    assert list(Timing().timed(GadgetStep(sharing, {"other": 5}), iter([1]), "scan", {})) == [1]
    assert given == [("scan", EarlyWork(crop=True), 3), ("scan", None, 5)]


def test_figures_count_and_measure_from_the_last_readout_to_the_first_image(clock):
    times = Timing()
    assert times.figures() == {"seconds": 0.0}
    for item in (random_acquisition(), ismrmrd.Waveform.from_array(np.ones((1, 2), np.uint32)), random_acquisition()):
        clock.now += 1
        times.received(item)
    assert times.figures() == {"acquisitions": 2, "seconds": 3.0}
    times.stages["finish"] = 0.0125
    clock.now += 0.5
    times.sent(random_acquisition())
    for _ in range(2):
        clock.now += 0.5
        times.sent(image())
    times.left(random_acquisition())
    assert times.figures() == {
        "acquisitions": 2,
        "images": 2,
        "not sent": 1,
        "seconds": 4.5,
        "last_readout_to_first_image_ms": 1000.0,
        "stages_ms": {"finish": 12.5},
    }
