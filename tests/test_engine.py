import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import Recorder, numbered, rss_inputs, wait_until
from isocenter.bundle.folder import Bundle, relative_error, sha256
from isocenter.bundle.manifest import MEASURED, BundleError, TensorSpec
from isocenter.commands.cli import app
from isocenter.engine import Engine, EngineError, LoadedModel, choice
from isocenter.engine import commission as commission_module
from isocenter.engine.commission import commission
from isocenter.engine.jobs import DeviceLostError
from isocenter.engine.runtimes import RUNTIMES
from isocenter.engine.torchscript import ChannelsLastRuntime
from isocenter.export.cases import make_case
from isocenter.flow.ledger import Ledger
from isocenter.wire.errors import IsocenterError
from typer.testing import CliRunner

CPU = torch.device("cpu")


@pytest.fixture
def make_engine(make_engine, faulty_bundles):
    return partial(make_engine, faulty_bundles)


@pytest.fixture
def busy():
    """Other programs on every core."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * os.cpu_count())]
    yield
    for program in programs:
        program.kill()
        program.wait()


class TestQueue:
    def test_scans_take_turns_by_time(self):
        device = Recorder()
        engine = Engine([], devices=[device])
        first = engine.submit("b", numbered(0), scan="a")
        wait_until(first.running)
        futures = [engine.submit("b", numbered(value), scan=scan) for scan, value in (("a", 1), ("a", 2), ("a", 3))]
        futures += [engine.submit("b", numbered(value), scan="b") for value in (11, 12)]
        futures.append(engine.submit("b", numbered(99), scan="a", urgent=True))
        device.go.set()
        results = [float(future.result(20).outputs["y"]) for future in futures]
        engine.close()
        assert results == [2, 4, 6, 22, 24, 198]
        assert device.runs == [
            [0],
            [11],
            [12],
            [99],
            [1],
            [2],
            [3],
        ]  # the first job of a has taken longer than all of b

    def test_like_slices_that_wait_are_computed_together(self):
        device = Recorder(batch=4)
        engine = Engine([], devices=[device])
        for bundle in ("b", "another"):
            engine.prepare(bundle, {})[0].result(20)
        first = engine.submit("b", numbered(0))
        wait_until(first.running)
        wide = engine.submit("b", numbered(7, (1, 2)), scan="a")
        like = [engine.submit("b", numbered(value), scan=scan) for value, scan in ((1, "a"), (2, "c"), (3, "c"))]
        other = engine.submit("another", numbered(4), scan="a")
        pair = engine.submit("b", numbered(5, (2, 1)), scan="d")
        device.go.set()
        assert [float(future.result(20).outputs["y"]) for future in like] == [2, 4, 6]
        assert wide.result(20).outputs["y"].shape == (1, 2)
        assert other.result(20).outputs["y"].item() == 8
        assert pair.result(20).outputs["y"].shape == (2, 1)
        engine.close()
        assert device.runs == [[0], [7, 7], [2, 3, 5, 5], [1], [4]]

    def test_what_is_cancelled_is_never_run(self):
        device = Recorder()
        engine = Engine([], devices=[device])
        first = engine.submit("b", numbered(0), scan="a")
        wait_until(first.running)
        waiting = engine.submit("b", numbered(1), scan="a")
        assert waiting.cancel()
        assert not first.cancel()
        last = engine.submit("b", numbered(2), scan="a")
        device.go.set()
        assert last.result(20).outputs["y"].item() == 4
        engine.close()
        assert device.runs == [[0], [2]]

    def test_closing_cancels_what_waits(self):
        device = Recorder()
        engine = Engine([], devices=[device])
        running = engine.submit("b", numbered(0))
        wait_until(running.running)
        waiting = engine.submit("b", numbered(1))
        waiting.add_done_callback(lambda _: device.go.set())
        engine.close()
        assert running.result(20).outputs["y"].item() == 0
        with pytest.raises(CancelledError):
            waiting.result(20)
        with pytest.raises(EngineError, match="closed"):
            engine.submit("b", numbered(2))

    def test_a_device_that_is_lost_leaves_its_job_to_the_others(self):
        lost, healthy = Recorder("lost"), Recorder("healthy")

        def fail(bundle, inputs):
            healthy.go.set()
            raise DeviceLostError("it is gone")

        lost.compute, lost.is_alive = fail, lambda: False
        engine = Engine([], devices=[lost, healthy])
        futures = [engine.submit("b", numbered(value)) for value in range(4)]
        assert [future.result(20).device for future in futures] == ["healthy"] * 4
        engine.close()

    def test_a_second_device_works_along(self):
        devices = [Recorder("one"), Recorder("two")]
        engine = Engine([], devices=devices)
        futures = [engine.submit("b", numbered(value)) for value in range(2)]
        wait_until(lambda: all(future.running() for future in futures))
        for device in devices:
            device.go.set()
        assert {future.result(20).device for future in futures} == {"one", "two"}
        engine.close()


class TestRoom:
    """What waits is charged to an account of the scan; a float takes four bytes."""

    @pytest.fixture
    def device(self):
        return Recorder()

    @pytest.fixture
    def engine(self, device):
        engine = Engine([], devices=[device])
        wait_until(engine.submit("b", numbered(0)).running)
        yield engine
        device.go.set()
        engine.close()

    @pytest.fixture
    def submit_in_thread(self, engine):
        """Submit a job that finds no room; return the event that says that it is queued, and what is said otherwise."""

        def submit(account, value):
            queued, errors = threading.Event(), []

            def put():
                try:
                    engine.submit("b", numbered(value), account=account)
                    queued.set()
                except EngineError as error:
                    errors.append(error)

            thread = threading.Thread(target=put, daemon=True)
            thread.start()
            wait_until(lambda: engine._crew._charging)
            return thread, queued, errors

        return submit

    def test_a_scan_with_too_much_waiting_is_held_back_alone(self, engine, device, submit_in_thread):
        account, other = Ledger(8).account("a"), Ledger(8).account("b")
        for value in (1, 2):
            engine.submit("b", numbered(value), scan="a", account=account)
        thread, queued, _ = submit_in_thread(account, 3)
        engine.submit("b", numbered(4), scan="b", account=other)
        assert (account.waiting, other.waiting, engine.waiting) == (8, 4, 3)
        assert not queued.is_set()
        device.go.set()
        thread.join(20)
        assert queued.is_set()
        wait_until(lambda: not engine.waiting)
        wait_until(lambda: account.ledger.held == other.ledger.held == 0)

    def test_what_is_cancelled_makes_room(self, engine, submit_in_thread):
        account = Ledger(4).account("a")
        waiting = engine.submit("b", numbered(1), account=account)
        thread, queued, _ = submit_in_thread(account, 2)
        assert not queued.is_set()
        waiting.cancel()
        thread.join(20)
        assert queued.is_set()
        assert account.waiting == 4

    def test_a_job_larger_than_all_room_is_taken_when_nothing_waits(self, engine):
        account = Ledger(4).account("a")
        engine.submit("b", numbered(1, (1, 100)), account=account)
        assert account.waiting == 400

    def test_urgent_jobs_wait_for_no_room_and_are_counted(self, engine, device):
        account = Ledger(4).account("a")
        engine.submit("b", numbered(1), account=account)
        last = engine.submit("b", numbered(2), account=account, urgent=True)
        assert account.ledger.waiting == 8
        device.go.set()
        last.result(20)
        wait_until(lambda: not account.ledger.held)

    def test_closing_ends_the_wait_for_room(self, engine, device, submit_in_thread):
        account = Ledger(4).account("a")
        account.charge(4)  # by somebody who gives nothing back
        thread, _, errors = submit_in_thread(account, 2)
        device.go.set()
        engine.close()
        thread.join(20)
        assert "closed" in str(errors[0])
        assert account.ledger.held == 4

    def test_a_job_that_runs_takes_no_room(self):
        account = Ledger(4).account("a")
        device = Recorder()
        engine = Engine([], devices=[device])
        wait_until(engine.submit("b", numbered(0), account=account).running)
        wait_until(lambda: not account.ledger.held, 5)
        device.go.set()
        engine.close()

    def test_a_job_that_is_refused_gives_its_room_back(self, engine):
        account = Ledger(4).account("a")
        broken = Recorder("broken")
        broken.load = lambda bundle: (_ for _ in ()).throw(EngineError("it cannot be loaded"))
        other = Engine([], devices=[broken])
        with pytest.raises(EngineError, match="cannot be loaded"):
            other.submit("b", numbered(1), account=account).result(20)
        wait_until(lambda: not account.ledger.held)
        other.close()


class TestModels:
    def test_it_runs_in_the_background(self, engine):
        inputs = rss_inputs()
        result = engine.submit("rss", inputs).result(timeout=30)
        assert torch.equal(result.outputs["image"], engine.run("rss", inputs)["image"])
        assert result.device == "cpu"
        assert result.runtime in ("onnx", "torchscript")

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_preparing_runs_the_announced_sizes_once_where_that_pays_and_else_the_probe(
        self, make_engine, monkeypatch, device
    ):
        engine = make_engine()
        sizes = {"batch": 1, "coils": 3, "kz": 1, "ky": 24, "kx": 20}
        model = engine.devices[0].load("rss")
        shapes = []
        infer = model._infer
        monkeypatch.setattr(model, "device", torch.device(device))
        monkeypatch.setattr(
            model, "_infer", lambda inputs: shapes.append(tuple(inputs["kspace"].shape)) or infer(inputs)
        )
        for future in (*engine.prepare("rss", sizes), *engine.prepare("rss", sizes)):
            future.result(timeout=30)
        probe = tuple(model.bundle.probe()[0]["kspace"].shape)
        assert shapes == [probe if device == "cpu" else (1, 3, 1, 24, 20, 2)]

    def test_sizes_that_a_header_only_claims_are_not_warmed_up(self, make_engine, monkeypatch):
        model = make_engine().devices[0].load("rss")
        monkeypatch.setattr(model, "device", torch.device("cuda"))
        monkeypatch.setattr(model, "zeros", lambda sizes: pytest.fail("memory is taken"))
        model.prepare({"batch": 1, "coils": 64, "kz": 512, "ky": 4096, "kx": 4096})

    def test_a_runtime_can_be_pinned(self, bundles_with_onnx):
        assert LoadedModel(Bundle.open(bundles_with_onnx / "rss"), CPU, "onnx").runtime == "onnx"
        with pytest.raises(IsocenterError, match="no model file for runtime 'aoti'"):
            LoadedModel(Bundle.open(bundles_with_onnx / "rss"), CPU, "aoti")
        with pytest.raises(IsocenterError, match="TensorRT needs a CUDA device"):
            LoadedModel(Bundle.open(bundles_with_onnx / "rss"), CPU, "tensorrt")

    def test_channels_last_is_one_more_runtime_where_there_are_convolutions(self, bundles):
        bundle = Bundle.open(bundles / "varnet-brain")
        runtimes = commission(bundle, CPU)
        inputs = make_case(bundle.manifest.inputs, {"batch": 1, "coils": 3, "ky": 50, "kx": 44}, phantom=True)
        expected = runtimes["torchscript"].infer(inputs)
        assert relative_error(runtimes["torchscript-nhwc"].infer(inputs), expected) < 1e-5
        assert "torchscript-nhwc" not in commission(Bundle.open(bundles / "rss"), CPU)

    def test_convolutions_over_time_are_put_into_channels_last_as_well(self, tmp_path):
        convolution = torch.nn.Conv3d(2, 4, 3).eval()
        torch.jit.script(convolution).save(str(tmp_path / "model.ts"))
        spec = TensorSpec(name="x", axes=("batch", "2", "frames", "ky", "kx"))
        manifest = SimpleNamespace(inputs=(spec,), outputs=(spec,), files={})
        runtime = ChannelsLastRuntime(tmp_path / "model.ts", manifest, CPU)
        x = torch.randn(1, 2, 5, 8, 9)
        assert torch.allclose(runtime.infer({"x": x})["x"], convolution(x), atol=1e-5)

    def test_what_was_measured_is_remembered_beside_the_bundle(self, bundles_with_onnx, tmp_path, monkeypatch):
        monkeypatch.setattr(choice, "_waiting_seconds", lambda: 0.0)
        folder = shutil.copytree(bundles_with_onnx / "rss", tmp_path / "rss")
        (folder / MEASURED).unlink(missing_ok=True)
        first = LoadedModel(Bundle.open(folder), CPU)
        content = json.loads((folder / MEASURED).read_text())
        (entry,) = content.values()
        assert set(entry["milliseconds"]) == {"onnx", "torchscript"}
        assert entry["runtime"] == first.runtime
        other = "onnx" if first.runtime == "torchscript" else "torchscript"
        entry["runtime"] = other
        (folder / MEASURED).write_text(json.dumps(content))
        assert LoadedModel(Bundle.open(folder), CPU).runtime == other
        (folder / MEASURED).write_text("no json")
        assert LoadedModel(Bundle.open(folder), CPU).runtime in ("onnx", "torchscript")

    def test_what_was_measured_holds_for_the_files_that_were_measured(self, bundles, tmp_path):
        folder = shutil.copytree(bundles / "rss", tmp_path / "rss")
        measured = choice.Choice(
            runtime="torchscript", milliseconds={"torchscript": 1.0}, batch=1, pace=0.0, waited=0.0
        )
        choice.remember(Bundle.open(folder), CPU, measured)
        assert choice.recall(Bundle.open(folder), CPU) == measured
        for path in (bundles / "sense").iterdir():
            if path.name != MEASURED:
                shutil.copy(path, folder)
        assert choice.recall(Bundle.open(folder), CPU) is None
        shutil.copytree(bundles / "rss", folder, ignore=shutil.ignore_patterns(MEASURED), dirs_exist_ok=True)
        assert choice.recall(Bundle.open(folder), CPU) == measured

    def test_what_was_measured_on_a_busy_machine_is_used_and_not_remembered(
        self, bundles_with_onnx, tmp_path, busy, caplog
    ):
        folder = shutil.copytree(bundles_with_onnx / "rss", tmp_path / "rss")
        (folder / MEASURED).unlink(missing_ok=True)
        assert LoadedModel(Bundle.open(folder), CPU).runtime in ("onnx", "torchscript")
        assert not (folder / MEASURED).exists()
        assert "other programs kept the processor busy" in caplog.text

    @pytest.mark.parametrize(
        ("device", "entry_seconds", "expected"), [("cuda", 0.0, 4), ("cuda", 0.02, 1), ("cpu", 0.0, 1)]
    )
    def test_slices_are_computed_together_where_that_saves_time(self, device, entry_seconds, expected):
        class Takes:
            def infer(self, inputs):
                time.sleep(0.002 + entry_seconds * inputs["x"].shape[0])

        assert choice.choose({"takes": Takes()}, numbered(0), torch.device(device)).batch == expected

    def test_the_command_measures_and_the_engine_follows(self, bundles, tmp_path):
        folder = shutil.copytree(bundles / "rss", tmp_path / "rss")
        (folder / MEASURED).unlink(missing_ok=True)
        result = CliRunner().invoke(app, ["bundle", "bench", str(folder), "--matrix", "48x40x3", "--repetitions", "1"])
        assert result.exit_code == 0, result.output
        (entry,) = json.loads((folder / MEASURED).read_text()).values()
        assert f"the service will use {entry['runtime']} here" in result.output
        assert LoadedModel(Bundle.open(folder), CPU).runtime == entry["runtime"]

    @pytest.mark.parametrize(("name", "runtime"), [("modl-brain", "torchscript"), ("sense", "onnx")])
    def test_slices_together_equal_slices_alone(self, bundles, bundles_with_onnx, name, runtime):
        folder = bundles_with_onnx if runtime == "onnx" else bundles
        model = LoadedModel(Bundle.open(folder / name), CPU, runtime)
        case = {"coils": 4, "ky": 48, "kx": 40}
        inputs = [make_case(model.manifest.inputs, case, acs=acs, spacing=3) for acs in (8, 12)]
        together = model.infer({name: torch.cat([each[name] for each in inputs]) for name in inputs[0]})["image"]
        for index, each in enumerate(inputs):
            alone = model.infer(each)["image"][0]
            assert (together[index] - alone).abs().max() < 1e-5 * alone.abs().max()

    def test_a_batch_without_memory_is_split(self, faulty_bundles):
        model = LoadedModel(Bundle.open(faulty_bundles / "NeedsMemory"), CPU)
        kspace = torch.rand(5, 3, 8, 6, 2)
        expected = kspace.square().sum((1, 4)).sqrt()
        assert torch.allclose(model.infer({"kspace": kspace})["image"], expected)


class Hanging(ChannelsLastRuntime):
    def infer(self, inputs):
        threading.Event().wait()


class Wrong(ChannelsLastRuntime):
    def infer(self, inputs):
        return {name: 2 * tensor for name, tensor in super().infer(inputs).items()}


class FailsInUse(ChannelsLastRuntime):
    """Reproduces the probe, and is the fastest: as long as inputs are as weak as those are."""

    def infer(self, inputs):
        if inputs["kspace"].abs().max() > 100:
            raise RuntimeError("a text of its own")
        return super().infer(inputs)


class TestSecondRuntime:
    """One that is broken costs only itself."""

    @pytest.fixture
    def bundle(self, faulty_bundles, tmp_path):
        folder = shutil.copytree(faulty_bundles / "Convolves", tmp_path / "Convolves")
        (folder / MEASURED).unlink(missing_ok=True)
        return Bundle.open(folder)

    def inputs(self, bundle, scale=1.0):
        inputs = make_case(bundle.manifest.inputs, {"batch": 1, "coils": 3, "ky": 50, "kx": 44}, phantom=True)
        return inputs | {"kspace": scale * inputs["kspace"]}

    @pytest.mark.parametrize(
        ("runtime", "reason"),
        [
            (Hanging, "it did not come back within 2 seconds"),
            (Wrong, "the probe deviates by"),
            (None, "it cannot be run here (TypeError)"),
        ],
    )
    def test_the_other_one_is_used_and_the_log_says_so(self, bundle, monkeypatch, caplog, runtime, reason):
        monkeypatch.setattr(commission_module, "_SECONDS", 2.0 if runtime is Hanging else 60.0)
        monkeypatch.setitem(RUNTIMES, "torchscript-nhwc", runtime)
        model = LoadedModel(bundle, CPU)
        assert model.runtime == "torchscript"
        assert model.compute(self.inputs(bundle)).runtime == "torchscript"
        assert f"bundle Convolves is used without a runtime, torchscript-nhwc: {reason}" in caplog.text
        if runtime is None:  # what a program raised itself is told as well
            told = next(each for each in caplog.records if "cannot be run here: 'NoneType'" in each.getMessage())
            assert told.getMessage().startswith("bundle Convolves: torchscript-nhwc cannot be run here: ")
            assert told.levelname == "WARNING"
            assert told.exc_info

    def test_the_last_one_is_not_waited_for_without_end(self, bundle, monkeypatch):
        monkeypatch.setattr(commission_module, "_SECONDS", 0.1)
        monkeypatch.setattr(commission_module, "_LAST_SECONDS", 0.1)
        monkeypatch.setitem(RUNTIMES, "torchscript-nhwc", Hanging)
        with pytest.raises(BundleError, match=r"torchscript-nhwc: it did not come back within 0\.2 seconds"):
            commission(bundle, CPU, "torchscript-nhwc")

    def test_the_last_one_may_take_its_time(self, bundle, monkeypatch):
        monkeypatch.setattr(commission_module, "_SECONDS", 0.0)
        assert list(commission(bundle, CPU, "torchscript")) == ["torchscript"]

    def test_what_is_wrong_with_the_last_one_is_said_however_late_it_is(self, bundle, monkeypatch):
        monkeypatch.setattr(commission_module, "_SECONDS", 0.0)
        monkeypatch.setitem(RUNTIMES, "torchscript-nhwc", Wrong)
        with pytest.raises(BundleError, match="the probe deviates by"):
            commission(bundle, CPU, "torchscript-nhwc")

    def test_those_that_are_all_slow_on_inputs_of_the_usual_size_are_waited_for(self, bundle, monkeypatch):
        monkeypatch.setattr(commission_module, "_SECONDS", 0.0)
        assert LoadedModel(bundle, CPU).runtime in ("torchscript", "torchscript-nhwc")

    def test_a_file_that_no_program_can_read(self, bundles_with_onnx, tmp_path, caplog):
        folder = shutil.copytree(bundles_with_onnx / "rss", tmp_path / "rss")
        (folder / MEASURED).unlink(missing_ok=True)
        manifest = yaml.safe_load((folder / "model.yaml").read_text())
        (folder / "model.onnx").write_bytes(b"no graph")
        manifest["files"]["model.onnx"] = sha256(folder / "model.onnx")
        (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
        assert LoadedModel(Bundle.open(folder), CPU).runtime == "torchscript"
        assert "is used without a runtime, onnx" in caplog.text

    def test_a_job_on_which_the_fastest_one_fails_is_computed_by_another(self, bundle, monkeypatch, caplog):
        monkeypatch.setitem(RUNTIMES, "torchscript-nhwc", FailsInUse)
        measured = choice.Choice(runtime="torchscript-nhwc", milliseconds={}, batch=1, pace=0.0, waited=0.0)
        choice.remember(bundle, CPU, measured)
        model = LoadedModel(bundle, CPU)
        strong = self.inputs(bundle, 1e9)
        for _ in range(2):
            result = model.compute(strong)
            assert result.runtime == "torchscript"
            assert torch.equal(
                result.outputs["image"], commission(bundle, CPU, "torchscript")["torchscript"].infer(strong)["image"]
            )
        assert model.compute(self.inputs(bundle)).runtime == "torchscript-nhwc"
        assert "torchscript-nhwc failed on a job that torchscript computed" in caplog.text
        assert "a text of its own" not in caplog.text

    def test_a_job_on_which_all_fail_says_what_the_first_one_says(self, faulty_bundles):
        model = LoadedModel(Bundle.open(faulty_bundles / "Raises"), CPU)
        with pytest.raises(Exception, match="too strong"):
            model.compute({"kspace": torch.full((1, 2, 8, 8, 2), 200.0)})

    def test_what_is_pinned_is_not_replaced(self, bundle, monkeypatch):
        monkeypatch.setitem(RUNTIMES, "torchscript-nhwc", FailsInUse)
        with pytest.raises(RuntimeError):
            LoadedModel(bundle, CPU, "torchscript-nhwc").compute(self.inputs(bundle, 1e9))


def test_a_batch_that_is_split_says_so(faulty_bundles):
    model = LoadedModel(Bundle.open(faulty_bundles / "NeedsMemory"), CPU)
    assert model.compute({"kspace": torch.rand(1, 3, 8, 6, 2)}).batch == "1 of 1"
    assert model.compute({"kspace": torch.rand(5, 3, 8, 6, 2)}).batch == "1-5 of 2+1+2"
