"""A run of training: batches of several shapes, resuming, devices, and what is kept."""

import pytest
import torch
from isocenter.training.batches import count, mean_over_samples, stack_by_shape
from isocenter.training.recipe import Recipe
from isocenter.training.run import datasets
from isocenter.training.task import ReconstructionTask

pytestmark = [pytest.mark.filterwarnings("ignore")]
RECIPE = {
    "name": "small",
    "network": "modl",
    "configuration": {"iterations": 1, "cg_iterations": 2, "chans": 2, "bias": True, "eps": None},
    "scaling": "zero-filled",
    "data": {"kind": "simulated-brain", "samples": 5, "validation_samples": 3, "matrix": [32, 34], "coils": [2, 3]},
    "masks": {"accelerations": [2], "acs": [8, 8]},
    "loss": {"l1": 1.0},
    "optimizer": {"learning_rate": 1.0e-3},
    "epochs": 2,
}


def recipe(**changes):
    return Recipe.model_validate({**RECIPE, **changes})


def gradient(task, loss):
    task.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in task.parameters()]


def test_a_batch_of_several_shapes_has_the_mean_gradient_of_its_samples():
    task = ReconstructionTask(recipe())
    samples = [datasets(task.recipe)[0][index] for index in range(5)]
    batch = stack_by_shape(samples)
    assert count(batch) == 5
    assert 1 < len(batch) <= 5
    together = gradient(task, mean_over_samples(batch, lambda stack: task._loss(task(stack), stack)))
    single = [
        gradient(task, (task({n: v[None] for n, v in one.items()})[0] - one["target"]).abs().mean()) for one in samples
    ]
    for part, alone in zip(together, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(part, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-7)
