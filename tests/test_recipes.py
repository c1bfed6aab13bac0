"""Every shipped recipe trains, in short, and what it makes is exported, verified and streamed."""

from pathlib import Path

import pictures
import pytest
import torch
from isocenter.bundle.manifest import BundleError
from isocenter.export.importers.load import load_network
from isocenter.export.network import export_network
from isocenter.export.options import ExportOptions
from isocenter.training.recipe import Recipe, RecipeError, load_recipe
from isocenter.training.run import train
from trained import export, network_of, stream, validation

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1200)]

RECIPES = Path(__file__).parent.parent / "recipes"
STAGES = [
    ["jotlasnet-cine"],
    ["mnet-modl"],
    ["modl-brain", "modl-brain-2"],
    [
        "varnet-brain-maps",
        "varnet-brain",
        *(f"varnet-brain-{stage}" for stage in range(2, 7)),
    ],
    ["ridge"],
    ["ridge-cine"],
]
"""Recipes that start from one another's weights, in their order."""


def shortened(name: str) -> Recipe:
    """A shipped recipe with its network, loss, masks and optimiser, on a few small scans."""
    content = load_recipe(RECIPES / f"{name}.yaml").model_dump(mode="json")
    small = {"samples": 3, "validation_samples": 1}
    if content["network"] not in ("mnet", "loupe"):  # which are for one size
        small |= {"samples": 2, "matrix": [104, 108], "coils": [4, 5]}
    if "frames" in content["data"]:
        small |= {"frames": [3, 4]}
    return Recipe.model_validate({**content, "data": {**content["data"], **small}, "epochs": 1})


def reconstructor(recipe: Recipe) -> tuple[Recipe, Path]:
    """The recipe and the weights of what reconstructs, which a sampler has beside it."""
    run = Path("runs") / recipe.name
    if recipe.sampler is None:
        return recipe, run / "weights.pt"
    own = {name: getattr(recipe.sampler, name) for name in ("network", "configuration", "scaling")}
    changed = {**recipe.model_dump(mode="json"), **own, "sampler": None, "loss": {"l1": 1.0}}
    return Recipe.model_validate(changed), run / "reconstructor.pt"


def test_every_recipe_is_tried():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {
        "loupe-brain",
        *(name for names in STAGES for name in names),
    }


@pytest.mark.parametrize(
    "names",
    [pytest.param(names, id=names[0], marks=[] if names[0] == "modl-brain" else pytest.mark.long) for names in STAGES],
)
def test_a_recipe_trains_and_its_network_reconstructs_at_the_scanner_as_in_training(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "file" in load_recipe(RECIPES / f"{names[0]}.yaml").data.model_dump():
        pictures.textures(tmp_path / "textures")
    for name in names:
        recipe = shortened(name)
        assert train(recipe, Path("runs") / name, progress=False).is_file()
    recipe, weights = reconstructor(recipe)
    export(recipe.network, weights, tmp_path)
    (sample,) = validation(recipe)
    series = "frames" in recipe.data.model_dump()
    expected = network_of(recipe, weights)(sample)[0]
    found = stream(sample, tmp_path, series=series)
    found = torch.view_as_real(found) if found.is_complex() else found
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_loupe_learns_one_mask_from_scans_of_several_coil_arrays(tmp_path):
    train(shortened("loupe-brain"), tmp_path, progress=False)
    mask = load_network("loupe", tmp_path / "weights.pt").module.mask()
    assert mask.shape == (160, 160)
    assert int(mask.sum()) == 160 * 160 // 4
    with pytest.raises(BundleError, match="no graph to run at the scanner: its result is one mask"):
        export_network("loupe", tmp_path / "weights.pt", tmp_path / "bundle", ExportOptions())


def test_a_stage_without_the_weights_of_the_one_before_says_which_recipe_writes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="the recipe 'modl-brain' writes it: train that one first") as caught:
        train(shortened("modl-brain-2"), tmp_path / "run", progress=False)
    assert str(tmp_path) in str(caught.value)
    assert "shipped:modl-brain" in str(caught.value)


def test_weights_that_do_not_come_with_it_are_refused_with_those_that_do(tmp_path):
    recipe = Recipe.model_validate({**shortened("modl-brain").model_dump(mode="json"), "start_from": ["shipped:modl"]})
    with pytest.raises(
        RecipeError,
        match=r"no weights 'shipped:modl'.*shipped:modl-brain, shipped:ridge-cine, shipped:ridge, shipped:varnet-brain",
    ):
        train(recipe, tmp_path / "run", progress=False)
