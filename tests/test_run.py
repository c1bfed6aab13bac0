"""A run of training: batches of several shapes, going on exactly, devices, precision, and what is kept."""

import copy
import csv
import signal

import numpy as np
import pytest
import torch
import yaml
from isocenter.commands.cli import app
from isocenter.training.batches import Order, size, stack_by_shape
from isocenter.training.devices import Rank, autocast, check_precision, choose_devices
from isocenter.training.folder import RunFolder, write_whole
from isocenter.training.labels import make_labels
from isocenter.training.progress import ProgressLine
from isocenter.training.recipe import Recipe, RecipeError, load_recipe
from isocenter.training.recompute import recompute_activations
from isocenter.training.run import datasets, train
from isocenter.training.sampler import SamplerTask
from isocenter.training.task import ReconstructionTask
from typer.testing import CliRunner

pytestmark = [pytest.mark.filterwarnings("ignore")]
CPU = torch.device("cpu")
MODL = {"iterations": 1, "cg_iterations": 2, "chans": 2, "bias": True, "eps": None}
DATA = {"kind": "simulated-brain", "samples": 5, "validation_samples": 3, "matrix": [32, 34], "coils": [2, 3]}
FILES = {"kind": "files", "folder": "train", "validation_folder": "val"}
RECIPE = {
    "name": "small",
    "network": "modl",
    "configuration": MODL,
    "scaling": "zero-filled",
    "data": DATA,
    "masks": {"accelerations": [2], "acs": [8, 8]},
    "loss": {"l1": 1.0},
    "optimizer": {"learning_rate": 1.0e-3},
    "epochs": 2,
}
LOUPE = {
    "network": "loupe",
    "configuration": {"shape": [32, 32], "chans": 2, "pools": 1},
    "scaling": None,
    "data": {**DATA, "matrix": [32, 32]},
    "optimizer": {"schedule": "cosine"},
    "batch": 2,
}
SAMPLER = {
    "network": "mnet",
    "configuration": {"chans": 2, "lines": 150, "features": 32},
    "scaling": None,
    "data": {**DATA, "samples": 3, "validation_samples": 1, "matrix": [162, 162], "coils": [2, 2]},
    "loss": {},
    "sampler": {
        "base": 12,
        "budget": 20,
        "network": "modl",
        "configuration": {**MODL, "cg_iterations": 1},
        "scaling": "zero-filled",
        "reconstructor_steps": 1,
        "sampler_steps": 3,
    },
}


def recipe(**changes):
    return Recipe.model_validate({**RECIPE, **changes})


def run(folder, content, **options):
    return train(recipe(**content), folder, devices=options.pop("devices", "cpu"), progress=False, **options)


def read(path):
    return torch.load(path, weights_only=True)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def interrupt_at(monkeypatch, epoch, step, number=signal.SIGINT):
    """Send this process a signal after a step."""
    show = ProgressLine.show

    def show_and_interrupt(self, *told):
        show(self, *told)
        if told[:2] == (epoch, step):
            signal.raise_signal(number)

    monkeypatch.setattr(ProgressLine, "show", show_and_interrupt)


def gradient(task, loss):
    task.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in task.parameters() if parameter.grad is not None]


