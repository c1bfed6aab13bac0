"""Bundles that somebody else may have made: what is refused, before anything of it runs, and what that costs."""

import hashlib
import io
import json
import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from isocenter.bundle.folder import Bundle
from isocenter.bundle.manifest import BundleError, Manifest
from isocenter.bundle.script_code import check_code
from isocenter.bundle.torchscript import checked_torchscript
from isocenter.engine import LoadedModel, choice
from isocenter.engine.commission import commission
from isocenter.engine.device import Shelf
from isocenter.models.networks.registry import NETWORKS
from isocenter.models.scaling import scaled
from test_networks import SMALL

pytestmark = pytest.mark.filterwarnings("ignore")
CPU = torch.device("cpu")


@pytest.fixture
def copy(bundles, tmp_path):
    """RSS in a folder of its own, which tests may spoil; without what was measured."""
    folder = tmp_path / "bundles" / "rss"
    folder.mkdir(parents=True)
    for name in ("model.ts", "model.yaml", "probe.npz"):
        (folder / name).write_bytes((bundles / "rss" / name).read_bytes())
    return folder


def put(folder, **files):
    """Write files, whose hashes the manifest then has: a forger can do that."""
    manifest = yaml.safe_load((folder / "model.yaml").read_text())
    for name, content in files.items():
        name = name.replace("_", ".")
        (folder / name).write_bytes(content)
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))


def script(module):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    return file.getvalue()


def parts_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def archive_of(parts):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in parts:
            archive.writestr(name, part)
    return file.getvalue()


class TestFolder:
    def test_a_file_that_is_not_listed_is_refused_and_named(self, copy):
        (copy / "weights.bin").write_bytes(b"x")
        with pytest.raises(BundleError, match=r"'weights\.bin' is in its folder, and its manifest does not list it"):
            Bundle.open(copy)

    def test_a_folder_in_it_is_refused(self, copy):
        (copy / "tensorrt").mkdir()
        with pytest.raises(BundleError, match="'tensorrt' is in its folder"):
            Bundle.open(copy)

    @pytest.mark.parametrize("name", ["model.yaml", "model.ts", "probe.npz", "measured.json", "model.yaml.minisig"])
    @pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
    def test_what_is_no_file_is_refused_and_nobody_waits_for_it(self, copy, tmp_path, name, kind):
        path = copy / name
        if path.exists():
            path.rename(tmp_path / "elsewhere")
        if kind == "link":
            path.symlink_to(tmp_path / "elsewhere")
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
        with pytest.raises(BundleError, match=f"{kind}|no file"):
            Bundle.open(copy)

    def test_what_was_measured_may_lie_in_it(self, copy):
        (copy / "measured.json").write_text("{}")
        assert Bundle.open(copy).manifest.name == "rss"

    def test_what_changes_after_it_was_checked_is_not_loaded(self, copy):
        bundle = Bundle.open(copy)
        (copy / "model.ts").write_bytes((copy / "probe.npz").read_bytes())
        with pytest.raises(BundleError, match=r"model\.ts does not have the hash"):
            commission(bundle, CPU)
        (copy / "probe.npz").write_bytes(b"x")
        with pytest.raises(BundleError, match=r"probe\.npz does not have the hash"):
            bundle.probe()

    @pytest.mark.parametrize(
        "text",
        [
            "a: &a [x, x]\nb: [*a, *a]\n",
            "[" * 5000,
            "a: " * 3 + "\n" * 10,
            "x" * 2**19,
            "date: 2024-99-99\n",
            "version: " + "9" * 5000,
            "\0",
            "- " * 3000,
        ],
    )
    def test_a_manifest_that_would_take_memory_or_depth_is_refused(self, copy, text):
        (copy / "model.yaml").write_text(text)
        with pytest.raises(BundleError, match=r"^manifest .*model\.yaml(: | cannot be read: )|too long"):
            Bundle.open(copy)

    def test_folders_that_begin_with_a_dot_are_no_bundles(self, copy):
        copy.rename(copy.with_name(".rss.1234.partial"))
        assert Shelf([copy.parent]).available() == {}
        assert Shelf([copy.parent / "missing", copy.parent / ".rss.1234.partial" / "model.ts"]).available() == {}


