"""Runs of training on files: they go on with the files they began with, alone in their folder."""

import h5py
import numpy as np
import pytest
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.training.folder import RunFolder
from isocenter.training.recipe import Recipe, RecipeError
from isocenter.training.run import train
from isocenter.wire.errors import DataError

pytestmark = [pytest.mark.filterwarnings("ignore")]
RECIPE = {
    "name": "small",
    "network": "modl",
    "configuration": {"iterations": 1, "cg_iterations": 2, "chans": 2, "bias": True, "eps": None},
    "masks": {"accelerations": [2], "acs": [8, 8]},
    "loss": {"l1": 1.0},
}


def files(folder):
    return {
        "kind": "files",
        "folder": str(folder / "train"),
        "validation_folder": str(folder / "val"),
        "cache": str(folder / "cache"),
    }


def run(folder, data, epochs=1, **options):
    recipe = Recipe.model_validate({**RECIPE, "data": data, "epochs": epochs})
    return train(recipe, folder, devices="cpu", progress=False, **options)


@pytest.fixture
def folder(tmp_path):
    for name, seed in (("train", 1), ("val", 2)):
        (tmp_path / name).mkdir()
        simulate(ScanProtocol(matrix=32, coils=2, seed=seed)).save(tmp_path / name / "a.h5")
    return tmp_path


def test_two_trainings_do_not_share_a_folder(folder):
    with (
        RunFolder(folder / "run").alone(),
        pytest.raises(RecipeError, match=r"another process is training in .*; accepted: another folder"),
    ):
        run(folder / "run", files(folder))
    assert run(folder / "run", files(folder)).is_file()


def test_a_run_does_not_go_on_with_other_files(folder):
    run(folder / "run", files(folder))
    simulate(ScanProtocol(matrix=32, coils=2, seed=3)).save(folder / "train" / "b.h5")
    with pytest.raises(RecipeError, match="data: the scans for training are others than when the run in"):
        run(folder / "run", files(folder), epochs=2, resume=True)
    assert "epochs: 1\n" in (folder / "run" / "recipe.yaml").read_text()
    (folder / "train" / "b.h5").unlink()
    run(folder / "run", files(folder), epochs=2, resume=True)
    assert len((folder / "run" / "metrics.csv").read_text().splitlines()) == 3


def test_images_too_small_to_be_judged_are_named(tmp_path):
    for name, seed in (("train", 1), ("val", 2)):
        (tmp_path / name).mkdir()
        kspace = np.random.default_rng(seed).standard_normal((1, 2, 5, 12, 2)) @ [1, 1j]
        with h5py.File(tmp_path / name / "small.h5", "w") as file:
            file["kspace"] = kspace
    with pytest.raises(DataError, match=r"small\.h5, slice 0: its image of 12 x 5 pixels cannot be judged"):
        run(tmp_path / "run", files(tmp_path))
