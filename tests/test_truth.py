"""What training compares with: masks of scans, the true image by name, and the part of it that a reader gets."""

import numpy as np
import pytest
import torch
from isocenter.models.fourier import ifft
from isocenter.models.planar import center_crop
from isocenter.simulate.sampling import SamplingError
from isocenter.training.data import FullScan, simulated_scan
from isocenter.training.masks import Masks
from isocenter.training.recipe import Recipe, SimulatedData, SimulatedSeries
from isocenter.training.samples import TrainingSamples, maps_of_middle
from isocenter.training.task import ReconstructionTask

SLICES = SimulatedData(kind="simulated-brain", matrix=(48, 48), coils=(3, 3))
SERIES = SimulatedSeries(kind="simulated-cine", matrix=(32, 32), coils=(2, 2), frames=(3, 3))
RECIPE = {
    "name": "small",
    "network": "modl",
    "configuration": {"iterations": 1, "cg_iterations": 3, "chans": 4, "bias": True, "eps": None},
    "scaling": "zero-filled",
    "data": {"kind": "simulated-brain", "matrix": [48, 56]},
    "loss": {"l1": 1.0, "ssim": 0.5},
    "epochs": 1,
}
VARNET = {
    "network": "e2e-varnet",
    "configuration": {"num_cascades": 1, "chans": 4, "pools": 1, "sens_chans": 4, "sens_pools": 1},
    "scaling": None,
}


def only(scan, masks=None, truth="rss", **options):
    masks = masks or Masks(kinds=("variable-density",), accelerations=(2,), acs=8)
    return TrainingSamples(lambda _: scan, 1, masks, 1, with_maps=True, truth=truth, fresh=False, **options)[0]


def test_crops_cut_the_middle_pixel_for_pixel():
    x = torch.arange(7 * 6).reshape(7, 6)
    assert center_crop(x, (3, 4)).tolist() == [[13, 14, 15, 16], [19, 20, 21, 22], [25, 26, 27, 28]]
    assert center_crop(x, (4, 9)).tolist() == x[1:5].tolist()
    assert center_crop(x, None) is x


@pytest.mark.parametrize("data", [SLICES, SERIES], ids=["slice", "series"])
@pytest.mark.parametrize("truth", ["rss", "combined"])
def test_the_target_is_the_middle_of_the_named_truth(data, truth):
    scan = simulated_scan(data, 3, "train")
    cropped = FullScan(scan.kspace, matrix=(20, 24))
    sample = only(cropped, truth=truth)
    images = ifft(scan.kspace, [-2, -1]).numpy()
    maps = torch.view_as_complex(sample["maps"]).numpy()
    maps = maps[:, None] if images.ndim == 4 else maps
    whole = np.sqrt((np.abs(images) ** 2).sum(0)) if truth == "rss" else (maps.conj() * images).sum(0)
    target = torch.view_as_complex(sample["target"]).numpy()
    middle = scan.kspace.shape[-1] // 2
    expected = whole[..., middle - 10 : middle + 10, middle - 12 : middle + 12]
    factor = np.vdot(expected, target) / np.vdot(expected, expected)
    np.testing.assert_allclose(target, factor * expected, atol=1e-5 * np.abs(target).max())
    assert sample["image"].shape[-3:-1] == scan.kspace.shape[-2:]


def test_maps_of_patterns_of_points_come_from_the_block_that_they_measure():
    scan = simulated_scan(SLICES, 3, "train")
    sample = only(scan, Masks(kinds=("poisson-disc",), accelerations=(4,), acs=10), "combined")
    mask = sample["mask"][0, ..., 0]
    assert mask.shape == (48, 48)
    assert mask[19:29, 19:29].all()
    expected = maps_of_middle(scan.kspace * mask, 10)
    torch.testing.assert_close(torch.view_as_complex(sample["maps"]), expected)
    assert torch.equal(sample["kspace"] != 0, sample["kspace"] * mask[..., None] != 0)


