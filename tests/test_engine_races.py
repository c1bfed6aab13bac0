"""Two things that happen to an engine at once, forced into the order that hurts."""

import logging
import threading
import time
from concurrent.futures import CancelledError

import pytest
import torch
from helpers import Recorder, numbered, rss_inputs, wait_until
from isocenter.bundle.manifest import BundleError
from isocenter.engine import Engine, EngineError
from isocenter.engine import device as device_module
from isocenter.engine.events import Overran
from isocenter.engine.jobs import DeviceLostError
from isocenter.flow.deferred import Deferred


def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def overrun(engine):
    """Let the time of what runs be over, now."""
    engine._crew.tell(Overran("recorder", engine._crew.state.devices["recorder"].run, "it hangs"))


def is_used(engine, bundle="b"):
    try:
        return bool(engine.run(bundle, numbered(1)))
    except EngineError:
        return False


@pytest.fixture
def device():
    return Recorder()


@pytest.fixture
def engine(device):
    engine = Engine([], devices=[device])
    engine.prepare("b", {})[0].result(20)
    yield engine
    device.go.set()
    engine.close()


@pytest.fixture
def running(engine):
    future = engine.submit("b", numbered(0))
    wait_until(future.running)
    return future


@pytest.fixture
def hold(engine, monkeypatch):
    """Hold back what threads tell the machine, by its type; return the events that say that it is, and that let it go on."""
    gates = []

    def hold(kind):
        tell, reached, go_on = engine._crew.tell, threading.Event(), threading.Event()

        def held(event):
            if type(event).__name__ == kind:
                reached.set()
                go_on.wait(20)
            tell(event)

        monkeypatch.setattr(engine._crew, "tell", held)
        gates.append(go_on)
        return reached, go_on

    yield hold
    for gate in gates:
        gate.set()


class TestGivingUp:
    def test_a_job_ends_just_as_it_is_given_up(self, engine, device, running):
        """It ends after it was found running, and before anything has come of that."""

        class WaitsForTheEnd(logging.Handler):
            def emit(self, record):
                if "is suspended" in record.getMessage():
                    device.go.set()
                    engine.submit("another", numbered(1)).result(20)

        handler = WaitsForTheEnd()
        logger = logging.getLogger("isocenter.engine")
        logger.addHandler(handler)
        try:
            overrun(engine)
        finally:
            logger.removeHandler(handler)
        wait_until(lambda: is_used(engine), 5)

    def test_a_job_has_ended_and_is_given_up_before_that_is_known(self, engine, device, running, hold):
        reached, go_on = hold("Finished")
        device.go.set()
        assert reached.wait(20)
        overrun(engine)
        with pytest.raises(EngineError, match="bundle 'b': it hangs"):
            running.result(20)
        with pytest.raises(EngineError, match="bundle 'b' is suspended: it hangs"):
            engine.run("b", numbered(1))
        go_on.set()
        wait_until(lambda: not engine.suspended)
        assert engine.run("b", numbered(1))["y"].item() == 2

    def test_a_job_that_is_done_is_given_up_in_vain(self, engine, device, running):
        run = engine._crew.state.devices["recorder"].run
        device.go.set()
        running.result(20)
        engine._crew.tell(Overran("recorder", run, "it hangs"))
        assert not engine.suspended
        assert running.result(0).outputs["y"].item() == 0

    def test_nothing_runs_on_a_device_while_it_is_reset(self, engine, device, running, monkeypatch):
        resetting, go_on = threading.Event(), threading.Event()
        monkeypatch.setattr(device, "reset", lambda: (resetting.set(), go_on.wait(20)))
        overrun(engine)
        assert resetting.wait(20)
        after = engine.submit("another", numbered(1))
        device.go.set()
        wait_until(lambda: not engine.suspended)
        assert not after.running()
        go_on.set()
        assert after.result(20).outputs["y"].item() == 2

    def test_a_reset_that_fails_leaves_the_device_in_use(self, engine, device, running, monkeypatch):
        monkeypatch.setattr(device, "reset", lambda: 1 / 0)
        overrun(engine)
        device.go.set()
        assert engine.run("another", numbered(1))["y"].item() == 2


