"""Recipes train, resume and are evaluated; their data and mistakes."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from isocenter.commands.cli import app
from isocenter.export.importers.load import load_network
from isocenter.export.network import export_network
from isocenter.export.options import ExportOptions
from isocenter.models import metrics
from isocenter.models.fourier import ifft
from isocenter.models.networks.registry import NETWORKS
from isocenter.simulate.anatomy import HELD_OUT_MM, load_template, random_slice
from isocenter.simulate.cine import random_series
from isocenter.simulate.coils import random_coil_maps
from isocenter.simulate.sampling import SamplingError
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.training.data import FullScan, simulated_scan
from isocenter.training.masks import Masks
from isocenter.training.optimizer import Optimizer, make_optimizer
from isocenter.training.recipe import RecipeError, SimulatedData, load_recipe
from isocenter.training.run import train
from isocenter.training.samples import TrainingSamples
from isocenter.training.task import ReconstructionTask, check_finite, maps_error
from torch.utils.data import DataLoader
from typer.testing import CliRunner

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]
RECIPES = Path(__file__).parent.parent / "recipes"
RECIPE = {
    "name": "small",
    "network": "modl",
    "configuration": {"iterations": 1, "cg_iterations": 3, "chans": 4, "bias": True, "eps": None},
    "scaling": "zero-filled",
    "data": {"kind": "simulated-brain", "samples": 4, "validation_samples": 2, "matrix": [48, 56], "coils": [3, 4]},
    "masks": {"accelerations": [2, 4], "acs": [8, 10]},
    "loss": {"l1": 1.0, "ssim": 0.5},
    "optimizer": {"learning_rate": 1.0e-3, "clip_norm": 1.0},
    "epochs": 2,
}


def write(folder, **changes):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    assert load_recipe(path).name == path.stem


def test_a_recipe_trains_resumes_and_its_checkpoint_is_exported_and_evaluated(tmp_path):
    folder = tmp_path / "run"
    best = train(load_recipe(write(tmp_path)), folder, workers=1, progress=False)
    assert best.is_file()
    for name in ("curves.png", "samples/epoch-001.png", "weights.pt", "checkpoints/last.ckpt"):
        assert (folder / name).is_file(), name
    train(load_recipe(write(tmp_path, epochs=3)), folder, resume=True, progress=False)
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["progress"]["epoch"], last["progress"]["step"]) == (3, 12)
    imported = load_network("modl", folder / "weights.pt")
    assert imported.configuration["chans"] == 4
    bundle = export_network("modl", folder / "weights.pt", tmp_path / "small", ExportOptions(), ["torchscript"])
    assert bundle.manifest.conventions.input_scaling == "zero-filled"
    assert bundle.manifest.inputs[1].axes == ("batch", "1", "ky", "1", "1")
    arguments = ["--bundle", str(tmp_path / "small"), "--accelerations", "2", "--acs", "12", "--scans", "1"]
    result = CliRunner().invoke(app, ["evaluate", *arguments, "-o", str(tmp_path / "evaluation")])
    assert result.exit_code == 0, result.output
    with (tmp_path / "evaluation" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"zero-filled", "SENSE", "CS (TV)", "CS (wavelet)", "small"}
    quality = {(row["method"], row["acceleration"]): float(row["psnr"]) for row in rows}
    assert quality["SENSE", "2.0"] > quality["zero-filled", "2.0"] + 2
    assert (tmp_path / "evaluation" / "images.png").is_file()
    assert "| SENSE |" in (tmp_path / "evaluation" / "table.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "nonet"}, "network 'nonet' is not known"),
        ({"network": "jotlasnet", "configuration": {}}, "is for 2d\\+t scans, not for data.kind 'simulated-brain'"),
        ({"network": "unet-image", "configuration": {}}, "it reconstructs no slices or series"),
        ({"data": {"kind": "simulated-cine"}}, "is for 2d scans, not for data.kind 'simulated-cine'"),
        ({"network": "ista-net-plus", "configuration": {}}, "no complex or magnitude image"),
        ({"loss": {}}, "the loss is empty"),
        ({"loss": {"psnr": 1}}, r"loss: the name 'psnr' is not accepted; accepted: names with a value each \(ssim, l1"),
        ({"loss": {"maps": 1}}, "the loss 'maps' is for networks"),
        ({"epochs": 0}, "epochs: 0 is not accepted; accepted: whole number from 1 to 1000000"),
        ({"learning": 1}, "there is no entry 'learning'; accepted: name, network, configuration"),
    ],
)
def test_recipes_with_mistakes_are_refused(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, **changes))


VARNET = {
    "network": "e2e-varnet",
    "configuration": {"num_cascades": 0, "sens_chans": 4, "sens_pools": 2},
    "scaling": None,
    "loss": {"maps": 1.0},
    "optimizer": {"learning_rate": 5.0e-3},
}


@pytest.mark.long
def test_a_sensitivity_model_learns_the_true_maps_and_hands_them_to_the_whole_network(tmp_path):
    train(load_recipe(write(tmp_path, **VARNET, epochs=15)), tmp_path / "maps", progress=False)
    with (tmp_path / "maps" / "metrics.csv").open(newline="") as file:
        losses = [float(row["validation_loss"]) for row in csv.DictReader(file) if row.get("validation_loss")]
    assert losses[-1] < 0.5 * losses[0]
    start = tmp_path / "maps" / "weights.pt"
    whole = {
        **VARNET,
        "configuration": {"num_cascades": 1, "chans": 4, "pools": 2, "sens_chans": 4, "sens_pools": 2},
        "loss": {"l1": 1.0, "maps": 1.0},
        "optimizer": {"learning_rate": 0.0},
        "epochs": 1,
        "start_from": [str(start)],
    }
    train(load_recipe(write(tmp_path, **whole)), tmp_path / "whole", progress=False)
    learned = torch.load(start, weights_only=True)["state_dict"]
    taken = torch.load(tmp_path / "whole" / "weights.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(taken[name], value) for name, value in learned.items())
    with pytest.raises(RecipeError, match="has no weights for network 'modl'"):
        train(load_recipe(write(tmp_path, start_from=[str(start)])), tmp_path / "other", progress=False)


def test_maps_error_ignores_phase_and_is_the_angle_between_coils():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 4, 6, 6, dtype=torch.complex64, generator=generator)
    truth = truth / truth.norm(dim=1, keepdim=True)
    image = torch.rand(1, 6, 6, generator=generator)
    phase = torch.exp(1j * torch.rand(1, 1, 6, 6, generator=generator))
    other = torch.randn(1, 4, 6, 6, dtype=torch.complex64, generator=generator)
    across = other - truth * (truth.conj() * other).sum(1, keepdim=True)
    across = across / across.norm(dim=1, keepdim=True)
    for angle in (0.0, 0.3, np.pi / 2):
        turned = phase * (np.cos(angle) * truth + np.sin(angle) * across)
        error = maps_error(torch.view_as_real(turned), torch.view_as_real(truth), image)
        assert error.item() == pytest.approx(np.sin(angle) ** 2, abs=1e-5)


def test_evaluation_never_shows_what_training_has_seen():
    template = load_template()
    random = np.random.default_rng(3)
    test = [random_slice(np.random.default_rng(seed), (40, 40), "test") for seed in range(2)]
    assert not np.array_equal(test[0], test[1])
    low, high = HELD_OUT_MM
    from isocenter.simulate.anatomy import _height

    assert all(low < _height(random, "test") < high for _ in range(200))
    assert not any(low - 3 < _height(random, "train") < high + 3 for _ in range(200))
    assert template.tissues.min() >= 0
    assert template.tissues.max() <= 1


def test_simulated_scans_repeat_by_seed_and_their_clean_part_is_without_noise():
    data = SimulatedData(kind="simulated-brain", matrix=(48, 56), coils=(3, 3), noise=(0.05, 0.05))
    scan, again = simulated_scan(data, 4, "train"), simulated_scan(data, 4, "train")
    assert torch.equal(scan.kspace, again.kspace)
    noise = scan.kspace - scan.clean
    level = 0.05 * ifft(scan.clean, [1, 2]).abs().max()
    assert noise.abs().square().mean().sqrt().item() == pytest.approx(level.item(), rel=0.05)


def test_random_coil_maps_have_unit_norm():
    maps = random_coil_maps(np.random.default_rng(1), 5, (20, 24))
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, rtol=1e-5)


def test_training_masks_change_and_validation_masks_do_not():
    data = SimulatedData(kind="simulated-brain", matrix=(48, 48), coils=(2, 2))
    for fresh in (True, False):
        samples = TrainingSamples(
            lambda i: simulated_scan(data, i, "train"), 1, Masks(), 1, with_maps=False, truth="rss", fresh=fresh
        )
        masks = []
        for epoch in range(4):
            samples.start(epoch)
            masks.append(samples[0]["mask"])
            assert torch.equal(samples[0]["mask"], masks[-1])
        assert all(torch.equal(masks[0], mask) for mask in masks) != fresh


def test_a_scan_with_too_few_calibration_lines_for_coil_maps_is_named_before_any_step():
    def first(masks, coils=2, frames=()):
        scan = FullScan(torch.randn(coils, *frames, 32, 16, dtype=torch.complex64), name="a.h5, slice 3")
        return TrainingSamples(lambda _: scan, 1, masks, 1, with_maps=True, truth="combined", fresh=False)[0]

    few = Masks(accelerations=(2,), acs=(0.05, 0.3))
    with pytest.raises(SamplingError, match=r"a\.h5, slice 3, masks.acs: coil maps need .* 2 of 32 may be drawn"):
        first(few)
    assert first(few, coils=1)["maps"].shape == (1, 32, 16, 2)
    moving = Masks(kinds=("kt-interleaved",), accelerations=(2,), acs=0)
    assert first(moving, frames=(2,))["maps"].shape == (2, 32, 16, 2)
    assert first(Masks(kinds=("equispaced",), accelerations=(4,), acs=4))["maps"].shape == (2, 32, 16, 2)


def test_what_does_not_fit_into_memory_is_made_anew_and_is_the_same():
    data, made = SimulatedData(kind="simulated-brain", matrix=(48, 48), coils=(2, 2)), []

    def scan(index):
        made.append(index)
        return simulated_scan(data, index, "train")

    size = 48 * 48 * 8 * (2 + 2)
    samples = TrainingSamples(scan, 3, Masks(), 1, with_maps=False, truth="rss", fresh=False, memory=2.5 * size)
    first, second = ([samples[index] for index in range(3)] for _ in range(2))
    assert made == [0, 1, 2, 2]
    assert all(torch.equal(a["kspace"], b["kspace"]) for a, b in zip(first, second, strict=True))


def test_masks_change_although_another_process_makes_the_sample():
    data = SimulatedData(kind="simulated-brain", matrix=(48, 48), coils=(2, 2))
    samples = TrainingSamples(
        lambda i: simulated_scan(data, i, "train"), 2, Masks(), 1, with_maps=False, truth="rss", fresh=True
    )
    loader = DataLoader(samples, 1, num_workers=2, persistent_workers=True)
    epochs = []
    for epoch in range(4):
        samples.start(epoch)
        epochs.append([batch["mask"] for batch in loader])
    assert not all(torch.equal(epochs[0][0], epoch[0]) for epoch in epochs)


@pytest.mark.long
def test_a_dynamic_network_learns_from_series(tmp_path):
    recipe = {
        "network": "jotlasnet",
        "configuration": {"iterations": 2},
        "scaling": None,
        "data": {
            "kind": "simulated-cine",
            "samples": 3,
            "validation_samples": 1,
            "matrix": [32, 36],
            "frames": [4, 5],
            "coils": [3, 4],
        },
        "masks": {"accelerations": [3], "acs": [8, 8]},
        "loss": {"mse": 1.0, "ssim": 0.01},
        "optimizer": {"learning_rate": 3.0e-3},
        "epochs": 12,
    }
    train(load_recipe(write(tmp_path, **recipe)), tmp_path / "run", progress=False)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("validation_loss")]
    assert min(float(row["nmse"]) for row in rows) < 0.9 * float(rows[0]["nmse"])
    bundle = export_network(
        "jotlasnet", tmp_path / "run" / "weights.pt", tmp_path / "bundle", ExportOptions(), ["torchscript"]
    )
    assert "frames" in bundle.manifest.inputs[0].axes
    (tmp_path / "scans").mkdir()
    simulate(ScanProtocol(phantom="heart", matrix=32, coils=3, frames=4, noise=0.001)).save(
        tmp_path / "scans" / "cine.h5"
    )
    for data in ("simulated", str(tmp_path / "scans")):
        arguments = [
            "--bundle",
            str(tmp_path / "bundle"),
            "--data",
            data,
            "--accelerations",
            "3",
            "--acs",
            "8",
            "--scans",
            "1",
        ]
        result = CliRunner().invoke(app, ["evaluate", *arguments, "-o", str(tmp_path / "evaluation")])
        assert result.exit_code == 0, result.output
        with (tmp_path / "evaluation" / "results.csv").open(newline="") as file:
            quality = {row["method"]: float(row["psnr"]) for row in csv.DictReader(file)}
        assert quality["SENSE"] > quality["zero-filled"] + 1
        assert quality["bundle"] > quality["zero-filled"]


def test_images_without_coils_have_a_gradient_and_a_loss_that_is_not_finite_stops_the_training():
    task = ReconstructionTask(RECIPE)
    image = torch.zeros(1, 9, 9, 2, requires_grad=True)
    (1 - metrics.ssim(task.magnitude(image), torch.rand(1, 9, 9))).sum().backward()
    assert torch.isfinite(image.grad).all()
    with pytest.raises(RecipeError, match="the loss is nan in step 7"):
        check_finite(float("nan"), 7)


def test_parameters_of_one_number_may_learn_faster():
    network = NETWORKS["e2e-varnet"].build(num_cascades=2, chans=4, pools=1, sens_chans=4, sens_pools=1)
    settings = Optimizer(learning_rate=1e-3, scalar_rate=20)
    weights, scalars = make_optimizer(network.parameters(), settings).param_groups
    assert (weights["lr"], scalars["lr"]) == pytest.approx((1e-3, 2e-2))
    assert len(scalars["params"]) == 2
    assert len(weights["params"]) + 2 == len(list(network.parameters()))


def test_series_beat_and_repeat_by_seed():
    series = random_series(np.random.default_rng(4), (64, 72), 8)
    assert series.shape == (8, 64, 72)
    assert np.array_equal(series, random_series(np.random.default_rng(4), (64, 72), 8))
    middle = np.abs(series[:, 16:48, 18:54])
    change = np.abs(middle - middle[:1]).mean(axis=(1, 2))
    assert change[4] > 0.02 * middle.mean()
    assert change[4] > 2 * change[7] > 0
