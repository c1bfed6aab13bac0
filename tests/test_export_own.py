"""Own modules are exported in the form that they have, and equal what numpy computes."""

import inspect

import mylab
import numpy as np
import pytest
import torch
import yaml
from isocenter.bundle.folder import Bundle, relative_error
from isocenter.bundle.manifest import BundleError, TensorSpec
from isocenter.commands.cli import app
from isocenter.engine.runtimes import RUNTIMES
from isocenter.export.cases import make_case
from isocenter.export.importers.errors import CheckpointError
from isocenter.export.options import ExportOptions, load_options
from isocenter.export.own_module import export_module, find_wrapper, plan_module
from test_export import SIZES
from typer.testing import CliRunner

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]


@pytest.mark.long
def test_an_own_module_with_complex_tensors_and_a_boolean_mask_is_exported(tmp_path):
    torch.manual_seed(9)
    module = mylab.ComplexNet(steps=1)
    state = {f"net.{name}": value for name, value in module.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"steps": 1}}, tmp_path / "best.ckpt")
    result = CliRunner().invoke(
        app,
        [
            "export",
            "--module",
            "mylab:ComplexNet",
            "--checkpoint",
            str(tmp_path / "best.ckpt"),
            "-o",
            str(tmp_path / "own"),
        ],
    )
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(tmp_path / "own")
    assert bundle.manifest.outputs[0].axes == ("batch", "ky", "kx", "complex")
    session = RUNTIMES["onnx"](bundle.runtime_files()["onnx"], bundle.manifest, torch.device("cpu"))
    for sizes, how in SIZES:
        inputs = make_case(bundle.manifest.inputs, sizes, **how)
        complex_inputs = [torch.view_as_complex(inputs["kspace"]), inputs["mask"][..., 0] > 0.5]
        with torch.no_grad():
            expected = module(*complex_inputs, torch.view_as_complex(inputs["maps"]))
        assert relative_error(session.infer(inputs), {"image": torch.view_as_real(expected)}) < 1e-5
    for command in ("show", "verify"):
        shown = CliRunner().invoke(app, ["bundle", command, str(tmp_path / "own")])
        assert shown.exit_code == 0, shown.output
    assert "passed" in shown.output
    timed = CliRunner().invoke(
        app, ["bundle", "bench", str(tmp_path / "own"), "--matrix", "32x24x2", "--repetitions", "1"]
    )
    assert timed.exit_code == 0, timed.output
    assert "onnx" in timed.output


LINES = (
    TensorSpec(name="maps", axes=("batch", "coils", "ky", "kx", "complex")),
    TensorSpec(name="kspace", axes=("batch", "coils", "ky", "kx", "complex")),
    TensorSpec(name="mask", axes=("batch", "ky")),
)


@pytest.mark.long
@pytest.mark.parametrize("scaling", ["none", "zero-filled"])
@pytest.mark.parametrize(
    ("name", "options", "axes"),
    [
        ("Image", {}, ("batch", "ky", "kx", "complex")),
        ("OneChannel", {"complex_tensors": True}, ("batch", "ky", "kx")),
        ("TwoChannels", {}, ("batch", "ky", "kx", "complex")),
        ("MaskOfLines", {"inputs": LINES}, ("batch", "ky", "kx", "complex")),
        ("WithoutMask", {}, ("batch", "ky", "kx", "complex")),
    ],
)
def test_an_own_module_may_have_its_own_form(name, options, axes, scaling, tmp_path):
    options = ExportOptions(scaling=scaling, **options)
    bundle = export_module(f"mylab:{name}", None, tmp_path / "own", options, ["torchscript", "onnx"])
    assert bundle.manifest.outputs[0].axes == axes
    inputs = make_case(bundle.manifest.inputs, SIZES[1][0])
    kspace, maps = (torch.view_as_complex(inputs[name]).numpy().astype(np.complex128) for name in ("kspace", "maps"))
    centred = np.fft.ifftshift(kspace, axes=(-2, -1))
    image = (maps.conj() * np.fft.fftshift(np.fft.ifft2(centred, norm="ortho"), axes=(-2, -1))).sum(1)
    peak = np.abs(image).max(axis=(1, 2), keepdims=True)
    expected = image / peak + 0.5
    if scaling != "none":
        expected = expected * peak
    expected = np.abs(expected) if axes[-1] != "complex" else np.stack([expected.real, expected.imag], axis=-1)
    for runtime, path in bundle.runtime_files().items():
        session = RUNTIMES[runtime](path, bundle.manifest, torch.device("cpu"))
        assert relative_error(session.infer(inputs), {"image": torch.from_numpy(expected)}) < 1e-5
        zeros = session.infer({**inputs, "kspace": torch.zeros_like(inputs["kspace"])})
        assert not zeros["image"].any()


