"""What can be recorded as a CUDA graph; that it computes the same, only a card can show (``test_cuda.py``)."""

import pytest
import torch
from isocenter.bundle.folder import Bundle
from isocenter.engine.model import LoadedModel
from isocenter.engine.torchscript import steps_that_wait
from isocenter.export.classical import METHODS
from isocenter.export.shipped import SHIPPED

CPU = torch.device("cpu")


class Inner(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(x.shape[0]):
            if bool(x.max() > 1):
                x = x / 2
        return x


class Branch(torch.nn.Module):
    """A branch on the data, in a loop of a module within."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class Number(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / float(x.max())


class Chosen(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0]


class Solved(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve(x, x)


class Sizes(torch.nn.Module):
    """Branches on sizes, of which each has a recording of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, -x) if x.shape[0] > 1 else x.sum(dim=0, keepdim=True)


@pytest.mark.parametrize(
    ("module", "steps"),
    [
        (Branch(), ["aten::Bool.Tensor"]),
        (Number(), ["aten::Float.Tensor"]),
        (Chosen(), ["aten::index.Tensor"]),
        (Solved(), ["aten::linalg_solve"]),
        (Sizes(), []),
    ],
)
def test_what_needs_a_number_on_the_processor_waits(module, steps):
    assert steps_that_wait(torch.jit.script(module)) == steps


@pytest.mark.parametrize("name", [*METHODS, *SHIPPED])
def test_no_bundle_that_comes_with_isocenter_waits(bundles, name):
    assert steps_that_wait(torch.jit.load(str(bundles / name / "model.ts"))) == []


def test_without_a_card_the_file_is_run_as_it_is(bundles):
    assert LoadedModel(Bundle.open(bundles / "rss"), CPU, "torchscript-graph").runtime == "torchscript"
