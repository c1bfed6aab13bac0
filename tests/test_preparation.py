"""Each bundle is built by one process at a time, appears whole or not at all, and costs only itself where it cannot be built."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from isocenter.bundle.folder import Bundle
from isocenter.bundle.manifest import BundleError
from isocenter.bundle.minisign import SecretKey
from isocenter.bundle.trust import Trust, host_key
from isocenter.commands import prepare, stamp
from isocenter.commands.prepare import prepare_bundles
from isocenter.engine import Engine
from isocenter.export import classical, shipped
from isocenter.export.build import PARTIAL
from isocenter.export.classical import METHODS
from isocenter.service.settings import Settings
from test_engine_faults import PIPELINE, scan_of

FEW = ("rss", "combine")
PREPARE = """
import logging, sys
from pathlib import Path
from isocenter.commands.prepare import prepare_bundles
from isocenter.service.settings import Settings
logging.basicConfig(level="INFO")
print("here", flush=True)
sys.stdin.readline()
prepare_bundles(Settings(home=Path(sys.argv[1])), only=("rss", "combine"))
"""


def listing(home):
    return sorted(path.name for path in (home / "bundles").iterdir() if path.name != ".prepared.json")


def start(home):
    command = [sys.executable, "-W", "ignore", "-c", PREPARE, str(home)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )


def test_two_processes_with_an_empty_home_build_each_bundle_once(tmp_path):
    home = tmp_path / "home"
    processes = [start(home) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "here\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    for name in FEW:
        assert sum(text.count(f"building bundle {name}") for text in said) == 1
    assert listing(home) == ["combine", "rss"]
    for name in FEW:
        assert Bundle.open(home / "bundles" / name).manifest.name == name


@pytest.fixture
def few(monkeypatch):
    """Two bundles that are quickly built are all that come with Isocenter."""
    methods = {name: METHODS[name] for name in FEW}
    monkeypatch.setattr(classical, "METHODS", methods)
    monkeypatch.setattr(prepare, "METHODS", methods)
    for module in (shipped, prepare):
        monkeypatch.setattr(module, "SHIPPED", {})
    for module in (stamp, prepare):
        monkeypatch.setattr(module, "NAMES", FEW)


@pytest.fixture
def settings(tmp_path, few):
    return Settings(home=tmp_path / "home")


def test_what_a_crash_left_behind_is_no_bundle_and_is_removed(settings):
    folder = settings.home / "bundles"
    left, others, long_ago = (folder / f".{name}.1234{PARTIAL}" for name in ("rss", "mine", "long-ago"))
    for path in (left, others, long_ago):
        path.mkdir(parents=True)
        (path / "model.yaml").write_text("half")
    os.utime(long_ago, (time.time() - 1e6,) * 2)
    prepare_bundles(settings)
    assert not left.exists()
    assert not long_ago.exists()
    assert others.exists()  # somebody may be exporting it
    assert sorted(Engine([folder]).available()) == ["combine", "rss"]


class Doubling(torch.nn.Module):
    """Differs between eager mode and script: there is no bundle of it."""

    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        return 2.1 * kspace if torch.jit.is_scripting() else 2.0 * kspace


def test_one_that_cannot_be_built_costs_only_itself(settings, monkeypatch):
    monkeypatch.setitem(classical.METHODS, "rss", replace(METHODS["rss"], make=Doubling))
    with pytest.raises(BundleError, match="bundle 'rss': it can have no torchscript: it deviates"):
        prepare_bundles(settings)
    assert listing(settings.home) == ["combine"]
    assert stamp.missing(settings)


FULL = """
import resource, signal, sys
from pathlib import Path
from isocenter.commands.prepare import prepare_bundles
from isocenter.service.settings import Settings
from isocenter.wire.errors import IsocenterError
for home in sys.argv[1:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(Path(home).name), resource.RLIM_INFINITY))
    try:
        prepare_bundles(Settings(home=Path(home)), only=("rss", "combine"))
    except IsocenterError as error:
        print(error)
