"""What cannot be exported, and what is wrong with a command or its options, is told in a sentence, and nothing is left."""

import inspect
import re

import mylab
import pytest
import torch
import yaml
from isocenter.bundle.manifest import BundleError
from isocenter.commands.cli import app
from isocenter.export.importers.errors import CheckpointError
from isocenter.export.network import export_network
from isocenter.export.options import ExportOptions, load_options
from isocenter.export.own_module import export_module
from isocenter.models.networks.registry import NETWORKS
from isocenter.wire.errors import OptionError
from test_export import checkpoint
from test_export_own import LINES, MAGNITUDES
from test_networks import SMALL
from typer.testing import CliRunner

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]


def test_a_module_that_freezes_its_sizes_is_refused(tmp_path):
    with pytest.raises(
        BundleError, match=r"it can have no onnx: .*; accepted: torchscript \(not tried\), aoti \(not tried\)"
    ):
        export_module("mylab:Baked", None, tmp_path / "own", ExportOptions(), ["onnx"])
    assert not (tmp_path / "own").exists()
    assert not (tmp_path / "own.partial").exists()


def test_what_an_own_module_lacks_is_said(tmp_path):
    with pytest.raises(BundleError, match="forward takes data; say what its arguments are"):
        export_module("mylab:Unknown", None, tmp_path / "own", ExportOptions())
    with pytest.raises(CheckpointError, match="cannot be imported"):
        export_module("mylab:Nothing", None, tmp_path / "own", ExportOptions())
    with pytest.raises(CheckpointError, match=r"accepted: package\.module:Class"):
        export_module("mylab", None, tmp_path / "own", ExportOptions())
    with pytest.raises(CheckpointError, match="cannot be made with arguments"):
        export_module("mylab:ComplexNet", None, tmp_path / "own", ExportOptions(arguments={"depth": 1}))


def test_a_magnitude_cannot_end_with_sense(tmp_path):
    options = {
        "inputs": [{"name": "image", "axes": ["batch", "1", "ky", "kx"]}],
        "arguments": {"chans": 1},
        "sense_step": 0.1,
        "weights_inside": True,
    }
    with pytest.raises(BundleError, match=r"cannot end with SENSE \(sense_step\)"):
        export_module("mylab:FromImage", None, tmp_path / "own", ExportOptions.model_validate(options))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Pair", {}, "it returns a tuple; accepted: one tensor"),
        ("Either", {}, "runs on real and on complex tensors; say"),
        ("Cropped", {}, "cropping is the pipeline's work"),
        ("Image", {"inputs": ({"name": "y", "axes": ["batch"]},)}, "inputs y are not known"),
        (
            "Image",
            {"inputs": ({"name": "mask", "axes": ["batch", "ky"]},)},
            "inputs are mask; accepted: kspace or image",
        ),
        (
            "MaskOfLines",
            {"inputs": (*LINES[:2], {"name": "mask", "axes": ["batch", "lines"]})},
            "the mask has axes lines",
        ),
        (
            "MaskOfLines",
            {"inputs": (*LINES[:2], {"name": "mask", "axes": ["batch", "kx", "ky"]})},
            "the mask's axes ['batch', 'kx', 'ky'] are in another order than those of k-space",
        ),
        ("FromImage", {"inputs": ({"name": "image", "axes": ["batch", "ky", "1", "kx"]},)}, "the image has the axes"),
        ("FromImage", {"inputs": ({"name": "image", "axes": ["batch", "1", "ky", "kx"]},)}, "does not run on"),
        ("Image", {"inputs": ({"name": "kspace", "axes": ["coils", "ky"]},)}, "the first one must be 'batch'"),
        ("Image", {"inputs": ({"name": "kspace", "axes": ["batch", "ky", "kx"]},)}, "it needs 'coils'"),
    ],
)
def test_what_an_own_module_cannot_be_is_said(name, options, message, tmp_path):
    with pytest.raises(BundleError, match=re.escape(message)):
        export_module(f"mylab:{name}", None, tmp_path / "own", ExportOptions.model_validate(options), ["torchscript"])


