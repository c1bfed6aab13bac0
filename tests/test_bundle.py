import importlib
import shutil

import pytest
import torch
import yaml
from isocenter.bundle.folder import Bundle, relative_error
from isocenter.bundle.manifest import BundleError, Manifest, Provenance, TensorSpec
from isocenter.commands.cli import app
from isocenter.engine import LoadedModel
from isocenter.engine.runtimes import RUNTIMES
from isocenter.export import classical, shipped
from isocenter.export.build import DEFAULT_FORMATS, build_bundle, find_current
from isocenter.export.cases import make_case
from isocenter.export.classical import METHODS, ensure_classical
from isocenter.export.formats import FORMATS
from typer.testing import CliRunner

AXES = ("batch", "coils", "kz", "ky", "kx")
SHAPES = [(1, 2, 1, 30, 22), (2, 5, 1, 17, 40), (1, 3, 5, 16, 18)]


@pytest.mark.parametrize(
    ("name", "runtime"), [(name, runtime) for name in METHODS for runtime in METHODS[name].formats]
)
@torch.no_grad()
def test_every_runtime_of_a_classical_bundle_equals_eager_at_other_shapes(bundles, bundles_with_onnx, name, runtime):
    bundle = Bundle.open((bundles_with_onnx if runtime == "onnx" else bundles) / name)
    session = RUNTIMES[runtime](bundle.runtime_files()[runtime], bundle.manifest, torch.device("cpu"))
    module = METHODS[name].make(**bundle.manifest.configuration).double()
    for shape in SHAPES:
        inputs = make_case(METHODS[name].inputs, dict(zip(AXES, shape, strict=True)))
        expected = {"image": module(*(tensor.double() for tensor in inputs.values()))}
        assert relative_error(session.infer(inputs), expected) < 1e-4


def test_the_manifest_tells_parity_hashes_and_tools(bundles):
    manifest = Bundle.open(bundles / "sense").manifest
    assert set(manifest.parity) == {"torchscript"}
    assert all(parity.error < 1e-4 for parity in manifest.parity.values())
    assert set(manifest.files) == {"model.ts", "probe.npz"}
    assert "torch" in manifest.provenance.tools
    assert manifest.configuration == {"iterations": 20, "regularization": 0.005}


def test_bundles_that_are_up_to_date_are_not_built_again(bundles):
    before = (bundles / "rss" / "model.yaml").stat().st_mtime_ns
    ensure_classical(bundles)
    assert (bundles / "rss" / "model.yaml").stat().st_mtime_ns == before


def test_bundles_that_other_code_has_made_are_built_again(copy):
    provenance = Bundle.open(copy).manifest.provenance
    assert find_current(copy, provenance.fingerprint, DEFAULT_FORMATS) is not None
    assert find_current(copy, "another", DEFAULT_FORMATS) is None
    for tool in ("torch", "isocenter.models"):
        tools = {**provenance.tools, tool: "another"}
        edit(copy, provenance={**provenance.model_dump(), "tools": tools})
        assert find_current(copy, provenance.fingerprint, DEFAULT_FORMATS) is None


def test_bundles_that_lack_a_format_are_built_again_and_those_with_more_are_kept(bundles, copy, caplog):
    fingerprint = Bundle.open(copy).manifest.provenance.fingerprint
    assert find_current(copy, fingerprint, ["torchscript"]) is not None
    with caplog.at_level("INFO"):
        assert find_current(bundles / "rss", fingerprint, DEFAULT_FORMATS) is None
    assert "building bundle rss: it has no onnx" in caplog.text