class Late(Recorder):
    """A device that takes a while for everything."""

    def __init__(self, *, seconds, **options):
        super().__init__(**options)
        self.go.set()
        self.seconds = seconds

    def compute(self, bundle, inputs):
        time.sleep(self.seconds)
        return super().compute(bundle, inputs)


class TestDeadlines:
    """They count the time in which a run goes on, and no other."""

    @pytest.fixture
    def make(self):
        engines = []

        def make(device, deadline):
            engine = Engine([], devices=[device], deadline=deadline)
            engine.prepare("b", {})[0].result(20)
            engines.append((device, engine))
            return engine

        yield make
        for device, engine in engines:
            device.go.set()
            engine.close()

    def test_waiting_for_a_turn_does_not_count(self, make):
        engine = make(Late(seconds=0.1), 0.4)
        futures = [engine.submit("b", numbered(value), scan=f"scan {value}") for value in range(12)]
        assert [future.result(20).outputs["y"].item() for future in futures] == [2.0 * value for value in range(12)]
        assert not engine.suspended

    def test_what_runs_for_too_long_is_given_up_by_itself(self, make, device):
        engine = make(device, 0.2)
        future, waiting = engine.submit("b", numbered(0)), engine.submit("another", numbered(1))
        with pytest.raises(EngineError, match=r"bundle 'b': no result after 0\.2 seconds"):
            future.result(20)
        device.go.set()
        assert waiting.result(20).outputs["y"].item() == 2
        wait_until(lambda: not engine.suspended)

    def test_a_large_job_may_take_longer_as_was_measured(self, make):
        late = Late(seconds=0.3)
        late.pace = lambda bundle: 0.01  # seconds for a byte
        engine = make(late, 0.1)
        assert engine.submit("b", numbered(1, (1, 100))).result(20).outputs["y"].shape == (1, 100)

    def test_inputs_that_take_too_long_cost_their_job_and_no_bundle(self, make, device):
        device.go.set()
        engine = make(device, 0.2)
        go_on = threading.Event()
        value = Deferred(lambda: go_on.wait(20) and torch.ones(1, 1), (1, 1))
        hanging, other = engine.submit("b", {"x": value}), engine.submit("b", numbered(1), scan="other")
        with pytest.raises(EngineError, match=r"no inputs after 0\.2 seconds"):
            hanging.result(20)
        assert other.result(20).outputs["y"].item() == 2
        assert not engine.suspended
        go_on.set()

    def test_an_input_that_was_begun_and_hangs_holds_up_nobody(self, make):
        device = Recorder("cpu")
        device.go.set()
        engine = make(device, 0.2)
        go_on = threading.Event()
        value = Deferred(lambda: go_on.wait(20) and torch.ones(1, 1), (1, 1), seconds=0.2)
        engine.begin(value)
        other = engine.submit("b", numbered(1), scan="other")
        assert other.result(20).outputs["y"].item() == 2
        with pytest.raises(EngineError, match="inputs take too long"):
            engine.submit("b", {"x": value}).result(20)
        assert not engine.suspended
        go_on.set()

    def test_a_device_that_stays_away_keeps_no_job_waiting(self, make, monkeypatch):
        monkeypatch.setattr("isocenter.engine.engine._LOAD_SECONDS", 0.1)
        lost = LostOnDemand()
        engine = make(lost, 0.1)
        future = engine.submit("b", numbered(0))
        lost.go.set()
        with pytest.raises(EngineError, match=r"recorder has been away for 0\.1 seconds"):
            future.result(20)