def test_options_with_mistakes_are_refused_by_name(tmp_path):
    path = tmp_path / "net.yaml"
    path.write_text(yaml.safe_dump({"scaling": "loud", "colour": 1}))
    with pytest.raises(BundleError) as caught:
        load_options(path)
    assert "scaling" in str(caught.value)
    assert "colour" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x"], "either --network or --module"),
        (["--network", "modl", "-o", "x"], "needs its weights"),
        (["--network", "nonet", "--checkpoint", "w.pt", "-o", "x"], "network 'nonet' is not known"),
        (
            ["--network", "modl", "--checkpoint", "w.pt", "-o", "x", "--formats", "tflite"],
            "format 'tflite' is not known",
        ),
        (["--network", "nonet", "--checkpoint", "w.pt", "-o", "x", "--formats", "pt2"], "pt2 is called aoti now"),
        (["--network", "modl", "--checkpoint", "absent.pt", "-o", "x"], "there is no checkpoint absent.pt"),
        (["--network", "loupe", "--checkpoint", "loupe.pt", "-o", "x"], "LOUPE has no graph"),
        (["--network", "modl", "--checkpoint", "w.pt"], "say how the bundle is to be called"),
        (["--network", "modl", "--show-wrapper"], "--show-wrapper is for an own module"),
    ],
)
def test_the_command_says_what_was_wrong(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loupe.pt").touch()
    result = CliRunner().invoke(app, ["export", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_a_module_that_fails_at_another_size_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(
        BundleError, match=r"the module fails on \{'kspace': \(1, 4, 48, 40, 2\)\}: RuntimeError: The size"
    ):
        export_module("mylab:OfOneSize", None, tmp_path / "own", ExportOptions(complex_tensors=False))
    assert not (tmp_path / "own").exists()


def test_an_image_network_of_other_channels_is_refused(tmp_path):
    configuration = {**SMALL["unet-image"], "in_chans": 3}
    weights = tmp_path / "weights.pt"
    torch.save(NETWORKS["unet-image"].build(**configuration).state_dict(), weights)
    with pytest.raises(BundleError, match="of 3 channels has no place at a scanner"):
        export_network("unet-image", weights, tmp_path / "own", ExportOptions(configuration=configuration))


@pytest.mark.parametrize(
    ("how", "message"), [("random", "other values when it runs again"), ("infinite", "not finite")]
)
def test_modules_with_which_nothing_can_be_compared_are_refused(tmp_path, how, message):
    options = {"inputs": [{"name": "image", "axes": ["batch", "1", "ky", "kx"]}], "arguments": {"how": how}}
    with pytest.raises(BundleError, match=message):
        export_module("mylab:Odd", None, tmp_path / "own", ExportOptions.model_validate(options), ["torchscript"])


def test_an_axis_that_a_module_fixes_is_named(tmp_path, caplog):
    options = ExportOptions(complex_tensors=False)
    bundle = export_module("mylab:CoilByCoil", None, tmp_path / "own", options)
    assert set(bundle.runtime_files()) == {"torchscript"}
    assert "it can have no onnx: its code fixes coils of kspace to 3: a loop over them" in caplog.text


def contents(folder):
    """What lies in it, but for what Python keeps of a module that was imported."""
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


class TestRefused:
    """What is wrong is told with status 2 before anything is done, and nothing is left."""

    def export(self, folder, *arguments, **options):
        (folder / "net.yaml").write_text(yaml.safe_dump(options))
        before = contents(folder)
        command = ["export", "-o", folder / "new" / "own", "--config", folder / "net.yaml", *arguments]
        result = CliRunner().invoke(app, list(map(str, command)))
        assert result.exit_code == 2, result.output
        assert contents(folder) == before
        assert len(result.stderr.splitlines()) == 1
        return result.stderr

    def own(self, folder, *arguments, **options):
        torch.save(mylab.Plain().state_dict(), folder / "own.pt")
        return self.export(folder, "--module", "mylab:Plain", *arguments, **MAGNITUDES, **options)

    def test_weights_that_nobody_gave(self, tmp_path):
        said = self.own(tmp_path)
        assert "mylab:Plain has weights, and nobody gave them: they would be random" in said
        assert "--checkpoint, or 'weights_inside: true'" in said

    def test_weights_that_are_given_twice(self, tmp_path):
        said = self.own(tmp_path, "--checkpoint", tmp_path / "own.pt", weights_inside=True)
        assert "and a checkpoint is given, too; accepted: one of both" in said

    def test_weights_without_effect(self, tmp_path):
        said = self.own(tmp_path, "--checkpoint", tmp_path / "own.pt", arguments={"iterations": 0})
        assert "the weights of mylab:Plain have no effect on its image" in said

    def test_what_is_random_and_in_no_checkpoint(self, tmp_path):
        torch.save(mylab.Random().state_dict(), tmp_path / "own.pt")
        said = self.export(tmp_path, "--module", "mylab:Random", "--checkpoint", tmp_path / "own.pt", **MAGNITUDES)
        assert "returns another image when it is made again: something in it is random" in said

    def test_a_network_without_cascades(self, tmp_path):
        weights = checkpoint("e2e-varnet", tmp_path, {**SMALL["e2e-varnet"], "num_cascades": 0})
        options = {"configuration": {**SMALL["e2e-varnet"], "num_cascades": 0}}
        said = self.export(tmp_path, "--network", "e2e-varnet", "--checkpoint", weights, **options)
        assert "the weights of e2e-varnet have no effect on its image" in said

    @pytest.mark.parametrize("value", [-1, 0, 1.5, "three", True, 10**9, float("nan"), [1], {"a": 1}, None])
    def test_iterations_that_are_no_count(self, value, tmp_path):
        weights = checkpoint("modl", tmp_path)
        options = {"configuration": {**SMALL["modl"], "iterations": value}}
        said = self.export(tmp_path, "--network", "modl", "--checkpoint", weights, **options)
        assert "net.yaml: configuration.iterations: " in said
        assert "is not accepted; accepted: whole number from 1 to 65535" in said

    @pytest.mark.parametrize(
        ("configuration", "said"),
        [
            ({"itrations": 3}, "configuration: there is no entry 'itrations' (nearest: 'iterations'"),
            ({"chans": 60000}, "does not fit the network"),  # and no memory is taken for it
            ({"denoiser": "unt"}, "configuration.denoiser: 'unt' is not accepted; accepted: cnn, unet or didn"),
            ({"weight": "nan"}, "configuration.weight: 'nan' is not accepted; accepted: number"),
        ],
    )
    def test_other_configurations(self, configuration, said, tmp_path):
        weights = checkpoint("modl", tmp_path)
        assert said in self.export(
            tmp_path, "--network", "modl", "--checkpoint", weights, configuration={**SMALL["modl"], **configuration}
        )

    def test_entries_that_would_have_no_effect(self, tmp_path):
        said = self.own(tmp_path, "--checkpoint", tmp_path / "own.pt", configuration={"iterations": 2})
        assert "net.yaml: configuration would have no effect for an own module" in said
        weights = checkpoint("modl", tmp_path)
        said = self.export(tmp_path, "--network", "modl", "--checkpoint", weights, arguments={"iterations": 2})
        assert "net.yaml: arguments would have no effect for a network of the literature" in said

    def test_a_program_that_ends_when_it_is_imported(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "script.py").write_text("import sys\nsys.exit(0)\n")
        assert "script:Net cannot be imported" in self.export(tmp_path, "--module", "script:Net")


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("loupe", "mnet")])
def test_no_network_takes_counts_below_one(name):
    parameters = inspect.signature(NETWORKS[name].make).parameters
    counts = [each.name for each in parameters.values() if each.annotation is int and each.name != "calibration_lines"]
    assert counts
    for count in counts:
        with pytest.raises(
            OptionError, match=rf"configuration\.{count}: -1 is not accepted; accepted: whole number from"
        ):
            NETWORKS[name].build(**{count: -1})