def test_a_batch_of_several_shapes_has_the_mean_gradient_of_its_samples():
    task = ReconstructionTask(recipe())
    samples = [datasets(task.recipe)[0][index] for index in range(5)]
    batch = stack_by_shape(samples, task.needs)
    assert sum(map(size, batch)) == 5
    assert 1 < len(batch) <= 5
    together = gradient(task, sum(task.loss(stack, 0) * size(stack) / 5 for stack in batch))
    single = [
        gradient(task, (task({n: v[None] for n, v in one.items()})[0] - one["target"]).abs().mean()) for one in samples
    ]
    for part, alone in zip(together, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(part, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("content", "number"),
    [({**LOUPE, "ema": 0.9}, signal.SIGINT), (SAMPLER, signal.SIGTERM)],
    ids=["loupe", "sampler"],
)
def test_an_interrupted_run_ends_bit_for_bit_as_one_that_was_not(tmp_path, monkeypatch, content, number):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, content)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, 1, number)
        with pytest.raises(KeyboardInterrupt, match=r"stopped after 2 of 3 steps of epoch 1.*--resume"):
            run(parts, content)
    assert len(rows(parts)) == 1
    run(parts, content, resume=True)
    for name in ("weights.pt", "checkpoints/last.ckpt"):
        expected, found = read(whole / name), read(parts / name)
        assert expected["state_dict"].keys() == found["state_dict"].keys()
        assert all(torch.equal(expected["state_dict"][key], value) for key, value in found["state_dict"].items())
    assert rows(parts) == rows(whole)
    assert [row["epoch"] for row in rows(parts)] == ["0", "1"]


@pytest.mark.long
def test_more_epochs_are_those_of_a_longer_run_and_all_stay_in_the_table(tmp_path):
    run(tmp_path / "long", {"epochs": 3, "optimizer": {"schedule": "exponential", "gamma": 0.5}})
    for epochs in (1, 3):
        content = {"epochs": epochs, "optimizer": {"schedule": "exponential", "gamma": 0.5}}
        run(tmp_path / "run", content, resume=epochs > 1)
    assert rows(tmp_path / "run") == rows(tmp_path / "long")
    assert [float(row["learning_rate"]) for row in rows(tmp_path / "run")] == pytest.approx([3e-4, 1.5e-4, 7.5e-5])
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["epochs"] == 3


