"""What is trained is what is served: a network's validation loss, from the validation's scans as a service reconstructs them."""

import json
from types import SimpleNamespace

import isocenter
import numpy as np
import pytest
import torch
from isocenter.engine import Engine
from isocenter.export.cases import make_case
from isocenter.export.network import network_specs
from isocenter.export.options import ExportOptions
from isocenter.models import metrics
from isocenter.models.networks.registry import NETWORKS
from isocenter.training.recipe import Recipe
from isocenter.training.task import ReconstructionTask
from pydantic import ValidationError
from trained import FACTOR, as_returned, stream, train_and_export, validation, write

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

BRAINS = {"kind": "simulated-brain", "samples": 2, "validation_samples": 2, "matrix": [48, 56], "coils": [3, 4]}
HEARTS = {**BRAINS, "kind": "simulated-cine", "samples": 1, "frames": [4, 5], "matrix": [32, 36]}
_VARNET = {"num_cascades": 2, "chans": 4, "pools": 2, "sens_chans": 4, "sens_pools": 2}
SMALL = {
    "admm-csnet": {"stages": 2, "chans": 4},
    "cinevn": {"num_cascades": 3, "chans": 4},
    "crnn-mri": {"iterations": 2, "chans": 4},
    "dccnn": {"cascades": 2, "chans": 4},
    "deep-jsense": {"unrolls": 1, "chans": 4, "blocks": 1},
    "dynamic-dccnn": {"cascades": 2, "chans": 4},
    "e2e-varnet": _VARNET,
    "varnet-complex": _VARNET,
    "modl": {"iterations": 2, "cg_iterations": 3, "chans": 4},
    "modl-didn": {"iterations": 1, "cg_iterations": 3},
    "modl-unet": {"iterations": 1, "cg_iterations": 3},
    "unet": {"chans": 4},
    "unet-complex": {"chans": 4},
    "vn": {"stages": 2, "filters": 4},
    "vs-net": {"stages": 2, "chans": 4},
    **{
        name: {"iterations": 2, "chans": 4}
        for name in (
            *("jotlasnet", "dynamic-ista-net-plus", "slr-net", "ls-net", "t2lr-net"),
            *("hc-pgd", "pdhg-csnet", "cp-net", "pd-net"),
        )
    },
}
RECONSTRUCTS = {name: entry for name, entry in NETWORKS.items() if entry.task in ("2d", "2d+t")}
TRAINED = [name for name, entry in RECONSTRUCTS.items() if entry.output != "real"]


