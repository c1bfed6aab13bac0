"""Samples of training as MRD files, whose headers say how they were undersampled."""

import isocenter
import numpy as np
import pytest
import torch
from isocenter.gadgets import load
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.scan import Scan
from isocenter.simulate.sampling import Request, draw
from isocenter.training.scans import write_scan
from isocenter.wire.errors import DataError

LINES, FRAMES = 36, 5


def sample(pattern, seed, acceleration, frames, acs=6):
    random = np.random.default_rng(seed)
    mask = draw(pattern, Request(LINES, 8, frames, acceleration, acs), random)
    kspace = torch.from_numpy(random.standard_normal((2, frames, LINES, 8, 2)).astype(np.float32))
    lines = torch.from_numpy(mask).to(torch.float32)
    sample = {"kspace": kspace * lines[None, :, :, None, None], "mask": lines[None, :, :, None, None]}
    return sample if frames > 1 else {name: tensor[:, 0] for name, tensor in sample.items()}


def read(path):
    with isocenter.open_scan(path) as file:
        scan = Scan(file.header)
        (block,) = (item for item in load("accumulate")(file.items(), scan, frames="phase") if isinstance(item, Kspace))
    return scan.encodings[0].acceleration[0], block


@pytest.mark.parametrize("frames", [1, FRAMES])
@pytest.mark.parametrize("acceleration", [3, 4])
@pytest.mark.parametrize("pattern", ["variable-density", "uniform-random", "golden-offset", "equispaced"])
def test_a_service_takes_every_sample_for_complete(tmp_path, pattern, acceleration, frames):
    for seed in range(8):
        written = sample(pattern, seed, acceleration, frames)
        write_scan(tmp_path / "scan.h5", written)
        announced, block = read(tmp_path / "scan.h5")
        assert not block.notes, (seed, announced)
        expected = torch.view_as_complex(written["kspace"]).reshape(2, frames, LINES, 8)
        assert torch.equal(block.data[:, :, 0], expected)
        if pattern == "equispaced":
            assert announced == acceleration
        else:  # one more than lines say at most, where these lie as those of a regular pattern
            assert acceleration - 1 <= announced <= acceleration + 1, seed


def test_a_sample_of_all_lines_is_not_called_undersampled(tmp_path):
    whole = {"kspace": torch.ones(2, LINES, 8, 2), "mask": torch.ones(1, LINES, 1, 1)}
    write_scan(tmp_path / "scan.h5", whole)
    announced, block = read(tmp_path / "scan.h5")
    assert (announced, block.notes) == (1, {})


def test_points_are_no_scan(tmp_path):
    points = {"kspace": torch.ones(2, LINES, 8, 2), "mask": torch.ones(1, LINES, 8, 1)}
    with pytest.raises(DataError, match="points of k-space measured"):
        write_scan(tmp_path / "scan.h5", points)