@pytest.mark.parametrize("scaling", [pytest.param("none", marks=pytest.mark.long), "zero-filled"])
def test_a_last_step_of_sense_brings_an_image_back_to_the_data(scaling, tmp_path):
    """The zero-filled image, made three times as large by the module, ends as the solution of the regularised least squares."""
    axes = ["batch", "ky", "kx", "complex"]
    options = {
        "inputs": [{"name": "image", "axes": ["batch", "complex", "ky", "kx"]}],
        "sense_step": 0.3,
        "scaling": scaling,
        "weights_inside": True,
    }
    bundle = export_module(
        "mylab:FromImage", None, tmp_path / "own", ExportOptions.model_validate(options), ["torchscript", "onnx"]
    )
    assert [spec.name for spec in bundle.manifest.inputs] == ["kspace", "mask", "maps"]
    assert list(bundle.manifest.outputs[0].axes) == axes
    inputs = make_case(bundle.manifest.inputs, {"batch": 1, "coils": 3, "ky": 10, "kx": 8}, acs=4, spacing=2)
    kspace, maps = (torch.view_as_complex(inputs[name])[0].numpy().astype(np.complex128) for name in ("kspace", "maps"))
    lines = inputs["mask"].flatten().numpy() > 0

    def transform(length):
        place = np.arange(length) - length // 2
        return np.exp(-2j * np.pi * np.outer(place, place) / length) / np.sqrt(length)

    rows = np.repeat(lines, 8)
    model = np.concatenate([np.kron(transform(10), transform(8))[rows] * coil.ravel() for coil in maps])
    adjoint = model.conj().T @ kspace[:, lines].ravel()
    expected = np.linalg.solve(model.conj().T @ model + 0.3 * np.eye(80), adjoint + 0.3 * 3 * adjoint).reshape(10, 8)
    for runtime, path in bundle.runtime_files().items():
        session = RUNTIMES[runtime](path, bundle.manifest, torch.device("cpu"))
        image = torch.view_as_complex(session.infer(inputs)["image"])[0].numpy()
        assert np.abs(image - expected).max() < 2e-3 * np.abs(expected).max()