def test_a_finished_run_is_left_as_it_is_and_another_one_needs_to_be_asked_for(tmp_path, capsys):
    run(tmp_path, {"epochs": 1})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run(tmp_path, {"epochs": 1}, resume=True) == tmp_path / "weights.pt"
    assert "is finished: 1 epochs are done" in capsys.readouterr().out
    with pytest.raises(RecipeError, match="has a run already; accepted: --resume goes on with it, --overwrite"):
        run(tmp_path, {"epochs": 1})
    for changes, words in (
        ({"optimizer": {"learning_rate": 1e-2}}, r"optimizer.learning_rate \(0.001 there, 0.01 now\)"),
        ({"masks": {"accelerations": [3], "acs": [8, 8]}, "batch": 2}, r"batch .*, masks.accelerations"),
    ):
        with pytest.raises(RecipeError, match=words):
            run(tmp_path, {"epochs": 2, **changes}, resume=True)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "mine.txt").write_text("kept")
    run(tmp_path, {"epochs": 1, "seed": 2}, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert len(rows(tmp_path)) == 1
    assert not torch.equal(
        *(next(iter(torch_load(content)["state_dict"].values())) for content in both(before, tmp_path))
    )


def both(before, folder):
    return before[folder / "weights.pt"], (folder / "weights.pt").read_bytes()


def torch_load(content):
    import io

    return torch.load(io.BytesIO(content), weights_only=True)


def test_what_cannot_be_gone_on_with_is_said(tmp_path):
    with pytest.raises(RecipeError, match="has no run to go on with"):
        run(tmp_path / "none", {}, resume=True)
    folder = RunFolder(tmp_path / "run")
    folder.begin(recipe(optimizer={"schedule": "cosine"}), anew=False)
    with pytest.raises(RecipeError, match="is for 2 epochs and cannot become one for 3"):
        run(folder.path, {"optimizer": {"schedule": "cosine"}, "epochs": 3}, resume=True)
    folder.last.parent.mkdir()
    folder.last.write_bytes(b"half")
    with pytest.raises(RecipeError, match="is no checkpoint of a training, or is damaged; accepted: --overwrite"):
        run(folder.path, {"optimizer": {"schedule": "cosine"}}, resume=True)
    with pytest.raises(RecipeError, match=r"recipe\.yaml is no checkpoint .*; accepted: weights\.pt of a run"):
        run(tmp_path / "other", {"start_from": [str(folder.recipe)]})
    torch.save({"state_dict": {}}, folder.last)
    with pytest.raises(RecipeError, match="of another version"):
        run(folder.path, {"optimizer": {"schedule": "cosine"}}, resume=True)
    torch.save({"state_dict": {}, "progress": {"epoch": 2}, "data": ["", ""]}, folder.last)
    with pytest.raises(RecipeError, match=r"is finished, but .*weights\.pt is missing; accepted: --overwrite"):
        run(folder.path, {"optimizer": {"schedule": "cosine"}}, resume=True)
    folder.recipe.write_text("epochs: many")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: .*epochs: 'many' is not accepted"):
        run(folder.path, {}, resume=True)
    with pytest.raises(RecipeError, match="--resume or --overwrite"):
        run(folder.path, {}, resume=True, overwrite=True)


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "weights.pt"
    write_whole(path, lambda file: file.write(b"before"))

    def fail(file):
        file.write(b"half of it")
        raise OSError("no room")

    with pytest.raises(RecipeError, match=r"weights\.pt cannot be written: no room; accepted: a folder with room"):
        write_whole(path, fail)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pt"]


def test_the_weights_that_are_kept_are_those_of_the_best_epoch_with_its_figures(tmp_path):
    # a rate that rises until the weights get worse
    content = {"epochs": 3, "optimizer": {"learning_rate": 1e-3, "schedule": "exponential", "gamma": 30}, "ema": 0.5}
    run(tmp_path, content)
    losses = [float(row["validation_loss"]) for row in rows(tmp_path)]
    kept = read(tmp_path / "weights.pt")
    best = int(np.argmin(losses))
    assert best < 2
    assert kept["validation"]["epoch"] == best
    assert kept["validation"]["validation_loss"] == losses[best]
    assert {name: float(value) for name, value in rows(tmp_path)[best].items()} == kept["validation"]
    task = ReconstructionTask(kept["hyper_parameters"]["recipe"]).eval()
    task.load_state_dict(kept["state_dict"])
    validation = datasets(task.recipe)[1]
    with torch.no_grad():
        stacks = [{name: value[None] for name, value in validation[index].items()} for index in range(3)]
        found = [float((task(stack) - stack["target"]).abs().mean()) for stack in stacks]
    assert np.mean(found) == pytest.approx(losses[best], rel=1e-5)


def test_gradients_of_small_batches_add_up_to_those_of_a_large_one(tmp_path):
    run(tmp_path / "large", {"batch": 4, "epochs": 1})
    run(tmp_path / "small", {"batch": 1, "accumulate": 4, "epochs": 1})
    large, small = (read(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("large", "small"))
    assert large["progress"]["step"] == small["progress"]["step"] == 2  # of four samples, and of the one that is left
    for name, value in large["state_dict"].items():
        torch.testing.assert_close(small["state_dict"][name], value, rtol=1e-4, atol=1e-6)
    losses = [float(rows(tmp_path / name)[0]["train_loss"]) for name in ("large", "small")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.long
def test_the_average_of_the_weights_follows_its_recurrence_and_is_what_is_validated_and_kept(tmp_path):
    content = {"batch": 5, "optimizer": {"learning_rate": 1e-2}, "data": {**DATA, "validation_samples": 1}}
    steps = []
    for epochs in (1, 2, 3):  # of one step each
        run(tmp_path / "plain", {**content, "epochs": epochs}, resume=epochs > 1)
        steps.append(read(tmp_path / "plain" / "checkpoints" / "last.ckpt")["state_dict"])
    run(tmp_path / "average", {**content, "epochs": 3, "ema": 0.75})
    last = read(tmp_path / "average" / "checkpoints" / "last.ckpt")
    torch.manual_seed(recipe(**content).seed)
    for name, start in ReconstructionTask(recipe(**content)).state_dict().items():
        expected = start.double().numpy()
        for weights in steps:
            expected = 0.75 * expected + 0.25 * weights[name].double().numpy()
        np.testing.assert_allclose(last["average"][name].numpy(), expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(last["state_dict"][name], steps[-1][name])
    assert rows(tmp_path / "average")[-1]["validation_loss"] != rows(tmp_path / "plain")[-1]["validation_loss"]
    kept = read(tmp_path / "average" / "weights.pt")
    assert kept["validation"]["epoch"] == 2
    assert all(torch.equal(last["average"][name], value) for name, value in kept["state_dict"].items())


@pytest.mark.parametrize(
    ("network", "configuration"),
    [
        ("modl", {**MODL, "eps": 1e-3, "iterations": 2, "chans": 8}),
        ("e2e-varnet", {"num_cascades": 2, "chans": 4, "pools": 1, "sens_chans": 2, "sens_pools": 1}),
    ],
)
def test_gradients_are_the_same_where_activations_are_computed_anew(network, configuration):
    task = ReconstructionTask(recipe(network=network, configuration=configuration)).train()
    other = copy.deepcopy(task)
    recompute_activations(other.network)
    (stack,) = stack_by_shape([datasets(task.recipe)[0][0]], task.needs)
    found = []
    for one in (task, other):
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = one.loss(stack, 0)
        found.append((sum(kept.values()), gradient(one, loss)))
    (kept, expected), (kept_anew, gradients) = found
    assert kept_anew < 0.5 * kept
    assert all(torch.equal(one, two) for one, two in zip(expected, gradients, strict=True))
    # running statistics are not counted twice
    assert all(torch.equal(one, two) for one, two in zip(task.buffers(), other.buffers(), strict=True))


def test_bfloat16_and_recomputing_train(tmp_path):
    losses = []
    for precision in ("float32", "bf16"):
        content = {"precision": precision, "checkpoint_gradients": True, "epochs": 1}
        run(tmp_path / precision, content)
        losses.append(float(rows(tmp_path / precision)[0]["train_loss"]))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert all(value.dtype == torch.float32 for value in read(tmp_path / "bf16" / "weights.pt")["state_dict"].values())
    with pytest.raises(RecipeError, match="'tf32' is the arithmetic of NVIDIA GPUs"):
        run(tmp_path / "tf32", {"precision": "tf32"})
    assert not (tmp_path / "tf32").exists()
    with autocast("bf16", CPU):
        assert torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)).dtype == torch.bfloat16


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_parts_of_all_devices_are_the_batches_of_one(count):
    settings = recipe(batch=4, accumulate=2)
    orders = [Order(11, settings, Rank(index, count, CPU)) for index in range(count)]
    alone = Order(11, settings, Rank(0, 1, CPU))
    epochs = []
    for epoch, done in ((0, 0), (1, 0), (1, 1)):
        for order in (*orders, alone):
            order.start(epoch, done)
        batches = [sorted(index for part in parts for index in part) for parts in zip(*orders, strict=True)]
        assert batches == [sorted(batch) for batch in alone]
        epochs.append(list(alone))
    assert epochs[2] == epochs[1][2:]
    assert epochs[0] != epochs[1]
    assert sorted(index for batch in epochs[1] for index in batch) == list(range(11))
    assert [(alone.samples_of(step), alone.batches_of(step)) for step in range(alone.steps)] == [(8, 2), (3, 1)]


@pytest.mark.parametrize(
    ("text", "gpus", "batch", "chosen"),
    [
        ("auto", 0, 1, ["cpu"]),
        ("auto", 4, 6, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cpu", 4, 1, ["cpu"]),
        ("2", 0, 2, ["cpu", "cpu"]),
        ("2", 4, 4, ["cuda:0", "cuda:1"]),
        ("1,3", 4, 2, ["cuda:1", "cuda:3"]),
        ("cuda:3", 4, 1, ["cuda:3"]),
        ("cuda:3, cuda:1", 4, 2, ["cuda:3", "cuda:1"]),
        ("0,1", 0, 2, "no GPU 0: there is none here"),
        ("0,4", 4, 2, "no GPU 4: there are GPUs 0 to 3"),
        ("1,1", 4, 2, "named twice"),
        ("0", 0, 1, "a number alone says on how many devices to train, and 0 are none; the first GPU alone is cuda:0"),
        ("cuda:1", 1, 1, "no GPU 1: there are GPUs 0 to 0"),
        ("5", 4, 5, "cannot train on 5 devices: there are 4 GPUs"),
        ("gpu", 4, 1, "'gpu' names no devices; accepted: 'auto', 'cpu', a number"),
        ("0,", 4, 1, "'0,' names no devices"),
        ("2", 0, 3, "a batch of 3 cannot be divided among 2 devices"),
    ],
)
def test_devices_are_found_or_refused_in_a_sentence(monkeypatch, text, gpus, batch, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if isinstance(chosen, str):
        with pytest.raises(RecipeError, match=chosen):
            choose_devices(text, batch)
    else:
        assert [str(device) for device in choose_devices(text, batch)] == chosen


def test_every_precision_but_tf32_is_for_the_cpu():
    check_precision("float32", CPU)
    check_precision("bf16", CPU)
    with pytest.raises(RecipeError, match="precision: 'tf32'"):
        check_precision("tf32", CPU)


# biases before a normalisation have no gradient but rounding's, which Adam would turn into steps of its own
STEADY = {"learning_rate": 1e-3, "options": {"eps": 1e-6}}


@pytest.mark.long
@pytest.mark.parametrize(
    "content",
    [{"batch": 2, "accumulate": 2}, {**LOUPE, "epochs": 1}, {**SAMPLER, "batch": 2, "optimizer": STEADY}],
)
def test_two_processes_give_what_one_gives(tmp_path, content):
    for devices in ("1", "2"):
        run(tmp_path / devices, content, devices=devices)
    one, two = (read(tmp_path / devices / "checkpoints" / "last.ckpt") for devices in ("1", "2"))
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-3, atol=1e-5)
    for row, other in zip(rows(tmp_path / "1"), rows(tmp_path / "2"), strict=True):
        assert {name: float(value) for name, value in row.items()} == pytest.approx(
            {name: float(value) for name, value in other.items()}, rel=1e-4
        )


@pytest.mark.long
def test_what_fails_in_one_of_two_processes_is_said_in_a_sentence(tmp_path):
    with pytest.raises(RecipeError, match=r"the loss is (nan|inf) in step"):
        run(tmp_path / "nan", {"batch": 2, "epochs": 9, "optimizer": {"learning_rate": 1e30}}, devices="2")
    with pytest.raises(RecipeError, match="normalises over the batch"):
        run(tmp_path / "norm", {"batch": 2, "configuration": {**MODL, "eps": 1e-3}}, devices="2")


def test_reference_masks_are_made_once_and_read_again(tmp_path):
    small = {"base": 12, "budget": 2, "icd": True}
    task = SamplerTask(recipe(**{**SAMPLER, "sampler": {**SAMPLER["sampler"], **small}}))
    samples = datasets(recipe(**{**SAMPLER, "data": {**SAMPLER["data"], "samples": 1}}))[0]
    first = make_labels(task, samples, tmp_path, Rank(0, 1, CPU))(0)
    assert first.shape == (150,)
    assert float(first.sum()) == 2
    made = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    with torch.no_grad():
        for parameter in task.reconstructor.parameters():
            parameter.add_(1)
    samples.label = make_labels(task, samples, tmp_path, Rank(0, 1, CPU))
    assert torch.equal(samples[0]["label"], first)
    assert made == [path.stat().st_mtime_ns for path in tmp_path.iterdir()]


def test_a_fixed_reconstructor_keeps_its_statistics_and_an_alternating_one_begins():
    fixed = {**SAMPLER["sampler"], "scheme": "fixed", "configuration": {**MODL, "eps": 1e-3}}
    task = SamplerTask(recipe(**{**SAMPLER, "sampler": fixed})).train()
    (stack,) = stack_by_shape([datasets(task.recipe)[0][0]], task.needs)
    before = copy.deepcopy(task.reconstructor.state_dict())
    assert gradient(task, task.loss(stack, task.turn(0)))
    assert all(torch.equal(before[name], value) for name, value in task.reconstructor.state_dict().items())
    assert all(parameter.grad is None for parameter in task.reconstructor.parameters())
    assert [task.turn(step) for step in range(4)] == [0] * 4
    alternating = SamplerTask(recipe(**SAMPLER))
    assert [alternating.turn(step) for step in range(9)] == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_the_command_line_says_how_to_go_on_and_what_is_wrong(tmp_path, monkeypatch):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    arguments = ["train", str(path), "-o", str(tmp_path / "run"), "--devices", "cpu"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 0, 2)
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 130
    assert "interrupted: stopped after 3 of 5 steps of epoch 0, which are kept" in result.output
    assert f"--resume -o {tmp_path / 'run'}" in result.output.replace("\n", "")
    result = CliRunner().invoke(app, [*arguments, "--resume"])
    assert result.exit_code == 0, result.output
    assert "epoch 1: train_loss" in result.output
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["0", "1"]
    result = CliRunner().invoke(app, [*arguments[:-1], "0,1"])
    assert result.exit_code == 2
    assert "error: --devices: no GPU 0" in result.output
    path.write_bytes(b"\xff\x00")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "recipe.yaml cannot be read: it is no text in UTF-8" in result.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"masks": {"accelerations": [float("inf")]}},
            "masks.accelerations: '.inf' is not accepted; accepted: list of: number from 1",
        ),
        (
            {"masks": {"accelerations": 2, "acs": 8, "offset": 99}},
            "masks.offset: line 99 beside the middle is none of 32",
        ),
        (
            {"masks": {"accelerations": [2, 4], "acs": 8}},
            "masks.accelerations: an acceleration of 4 leaves nothing of 32",
        ),
        (
            {"masks": {"kinds": "equispaced", "accelerations": 64, "acs": 8}},
            "the acceleration is 64, and there are 32 lines; accepted: 1 to 32",
        ),
        (
            {"masks": {"acs": 1.0}},
            "masks.acs: 1.0 is not accepted .1.0 is a decimal, and so a fraction, which must be below 1",
        ),
        ({"masks": 3}, "masks: 3 is not accepted; accepted: names with a value each"),
        (
            {"masks": {"accelerations": {"a": 1}}},
            'masks.accelerations: {"a": 1} is not accepted; accepted: list of: number from 1',
        ),
        ({"precision": "fp16"}, "precision: 'fp16' is not accepted; accepted: float32, tf32 or bf16"),
        ({"accumulate": 0}, "accumulate: 0 is not accepted; accepted: whole number from 1"),
        ({"ema": 1.0}, "ema: 1.0 is not accepted; accepted: number above 0 below 1"),
        ({"seed": -1}, "seed: -1 is not accepted; accepted: whole number from 0"),
        ({"seed": 2**32}, "seed: 4294967296 is not accepted; accepted: whole number from 0 to 4294967295"),
        ({"seed": 5000}, "simulated scans have seeds up to 4293"),
        ({"loss": {"l1": 0}}, "loss.l1: 0 is not accepted; accepted: .*number above 0"),
        ({"loss": {"l1": float("nan")}}, "loss.l1: '.nan' is not accepted"),
        ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate: -1 is not accepted; accepted: number above 0"),
        ({"optimizer": {"clip_norm": 0}}, "optimizer.clip_norm: 0 is not accepted; accepted: number above 0"),
        ({"optimizer": {"options": {"momentun": 1}}}, "optimizer: options of adam: .*momentun"),
        ({"optimizer": {"options": {"lr": 1}}}, "the learning rate is 'learning_rate'"),
        (
            {"data": {**DATA, "matrix": [34, 32]}},
            r"data.matrix: \[34, 32\] is not accepted \(the smallest value comes first\)",
        ),
        ({"data": {**DATA, "matrix": [8, 8]}}, "too small"),
        (
            {"data": {**DATA, "coils": [0, 2]}},
            "data.coils: 0 is not accepted; accepted: list of 2 .the least and the most.: whole number from 1",
        ),
        ({"data": {**DATA, "noise": [0, 0.1]}}, "noise .* is no range"),
        (
            {"masks": {"accelerations": [1], "acs": [8, 33]}},
            "masks: 33 calibration lines were asked for, and there are 32 lines",
        ),
        (
            {"masks": {"accelerations": [2], "acs": [2, 8]}},
            "masks.acs: coil maps need at least 4 .* 2 of 32 may be drawn",
        ),
        ({"masks": {"accelerations": [2], "acs": [0.05, 0.3]}}, "masks.acs: coil maps need .* 2 of 32 may be drawn"),
        ({"data": FILES, "masks": {"accelerations": [2], "acs": 0}}, "masks.acs: coil maps need .* 0 may be drawn"),
        ({**LOUPE, "configuration": {"shape": [32, 40]}}, "works for one size only"),
        ({**SAMPLER, "sampler": {**SAMPLER["sampler"], "budget": 150}}, "leave out no line of 162"),
        ({"configuration": {"layers_of": 3}}, "configuration: there is no entry 'layers_of'"),
        ({"configuration": {**MODL, "iterations": "five"}}, "configuration.iterations: 'five' is not accepted"),
        (
            {"configuration": {**MODL, "iterations": -1}},
            "configuration.iterations: -1 is not accepted; accepted: whole",
        ),
        ({"network": "mdl"}, r"network 'mdl' is not known \(nearest: 'modl'"),
        (
            {**SAMPLER, "sampler": {**SAMPLER["sampler"], "sampler_steps": 0}},
            "sampler.sampler_steps: 0 is not accepted; accepted: whole number from 1",
        ),
    ],
)
def test_recipes_that_cannot_work_are_refused_by_name(tmp_path, changes, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_one_number_or_name_stands_for_a_list_or_range():
    data = {**DATA, "matrix": 40, "coils": 2, "noise": 0.01}
    short = recipe(data=data, masks={"kinds": "equispaced", "accelerations": 2, "acs": 8}, start_from="a.pt")
    data = {**DATA, "matrix": [40, 40], "coils": [2, 2], "noise": [0.01, 0.01]}
    long = {"kinds": ["equispaced"], "accelerations": [2], "acs": [8, 8]}
    assert short == recipe(data=data, masks=long, start_from=["a.pt"])


def test_files_that_are_no_recipe_and_folders_that_are_none_are_refused(tmp_path):
    (tmp_path / "empty.yaml").touch()
    for name, message in (("nothere.yaml", "No such file"), (".", "it is a folder"), ("empty.yaml", "is empty")):
        with pytest.raises(RecipeError, match=message):
            load_recipe(tmp_path / name)
    with pytest.raises(RecipeError, match=r"--output: .*empty\.yaml is a file"):
        run(tmp_path / "empty.yaml", {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"network": "e2e-varnet", "configuration": {"num_cascades": 0, "sens_chans": 2, "sens_pools": 1}},
            "configuration: network 'e2e-varnet' has no weights .*'num_cascades': 0",
        ),
        ({"start_from": ["nowhere.pt"]}, "there is no file nowhere.pt"),
        ({"network": "e2e-varnet", "configuration": {"num_cascades": 1, "chans": 1, "pools": 9}}, "failed"),
    ],
)
def test_what_is_found_out_when_the_run_begins_is_said_in_a_sentence(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        run(tmp_path / "run", changes)