class TestProbe:
    def write(self, copy, arrays):
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        put(copy, probe_npz=file.getvalue())
        return Bundle.open(copy)

    def test_one_without_what_the_manifest_names_is_refused(self, copy):
        for arrays in ({}, {"input.kspace": np.zeros((1, 2), np.float32)}, {"other": np.zeros(1, np.float32)}):
            with pytest.raises(BundleError, match="has no input 'kspace' of 6 axes"):
                self.write(copy, arrays).probe()

    def test_one_that_holds_objects_or_other_numbers_is_refused(self, copy):
        for array in (np.array([{}]), np.zeros(3, np.float64)):
            with pytest.raises(BundleError, match="is damaged"):
                self.write(copy, {"input.kspace": array}).probe()

    def test_a_shape_that_is_not_there_takes_no_memory(self, copy):
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
        header += b" " * (117 - len(header)) + b"\n"
        array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        put(copy, probe_npz=archive_of([("input.kspace.npy", array)]))
        with pytest.raises(BundleError, match="is damaged"):
            Bundle.open(copy).probe()

    def test_what_unpacks_to_gigabytes_is_refused(self, copy):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for part in range(5):
                archive.writestr(f"{part}.npy", bytes(2**28))
        put(copy, probe_npz=file.getvalue())
        with pytest.raises(BundleError, match="is too large"):
            Bundle.open(copy).probe()

    def test_one_whose_expected_images_are_not_finite_is_passed_by_nothing(self, copy):
        inputs, outputs = Bundle.open(copy).probe()
        outputs["image"][0, 0, 0, 0] = float("nan")
        arrays = {f"input.{name}": tensor.numpy() for name, tensor in inputs.items()}
        bundle = self.write(copy, arrays | {f"output.{name}": tensor.numpy() for name, tensor in outputs.items()})
        with pytest.raises(BundleError, match="the probe deviates by inf"):
            LoadedModel(bundle, CPU)


class Plain(torch.nn.Module):
    """What others build on: it computes what RSS does."""

    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        return kspace.square().sum(-1).sum(1).sqrt()


class Saves(Plain):
    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        torch.ops.aten.save(kspace, "/tmp/isocenter-test-saved")
        return kspace


class MapsFile(Plain):
    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        return torch.from_file("/tmp/isocenter-test-mapped", shared=True, size=16)


class Prints(Plain):
    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        print(kspace)  # noqa: T201 - it is what is refused
        return kspace


class Forks(Plain):
    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(torch.sum, kspace))


class Seeds(Plain):
    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return kspace


class Quantizes(Plain):
    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.add_relu(kspace, kspace, 1.0, 0)


class Keeps(Plain):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return kspace


class SavesAsItIsLoaded(Plain):
    @torch.jit.export
    def __getstate__(self):
        return torch.zeros(1), self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        torch.ops.aten.save(state[0], "/tmp/isocenter-test-saved")
        self.training = state[1]


class HasSubmodule(Plain):
    def __init__(self, inner):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Identity(), inner)

    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        return self.layers(kspace)


HOSTILE = {
    Saves: r"the operator 'torch\.save'",
    MapsFile: r"the operator 'torch\.from_file'",
    Prints: "'print'",
    Forks: r"the operator 'torch\.wait'",
    Seeds: r"the operator 'torch\.manual_seed'",
    Quantizes: r"the operator 'ops\.quantized\.add_relu'",
    Keeps: "an assignment to 'calls'",
    SavesAsItIsLoaded: "an assignment to 'training'",
}