class TestBatches:
    """Jobs that are computed together do not share their troubles."""

    @pytest.fixture
    def engine(self):
        device = Recorder(batch=4)
        engine = Engine([], devices=[device])
        engine.prepare("b", {})[0].result(20)
        first = engine.submit("b", numbered(0, (1, 2)))
        wait_until(first.running)
        yield engine, device
        device.go.set()
        engine.close()

    def test_one_that_fails_leaves_the_others_their_results(self, engine):
        engine, device = engine
        compute = device.compute

        def fail(bundle, inputs):
            if (inputs["x"] == 2).any():
                raise ValueError("two")
            return compute(bundle, inputs)

        device.compute = fail
        futures = [engine.submit("b", numbered(value), scan=str(value)) for value in (1, 2, 3)]
        device.go.set()
        assert [future.exception(20) is None for future in futures] == [True, False, True]
        assert futures[2].result().outputs["y"].item() == 6

    def test_an_input_that_fails_is_the_failure_of_its_own_job(self, engine):
        engine, device = engine
        broken = Deferred(lambda: 1 / 0, (1, 1))
        futures = [
            engine.submit("b", {"x": value}, scan=str(i)) for i, value in enumerate((broken, *[torch.ones(1, 1)] * 2))
        ]
        device.go.set()
        assert isinstance(futures[0].exception(20), ZeroDivisionError)
        assert [future.result(20).batch for future in futures[1:]] == ["1 of 2", "2 of 2"]


class TestCancelling:
    def test_a_job_is_taken_just_as_it_is_cancelled(self, engine, device, running, hold):
        waiting = engine.submit("b", numbered(1))
        reached, go_on = hold("Cancelled")
        answers = []
        thread = in_thread(lambda: answers.append(waiting.cancel()))
        assert reached.wait(20)
        device.go.set()
        assert waiting.result(20).outputs["y"].item() == 2
        go_on.set()
        thread.join(20)
        assert answers == [False]

    def test_a_job_is_cancelled_just_as_a_device_becomes_free(self, engine, device, running, hold):
        waiting = engine.submit("b", numbered(1))
        reached, go_on = hold("Finished")
        device.go.set()
        assert reached.wait(20)
        assert waiting.cancel()
        go_on.set()
        assert engine.submit("b", numbered(2)).result(20).outputs["y"].item() == 4
        assert device.runs == [[0], [2]]


class LostOnDemand(Recorder):
    """A device that is lost while it runs."""

    def compute(self, bundle, inputs):
        self.go.wait(20)
        raise DeviceLostError("it is gone")

    def is_alive(self):
        return False


class TestClosing:
    @pytest.fixture
    def lost(self):
        """An engine whose device is lost as soon as it may go on, and a job that it runs."""
        device = LostOnDemand()
        engine = Engine([], devices=[device])
        future = engine.submit("b", numbered(0))
        wait_until(future.running)
        yield engine, device, future
        device.go.set()
        engine.close()

    def test_a_device_is_lost_just_as_the_engine_is_closed(self, lost):
        engine, device, running = lost
        engine.submit("b", numbered(1)).add_done_callback(lambda _: device.go.set())
        engine.close()
        with pytest.raises(EngineError, match="lost"):
            running.result(5)

    def test_the_engine_is_closed_just_after_a_job_was_put_back(self, lost):
        engine, device, running = lost
        device.go.set()
        wait_until(lambda: engine.waiting)
        engine.close()
        with pytest.raises(CancelledError):
            running.result(5)
        assert not any(thread.name == "engine recorder" for thread in threading.enumerate())

    def test_a_job_that_was_put_back_can_be_cancelled(self, lost):
        engine, device, running = lost
        device.go.set()
        wait_until(lambda: engine.waiting)
        running.cancel()
        with pytest.raises(CancelledError):
            running.result(5)
        assert not engine.waiting

    def test_a_bundle_is_loaded_just_as_the_engine_is_closed(self, engine, device, hold, monkeypatch):
        monkeypatch.setattr("isocenter.engine.crew._CLOSE_SECONDS", 0.05)
        reached, go_on = hold("Loaded")
        waiting = engine.submit("another", numbered(1))
        assert reached.wait(20)
        assert not engine.close(), "a thread is still there, and whoever ends the process must know"
        with pytest.raises(CancelledError):
            waiting.result(5)
        go_on.set()
        wait_until(lambda: not any(thread.name.startswith("load") for thread in threading.enumerate()))
        assert device.runs == []

    def test_a_job_is_submitted_just_as_the_engine_is_closed(self, engine, hold):
        reached, go_on = hold("Submitted")
        futures = []
        thread = in_thread(lambda: futures.append(engine.submit("b", numbered(1))))
        assert reached.wait(20)
        engine.close()
        go_on.set()
        thread.join(20)
        with pytest.raises(EngineError, match="closed"):
            futures[0].result(5)

    def test_what_does_not_end_is_answered_all_the_same(self, engine, device, running, monkeypatch):
        monkeypatch.setattr("isocenter.engine.crew._CLOSE_SECONDS", 0.05)
        engine.close()
        with pytest.raises(EngineError, match="closed before it was done"):
            running.result(0)


