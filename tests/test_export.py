"""Exported networks equal eager ones, by the command line, the published checkpoints' way and an outsider's."""

import re

import numpy as np
import pytest
import torch
import yaml
from isocenter.bundle.folder import Bundle, relative_error
from isocenter.bundle.manifest import BundleError
from isocenter.commands.cli import app
from isocenter.engine.runtimes import RUNTIMES
from isocenter.export.cases import make_case
from isocenter.export.half_precision import in_precision
from isocenter.export.network import export_network
from isocenter.export.options import ExportOptions
from isocenter.export.own_module import export_module
from isocenter.flow.deferred import Deferred, settled
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.model_inputs import arrange_inputs, arrange_output
from isocenter.models.networks.registry import NETWORKS
from isocenter.wire.header import Encoding
from isocenter.wire.items import ACQUISITION_HEADER
from test_networks import SMALL
from typer.testing import CliRunner

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]
SIZES = [
    ({"batch": 1, "coils": 5, "frames": 3, "ky": 51, "kx": 34}, {"acs": 14, "spacing": 3}),
    ({"batch": 2, "coils": 2, "frames": 6, "ky": 40, "kx": 61}, {"acs": 4, "spacing": 4, "phantom": True}),
]


def checkpoint(name, folder, configuration=None):
    torch.manual_seed(7)
    path = folder / "weights.pt"
    torch.save(NETWORKS[name].build(**(configuration or SMALL[name])).state_dict(), path)
    return path


def beside(scale, x):
    return scale.reshape([-1] + [1] * (x.dim() - 1))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "once"), [("e2e-varnet", {"num_cascades": 1}), ("modl", {}), ("jotlasnet", {"iterations": 1})]
)
def test_exported_networks_equal_eager_at_other_shapes_coils_and_calibration_lines(name, once, tmp_path):
    configuration = {**SMALL[name], **once}
    weights = checkpoint(name, tmp_path, configuration)
    bundle = export_network(name, weights, tmp_path / "bundle", ExportOptions(configuration=configuration))
    assert set(bundle.runtime_files()) == {"torchscript", "onnx"}
    torch.manual_seed(7)
    network = NETWORKS[name].build(**configuration).eval()
    for runtime, path in bundle.runtime_files().items():
        session = RUNTIMES[runtime](path, bundle.manifest, torch.device("cpu"))
        for sizes, how in SIZES:
            inputs = make_case(bundle.manifest.inputs, sizes, **how)
            scale = (
                inputs["kspace"].square().sum(-1).sqrt().flatten(1).amax(1) if name == "jotlasnet" else torch.ones(1)
            )
            given = {**inputs, "kspace": inputs["kspace"] / beside(scale, inputs["kspace"])}
            with torch.no_grad():
                expected = network(*given.values())
            expected = expected * beside(scale, expected)
            assert relative_error(session.infer(inputs), {"image": expected}) < 2e-5


@pytest.mark.long
def test_a_bundle_of_series_in_readout_order_fits_what_the_pipelines_have(tmp_path):
    name = "dynamic-dccnn"
    options = ExportOptions(configuration=SMALL[name])
    bundle = export_network(name, checkpoint(name, tmp_path), tmp_path / "bundle", options, ["torchscript"])
    coils, frames, ky, kx = 3, 4, 20, 24
    sizes, mm = (kx, ky, 1), (float(kx), float(ky), 1.0)
    torch.manual_seed(1)
    mask = torch.rand(frames, 1, ky) > 0.3
    block = Kspace(
        data=torch.randn(coils, frames, 1, ky, kx, dtype=torch.complex64) * mask[None, ..., None],
        mask=mask,
        calibration=None,
        headers=np.zeros((frames, 1, ky), ACQUISITION_HEADER),
        encoding=Encoding(sizes, sizes, mm, mm),
        coil_maps=Deferred.known(torch.randn(coils, 1, ky, kx, dtype=torch.complex64)),
    )
    inputs = settled(arrange_inputs(bundle.manifest, block))
    assert inputs["kspace"].shape == (1, coils, frames, kx, ky, 2)
    assert inputs["mask"].shape == (1, 1, frames, 1, ky, 1)
    assert torch.equal(inputs["mask"][0, 0, :, 0, :, 0].bool(), mask[:, 0])
    assert torch.equal(torch.view_as_complex(inputs["kspace"])[0, 1, 2, 5, 7], block.data[1, 2, 0, 7, 5])
    runtime = RUNTIMES["torchscript"](bundle.runtime_files()["torchscript"], bundle.manifest, torch.device("cpu"))
    image = runtime.infer(inputs)["image"]
    arranged = arrange_output(bundle.manifest, image, block)
    assert arranged.shape == (frames, 1, ky, kx)
    assert torch.equal(arranged[2, 0, 7, 5], torch.view_as_complex(image)[0, 2, 5, 7])


