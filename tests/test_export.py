"""Exported networks equal eager ones, by the command line, the published checkpoints' way and an outsider's."""

import inspect
import re
import sys
import textwrap

import numpy as np
import pytest
import torch
import yaml
from isocenter.bundle.folder import Bundle, relative_error
from isocenter.bundle.manifest import BundleError, TensorSpec
from isocenter.commands.cli import app
from isocenter.engine.runtimes import RUNTIMES
from isocenter.export.cases import make_case
from isocenter.export.half_precision import in_precision
from isocenter.export.importers.errors import CheckpointError
from isocenter.export.network import export_network
from isocenter.export.options import ExportOptions, load_options
from isocenter.export.own_module import export_module, find_wrapper, plan_module
from isocenter.flow.deferred import Deferred, settled
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.model_inputs import arrange_inputs, arrange_output
from isocenter.models.networks.registry import NETWORKS
from isocenter.wire.errors import OptionError
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


OWN = """
    import torch
    from torch import nn


    class ComplexNet(nn.Module):
        '''Complex tensors, torch.fft with shifts, a closure: nothing that TorchScript or ONNX know.'''

        def __init__(self, steps=1):
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv2d(2, 2, 3, padding=1) for _ in range(steps)])

        def forward(self, kspace, mask, maps):
            def image(k):
                k = torch.fft.ifftshift(k, dim=(-2, -1))
                return torch.fft.fftshift(torch.fft.ifft2(k, norm="ortho"), dim=(-2, -1))

            x = (maps.conj() * image(kspace * mask)).sum(1)
            for conv in self.convs:
                k = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(maps * x[:, None], dim=(-2, -1)), norm="ortho"),
                                       dim=(-2, -1))
                x = x - (maps.conj() * image(torch.where(mask, k - kspace, torch.zeros_like(k)))).sum(1)
                x = x + torch.view_as_complex(conv(torch.view_as_real(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous())
            return x


    class Baked(nn.Module):
        def forward(self, kspace):
            return (kspace[..., 0] * torch.hann_window(int(kspace.shape[-2]))).sum(1)


    class Unknown(nn.Module):
        def forward(self, data):
            return data


    class Image(nn.Module):
        '''Coil images, combined; takes its arguments by other names and in another order, and divides by the signal.'''

        def combine(self, masked_kspace, mask, sens_maps):
            k = torch.fft.ifftshift(masked_kspace * mask, dim=(-2, -1))
            x = (sens_maps.conj() * torch.fft.fftshift(torch.fft.ifft2(k, norm="ortho"), dim=(-2, -1))).sum(1)
            return x / x.abs().amax(dim=(1, 2), keepdim=True) + 0.5

        def forward(self, sens_maps, masked_kspace, mask):
            return self.combine(masked_kspace, mask, sens_maps)


    class OneChannel(Image):
        def forward(self, sens_maps, masked_kspace, mask):
            return self.combine(masked_kspace, mask, sens_maps).abs().unsqueeze(1)


    class TwoChannels(Image):
        def forward(self, sens_maps, masked_kspace, mask):
            x = self.combine(masked_kspace, mask, sens_maps)
            return torch.stack([x.real, x.imag], dim=1)


    class MaskOfLines(Image):
        def forward(self, maps, kspace, mask):
            assert mask.dim() == 2
            return self.combine(kspace, mask[:, None, :, None], maps)


    class WithoutMask(Image):
        def forward(self, maps, kspace):
            return self.combine(kspace, torch.ones_like(kspace.real), maps)


    class Pair(Image):
        def forward(self, sens_maps, masked_kspace, mask):
            x = self.combine(masked_kspace, mask, sens_maps)
            return x, x


    class FromImage(nn.Module):
        '''A network from image to image, which triples it.'''

        def __init__(self, chans=2):
            super().__init__()
            self.conv = nn.Conv2d(chans, chans, 1, bias=False)
            nn.init.zeros_(self.conv.weight)
            for channel in range(chans):
                self.conv.weight.data[channel, channel] = 3.0

        def forward(self, x):
            return self.conv(x)


    class Either(nn.Module):
        def forward(self, kspace):
            return kspace[:, 0] * 2


    class Cropped(nn.Module):
        def forward(self, kspace):
            return kspace[:, 0, 1:]
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    (tmp_path / "mylab.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mylab", None)


@pytest.mark.long
def test_an_own_module_with_complex_tensors_and_a_boolean_mask_is_exported(lab):
    import mylab

    torch.manual_seed(9)
    module = mylab.ComplexNet(steps=1)
    state = {f"net.{name}": value for name, value in module.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"steps": 1}}, lab / "best.ckpt")
    result = CliRunner().invoke(
        app, ["export", "--module", "mylab:ComplexNet", "--checkpoint", "best.ckpt", "-o", str(lab / "own")]
    )
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(lab / "own")
    assert bundle.manifest.outputs[0].axes == ("batch", "ky", "kx", "complex")
    session = RUNTIMES["onnx"](bundle.runtime_files()["onnx"], bundle.manifest, torch.device("cpu"))
    for sizes, how in SIZES:
        inputs = make_case(bundle.manifest.inputs, sizes, **how)
        complex_inputs = [torch.view_as_complex(inputs["kspace"]), inputs["mask"][..., 0] > 0.5]
        with torch.no_grad():
            expected = module(*complex_inputs, torch.view_as_complex(inputs["maps"]))
        assert relative_error(session.infer(inputs), {"image": torch.view_as_real(expected)}) < 1e-5
    for command in ("show", "verify"):
        shown = CliRunner().invoke(app, ["bundle", command, str(lab / "own")])
        assert shown.exit_code == 0, shown.output
    assert "passed" in shown.output
    timed = CliRunner().invoke(app, ["bundle", "bench", str(lab / "own"), "--matrix", "32x24x2", "--repetitions", "1"])
    assert timed.exit_code == 0, timed.output
    assert "onnx" in timed.output


def test_a_module_that_freezes_its_sizes_is_refused(lab):
    with pytest.raises(
        BundleError, match=r"it can have no onnx: .*; accepted: torchscript \(not tried\), aoti \(not tried\)"
    ):
        export_module("mylab:Baked", None, lab / "own", ExportOptions(), ["onnx"])
    assert not (lab / "own").exists()
    assert not (lab / "own.partial").exists()


def test_what_an_own_module_lacks_is_said(lab):
    with pytest.raises(BundleError, match="forward takes data; say what its arguments are"):
        export_module("mylab:Unknown", None, lab / "own", ExportOptions())
    with pytest.raises(CheckpointError, match="cannot be imported"):
        export_module("mylab:Nothing", None, lab / "own", ExportOptions())
    with pytest.raises(CheckpointError, match=r"accepted: package\.module:Class"):
        export_module("mylab", None, lab / "own", ExportOptions())
    with pytest.raises(CheckpointError, match="cannot be made with arguments"):
        export_module("mylab:ComplexNet", None, lab / "own", ExportOptions(arguments={"depth": 1}))


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
def test_an_own_module_may_have_its_own_form(name, options, axes, scaling, lab):
    options = ExportOptions(scaling=scaling, **options)
    bundle = export_module(f"mylab:{name}", None, lab / "own", options, ["torchscript", "onnx"])
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
def test_a_last_step_of_sense_brings_an_image_back_to_the_data(scaling, lab):
    """The zero-filled image, made three times as large by the module, ends as the solution of the regularised least squares."""
    axes = ["batch", "ky", "kx", "complex"]
    options = {
        "inputs": [{"name": "image", "axes": ["batch", "complex", "ky", "kx"]}],
        "sense_step": 0.3,
        "scaling": scaling,
        "weights_inside": True,
    }
    bundle = export_module(
        "mylab:FromImage", None, lab / "own", ExportOptions.model_validate(options), ["torchscript", "onnx"]
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


def test_the_wrapper_of_an_own_module_can_be_read(lab):
    (lab / "net.yaml").write_text(yaml.safe_dump({"inputs": [spec.model_dump(mode="json") for spec in LINES]}))
    arguments = ["export", "--module", "mylab:MaskOfLines", "--config", "net.yaml", "--show-wrapper"]
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
    own = find_wrapper("mylab:MaskOfLines", None, load_options(lab / "net.yaml"))
    assert inspect.getsource(inspect.getmodule(type(own.wrapped))) == own.source == result.output
    assert inspect.getsource(type(own.wrapped)) in own.source


def test_a_magnitude_cannot_end_with_sense(lab):
    options = {
        "inputs": [{"name": "image", "axes": ["batch", "1", "ky", "kx"]}],
        "arguments": {"chans": 1},
        "sense_step": 0.1,
        "weights_inside": True,
    }
    with pytest.raises(BundleError, match=r"cannot end with SENSE \(sense_step\)"):
        export_module("mylab:FromImage", None, lab / "own", ExportOptions.model_validate(options))


@pytest.mark.parametrize("chans", [1, 2])
def test_an_own_module_may_take_the_zero_filled_image(chans, lab):
    axes = ["batch", "1" if chans == 1 else "complex", "ky", "kx"]
    options = ExportOptions.model_validate(
        {"inputs": [{"name": "image", "axes": axes}], "arguments": {"chans": chans}, "weights_inside": True}
    )
    bundle = export_module("mylab:FromImage", None, lab / "own", options, ["torchscript", "onnx"])
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
def test_what_an_own_module_cannot_be_is_said(name, options, message, lab):
    with pytest.raises(BundleError, match=re.escape(message)):
        export_module(f"mylab:{name}", None, lab / "own", ExportOptions.model_validate(options), ["torchscript"])


def test_a_runtime_that_deviates_stops_the_export(tmp_path):
    options = ExportOptions(configuration=SMALL["dccnn"], tolerance=1e-9)
    with pytest.raises(BundleError, match=r"torchscript: it deviates from float64 by .* accepted: 1\.0e-09"):
        export_network("dccnn", checkpoint("dccnn", tmp_path), tmp_path / "bundle", options, ["torchscript"])
    assert not (tmp_path / "bundle").exists()


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
    def test_one_that_does_not_verify_is_left_out_and_the_other_one_kept(self, fails, reason, lab, caplog, monkeypatch):
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
        bundle = export_module("mylab:FromImage", None, lab / "own", options)
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


class Narrow(torch.nn.Module):
    """Names float32 in its code, as programs do that were never run in another precision."""

    def forward(self, kspace):
        offset = torch.full([1], 0.1, dtype=torch.float32)
        x = kspace.to(torch.float32).square().sum(-1)
        return (torch.fft.fft2(x.to(torch.complex64), norm="ortho").abs().float() + offset + torch.ones(1)).sum(1)


def test_a_module_that_names_float32_is_compared_in_float64_all_the_same(monkeypatch, tmp_path):
    options = ExportOptions(complex_tensors=False)
    bundle = export_module("test_export:Narrow", None, tmp_path / "own", options)
    assert set(bundle.runtime_files()) == {"torchscript", "onnx"}
    assert max(parity.error for parity in bundle.manifest.parity.values()) < 1e-6
    assert torch.get_default_dtype() == torch.float32


class OfOneSize(torch.nn.Module):
    def forward(self, kspace):
        return kspace[..., 0].sum(1) * torch.ones(37, 50)


def test_a_module_that_fails_at_another_size_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(
        BundleError, match=r"the module fails on \{'kspace': \(1, 4, 48, 40, 2\)\}: RuntimeError: The size"
    ):
        export_module("test_export:OfOneSize", None, tmp_path / "own", ExportOptions(complex_tensors=False))
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(("chans", "network"), [(1, "unet"), (2, "unet-complex")])
def test_an_image_network_gets_its_image_from_the_kspace_of_a_scan(chans, network, tmp_path):
    configuration = {**SMALL["unet-image"], "in_chans": chans, "out_chans": chans}
    weights = tmp_path / "weights.pt"
    torch.save(NETWORKS["unet-image"].build(**configuration).state_dict(), weights)
    options = ExportOptions(configuration=configuration)
    bundle = export_network("unet-image", weights, tmp_path / "own", options, ["torchscript"])
    assert bundle.manifest.network == network
    assert bundle.manifest.inputs[0].name == "kspace"


def test_an_image_network_of_other_channels_is_refused(tmp_path):
    configuration = {**SMALL["unet-image"], "in_chans": 3}
    weights = tmp_path / "weights.pt"
    torch.save(NETWORKS["unet-image"].build(**configuration).state_dict(), weights)
    with pytest.raises(BundleError, match="of 3 channels has no place at a scanner"):
        export_network("unet-image", weights, tmp_path / "own", ExportOptions(configuration=configuration))


class Odd(torch.nn.Module):
    """Returns what cannot be compared, or works for one size only."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, image):
        if self.how == "random":
            return image + torch.randn_like(image)
        return image / 0 if self.how == "infinite" else image * torch.ones(48, 40)