def a_recipe(network, **changes):
    series = NETWORKS[network].task == "2d+t"
    return Recipe.model_validate(
        {
            "name": "scanner",
            "network": network,
            "configuration": SMALL.get(network, {}),
            "data": HEARTS if series else BRAINS,
            "masks": {"accelerations": [3], "acs": [8, 10]},
            "loss": {"nrmse": 1.0, "l1": 0.5, "ssim": 0.3},
            "optimizer": {"learning_rate": 1.0e-3, "clip_norm": 1.0},
            "epochs": 1,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def trained_modl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modl")
    recipe = a_recipe("modl", data={**BRAINS, "coils": [3, 4]})
    return recipe, folder, train_and_export(recipe, folder)


def loss_at_the_scanner(recipe, folder):
    task = ReconstructionTask(recipe)
    losses = []
    for sample in validation(recipe):
        image = stream(sample, folder, series=NETWORKS[recipe.network].task == "2d+t")
        losses.append(float(task._loss(as_returned(image), {name: value[None] for name, value in sample.items()})))
    return np.mean(losses)


def test_the_scanner_has_the_loss_of_the_validation_whatever_its_scale(trained_modl):
    recipe, folder, figures = trained_modl
    assert loss_at_the_scanner(recipe, folder) == pytest.approx(figures["validation_loss"], rel=1e-3)


@pytest.mark.parametrize(
    "network",
    [pytest.param(name, marks=[] if name == "t2lr-net" else pytest.mark.long) for name in TRAINED if name != "modl"],
)
def test_the_scanner_has_the_loss_of_the_validation(network, tmp_path):
    recipe = a_recipe(network)
    figures = train_and_export(recipe, tmp_path)
    assert loss_at_the_scanner(recipe, tmp_path) == pytest.approx(figures["validation_loss"], rel=1e-3)


def test_a_service_on_the_wire_has_the_quality_of_the_validation(trained_modl, bundles, make_service_with, tmp_path):
    recipe, folder, figures = trained_modl
    engine = Engine([folder / "bundles", bundles])
    service = make_service_with(engine, bundles=(folder / "bundles", bundles))
    quality = []
    for sample in validation(recipe):
        with isocenter.open_scan(write(sample, tmp_path / "scan.h5")) as scan:
            recorded = SimpleNamespace(header=scan.header.toXML("utf-8").encode(), items=list(scan.items()))
        chosen = json.dumps({"parameters": {"bundle": "trained"}})
        (image,) = service.replay(recorded, "network.xml", parameters=chosen).images
        assert image.meta["IsocenterBundle"] == "trained"
        truth = torch.linalg.vector_norm(sample["target"], dim=-1)[None]
        shown = torch.from_numpy(image.data[0] / np.float32(FACTOR))
        quality.append([float(measure(shown, truth).mean()) for measure in (metrics.ssim, metrics.psnr, metrics.nmse)])
    engine.close()
    expected = [figures[name] for name in ("ssim", "psnr", "nmse")]
    assert np.mean(quality, axis=0) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("network", [name for name, entry in RECONSTRUCTS.items() if entry.equivariant])
def test_networks_without_a_scaling_do_not_mind_the_scale(network):
    torch.manual_seed(1)
    entry = NETWORKS[network]
    module = entry.build(**SMALL.get(network, {})).eval()
    for parameter in module.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    specs, _ = network_specs(entry, ExportOptions(plane=("ky", "kx"), undersampled=("ky",)))
    inputs = make_case(specs, {"batch": 1, "coils": 3, "frames": 4, "ky": 48, "kx": 40}, acs=8, phantom=True)

    def image(factor):
        with torch.inference_mode():
            return module(*(inputs[spec.name] * (factor if spec.name == "kspace" else 1) for spec in specs)) / factor

    expected = image(1.0)
    for factor in (1e-6, 1e-3, 1e3, 1e6):
        assert (image(factor) - expected).abs().max() < 1e-4 * expected.abs().max(), factor


@pytest.mark.parametrize("network", [name for name, entry in RECONSTRUCTS.items() if not entry.equivariant])
def test_all_other_networks_have_a_scaling_in_their_recipe(network):
    if NETWORKS[network].output == "real":
        pytest.skip("cannot be trained by a recipe")
    recipe = a_recipe(network)
    expected = NETWORKS[network].scaling
    assert recipe.scaling == (expected if expected != "none" else "zero-filled")
    with pytest.raises(ValidationError, match=f"scaling 'none' is not for network '{network}'"):
        a_recipe(network, scaling="none")


def test_the_scaling_stands_in_the_checkpoint_and_in_the_manifest(trained_modl):
    _, folder, _ = trained_modl
    content = torch.load(folder / "run" / "weights.pt", weights_only=True)
    assert content["hyper_parameters"]["recipe"]["scaling"] == "zero-filled"
    manifest = isocenter.load_bundle(folder / "bundles" / "trained").manifest
    assert manifest.conventions.input_scaling == "zero-filled"


@pytest.mark.parametrize("network", TRAINED)
def test_gradients_are_finite_where_maps_or_frames_have_nothing(network):
    """ESPIRiT's maps are zero in whole columns where there is no signal, and frames may be alike."""
    torch.manual_seed(1)
    entry = NETWORKS[network]
    task = ReconstructionTask(a_recipe(network, loss={"l1": 1.0, "ssim": 1.0}))
    specs, _ = network_specs(entry, ExportOptions(plane=("ky", "kx"), undersampled=("ky",)))
    batch = make_case(specs, {"batch": 1, "coils": 2, "frames": 3, "ky": 32, "kx": 32}, acs=8)
    if "maps" in batch:
        batch["maps"][..., :9, :] = 0
    if entry.task == "2d+t":
        batch["kspace"][:, :, 1:] = batch["kspace"][:, :, :1] * batch["mask"][:, :, 1:]
    frames = (3,) if entry.task == "2d+t" else ()
    batch["target"] = torch.rand(1, *frames, 32, 32, 2)
    task._loss(task(batch), batch).backward()
    gradients = [parameter.grad for parameter in task.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