class Refusing:
    """Loads nothing, and keeps what it has raised."""

    def __init__(self):
        self.errors = []

    def __call__(self, bundle):
        self.errors.append(BundleError(f"{bundle} is damaged"))
        raise self.errors[-1]


class TestLoading:
    @pytest.fixture
    def loads(self, device, monkeypatch):
        """Bundles that hang while they are loaded, and what lets them go on; with the names of all that were begun."""
        begun, hanging = [], {"hangs": threading.Event()}

        def load(bundle):
            begun.append(bundle)
            if bundle in hanging:
                hanging[bundle].wait(20)

        monkeypatch.setattr(device, "load", load)
        yield begun, hanging
        for event in hanging.values():
            event.set()

    def test_a_bundle_that_hangs_while_it_is_loaded_holds_up_no_other(self, bundles, monkeypatch):
        begun, go_on = threading.Event(), threading.Event()
        make = device_module.LoadedModel

        def hang(bundle, *arguments):
            if bundle.manifest.name == "sense":
                begun.set()
                go_on.wait(30)
            return make(bundle, *arguments)

        monkeypatch.setattr(device_module, "LoadedModel", hang)
        engine = Engine([bundles])
        inputs = rss_inputs()
        expected = engine.run("rss", inputs)["image"]
        hanging = engine.submit("sense", inputs)
        try:
            assert begun.wait(20)
            assert torch.equal(engine.submit("rss", inputs).result(5).outputs["image"], expected)
            hanging.cancel()
            assert torch.equal(engine.submit("rss", inputs).result(5).outputs["image"], expected)
        finally:
            go_on.set()
            engine.close()

    def test_preloading_goes_one_by_one_and_a_bundle_that_hangs_does_not_hold_it_up_for_good(
        self, device, loads, monkeypatch
    ):
        monkeypatch.setattr("isocenter.engine.engine._LOAD_SECONDS", 0.05)
        begun, hanging = loads
        device.go.set()
        engine = Engine([], devices=[device], deadline=0.05)
        engine.preload(["hangs", "next", "last"])
        assert engine.run("needed", numbered(1))["y"].item() == 2
        wait_until(lambda: "last" in begun)
        assert sorted(begun) == ["hangs", "last", "needed", "next"]
        reason = r"'hangs' was not loaded on recorder within 0\.05 seconds; it is still being loaded, and is used for"
        with pytest.raises(EngineError, match=reason):
            engine.submit("hangs", numbered(1)).result(20)
        patient = engine.submit("hangs", numbered(1), patient=True)
        hanging["hangs"].set()
        assert patient.result(20).outputs["y"].item() == 2
        wait_until(lambda: is_used(engine, "hangs"))
        engine.close()

    def test_what_is_loaded_in_the_background_does_not_wait_for_one_that_hangs(self, device, loads, monkeypatch):
        """Nor is that one refused so early: somebody may wait for it."""
        monkeypatch.setattr("isocenter.engine.crew._SLOW_SECONDS", 0.05)
        begun, hanging = loads
        device.go.set()
        engine = Engine([], devices=[device])
        engine.preload(["hangs", "next", "last"])
        wait_until(lambda: "last" in begun, 5)
        waiting = engine.submit("hangs", numbered(1))
        hanging["hangs"].set()
        assert waiting.result(20).outputs["y"].item() == 2
        engine.close()

    def test_a_job_that_waits_for_a_bundle_can_be_cancelled_and_nothing_is_suspended(self, engine, device, loads):
        device.go.set()
        waiting = engine.submit("hangs", numbered(1))
        assert waiting.cancel()
        with pytest.raises(CancelledError):
            waiting.result(5)
        assert not engine.suspended
        loads[1]["hangs"].set()
        assert engine.run("hangs", numbered(1))["y"].item() == 2

    def test_each_job_gets_an_error_of_its_own_from_a_bundle_that_cannot_be_loaded(self, engine, device, monkeypatch):
        monkeypatch.setattr(device, "load", lambda bundle: 1 / 0)
        first, second = (engine.submit("broken", numbered(value)).exception(20) for value in range(2))
        for error in (first, second):
            assert "bundle 'broken' cannot be loaded on recorder: ZeroDivisionError" in str(error)
            assert "division by zero" not in str(error)
            assert isinstance(error, EngineError)
        monkeypatch.setattr(device, "load", refuse := Refusing())
        first, second = (engine.submit("damaged", numbered(value)).exception(20) for value in range(2))
        assert type(first) is type(second) is BundleError
        assert len({first, second, *refuse.errors}) == 2 + len(refuse.errors)

    def test_a_device_that_is_lost_while_it_loads_leaves_the_job_to_another_one(self, device):
        def fail(bundle):
            raise DeviceLostError("it is gone")

        lost = LostOnDemand("lost")
        lost.load = fail
        device.go.set()
        engine = Engine([], devices=[lost, device])
        assert engine.submit("b", numbered(1)).result(20).device == "recorder"
        engine.close()

    def test_a_device_that_was_lost_while_it_loaded_does_the_job_when_it_is_back(self, device, monkeypatch):
        attempts = iter([DeviceLostError("it is gone"), None])

        def load(bundle):
            if error := next(attempts):
                raise error

        monkeypatch.setattr(device, "load", load)
        device.go.set()
        engine = Engine([], devices=[device])
        assert engine.run("b", numbered(1))["y"].item() == 2
        engine.close()