@pytest.mark.parametrize(
    ("how", "message"), [("random", "other values when it runs again"), ("infinite", "not finite")]
)
def test_modules_with_which_nothing_can_be_compared_are_refused(tmp_path, how, message):
    options = {"inputs": [{"name": "image", "axes": ["batch", "1", "ky", "kx"]}], "arguments": {"how": how}}
    with pytest.raises(BundleError, match=message):
        export_module("test_export:Odd", None, tmp_path / "own", ExportOptions.model_validate(options), ["torchscript"])


def test_an_image_network_may_be_for_one_size(tmp_path):
    options = {"inputs": [{"name": "image", "axes": ["batch", "1", 48, 40]}], "arguments": {"how": "size"}}
    bundle = export_module(
        "test_export:Odd", None, tmp_path / "own", ExportOptions.model_validate(options), ["torchscript"]
    )
    assert bundle.manifest.inputs[0].limits == {"ky": (48, 48), "kx": (40, 40)}


class Counted(torch.nn.Module):
    """Counts channels with NumPy, as some programs do, and attends."""

    def __init__(self, chans=4, fail=False):
        super().__init__()
        if fail:
            raise ValueError("so many channels there are not")
        torch.manual_seed(1)
        self.conv = torch.nn.Conv2d(2, int(chans), 1)
        self.back = torch.nn.ModuleList([torch.nn.Conv2d(int(chans), 2, 1)])
        self.conv.in_channels = np.int64(2)
        self.counts = (np.int64(1), np.int64(chans))

    def forward(self, x):
        y = self.conv(x).flatten(2).transpose(1, 2)
        y = (
            torch.nn.functional.scaled_dot_product_attention(y, y, y)
            .transpose(1, 2)
            .reshape(-1, 4, x.shape[2], x.shape[3])
        )
        for back in self.back:
            x = x + torch.fft.irfft2(torch.fft.rfft2(back(y)), s=(x.shape[2], x.shape[3]))
        return x


