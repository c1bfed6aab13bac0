"""What a network saw in training is counted as a service counts it in a scan."""

import numpy as np
import pytest
import torch
from isocenter.training.masks import Masks, random_mask
from isocenter.training.seen import joined, seen_in


def stack(mask, coils=3, samples=40):
    lines = torch.from_numpy(mask).to(torch.float32).reshape(1, 1, *mask.shape[:-1], mask.shape[-1], 1, 1)
    kspace = torch.zeros(1, coils, *mask.shape[:-1], mask.shape[-1], samples, 2)
    return {"kspace": kspace, "mask": lines}


def test_equispaced_lines_are_counted_with_those_that_touch_the_calibration_lines():
    mask = np.arange(48) % 4 == 0
    mask[20:29] = True
    batch = stack(mask)
    seen = seen_in(batch)
    assert seen == {
        "coils": [3, 3],
        "matrix": [40, 48],
        "acs": [9, 9],
        "acceleration": [4.0, 4.0],
        "sampling": ["uniform"],
    }


@pytest.mark.parametrize("acs", [8, 16])
def test_lines_at_random_are_sparser_beside_the_calibration_lines_than_the_budget_says(acs):
    masks = Masks(kinds=("variable-density",), accelerations=(4,), acs=(acs, acs))
    mask = random_mask(np.random.default_rng(3), 128, acs, masks)[0]
    batch = stack(mask)
    seen = seen_in(batch)
    assert seen["sampling"] == ["random"]
    assert seen["acs"][0] >= acs
    assert seen["acceleration"][0] > 4.2


def test_the_sparsest_frame_counts():
    mask = np.zeros((2, 24), bool)
    mask[0, ::2] = mask[1, ::4] = True
    batch = stack(mask)
    assert seen_in(batch)["acceleration"] == [4.0, 4.0]


def test_points_and_samplers_leave_open_how_they_undersample():
    kspace, mask = stack(np.ones(24, bool)).values()
    points = {"kspace": kspace, "mask": mask.expand(-1, -1, -1, 40, -1)}
    assert seen_in({"kspace": kspace}) == seen_in(points) == {"coils": [3, 3], "matrix": [24, 40]}


def test_what_is_seen_in_parts_is_seen_together():
    one = {"coils": [3, 5], "sampling": ["uniform"]}
    other = {"coils": [2, 4], "acs": [8, 9], "sampling": ["random", "uniform"]}
    assert joined({}, one) == one
    assert joined(one, other) == {"coils": [2, 5], "acs": [8, 9], "sampling": ["random", "uniform"]}