def test_a_runtime_that_deviates_stops_the_export(tmp_path):
    options = ExportOptions(configuration=SMALL["dccnn"], tolerance=1e-9)
    with pytest.raises(BundleError, match=r"torchscript: it deviates from float64 by .* accepted: 1\.0e-09"):
        export_network("dccnn", checkpoint("dccnn", tmp_path), tmp_path / "bundle", options, ["torchscript"])
    assert not (tmp_path / "bundle").exists()


class TestFormats:
    """Each by itself: what verifies is kept, and what was asked for by name and is not there is an error."""

    def export(self, name, folder, *more):
        (folder / "net.yaml").write_text(yaml.safe_dump({"configuration": {**SMALL[name], "iterations": 1}}))
        weights = checkpoint(name, folder, {**SMALL[name], "iterations": 1})
        arguments = ["--checkpoint", weights, "--config", folder / "net.yaml", "-o", folder / "own"]
        return CliRunner().invoke(app, ["export", "--network", name, *map(str, arguments), *more])

    def test_one_that_cannot_be_had_is_an_error(self, tmp_path):
        result = self.export("crnn-mri", tmp_path, "--formats", "onnx")
        assert result.exit_code == 1
        assert "it can have no onnx: its graph depends on the number of frames" in result.output
        assert "accepted: torchscript" in result.output
        assert not (tmp_path / "own").exists()

    def test_the_others_that_were_asked_for_are_kept(self, tmp_path):
        result = self.export("crnn-mri", tmp_path, "--formats", "torchscript,onnx")
        assert result.exit_code == 1
        assert "it can have no onnx: its graph depends on the number of frames" in result.output
        assert "with torchscript" in result.output
        assert set(Bundle.open(tmp_path / "own").runtime_files()) == {"torchscript"}

    @pytest.mark.parametrize(
        ("fails", "reason"),
        [
            ("infer", "it can have no torchscript: it fails on {'kspace': .*: RuntimeError: cannot be joined"),
            ("deviate", "it can have no torchscript: it deviates from float64 by 1.0e-02 of the maximum"),
        ],
    )
    def test_one_that_does_not_verify_is_left_out_and_the_other_one_kept(
        self, fails, reason, tmp_path, caplog, monkeypatch
    ):
        class Failing(RUNTIMES["torchscript"]):
            def infer(self, inputs):
                if fails == "infer":
                    raise RuntimeError("cannot be joined")
                return {name: 1.01 * value for name, value in super().infer(inputs).items()}

        monkeypatch.setitem(RUNTIMES, "torchscript", Failing)
        options = ExportOptions.model_validate(
            {
                "inputs": [{"name": "image", "axes": ["batch", "1", "ky", "kx"]}],
                "arguments": {"chans": 1},
                "weights_inside": True,
            }
        )
        bundle = export_module("mylab:FromImage", None, tmp_path / "own", options)
        assert set(bundle.runtime_files()) == set(bundle.manifest.parity) == {"onnx"}
        assert re.search(reason, caplog.text)

    def test_without_a_name_there_is_what_can_be_had_and_a_warning(self, tmp_path):
        result = self.export("crnn-mri", tmp_path)
        assert result.exit_code == 0, result.output
        assert set(Bundle.open(tmp_path / "own").runtime_files()) == {"torchscript"}
        assert "bundle own: it can have no onnx: its graph depends on the number of frames" in result.output