IMAGES = {"inputs": [{"name": "image", "axes": ["batch", "complex", "ky", "kx"]}], "weights_inside": True}


def test_an_own_module_may_count_with_numpy_attend_and_transform_real_images(tmp_path):
    bundle = export_module("test_export:Counted", None, tmp_path / "own", ExportOptions.model_validate(IMAGES))
    assert set(bundle.runtime_files()) == {"torchscript", "onnx"}
    options = ExportOptions.model_validate({**IMAGES, "arguments": {"fail": True}})
    with pytest.raises(CheckpointError, match=r"cannot be made with arguments .*: ValueError: so many channels"):
        export_module("test_export:Counted", None, tmp_path / "own", options)


class CoilByCoil(torch.nn.Module):
    def forward(self, kspace):
        return torch.stack([kspace[:, coil, ..., 0] for coil in range(kspace.shape[1])]).sum(0)


def test_an_axis_that_a_module_fixes_is_named(tmp_path, caplog):
    options = ExportOptions(complex_tensors=False)
    bundle = export_module("test_export:CoilByCoil", None, tmp_path / "own", options)
    assert set(bundle.runtime_files()) == {"torchscript"}
    assert "it can have no onnx: its code fixes coils of kspace to 3: a loop over them" in caplog.text


class Plain(torch.nn.Module):
    """An image network with weights, of so many iterations."""

    def __init__(self, iterations=1):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.iterations = iterations

    def forward(self, x):
        for _ in range(self.iterations):
            x = x + self.conv(x)
        return x