class TestTorchScript:
    @pytest.mark.parametrize(
        ("module", "where"),
        [
            *((module, "itself") for module in HOSTILE),
            *((module, "a submodule") for module in HOSTILE if module is not Keeps),
        ],
    )
    def test_code_that_does_more_than_compute_is_refused_and_does_not_run(self, copy, module, where):
        saved = [Path(f"/tmp/isocenter-test-{what}") for what in ("saved", "mapped")]
        assert not any(path.exists() for path in saved)
        put(copy, model_ts=script(module() if where == "itself" else HasSubmodule(module())))
        with pytest.raises(
            BundleError, match=f"cannot be used on cpu: torchscript, torchscript-nhwc: .*{HOSTILE[module]}"
        ):
            LoadedModel(Bundle.open(copy), CPU)
        assert not any(path.exists() for path in saved)

    @pytest.mark.parametrize(
        "body",
        [
            "torch.save(x, 'f')",
            'torch.save(x, "f")',
            '(torch).save(x, "f")',
            '(torch.save)(x, "f")',
            'x.save("f")',
            's = torch.save\n  s(x, "f")',
            's = x.save\n  s("f")',
            't = torch\n  t.save(x, "f")',
            'o = ops.aten\n  o.save(x, "f")',
            'ops.aten.save(x, "f")',
            'getattr(x, "save")("f")',
            'getattr(x, "sa" "ve")("f")',
            'getattr(x, "s\\x61ve")("f")',
            "getattr(x, name)",
            'torch.add(x, 1) # "\n  torch.save(x, "f") # "',
            'torch . save(x, "f")',
            'torch.\\\n save(x, "f")',
            'y = r"\\"; torch.save(x, "f") #"',
            'y = """\n"""; torch.save(x, "f")',
            "y = 'a'",
            'y = f"{torch.save(x)}"',
            "\uff54orch.add(x, 1)",
            "torch.\uff53ave(x, 1)",
            "print(x)",
            "print = 1\n  print(x)",
            "fork(x)",
            "y = [torch.save(z, 1) for z in x]",
            "f = lambda y: torch.save(y, 1)",
            "import os",
            "with x:\n    pass",
            "self.a = x",
            "self.a += x",
            "x.b.c = x",
            "del self.a",
            "__torch__.torch.classes.quantized.Conv2dPackedParamsBase(x)",
            "ops.prim.Print(x)",
            "ops.prim.PythonOp(x)",
            "ops.prim.rpc_sync(x)",
            "ops.profiler._record_function_enter(x)",
            "open(x)",
            "torch.classes.a.b(x)",
            "torch.autograd.save(x)",
            "torch.set_(x, x)",
            "x.record_stream(x)",
            "torch._sparse_coo_tensor_unsafe(x, x, [1])",
            "torch.wait(x)",
            "x.wait()",
            "ops",
            "y = CONSTANTS",
            "\ty = 1",
            "y = 1\f",
            "global torch",
            "raise x",
            "-" * 100000 + "x",
            "(" * 100000 + "x",
            "x" + ".y" * 100000,
            "y = " + "+".join("x" * 100000),
        ],
    )
    def test_no_way_of_writing_it_gets_through(self, body):
        text = f"def forward(self: Tensor,\n    x: Tensor) -> Tensor:\n  {body}\n  return x\n"
        with pytest.raises(BundleError, match="code: it "):
            check_code(text, "code")

    @pytest.mark.parametrize(
        "text",
        [
            'class M(Module):\n  save : int\n  def forward(self: M, x: Tensor) -> Tensor:\n    return x.save("f")\n',
            "class M(Module):\n  a = torch.save(1)\n  def f(self: M) -> int:\n    return 1\n",
            'x = torch.ones([1])\ntorch.save(x, "f")\n',
            'class M(Module):\n  a : List[int] = ops.aten.save(1, "f")\n',
            "@torch.save\ndef f(x: Tensor) -> Tensor:\n  return x\n",
            'def f(x: Tensor=torch.save(1, "f")) -> Tensor:\n  return x\n',
            'def f(x: Tensor) -> torch.save(1, "f"):\n  return x\n',
        ],
    )
    def test_nor_outside_functions(self, text):
        with pytest.raises(BundleError, match="code: it "):
            check_code(text, "code")

    def test_operators_in_place_count_as_those_that_are_not(self):
        check_code("def f(x: Tensor) -> Tensor:\n  return torch.add_(x.mul_(2), x.T, alpha=1.5e-3)\n", "code")

    @pytest.mark.parametrize("count", [1000, 10**9, -5])
    def test_tensors_larger_than_what_is_there_of_them_are_refused(self, count):
        """Torch itself would read behind them, or end with the process."""

        class Holds(Plain):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.ones(100))

        content = script(Holds())
        checked_torchscript(content)
        number = b"J" + count.to_bytes(4, "little", signed=True)
        parts = parts_of(content)
        (name,) = (name for name in parts if name.endswith("/data.pkl"))
        once = parts[name].replace(b"K\x00(Kdt", b"K\x00(" + number + b"t")
        storage = parts[name].replace(b"Kdt", number + b"t", 1)
        offset = parts[name].replace(b"K\x00(Kdt", number + b"(Kdt")
        for pickled in (once, storage, offset):
            assert pickled != parts[name]
            with pytest.raises(BundleError, match=r"data\.pkl: a tensor (is larger|has no proper size)"):
                checked_torchscript(archive_of((parts | {name: pickled}).items()))

    @pytest.mark.parametrize(
        "pickled",
        [
            b"cos\nsystem\n(X\x01\x00\x00\x00xtR.",
            b"c__torch__.torch.classes.a\nB\n)\x81.",
            b"cbuiltins\neval\n.",
            b"ctorch\nload\n.",
            b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
            b"K\x00)R.",
            b"]r\xff\xff\xff\x7f.",
            b"(" * 1000,
            b"",
            b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x05s.",
        ],
    )
    def test_pickles_that_name_anything_else_are_refused(self, pickled):
        parts = parts_of(script(Plain()))
        (name,) = (name for name in parts if name.endswith("/data.pkl"))
        with pytest.raises(BundleError, match=r"data\.pkl: it "):
            checked_torchscript(archive_of((parts | {name: pickled}).items()))

    def test_attributes_of_every_type_are_let_through(self):
        class Holds(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.numbers = [1.5, 2.5]
                self.flags = [True]
                self.tensors = [torch.ones(2), torch.zeros(1, dtype=torch.bool)]
                self.table = {"a": 1, "b": 2}
                self.words = ["a"]
                self.pair = (1, "x", None, torch.float16)
                self.phase = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
                self.half = torch.ones(3, dtype=torch.bfloat16)
                self.twice = self.half[1:]
                self.empty = torch.zeros(0)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return (
                    x * self.numbers[0] * self.table["a"]
                    + self.tensors[0].sum()
                    + self.phase.real.sum()
                    + self.half.sum()
                )

        content = script(Holds())
        x = torch.ones(2)
        checked = torch.jit.load(io.BytesIO(checked_torchscript(content)))
        assert torch.equal(checked(x), torch.jit.load(io.BytesIO(content))(x))

    def test_traced_modules_are_let_through(self):
        network = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten()
        )
        file = io.BytesIO()
        x = torch.randn(1, 2, 8, 8)
        torch.jit.save(torch.jit.trace(network.eval(), x), file)
        assert torch.equal(torch.jit.load(io.BytesIO(checked_torchscript(file.getvalue())))(x), network(x))

    @pytest.mark.parametrize(
        "how", ["twice", "capitals", "other", "before", "nested", "bomb", "overlap", "cut", "empty"]
    )
    def test_archives_that_others_would_read_otherwise_are_refused(self, how):
        content = script(Plain())
        parts = list(parts_of(content).items())
        root = parts[0][0].partition("/")[0]
        if how in ("twice", "capitals"):
            name, part = next((name, part) for name, part in parts if name.endswith(".py"))
            spoilt = archive_of([*parts, (name.upper() if how == "capitals" else name, part)])
        elif how == "other":
            spoilt = archive_of([*parts, (f"{root}/attributes.pkl", b".")])
        elif how == "before":
            spoilt = archive_of([("other/data.pkl", b"."), *parts])
        elif how == "nested":
            spoilt = archive_of([*parts, (f"{root}/code/../../../../tmp/x.py", b"")])
        elif how == "bomb":
            file = io.BytesIO(content)
            with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{root}/code/bomb.py", bytes(2**25))
            spoilt = file.getvalue()
        elif how == "overlap":
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                for name, part in parts:
                    archive.writestr(name, part)
                archive.writestr(f"{root}/data/100", bytes(2**20))
                entry = archive.infolist()[-1]
                for number in range(101, 110):
                    double = zipfile.ZipInfo(f"{root}/data/{number}")
                    double.header_offset, double.CRC = entry.header_offset, entry.CRC
                    double.file_size = double.compress_size = entry.file_size
                    archive.filelist.append(double)
            spoilt = file.getvalue()
        else:
            spoilt = content[: len(content) // 2] if how == "cut" else b""
        with pytest.raises(BundleError, match=r"two parts|has a part|no TorchScript|too long|overlap"):
            checked_torchscript(spoilt)

    def test_torch_gets_the_parts_that_were_checked(self):
        """In front of an archive, another one may lie: who reads from the front would find that."""
        checked = checked_torchscript(script(Saves())[:0] + script(Plain()))
        hidden = script(Plain())
        both = checked_torchscript(script(Saves()) + hidden)
        assert parts_of(both) == parts_of(checked)

    def test_code_is_read_in_several_threads_at_once(self):
        class Cycle:  # the garbage collector runs its end wherever it comes along, also within the parser
            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                sum(range(100))

        def read(_: int) -> None:
            [Cycle() for _ in range(10)]
            check_code(text, "code")

        text = "def f(x: Tensor) -> Tensor:\n" + "  y = torch.add(torch.mul(x, x), x)\n" * 50 + "  return x\n"
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(read, range(80)))
        finally:
            sys.setswitchinterval(before)

    def test_a_model_that_changes_its_weights_is_refused(self, copy):
        class Counts(Plain):
            def __init__(self):
                super().__init__()
                self.register_buffer("calls", torch.zeros(1))

            def forward(self, kspace: torch.Tensor) -> torch.Tensor:
                self.calls.add_(1)
                return kspace

        put(copy, model_ts=script(Counts()))
        with pytest.raises(BundleError, match="it changes its own weights while it runs"):
            LoadedModel(Bundle.open(copy), CPU)

    @pytest.mark.parametrize("network", ["modl", "e2e-varnet", "cinevn", "crnn-mri", "jotlasnet"])
    def test_exports_are_let_through(self, network):
        checked_torchscript(script(NETWORKS[network].build(**SMALL[network]).eval()))

    @pytest.mark.long
    @pytest.mark.parametrize("network", NETWORKS)
    def test_exports_of_every_network_are_let_through_and_compute_the_same(self, network):
        made = NETWORKS[network]
        for scaling in ("none", "zero-filled") if made.inputs == ("kspace", "mask", "maps") else ("none",):
            checked_torchscript(script(scaled(made.build(**SMALL.get(network, {})).eval(), scaling, made.inputs)))


