"""What a bundle says of the training of its weights: domain, data, recipe, packages; options of the user go before."""

import pytest
import torch
from isocenter.bundle.manifest import BundleError, Domain
from isocenter.export.network import export_network
from isocenter.export.options import ExportOptions
from isocenter.export.trained import completed, shareable, undersampled
from isocenter.models.networks.registry import NETWORKS
from isocenter.training.packages import packages
from isocenter.training.recipe import Recipe
from isocenter.wire.errors import OptionError

pytestmark = pytest.mark.filterwarnings("ignore")
MODL = {"iterations": 1, "cg_iterations": 2, "chans": 2, "bias": True, "eps": None}
RECIPE = {
    "name": "small",
    "network": "modl",
    "configuration": MODL,
    "data": {"kind": "simulated-brain", "samples": 6, "validation_samples": 2, "matrix": [48, 64], "coils": [3, 8]},
    "masks": {"accelerations": [2, 4, 3], "acs": [8, 12], "kinds": ["uniform", "random"]},
    "loss": {"mse": 1.0},
    "epochs": 2,
    "seed": 5,
    "start_from": ["/home/somebody/runs/first/weights.pt"],
}
SEEN = {
    "coils": [3, 8],
    "matrix": [48, 64],
    "acs": [8, 13],
    "acceleration": [2.0, 6.4],
    "sampling": ["full", "random", "uniform"],
}
MNET = {
    "name": "lines",
    "network": "mnet",
    "configuration": {"chans": 1, "lines": 150, "features": 16},
    "data": {"kind": "simulated-brain", "samples": 6, "validation_samples": 2, "matrix": [162, 162], "coils": [3, 3]},
    "sampler": {"base": 12, "budget": 28, "network": "modl", "configuration": MODL},
    "epochs": 2,
}


def checkpoint(folder, recipe):
    """A checkpoint as training writes it."""
    torch.manual_seed(3)
    whole = Recipe.model_validate(recipe).model_dump(mode="json")
    network = NETWORKS[whole["network"]].build(**whole["configuration"])
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    path = folder / "weights.pt"
    torch.save(
        {"state_dict": weights, "hyper_parameters": {"recipe": whole, "packages": packages(), "seen": SEEN}}, path
    )
    return path


def test_a_bundle_says_what_its_weights_were_trained_for_and_on(tmp_path):
    weights = checkpoint(tmp_path, RECIPE)
    manifest = export_network("modl", weights, tmp_path / "own", ExportOptions(), ["torchscript"]).manifest
    assert manifest.domain == Domain(
        dimensions=("2d",),
        acceleration=(2, 6.4),
        acs=(8, 13),
        sampling=("random", "uniform"),
        coils=(3, 8),
        matrix=(48, 64),
        anatomy=("brain",),
    )
    made = manifest.provenance
    assert made.training_data == (
        "simulated-brain (6 scans, matrix 48 to 64, coils 3 to 8); recipe small, seed 5, from weights of ['first/weights.pt']"
    )
    assert made.recipe["seed"] == 5
    assert made.recipe["masks"]["accelerations"] == [2, 4, 3]
    assert made.training_tools["torch"] == torch.__version__
    assert "isocenter" in made.training_tools
    assert "somebody" not in (tmp_path / "own" / "model.yaml").read_text()


def test_what_the_user_says_goes_before_the_recipe(tmp_path):
    options = ExportOptions(domain=Domain(acceleration=(1, 9), contrast=("T1",)), training_data="twelve knees")
    filled = completed(options, NETWORKS["modl"], {"recipe": RECIPE, "seen": SEEN})
    assert filled.domain.acceleration == (1, 9)
    assert filled.domain.contrast == ("T1",)
    assert filled.domain.acs == (8, 13)
    assert filled.training_data == "twelve knees"


def test_recipes_on_files_with_fractions_and_points_are_read():
    data = {"kind": "fastmri", "folder": "/data/secret/knees/train", "validation_folder": "/data/secret/knees/val"}
    masks = {"kinds": ["equispaced", "poisson-disc"], "accelerations": [4.0], "acs": [0.08, 0.12]}
    recipe = {**RECIPE, "data": data, "masks": masks}
    filled = completed(ExportOptions(), NETWORKS["modl"], {"recipe": recipe})
    assert filled.domain == Domain()
    assert "folder train" in filled.training_data
    assert shareable(recipe)["data"] == {"kind": "fastmri", "folder": "train", "validation_folder": "val"}
    assert undersampled(NETWORKS["modl"], recipe) == ("ky", "kx")


def test_a_configuration_that_the_network_does_not_have_is_named(tmp_path):
    options = ExportOptions(configuration={"channels": 4})
    with pytest.raises(OptionError, match=r"^configuration: there is no entry 'channels' \(nearest: 'chans'\)"):
        export_network("modl", checkpoint(tmp_path, RECIPE), tmp_path / "own", options, ["torchscript"])


def test_a_sampler_takes_its_size_from_the_recipe_and_says_how_many_lines_it_has_and_chooses(tmp_path):
    bundle = export_network("mnet", checkpoint(tmp_path, MNET), tmp_path / "own", ExportOptions())
    assert set(bundle.runtime_files()) == {"torchscript", "onnx"}
    assert bundle.manifest.configuration == {**MNET["configuration"], "base": 12, "budget": 28}
    assert bundle.manifest.inputs[0].limits == {"ky": (162, 162), "kx": (162, 162)}
    assert bundle.manifest.outputs[0].axes == ("batch", "150")


def test_a_sampler_without_a_recipe_says_what_it_needs(tmp_path):
    network = NETWORKS["mnet"].build(**MNET["configuration"])
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    configuration = {**MNET["configuration"], "base": 12, "budget": 20}
    with pytest.raises(BundleError, match="works for one size only; give it as 'matrix"):
        export_network(
            "mnet",
            tmp_path / "weights.pt",
            tmp_path / "own",
            ExportOptions(configuration=configuration),
            ["torchscript"],
        )
    options = ExportOptions(configuration=configuration, matrix=(96, 162))
    with pytest.raises(BundleError, match=r"'mnet' has 0 features for a size of 96 x 162; accepted: sizes .* has 16"):
        export_network("mnet", tmp_path / "weights.pt", tmp_path / "own", options, ["torchscript"])
    options = ExportOptions(configuration=configuration, matrix=(162, 162))
    bundle = export_network("mnet", tmp_path / "weights.pt", tmp_path / "own", options, ["torchscript"])
    assert bundle.manifest.configuration["budget"] == 20
