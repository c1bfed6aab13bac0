import gc
import threading
import weakref
from contextlib import suppress

import pytest
import torch
from helpers import Recorder, numbered, rss_inputs, wait_until
from isocenter.flow.deferred import Deferred, settled


def test_it_is_computed_once_for_all_threads():
    calls = []
    begun, go = threading.Event(), threading.Event()

    def compute():
        calls.append(threading.current_thread())
        begun.set()
        go.wait(20)
        return torch.arange(3.0)

    value = Deferred(compute, (3,))
    first = threading.Thread(target=value.start)
    first.start()
    assert begun.wait(20)
    got = []
    others = [threading.Thread(target=lambda: got.append(value.get())) for _ in range(3)]
    for thread in others:
        thread.start()
    assert not got
    go.set()
    for thread in (first, *others):
        thread.join(20)
    assert calls == [first]
    assert all(tensor is got[0] for tensor in got)
    assert torch.equal(got[0], torch.arange(3.0))


def test_two_threads_that_start_it_at_once_compute_it_once():
    """Both find it not begun, if they can: each waits for the other before it goes on."""
    both = threading.Barrier(2)
    calls = []

    class Watched(Deferred):
        @property
        def _compute(self):
            compute = vars(self)["compute"]
            if compute is not None:
                with suppress(threading.BrokenBarrierError):
                    both.wait(0.5)
            return compute

        @_compute.setter
        def _compute(self, compute):
            vars(self)["compute"] = compute

    value = Watched(lambda: calls.append(1) or torch.ones(1), (1,))
    threads = [threading.Thread(target=value.start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert calls == [1]


def test_what_went_wrong_is_raised_by_whoever_asks():
    def compute():
        raise ValueError("no signal")

    value = Deferred(compute, (3,))
    value.start()
    for _ in range(2):
        with pytest.raises(ValueError, match="no signal"):
            value.get()


def test_inputs_are_settled():
    here, later = torch.ones(2), torch.zeros(2)
    inputs = settled({"here": here, "later": Deferred.known(later)})
    assert inputs["here"] is here
    assert inputs["later"] is later


class TestBegin:
    """Inputs that are computed before there is a job for them."""

    def test_the_thread_with_all_cores_computes_it(self, make_engine):
        engine = make_engine()
        threads = []
        value = Deferred(lambda: threads.append(threading.current_thread().name) or torch.ones(1), (1,))
        engine.begin(value)
        wait_until(lambda: threads)
        assert threads == ["engine cpu"]

    def test_without_a_processor_of_its_own_whoever_begins_computes_it(self, make_engine):
        engine = make_engine(devices=[Recorder()])
        threads = []
        engine.begin(Deferred(lambda: threads.append(threading.current_thread()) or torch.ones(1), (1,)))
        assert threads == [threading.current_thread()]

    def test_a_job_computes_what_was_not_begun(self, make_engine):
        inputs = rss_inputs()
        engine = make_engine()
        expected = engine.run("rss", inputs)["image"]
        later = {"kspace": Deferred.known(inputs["kspace"])}
        assert torch.equal(engine.run("rss", later)["image"], expected)

    def test_what_goes_wrong_in_an_input_is_the_failure_of_its_job(self, make_engine):
        def fail():
            raise ValueError("no signal")

        inputs = {"kspace": Deferred(fail, tuple(rss_inputs()["kspace"].shape))}
        with pytest.raises(ValueError, match="no signal"):
            make_engine().run("rss", inputs)

    def test_what_nobody_wants_any_more_is_not_computed(self, make_engine):
        device = Recorder("cpu")
        engine = make_engine(devices=[device])
        made = []
        engine.submit("x", numbered(1))
        value = Deferred(lambda: made.append(1) or torch.ones(1), (1,))
        engine.begin(value)
        del value
        last = engine.submit("x", numbered(2))
        device.go.set()
        last.result(20)
        assert not made


def test_nothing_keeps_the_inputs_of_a_finished_job(make_engine):
    engine = make_engine()
    inputs = rss_inputs()
    kspace = weakref.ref(inputs["kspace"])
    gc.disable()
    try:
        future = engine.submit("rss", inputs)
        future.result(60)
        del inputs
        wait_until(lambda: kspace() is None)
    finally:
        gc.enable()