def test_models_lists_every_network_with_its_size():
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    assert "29,936,966" in result.output
    assert all(name in result.output for name in NETWORKS)


class TestHalfPrecision:
    """Convolutions with half as many bits: said in the manifest, and only where its tolerance holds."""

    @pytest.mark.parametrize(
        ("precision", "tolerance", "formats"),
        [("fp16", 1e-3, {"torchscript", "onnx"}), ("bf16", 1e-2, {"torchscript"})],
    )
    def test_weights_are_stored_in_half_and_images_are_float32s_within_the_tolerance(
        self, tmp_path, precision, tolerance, formats
    ):
        short = {**SMALL["modl"], "iterations": 1, "cg_iterations": 2}
        weights = checkpoint("modl", tmp_path, short)
        options = ExportOptions(configuration=short, precision=precision, tolerance=tolerance)
        half = export_network("modl", weights, tmp_path / "half", options, sorted(formats))
        plain = export_network("modl", weights, tmp_path / "plain", ExportOptions(configuration=short), ["torchscript"])
        assert half.manifest.precision == precision
        module = torch.jit.load(str(half.runtime_files()["torchscript"]))
        stored = {
            tensor.dtype for name, tensor in module.named_parameters() if name.endswith("weight") and tensor.dim() == 4
        }
        assert stored == {{"fp16": torch.float16, "bf16": torch.bfloat16}[precision]}
        sizes, how = SIZES[0]
        inputs = make_case(half.manifest.inputs, sizes, **how)
        path = plain.runtime_files()["torchscript"]
        expected = RUNTIMES["torchscript"](path, plain.manifest, torch.device("cpu")).infer(inputs)
        assert set(half.manifest.parity) == formats
        for runtime, parity in half.manifest.parity.items():
            assert parity.error <= tolerance
            session = RUNTIMES[runtime](half.runtime_files()[runtime], half.manifest, torch.device("cpu"))
            assert relative_error(session.infer(inputs), expected) < 2 * tolerance

    def test_it_is_refused_where_the_tolerance_does_not_hold(self, tmp_path):
        options = ExportOptions(configuration=SMALL["modl"], precision="bf16", tolerance=1e-6)
        with pytest.raises(BundleError, match=r"torchscript: it deviates from float64 by .* accepted: 1\.0e-06"):
            export_network("modl", checkpoint("modl", tmp_path), tmp_path / "half", options, ["torchscript"])
        assert not (tmp_path / "half").exists()

    def test_a_module_without_convolutions_has_nothing_to_reduce(self):
        with pytest.raises(BundleError, match="the module has none"):
            in_precision(torch.nn.ReLU(), "fp16")

    def test_layers_that_are_used_twice_stay_shared(self):
        shared = torch.nn.Conv2d(1, 1, 1)
        half = in_precision(torch.nn.Sequential(shared, shared, torch.nn.Sequential(shared)), "fp16")
        assert half[0] is half[1] is half[2][0]
        assert half(torch.ones(1, 1, 2, 2)).dtype == torch.float32
        assert shared.weight.dtype == torch.float32


@pytest.mark.parametrize(("chans", "network"), [(1, "unet"), (2, "unet-complex")])
def test_an_image_network_gets_its_image_from_the_kspace_of_a_scan(chans, network, tmp_path):
    configuration = {**SMALL["unet-image"], "in_chans": chans, "out_chans": chans}
    weights = tmp_path / "weights.pt"
    torch.save(NETWORKS["unet-image"].build(**configuration).state_dict(), weights)
    options = ExportOptions(configuration=configuration)
    bundle = export_network("unet-image", weights, tmp_path / "own", options, ["torchscript"])
    assert bundle.manifest.network == network
    assert bundle.manifest.inputs[0].name == "kspace"
