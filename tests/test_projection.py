"""What training keeps of a network's own conventions: projected kernels, and kernels that lie along the readout."""

import pytest
import torch
from isocenter.models.networks.registry import NETWORKS
from isocenter.training.recipe import Recipe
from isocenter.training.sampler import SamplerTask
from isocenter.training.task import ReconstructionTask

DATA = {"kind": "simulated-brain", "samples": 2, "validation_samples": 1, "matrix": [162, 162], "coils": [3, 3]}
SMALL_VN = {"stages": 2, "filters": 4, "kernel": 5, "nodes": 7}


def recipe(network, **changes):
    return {"name": "small", "network": network, "data": DATA, "loss": {"mse": 1.0}, "epochs": 1, **changes}


def sampler_recipe(network, **changes):
    sampler = {"base": 12, "budget": 28, "network": network, **changes}
    mnet = {"chans": 2, "lines": 150, "features": 32}
    return recipe("mnet", configuration=mnet, loss={}, sampler=sampler)


def step(optimizer, network):
    """One step that pushes every parameter of a variational network out of its set."""
    pull = torch.randn(network.stages[0].kernels.shape) + 1
    loss = sum((stage.kernels * pull).sum() + stage.weight for stage in network.stages)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_kernels_of_variational_networks_stay_in_the_unit_ball_of_zero_mean_while_they_are_trained(name):
    torch.manual_seed(2)
    settings = {"name": name, "learning_rate": 0.1}
    task = ReconstructionTask(recipe("vn", configuration=SMALL_VN, optimizer=settings))
    sampler = SamplerTask(sampler_recipe("vn", configuration=SMALL_VN, optimizer={"name": name, "learning_rate": 0.1}))
    optimizers = (
        (task.learners()[0].optimizer(), task.network),
        (sampler.learners()[1].optimizer(), sampler.reconstructor),
    )
    for optimizer, network in optimizers:
        before = [stage.kernels.clone() for stage in network.stages]
        for _ in range(12):
            step(optimizer, network)
        for stage, first in zip(network.stages, before, strict=True):
            assert (stage.kernels - first).abs().max() > 0.01
            assert stage.kernels.mean(dim=(1, 2, 3)).abs().max() < 1e-7
            assert torch.linalg.vector_norm(stage.kernels, dim=(1, 2, 3)).max() < 1 + 1e-6
            assert stage.weight == 0


def test_a_projection_is_the_nearest_point_of_its_set():
    stage = NETWORKS["vn"].build(**SMALL_VN).stages[0]
    with torch.no_grad():
        stage.kernels.copy_(torch.randn_like(stage.kernels) * torch.tensor([0.01, 0.05, 1, 3])[:, None, None, None])
        stage.weight.fill_(0.7)
    expected = stage.kernels.detach().double().numpy()
    expected = expected - expected.mean((1, 2, 3), keepdims=True)
    expected /= (expected**2).sum((1, 2, 3), keepdims=True).clip(1) ** 0.5
    stage.project()
    torch.testing.assert_close(stage.kernels.detach().double(), torch.from_numpy(expected), atol=1e-6, rtol=0)
    assert stage.weight.item() == pytest.approx(0.7)


def test_map_kernels_have_their_longer_side_along_the_readout_which_training_has_last():
    published = NETWORKS["deep-jsense"].build(chans=4)
    assert (published.kernel_y, published.kernel_x) == (15, 9)
    task = ReconstructionTask(recipe("deep-jsense", configuration={"chans": 4}))
    assert (task.network.kernel_y, task.network.kernel_x) == (9, 15)
    assert task.recipe.model_dump(mode="json")["configuration"]["kernel"] == [9, 15]
    sampler = Recipe.model_validate(sampler_recipe("deep-jsense")).sampler
    assert sampler is not None
    assert sampler.configuration["kernel"] == (9, 15)
    chosen = Recipe.model_validate(recipe("deep-jsense", configuration={"kernel": [7, 11]}))
    assert chosen.configuration["kernel"] == [7, 11]
