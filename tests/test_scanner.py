"""What is trained is what is served: a network's validation loss, from the validation's scans as a service reconstructs them."""

import csv
from pathlib import Path

import isocenter
import numpy as np
import pytest
import torch
from isocenter.export.network import export_network
from isocenter.export.options import ExportOptions
from isocenter.models.networks.registry import NETWORKS
from isocenter.service.settings import Settings
from isocenter.training.recipe import Recipe
from isocenter.training.run import datasets, train
from isocenter.training.scans import write_scan
from isocenter.training.task import ReconstructionTask

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

FACTOR = 3e-6
"""Of k-space at the scanner, whose scale no network is told."""
BRAINS = {"kind": "simulated-brain", "samples": 2, "validation_samples": 2, "matrix": [48, 56], "coils": [3, 4]}
HEARTS = {**BRAINS, "kind": "simulated-cine", "samples": 1, "frames": [4, 5], "matrix": [32, 36]}
SMALL = {
    "cinevn": {"num_cascades": 3, "chans": 4},
    "crnn-mri": {"chans": 4},
    "deep-jsense": {"iterations": 2},
    "e2e-varnet": {"num_cascades": 1, "chans": 4, "pools": 2, "sens_chans": 4, "sens_pools": 2},
    "varnet-complex": {"num_cascades": 1, "chans": 4, "pools": 2, "sens_chans": 4, "sens_pools": 2},
    "modl": {"iterations": 2, "cg_iterations": 3, "chans": 4},
    "modl-didn": {"iterations": 1, "cg_iterations": 3},
    "modl-unet": {"iterations": 1, "cg_iterations": 3},
    "unet": {"chans": 4},
    "unet-complex": {"chans": 4},
}
SHORT = {"jotlasnet", "dynamic-ista-net-plus", "slr-net", "ls-net", "t2lr-net", "dynamic-dccnn"}
TRAINED = [name for name, entry in NETWORKS.items() if entry.task in ("2d", "2d+t") and entry.output != "real"]
STEPS = ("accumulate", "remove_oversampling", "prewhiten", "estimate_coil_maps", "reconstruct", "adjust_field_of_view")


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


def pipeline(folder: Path, *, series: bool, steps=STEPS) -> Path:
    """The steps of network.xml, but for those that leave less than a complex image, and its fallback."""
    options = {"accumulate": {"frames": "phase"} if series else {}}
    gadgets = "".join(
        f'<gadget name="{name}">'
        + "".join(f'<property name="{key}" value="{value}"/>' for key, value in options.get(name, {}).items())
        + "</gadget>"
        for name in steps
    )
    path = folder / "trained.xml"
    path.write_text(
        "<configuration><version>2</version>"
        "<readers><reader><dll>gadgetron_mricore</dll><classname>GadgetIsmrmrdAcquisitionMessageReader</classname></reader></readers>"
        "<writers><writer><dll>gadgetron_mricore</dll><classname>MRIImageWriter</classname></writer></writers>"
        '<stream><external><connect address="127.0.0.1" port="9012"/><configuration>'
        f'{gadgets}<gadget name="finish"/></configuration></external></stream></configuration>'
    )
    return path


def trained(recipe, folder):
    """Train and export; return the validation's loss."""
    train(recipe, folder / "run", progress=False)
    export_network(
        recipe.network, folder / "run" / "weights.pt", folder / "bundles" / "trained", ExportOptions(), ["torchscript"]
    )
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        return float([row for row in csv.DictReader(file) if row.get("validation_loss")][-1]["validation_loss"])


def loss_of(recipe, folder, images):
    """The mean of the recipe's loss over the validation's samples, from the images [(frames,) y, x] of each."""
    task = ReconstructionTask(recipe)
    losses = []
    for index, image in enumerate(images):
        sample = {name: value[None] for name, value in datasets(recipe)[1][index].items()}
        output = torch.from_numpy(image / FACTOR)
        output = torch.view_as_real(output.contiguous()) if output.is_complex() else output
        losses.append(float(task._loss(output[None], sample)))
    return np.mean(losses)


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=[] if name in ("modl", "t2lr-net") else pytest.mark.long) for name in TRAINED]
)
def test_the_scanner_has_the_loss_of_the_validation(network, tmp_path):
    short = {"configuration": {"iterations": 2}} if network in SHORT else {}
    recipe = a_recipe(network, **short)
    expected = trained(recipe, tmp_path)
    chain = pipeline(tmp_path, series=NETWORKS[network].task == "2d+t")
    settings = Settings(home=tmp_path / "home", bundles=(tmp_path / "bundles",))
    images = []
    for index in range(len(datasets(recipe)[1])):
        path = tmp_path / f"{index}.h5"
        write_scan(path, datasets(recipe)[1][index], FACTOR)
        found = isocenter.reconstruct(path, chain, settings=settings, bundle="trained")
        images.append(np.stack([image.data[0, 0] for image in found]).squeeze())
    assert loss_of(recipe, tmp_path, images) == pytest.approx(expected, rel=1e-3)