def test_the_wrapper_of_an_own_module_can_be_read(tmp_path):
    (tmp_path / "net.yaml").write_text(yaml.safe_dump({"inputs": [spec.model_dump(mode="json") for spec in LINES]}))
    arguments = ["export", "--module", "mylab:MaskOfLines", "--config", str(tmp_path / "net.yaml"), "--show-wrapper"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    _, _, forward = result.output.partition("    def forward")
    assert forward.splitlines() == [
        "(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:",
        "        image = self.module(",
        "            torch.view_as_complex(maps.contiguous()),",
        "            torch.view_as_complex(kspace.contiguous()),",
        "            mask.reshape([mask.size(0), mask.size(2)]),",
        "        )",
        "        image = torch.view_as_real(image.resolve_conj().contiguous())",
        "        image = zero_without_signal(kspace, image)",
        "        return image",
    ]
    own = find_wrapper("mylab:MaskOfLines", None, load_options(tmp_path / "net.yaml"))
    assert inspect.getsource(inspect.getmodule(type(own.wrapped))) == own.source == result.output
    assert inspect.getsource(type(own.wrapped)) in own.source


@pytest.mark.parametrize("chans", [1, 2])
def test_an_own_module_may_take_the_zero_filled_image(chans, tmp_path):
    axes = ["batch", "1" if chans == 1 else "complex", "ky", "kx"]
    options = ExportOptions.model_validate(
        {"inputs": [{"name": "image", "axes": axes}], "arguments": {"chans": chans}, "weights_inside": True}
    )
    bundle = export_module("mylab:FromImage", None, tmp_path / "own", options, ["torchscript", "onnx"])
    assert [spec.name for spec in bundle.manifest.inputs] == (["kspace"] if chans == 1 else ["kspace", "maps"])
    inputs = make_case(bundle.manifest.inputs, SIZES[1][0])
    images = np.fft.ifft2(
        np.fft.ifftshift(torch.view_as_complex(inputs["kspace"]).numpy(), axes=(-2, -1)), norm="ortho"
    )
    images = np.fft.fftshift(images, axes=(-2, -1))
    if chans == 1:
        expected = 3 * np.sqrt((np.abs(images) ** 2).sum(1))
    else:
        image = 3 * (torch.view_as_complex(inputs["maps"]).numpy().conj() * images).sum(1)
        expected = np.stack([image.real, image.imag], axis=-1)
    for runtime, path in bundle.runtime_files().items():
        session = RUNTIMES[runtime](path, bundle.manifest, torch.device("cpu"))
        assert relative_error(session.infer(inputs), {"image": torch.from_numpy(expected)}) < 1e-5


def test_a_module_that_names_float32_is_compared_in_float64_all_the_same(monkeypatch, tmp_path):
    options = ExportOptions(complex_tensors=False)
    bundle = export_module("mylab:Narrow", None, tmp_path / "own", options)
    assert set(bundle.runtime_files()) == {"torchscript", "onnx"}
    assert max(parity.error for parity in bundle.manifest.parity.values()) < 1e-6
    assert torch.get_default_dtype() == torch.float32


def test_an_image_network_may_be_for_one_size(tmp_path):
    options = {"inputs": [{"name": "image", "axes": ["batch", "1", 48, 40]}], "arguments": {"how": "size"}}
    bundle = export_module("mylab:Odd", None, tmp_path / "own", ExportOptions.model_validate(options), ["torchscript"])
    assert bundle.manifest.inputs[0].limits == {"ky": (48, 48), "kx": (40, 40)}


IMAGES = {"inputs": [{"name": "image", "axes": ["batch", "complex", "ky", "kx"]}], "weights_inside": True}


def test_an_own_module_may_count_with_numpy_attend_and_transform_real_images(tmp_path):
    bundle = export_module("mylab:Counted", None, tmp_path / "own", ExportOptions.model_validate(IMAGES))
    assert set(bundle.runtime_files()) == {"torchscript", "onnx"}
    options = ExportOptions.model_validate({**IMAGES, "arguments": {"fail": True}})
    with pytest.raises(CheckpointError, match=r"cannot be made with arguments .*: ValueError: so many channels"):
        export_module("mylab:Counted", None, tmp_path / "own", options)


MAGNITUDES = {"inputs": [{"name": "image", "axes": ["batch", "1", "ky", "kx"]}]}


def test_weights_that_a_module_loads_itself_are_exported(tmp_path):
    options = ExportOptions.model_validate({**MAGNITUDES, "weights_inside": True})
    bundle = export_module("mylab:Loaded", None, tmp_path / "own", options, ["torchscript"])
    assert bundle.manifest.provenance.source == "mylab:Loaded"
    with pytest.raises(BundleError, match="something in it is random"):
        plan_module("mylab:Plain", None, options)


@pytest.mark.parametrize(("module", "arguments"), [(mylab.Random, {"kept": True}), (mylab.Fragile, {})])
def test_weights_that_are_given_are_enough(module, arguments, tmp_path):
    torch.save(module(**arguments).state_dict(), tmp_path / "own.pt")
    options = ExportOptions.model_validate({**MAGNITUDES, "arguments": arguments})
    assert plan_module(f"mylab:{module.__name__}", tmp_path / "own.pt", options).manifest.inputs