class TestMeasured:
    @pytest.mark.parametrize("content", [b"[" * 200000, b'{"a":' * 100000, b"\xff\xfe", b"x" * 2**21, b"[1]", b"{}"])
    def test_what_was_written_by_hand_ends_nothing(self, copy, content):
        (copy / "measured.json").write_bytes(content)
        bundle = Bundle.open(copy)
        assert choice.recall(bundle, CPU) is None
        assert LoadedModel(bundle, CPU).runtime == "torchscript"

    @pytest.mark.parametrize(
        "change",
        [
            {"runtime": "tensorrt"},
            {"runtime": "onnx"},
            {"runtime": "x" * 1000},
            {"batch": 10**9},
            {"batch": -1},
            {"milliseconds": {"forged\nline": 1.0}},
        ],
    )
    def test_nor_chooses_what_measuring_could_not(self, copy, change):
        bundle = Bundle.open(copy)
        sound = {
            "runtime": "torchscript",
            "milliseconds": {"torchscript": 1.0},
            "batch": 1,
            "pace": 1e-9,
            "waited": 0.0,
        }
        choice.remember(bundle, CPU, choice.Choice(**sound))
        (key,) = json.loads((copy / "measured.json").read_text())
        assert choice.recall(bundle, CPU) is not None
        (copy / "measured.json").write_text(json.dumps({key: sound | change}))
        assert choice.recall(bundle, CPU) is None

    def test_a_link_is_replaced_not_followed(self, copy, tmp_path):
        bundle = Bundle.open(copy)
        (tmp_path / "precious").write_text("precious")
        (copy / "measured.json").symlink_to(tmp_path / "precious")
        choice.remember(
            bundle, CPU, choice.Choice(runtime="torchscript", milliseconds={}, batch=1, pace=1e-9, waited=0.0)
        )
        assert (tmp_path / "precious").read_text() == "precious"
        assert not (copy / "measured.json").is_symlink()
        assert sorted(path.name for path in copy.parent.iterdir()) == ["rss"]


def test_a_manifest_needs_inputs_and_outputs(bundles):
    values = Bundle.open(bundles / "rss").manifest.model_dump()
    for name in ("inputs", "outputs"):
        with pytest.raises(ValueError, match=name):
            Manifest.model_validate(values | {name: ()})