def test_padding_is_not_among_the_drawn_lines():
    scan = simulated_scan(SLICES, 3, "train")
    measured = torch.zeros(48, dtype=torch.bool)
    measured[8:40] = True
    padded = FullScan(scan.kspace * measured[:, None], measured=measured, name="a.h5, slice 2")
    mask = only(padded)["mask"].flatten()
    assert mask.sum() == 16
    assert not mask[~measured].any()
    with pytest.raises(
        SamplingError, match=r"a\.h5, slice 2, masks: 40 calibration lines were asked for, and there are 32"
    ):
        only(padded, Masks(acs=40, accelerations=(1,)))


@pytest.mark.parametrize(
    ("changes", "truth", "shape"),
    [
        ({}, None, (1, 20, 24, 2)),
        ({}, "rss", (1, 20, 24)),
        (VARNET, None, (1, 20, 24)),
        (VARNET, "combined", (1, 20, 24)),
    ],
    ids=["complex", "its magnitude", "magnitude", "of combined coils"],
)
def test_networks_are_compared_in_the_middle_with_what_they_return(changes, truth, shape):
    recipe = Recipe.model_validate({**RECIPE, **changes, "truth": truth})
    assert recipe.true_image == (truth or ("combined" if not changes else "rss"))
    scan = simulated_scan(SLICES, 3, "train")
    sample = only(FullScan(scan.kspace, matrix=(20, 24)), truth=recipe.true_image)
    batch = {name: value[None] for name, value in sample.items()}
    task = ReconstructionTask(recipe)
    output = task.apply_network(task.network, batch)
    assert output.shape == task.truth(batch).shape == shape
    assert task.magnitude(output).shape == (1, 20, 24)
    loss = task.loss(batch, 0)
    loss.backward()
    assert all(torch.isfinite(value.grad).all() for value in task.network.parameters() if value.grad is not None)
    whole = {**batch, "target": batch["image"]}
    assert not torch.isclose(task.loss(whole, 0), loss)


def test_a_network_of_two_directions_learns_from_points():
    masks = {"kinds": ["poisson-disc", "equispaced"], "accelerations": [4], "acs": 8}
    recipe = Recipe.model_validate({**RECIPE, "masks": masks})
    samples = TrainingSamples(
        lambda _: simulated_scan(SLICES, 3, "train"), 1, recipe.masks, 1, with_maps=True, truth="combined", fresh=False
    )
    batch = {name: value[None] for name, value in samples[0].items()}
    assert batch["mask"].shape == (1, 1, 48, 48, 1)
    task = ReconstructionTask(recipe)
    before = task.loss(batch, 0)
    before.backward()
    for value in task.network.parameters():
        value.data -= 1e-3 * value.grad / value.grad.norm().clamp_min(1e-12)
    assert task.loss(batch, 0) < before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {**VARNET, "masks": {"kinds": ["equispaced", "radial"]}},
            "masks: radial undersamples two directions, and network 'e2e-varnet' takes scans that are undersampled along ky",
        ),
        ({"masks": {"acs": [24, 24]}}, "masks: an acceleration of 4 leaves 12 of 48 lines, fewer than the 24"),
        ({"masks": {"acs": 64, "kinds": ["equispaced"]}}, "64"),
        ({"masks": {"kinds": ["ring"]}}, "the sampling pattern 'ring' is not known"),
        ({"truth": "sos"}, "truth"),
    ],
)
def test_recipes_that_cannot_be_drawn_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate({**RECIPE, **changes})


def test_points_from_a_file_are_refused_like_those_with_a_name(tmp_path):
    np.save(tmp_path / "points.npy", np.random.default_rng(1).random((48, 48)) < 0.3)
    np.save(tmp_path / "lines.npy", np.ones(48))
    for name in ("points", "lines"):
        recipe = {**RECIPE, **VARNET, "masks": {"kinds": [str(tmp_path / f"{name}.npy")], "acs": 8}}
        if name == "lines":
            assert Recipe.model_validate(recipe).masks.kinds[0].endswith("lines.npy")
        else:
            with pytest.raises(ValueError, match=r"points\.npy undersamples two directions"):
                Recipe.model_validate(recipe)