class Loaded(Plain):
    """Has its weights from somewhere else than a checkpoint."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.conv.weight.fill_(0.1)
            self.conv.bias.fill_(0.2)


class Random(Plain):
    """Has a random tensor that no checkpoint holds."""

    def __init__(self, kept=False):
        super().__init__()
        self.register_buffer("direction", torch.rand(3, 3), persistent=kept)

    def forward(self, x):
        return super().forward(x) + torch.nn.functional.conv2d(x, self.direction[None, None], padding=1)


class Fragile(Plain):
    """Fails with weights that nobody trained."""

    def forward(self, x):
        if bool((self.conv.weight.abs() > 0.35).any()):
            raise ValueError("these weights are too large")
        return super().forward(x)


MAGNITUDES = {"inputs": [{"name": "image", "axes": ["batch", "1", "ky", "kx"]}]}


class TestRefused:
    """What is wrong is told with status 2 before anything is done, and nothing is left."""

    def export(self, folder, *arguments, **options):
        (folder / "net.yaml").write_text(yaml.safe_dump(options))
        before = set(folder.rglob("*"))
        command = ["export", "-o", folder / "new" / "own", "--config", folder / "net.yaml", *arguments]
        result = CliRunner().invoke(app, list(map(str, command)))
        assert result.exit_code == 2, result.output
        assert set(folder.rglob("*")) == before
        assert len(result.stderr.splitlines()) == 1
        return result.stderr

    def own(self, folder, *arguments, **options):
        torch.save(Plain().state_dict(), folder / "own.pt")
        return self.export(folder, "--module", "test_export:Plain", *arguments, **MAGNITUDES, **options)

    def test_weights_that_nobody_gave(self, tmp_path):
        said = self.own(tmp_path)
        assert "test_export:Plain has weights, and nobody gave them: they would be random" in said
        assert "--checkpoint, or 'weights_inside: true'" in said

    def test_weights_that_are_given_twice(self, tmp_path):
        said = self.own(tmp_path, "--checkpoint", tmp_path / "own.pt", weights_inside=True)
        assert "and a checkpoint is given, too; accepted: one of both" in said

    def test_weights_without_effect(self, tmp_path):
        said = self.own(tmp_path, "--checkpoint", tmp_path / "own.pt", arguments={"iterations": 0})
        assert "the weights of test_export:Plain have no effect on its image" in said

    def test_what_is_random_and_in_no_checkpoint(self, tmp_path):
        torch.save(Random().state_dict(), tmp_path / "own.pt")
        said = self.export(
            tmp_path, "--module", "test_export:Random", "--checkpoint", tmp_path / "own.pt", **MAGNITUDES
        )
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

    def test_a_program_that_ends_when_it_is_imported(self, lab):
        (lab / "script.py").write_text("import sys\nsys.exit(0)\n")
        assert "script:Net cannot be imported" in self.export(lab, "--module", "script:Net")


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


def test_weights_that_a_module_loads_itself_are_exported(tmp_path):
    options = ExportOptions.model_validate({**MAGNITUDES, "weights_inside": True})
    bundle = export_module("test_export:Loaded", None, tmp_path / "own", options, ["torchscript"])
    assert bundle.manifest.provenance.source == "test_export:Loaded"
    with pytest.raises(BundleError, match="something in it is random"):
        plan_module("test_export:Plain", None, options)


@pytest.mark.parametrize(("module", "arguments"), [(Random, {"kept": True}), (Fragile, {})])
def test_weights_that_are_given_are_enough(module, arguments, tmp_path):
    torch.save(module(**arguments).state_dict(), tmp_path / "own.pt")
    options = ExportOptions.model_validate({**MAGNITUDES, "arguments": arguments})
    assert plan_module(f"test_export:{module.__name__}", tmp_path / "own.pt", options).manifest.inputs