def test_a_bundle_that_two_threads_want_at_once_is_loaded_once(bundles, monkeypatch):
    made, begun, go_on = [], threading.Event(), threading.Event()

    def make(bundle, *arguments):
        made.append(bundle.manifest.name)
        begun.set()
        go_on.wait(20)
        return object()

    monkeypatch.setattr(device_module, "LoadedModel", make)
    device = device_module.LocalDevice("cpu", device_module.Shelf([bundles]))
    got = []
    threads = [in_thread(lambda: got.append(device.load("rss"))) for _ in range(2)]
    assert begun.wait(20)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert made == ["rss"]
    assert got[0] is got[1]


def test_a_bundle_that_could_not_be_loaded_is_tried_again(bundles, monkeypatch):
    attempts = iter([RuntimeError("no memory"), None])

    def make(bundle, *arguments):
        if error := next(attempts):
            raise error
        return "model"

    monkeypatch.setattr(device_module, "LoadedModel", make)
    device = device_module.LocalDevice("cpu", device_module.Shelf([bundles]))
    with pytest.raises(RuntimeError, match="no memory"):
        device.load("rss")
    assert device.load("rss") == "model"


def test_a_program_that_ends_within_a_run_ends_nothing_but_its_job(engine, device, monkeypatch):
    def leave(bundle, inputs):
        raise SystemExit(1)

    compute = device.compute
    monkeypatch.setattr(device, "compute", leave)
    with pytest.raises(EngineError, match="SystemExit"):
        engine.run("b", numbered(1))
    monkeypatch.setattr(device, "compute", compute)
    device.go.set()
    assert engine.run("b", numbered(1))["y"].item() == 2


def test_two_devices_of_one_name_are_refused():
    with pytest.raises(EngineError, match="named twice: cpu, cpu"):
        Engine([], devices=["cpu", "cpu"])