def test_one_that_is_not_there_is_no_damaged_folder(tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert find_current(tmp_path / "rss", "", DEFAULT_FORMATS) is None
    assert "building bundle rss: it comes with Isocenter, and is built once" in caplog.text
    assert "is no bundle" not in caplog.text


@pytest.mark.parametrize("how", [["--onnx"], ["--config", "settings.yaml"]])
def test_onnx_is_written_on_request_and_where_the_settings_pin_it(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOCENTER_HOME", str(tmp_path / "home"))
    (tmp_path / "settings.yaml").write_text("runtime: onnx\n")
    monkeypatch.setattr(classical, "METHODS", {"rss": METHODS["rss"]})
    monkeypatch.setattr(shipped, "SHIPPED", {})
    result = CliRunner().invoke(app, ["bundle", "prepare", *how])
    assert "rss                  passed its probe on cpu" in result.output
    assert Bundle.open(tmp_path / "home" / "bundles" / "rss").runtime_files().keys() == {"torchscript", "onnx"}


@pytest.fixture
def copy(bundles_with_onnx, tmp_path):
    shutil.copytree(bundles_with_onnx / "rss", tmp_path / "rss")
    return tmp_path / "rss"


def edit(folder, **changes):
    path = folder / "model.yaml"
    values = yaml.safe_load(path.read_text())
    values.update(changes)
    path.write_text(yaml.safe_dump(values))


def test_a_bundle_has_the_name_of_its_folder(copy):
    renamed = copy.rename(copy.with_name("mine"))
    assert Bundle.open(renamed).manifest.name == "mine"


def test_a_changed_file_is_refused(copy):
    with (copy / "model.ts").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"model\.ts does not have the hash"):
        Bundle.open(copy)


def test_a_missing_file_is_refused(copy):
    (copy / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx cannot be read: No such file"):
        Bundle.open(copy)


def test_a_link_is_refused(copy, tmp_path):
    (copy / "model.ts").rename(tmp_path / "elsewhere")
    (copy / "model.ts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"model\.ts cannot be read: it is a link"):
        Bundle.open(copy)


def test_a_file_outside_the_bundle_is_refused(copy):
    edit(copy, files={"../model.ts": "0"})
    with pytest.raises(BundleError, match="is no part of a bundle"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "change", [{"colour": "red"}, {"inputs": 3}, {"format_version": 2}, {"name": "../x"}, {"tolerance": 1}]
)
def test_a_manifest_that_is_not_valid_is_refused(copy, change):
    edit(copy, **change)
    with pytest.raises(BundleError, match=r"^manifest .*model\.yaml: "):
        Bundle.open(copy)


def test_a_bundle_that_fails_its_probe_is_refused(bundles_with_onnx, tmp_path):
    """A module that computes something else than the probe says: same files, another model."""
    folder = tmp_path / "combine"
    shutil.copytree(bundles_with_onnx / "combine", folder)
    module = torch.jit.load(str(folder / "model.ts"))

    class Wrong(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, kspace: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
            return 1.001 * self.inner(kspace, maps)

    torch.jit.script(Wrong()).save(str(folder / "model.ts"))
    from isocenter.bundle.folder import sha256

    values = yaml.safe_load((folder / "model.yaml").read_text())
    edit(folder, files={**values["files"], "model.ts": sha256(folder / "model.ts")})
    with pytest.raises(BundleError, match="the probe deviates"):
        LoadedModel(Bundle.open(folder), torch.device("cpu"), "torchscript")
    assert LoadedModel(Bundle.open(folder), torch.device("cpu")).runtime == "onnx"


class Doubling(torch.nn.Module):
    """Differs between eager and script, as a traced or misexported network would."""

    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            return 2.1 * kspace
        return 2.0 * kspace


def test_a_runtime_that_disagrees_is_left_out_and_that_is_said(tmp_path, caplog):
    axes = ("batch", "coils", "ky", "kx", "complex")
    manifest = Manifest(
        name="doubling",
        version="1",
        network="Doubling",
        inputs=(TensorSpec(name="kspace", axes=axes),),
        outputs=(TensorSpec(name="image", axes=axes),),
        provenance=Provenance(source="test", licence="MIT", fingerprint="0"),
        intended_use="test",
    )
    case = {"kspace": torch.ones(2, 3, 4, 5, 2)}
    bundle = build_bundle(Doubling(), manifest, [case], tmp_path / "doubling")
    assert set(bundle.runtime_files()) == {"onnx"}
    assert "it deviates from float64 by" in caplog.text
    with pytest.raises(BundleError, match="it can have no torchscript: it deviates from float64 by"):
        build_bundle(Doubling(), manifest, [case], tmp_path / "scripted", formats=["torchscript"])
    assert not (tmp_path / "scripted").exists()


def combine_manifest(**changes):
    method = METHODS["combine"]
    return Manifest(
        name="compiled",
        version="1",
        network="CoilCombine",
        inputs=method.inputs,
        outputs=(method.output,),
        provenance=Provenance(source="test", licence="MIT", fingerprint="test"),
        intended_use="test",
        **changes,
    )


class Weighted(torch.nn.Module):
    """Takes and returns what a coil combination does, in real operations: compiled in half the time."""

    def forward(self, kspace: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        return (kspace * maps).sum(1)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("make", [Weighted, METHODS["combine"].make])
def test_a_module_is_compiled_ahead_of_time_and_runs_on_no_other_kind_of_device(tmp_path, make):
    # the compiler is not tried first with every instruction set that the processor says it has
    as_said = importlib.import_module("torch._inductor.config").patch("cpp.vec_isa_ok", True)
    method = METHODS["combine"]
    cases = [make_case(method.inputs, dict(zip(AXES, shape, strict=True))) for shape in ((2, 3, 4, 18, 14), SHAPES[1])]
    with as_said:
        bundle = build_bundle(make(), combine_manifest(), cases, tmp_path / "compiled", formats=["aoti"])
    assert LoadedModel(bundle, torch.device("cpu"), "aoti").runtime == "aoti"
    inputs = make_case(method.inputs, dict(zip(AXES, (1, 5, 6, 31, 22), strict=True)))
    runtime = RUNTIMES["aoti"](bundle.folder / "model.pt2", bundle.manifest, torch.device("cpu"))
    expected = {"image": make()(*inputs.values())}
    assert relative_error(runtime.infer(inputs), expected) < 1e-5
    elsewhere = combine_manifest(compiled_for="cuda")
    with pytest.raises(BundleError, match=r"model\.pt2 was compiled for cuda"):
        RUNTIMES["aoti"](bundle.folder / "model.pt2", elsewhere, torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nothing_is_compiled_for_a_gpu_that_is_not_there(tmp_path):
    method = METHODS["combine"]
    cases = [make_case(method.inputs, dict(zip(AXES, shape, strict=True))) for shape in SHAPES[:2]]
    with pytest.raises(BundleError, match="there is no CUDA device here"):
        build_bundle(
            method.make(), combine_manifest(compiled_for="cuda"), cases, tmp_path / "compiled", formats=["aoti"]
        )


def test_an_exporter_s_file_that_no_runtime_reads_is_left_out(tmp_path, monkeypatch, caplog):
    def write_rubbish(_module, _manifest, _inputs, path):
        path.write_bytes(b"no model")

    monkeypatch.setitem(FORMATS, "onnx", write_rubbish)
    method = METHODS["combine"]
    case = make_case(method.inputs, dict(zip(AXES, (2, 3, 2, 8, 10), strict=True)))
    bundle = build_bundle(method.make(), combine_manifest(), [case], tmp_path / "own")
    assert list(bundle.runtime_files()) == ["torchscript"]
    assert "it can have no onnx: what was written cannot be loaded" in caplog.text
    with pytest.raises(BundleError, match=r"no onnx: what was written cannot be loaded.*named with torchscript"):
        build_bundle(method.make(), combine_manifest(), [case], tmp_path / "named", formats=["torchscript", "onnx"])
    assert list(Bundle.open(tmp_path / "named").runtime_files()) == ["torchscript"]


def test_the_engine_names_the_bundles_that_exist(engine):
    shipped = "combine, jsense, l1-wavelet, modl-brain, ridge, ridge-cine, rss, sense, tv, varnet-brain"
    with pytest.raises(BundleError, match=f"there is no bundle 'unet'; accepted: {shipped}"):
        engine.load("unet")
