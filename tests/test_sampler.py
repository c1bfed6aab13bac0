"""MNet's two training schemes, reference masks, and LOUPE."""

import pytest
import torch
import yaml
from isocenter.export.importers.load import load_network
from isocenter.models.networks.mnet import budget_mask
from isocenter.training.icd import descend, middle_lines, variable_density
from isocenter.training.recipe import Recipe, RecipeError, load_recipe
from isocenter.training.run import datasets, train
from isocenter.training.sampler import SamplerTask

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]
DATA = {"kind": "simulated-brain", "samples": 3, "validation_samples": 1, "matrix": [162, 162], "coils": [3, 3]}
MODL = {"iterations": 1, "cg_iterations": 3, "chans": 4, "bias": True, "eps": None}
RECIPE = {
    "name": "sampler",
    "network": "mnet",
    "configuration": {"chans": 2, "lines": 150, "features": 32},
    "data": DATA,
    "optimizer": {"name": "rmsprop", "learning_rate": 1.0e-3},
    "sampler": {
        "base": 12,
        "budget": 20,
        "network": "modl",
        "configuration": MODL,
        "scaling": "zero-filled",
        "scheme": "alternating",
        "reconstructor_steps": 1,
        "sampler_steps": 2,
    },
    "epochs": 1,
}


def recipe(**sampler):
    return Recipe.model_validate({**RECIPE, "sampler": {**RECIPE["sampler"], **sampler}})


def test_descent_finds_the_best_lines_where_each_has_a_worth_of_its_own():
    worth = torch.tensor([3.0, 9, 1, 7, 100, 100, 2, 8, 5, 4])
    fixed = torch.zeros(10, dtype=torch.bool)
    fixed[4:6] = True
    start = fixed.clone()
    start[[0, 2, 6]] = True
    mask = descend(start, fixed, lambda masks: -(masks * worth).sum(1))
    assert mask.nonzero().flatten().tolist() == [1, 3, 4, 5, 7]


def test_descent_never_makes_it_worse_and_keeps_the_number_of_lines():
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(24, 24, generator=generator)

    def error(masks):
        return (masks.float() @ weights).square().sum(1)

    start = variable_density(24, 4, 6, generator)
    mask = descend(start, middle_lines(24, 4), error)
    assert error(mask[None]) < error(start[None])
    assert int(mask.sum()) == int(start.sum()) == 10
    assert bool(mask[middle_lines(24, 4)].all())


@pytest.mark.parametrize(("lines", "base"), [(24, 4), (25, 4), (24, 5), (25, 5)])
def test_the_middle_lines_are_those_of_the_samplers_masks(lines, base):
    none = budget_mask(torch.zeros(1, lines - base), 0, base)[0] > 0
    assert torch.equal(none, middle_lines(lines, base))


def test_the_sampler_chooses_as_many_lines_as_it_may_and_the_error_reaches_it():
    torch.manual_seed(1)
    task = SamplerTask(recipe())
    sample = datasets(task.recipe)[0][0]
    batch = {name: tensor[None] for name, tensor in sample.items()}
    logits, mask = task.choose(batch["kspace"])
    assert mask.shape == (1, 1, 162, 1, 1)
    assert torch.equal(mask[0, 0, :, 0, 0], budget_mask(logits, 20, 12)[0])
    assert int(batch["mask"].sum()) == 162
    task._nrmse(task(batch), batch).backward()
    gradients = [parameter.grad for parameter in task.network.parameters()]
    assert all(gradient is not None for gradient in gradients)
    assert float(task.network.head[-1].bias.grad.abs().sum()) > 0


@pytest.mark.long
def test_schemes_train_what_they_say(tmp_path):
    before = SamplerTask(recipe()).reconstructor.state_dict()
    task = train(recipe(), tmp_path / "alternating", progress=False)
    assert task.is_file()
    sampler = load_network("mnet", tmp_path / "alternating" / "weights.pt")
    assert sampler.configuration["lines"] == 150
    reconstructor = load_network("modl", tmp_path / "alternating" / "reconstructor.pt").module
    assert set(reconstructor.state_dict()) == set(before)
    start = tmp_path / "alternating" / "reconstructor.pt"
    train(recipe(scheme="fixed", start_from=start), tmp_path / "fixed", progress=False)
    weights = [
        torch.load(tmp_path / scheme / "reconstructor.pt", weights_only=True)["state_dict"]
        for scheme in ("alternating", "fixed")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    samplers = [
        torch.load(tmp_path / scheme / "weights.pt", weights_only=True)["state_dict"]
        for scheme in ("alternating", "fixed")
    ]
    assert any(not torch.equal(samplers[0][name], samplers[1][name]) for name in samplers[0])


def test_reference_masks_have_the_samplers_lines():
    small = {"base": 12, "budget": 2, "icd": True, "configuration": {**MODL, "cg_iterations": 1}}
    task = SamplerTask(recipe(**small))
    label = task.label(datasets(task.recipe)[0][0])
    assert label.shape == (150,)
    assert float(label.sum()) == 2


def test_loupe_is_trained_by_a_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    configuration = {"shape": [64, 64], "chans": 4, "pools": 2}
    content = {
        **{name: value for name, value in RECIPE.items() if name != "sampler"},
        "network": "loupe",
        "configuration": configuration,
        "data": {**DATA, "matrix": [64, 64], "coils": [2, 4]},
        "loss": {"l1": 1.0},
        "batch": 3,
    }
    path.write_text(yaml.safe_dump(content))
    train(load_recipe(path), tmp_path / "loupe", progress=False)
    loupe = load_network("loupe", tmp_path / "loupe" / "weights.pt").module.eval()
    assert int(loupe.mask().sum()) == 1024


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": None}, "needs the section 'sampler'"),
        ({"network": "modl", "configuration": MODL, "loss": {"l1": 1}}, "no other network takes it"),
        ({"loss": {"l1": 1}}, "has its own loss"),
        ({"configuration": {"chans": 2, "lines": 308, "features": 32}}, "'lines': 150, 'features': 32"),
        ({"sampler": {**RECIPE["sampler"], "network": "jotlasnet"}}, "does not reconstruct slices"),
        ({"data": {**DATA, "matrix": [162, 180]}}, "one size only"),
    ],
)
def test_mistakes_in_a_samplers_recipe_are_named(tmp_path, changes, message):
    path = tmp_path / "recipe.yaml"
    content = {name: value for name, value in {**RECIPE, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)