"""


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_behind(tmp_path):
    """The files may have no more bytes than a disk would have left: writing fails in the middle."""
    homes = [tmp_path / size for size in ("0", "100", "4000", "20000")]
    for home in homes:
        (home / "bundles" / "rss").mkdir(parents=True)
        (home / "bundles" / "rss" / "model.yaml").write_text("former")
    command = [sys.executable, "-W", "ignore", "-c", FULL, *map(str, homes)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, timeout=120)
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout.splitlines()
    assert len(said) == len(homes)
    assert all(f"bundle '{name}' cannot be written" in line for line in said for name in FEW)
    assert all("File too large" in line for line in said)
    assert "Traceback" not in ended.stderr
    for home in homes:
        assert listing(home) == ["rss"]
        assert (home / "bundles" / "rss" / "model.yaml").read_text() == "former"


class TestSigned:
    def test_where_keys_are_set_this_host_signs_what_it_builds(self, settings):
        strict = settings.model_copy(update={"keys": (SecretKey.generate().public.line(),)})
        prepare_bundles(settings)
        folder = settings.home / "bundles"
        before = Bundle.open(folder / "rss")
        trust = Trust.of(strict.home, strict.keys)
        with pytest.raises(BundleError, match="it is not signed"):
            Bundle.open(folder / "rss", trust)
        assert not stamp.missing(settings)
        assert stamp.missing(strict)
        prepare_bundles(strict)
        assert not stamp.missing(strict)
        for name in FEW:
            assert Bundle.open(folder / name, trust).signer == host_key(settings.home).public
        assert before.signer is None
        (folder / "rss" / "model.yaml.minisig").unlink()
        assert stamp.missing(strict)

    def test_one_of_that_name_that_others_made_is_built_again_not_signed(self, settings):
        """Else whoever puts a bundle into the folder would get this host's signature."""
        strict = settings.model_copy(update={"keys": (SecretKey.generate().public.line(),)})
        prepare_bundles(settings)
        manifest = settings.home / "bundles" / "rss" / "model.yaml"
        forged = yaml.safe_load(manifest.read_text()) | {"intended_use": "forged"}
        manifest.write_text(yaml.safe_dump(forged))
        prepare_bundles(settings)
        assert "forged" in manifest.read_text()
        prepare_bundles(strict)
        assert "forged" not in manifest.read_text()


class Hostile(torch.nn.Module):
    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        torch.ops.aten.save(kspace, "/tmp/isocenter-test-hostile")
        return kspace.square().sum(-1).sum(1).sqrt()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["hostile", "unlisted", "pipe", "no manifest at all", "unsigned"])
def test_a_bundle_that_is_refused_costs_only_itself(make_service_with, bundles, tmp_path, how):
    folder = tmp_path / "theirs" / "mine"
    folder.mkdir(parents=True)
    for name in ("model.ts", "model.yaml", "probe.npz"):
        shutil.copy(bundles / "rss" / name, folder)
    trust = Trust()
    if how == "hostile":
        torch.jit.script(Hostile()).save(str(folder / "model.ts"))
        values = yaml.safe_load((folder / "model.yaml").read_text())
        values["files"]["model.ts"] = hashlib.sha256((folder / "model.ts").read_bytes()).hexdigest()
        (folder / "model.yaml").write_text(yaml.safe_dump(values))
    elif how == "unlisted":
        (folder / "more.bin").write_bytes(b"")
    elif how == "unsigned":
        secret = SecretKey.generate()
        trust = Trust((secret.public,))
        shutil.copytree(bundles / "rss", tmp_path / "theirs" / "rss")
        signed = tmp_path / "theirs" / "rss" / "model.yaml"
        signed.with_name("model.yaml.minisig").write_text(secret.sign(signed.read_bytes()))
    else:
        (folder / ("model.ts" if how == "pipe" else "model.yaml")).unlink()
        os.mkfifo(folder / ("model.ts" if how == "pipe" else "model.yaml"))
    engine = Engine([tmp_path / "theirs", bundles], trust=trust)
    engine.preload()
    service = make_service_with(engine)
    scan = scan_of(2)
    for fallback in ("rss", ""):
        result = service.replay(scan, PIPELINE.replace("BUNDLE", "mine").replace("FALLBACK", fallback).encode())
        if fallback:
            assert [image.meta["IsocenterBundle"] for image in result.images] == ["rss", "rss"]
            assert all("'mine'" in image.meta["IsocenterFallback"] for image in result.images)
        else:
            assert not result.images
        said = " ".join(result.texts)
        assert "bundle 'mine'" in said
        assert {
            "hostile": "the operator 'torch.save'",
            "unlisted": "'more.bin' is in its folder",
            "pipe": "model.ts cannot be read: it is a pipe",
            "no manifest at all": "model.yaml cannot be read: it is a pipe",
            "unsigned": "it is not signed",
        }[how] in said
    assert not Path("/tmp/isocenter-test-hostile").exists()
    alone = service.replay(scan, PIPELINE.replace("BUNDLE", "rss").replace("FALLBACK", "").encode())
    assert len(alone.images) == 2
    assert not alone.texts
    engine.close()
