"""What was made with version 0.1.0 works on: a bundle, a pipeline, settings, a spooled scan, names of modules."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import collect
from isocenter import models
from isocenter.bundle.folder import Bundle
from isocenter.commands import replay as replay_command
from isocenter.engine.model import LoadedModel
from isocenter.gadgets.accumulate import accumulate
from isocenter.pipelines import loader
from isocenter.service.settings import Settings, load_settings

MADE = Path(__file__).parent / "data" / "made_with_0.1.0"


def test_a_bundle_opens_and_passes_its_probe():
    model = LoadedModel(Bundle.open(MADE / "bundles" / "rss"), torch.device("cpu"), "torchscript")
    assert model.manifest.format_version == 1
    assert model.manifest.name == "rss"


def test_every_setting_of_its_example_is_read():
    settings = load_settings(MADE / "isocenter.yaml")
    changed = {"home", "max_text_bytes", "default_bundle"}
    assert settings.model_dump(exclude=changed) == Settings().model_dump(exclude=changed)
    assert settings.max_text_bytes == 16 * 2**20
    assert settings.default_bundle == "modl-brain"
    assert settings.notes == (
        "the setting network is called default_bundle now",
        "the setting queue_bytes is not used any more: a quarter of scan_bytes takes its place",
    )


def test_a_setting_counts_by_its_former_name_too():
    assert Settings(network="varnet-brain").default_bundle == "varnet-brain"
    assert load_settings(None, network="varnet-brain", default_bundle="rss").default_bundle == "rss"


def test_a_pipeline_for_gadgetron_is_read():
    pipeline = loader.parse((MADE / "rss.xml").read_bytes(), "rss.xml")
    assert [step.gadget.name for step in pipeline.steps][:4] == [
        "accumulate",
        "remove_oversampling",
        "prewhiten",
        "reconstruct",
    ]


def test_a_spooled_scan_gives_its_image_with_its_bundle(make_service_with, make_engine, tmp_path):
    """The bundle's own root of the sum of squares, from the bytes that were kept."""
    service = make_service_with(make_engine(MADE / "bundles", runtime="torchscript"))
    options = replay_command.Options(filename=MADE / "scan.stream", outfile=tmp_path / "out.h5", port=service.port)
    nothing = {"on_start": lambda _: None, "on_acquisition": lambda: None}
    result = replay_command.replay(options, **nothing, on_image=lambda _: None, on_text=lambda _: None)
    expected = np.load(MADE / "image.npy")
    assert result.images[0].data.shape == expected.shape
    assert np.allclose(result.images[0].data, expected, rtol=1e-5, atol=1e-6 * float(expected.max()))


@pytest.fixture
def old_names():
    """As in a process that has not imported them yet."""

    def forget():
        for name in [name for name in sys.modules if name.startswith("isocenter.models.training")]:
            del sys.modules[name]
        vars(models).pop("training", None)

    forget()
    yield
    forget()


@pytest.mark.parametrize(
    ("statement", "warns"),
    [
        ("import isocenter.models.networks.registry as m; m.NETWORKS", False),
        ("from isocenter.models import coil_maps, fourier, metrics", False),
        ("import isocenter.models.training.recipe as m; m.load_recipe", True),
        ("from isocenter.models.training.data import simulated_scan", True),
        ("import isocenter.models.training", True),
    ],
)
def test_modules_are_found_under_their_names(old_names, statement, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeprecationWarning)
        exec(statement, {})
    moved = [str(each.message) for each in caught if "has moved to isocenter.training" in str(each.message)]
    assert bool(moved) is warns, moved


def test_a_moved_module_is_one_and_the_same():
    """Where it is imported under its old name first: in a process of its own."""
    code = (
        "import isocenter.models.training.data as old, isocenter.training.data as new\n"
        "assert old is new and new.__spec__.name == 'isocenter.training.data'"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_block_gives_its_central_headers_by_their_former_name_too(small_scan):
    (*_, block), _ = collect([(accumulate, {})], small_scan)
    with pytest.warns(DeprecationWarning, match="is called central_headers now"):
        assert block.reference == block.central_headers
