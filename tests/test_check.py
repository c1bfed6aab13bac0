"""Faults that a site would meet at its first scan are found before it, each in a sentence."""

import hashlib
import shutil
import socket
from pathlib import Path

import pytest
import torch
import yaml
from helpers import gadgetron
from isocenter.bundle.trust import host_key
from isocenter.commands.check import doubts, faults
from isocenter.commands.cli import app
from isocenter.commands.named_bundles import gate_doubt, known_bundles
from isocenter.commands.pinned import cannot_run
from isocenter.commands.shipped import NAMES
from isocenter.export.classical import METHODS
from isocenter.export.shipped import SHIPPED
from isocenter.service.devices import device_names
from isocenter.service.settings import Settings
from isocenter.wire.errors import IsocenterError
from typer.testing import CliRunner

MIB = 2**20
OWN = (
    "<configuration><version>2</version><stream><external><connect port='9012'/><configuration>{}"
    "</configuration></external></stream></configuration>"
)
WITHOUT_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a card")


@pytest.fixture
def settings(tmp_path):
    return lambda **values: Settings(**{"home": tmp_path / "home", "port": 0, **values})


def other_doubts(settings):
    """All but those that a new home and the shipped default bundle are worth."""
    return [doubt for doubt in doubts(settings) if not doubt.startswith(("home: ", "the default bundle "))]


def test_a_plain_service_has_no_faults_and_nothing_is_made(settings, tmp_path):
    assert faults(settings()) == []
    assert [doubt.partition(tmp_path.name)[0] for doubt in doubts(settings())] == [
        f"home: there is no folder {tmp_path.parent}/",
    ]
    assert other_doubts(settings()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_home_is_made_only_where_it_may_be_meant(settings, tmp_path, monkeypatch):
    (fault,) = faults(settings(home=tmp_path / "typed" / "wrongly"))
    assert fault.startswith(f"home: there is no folder {tmp_path}/typed/wrongly, and none is made")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "home: " not in "".join(doubts(settings(home=tmp_path / ".isocenter")))  # the one that nobody has named
    (tmp_path / "home").mkdir()
    assert "home: " not in "".join(doubts(settings()))


def test_the_gate_that_a_default_bundle_has_passed_is_told_by_its_manifest(settings, bundles, tmp_path):
    folder = tmp_path / "home" / "bundles" / "mine"
    shutil.copytree(bundles / "sense", folder)
    manifest = yaml.safe_load((folder / "model.yaml").read_text())
    for passed, said in ((None, "has not been through"), (False, "did not pass"), (True, "")):
        gate = None if passed is None else {"passed": passed, "battery": "full", "scans": 4, "date": "2026-01-01"}
        (folder / "model.yaml").write_text(yaml.safe_dump({**manifest, "gate": gate}))
        doubt = gate_doubt(settings(default_bundle="mine"))
        assert doubt == (f"the default bundle 'mine' {said} the gate; see `isocenter bundle show mine`" if said else "")
    assert gate_doubt(settings(default_bundle=None)) == ""


def test_without_a_default_bundle_clients_have_to_name_one_and_all_else_runs(settings, tmp_path):
    site = settings(default_bundle=None)
    assert faults(site) == []
    assert {doubt.partition(":")[0] for doubt in other_doubts(site)} == {
        f"pipeline network{ending}.xml" for ending in ("", "-scanner", "_execute")
    }
    path = tmp_path / "isocenter.yaml"
    path.write_text(f"default_bundle: null\nport: 0\nhome: {tmp_path / 'home'}\n")
    said = CliRunner().invoke(app, ["check", "--config", str(path)])
    assert said.exit_code == 0
    assert "network.xml: clients have to send the parameter 'bundle'" in said.stderr
    assert any(line.split() == ["network.xml", "parameter", "'bundle'", "yes"] for line in said.stdout.splitlines())


def test_a_pipeline_that_can_never_name_a_bundle_is_a_fault(settings, tmp_path):
    step = "<gadget name='reconstruct'><property name='bundle' value=''/></gadget>"
    (tmp_path / "own.xml").write_text(OWN.format(step))
    found = faults(settings(default_bundle=None, pipelines=(tmp_path,)))
    assert [each.partition(": ")[2].partition(":")[0] for each in found] == ["no bundle is named"]


def test_the_names_of_what_is_shipped_are_those_of_what_is_built():
    assert set(NAMES) == {*METHODS, *SHIPPED}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"device": "gpu"}, "device: there is no device 'gpu'; accepted: auto, cpu"),
        ({"device": "cpu,"}, "device: there is no device ''"),
        ({"device": "cpu, cpu"}, "names one twice"),
        pytest.param({"device": "cuda"}, "device: there is no device 'cuda'", marks=WITHOUT_CUDA),
        pytest.param({"device": "cpu,cuda:1"}, "device: there is no device 'cuda:1'", marks=WITHOUT_CUDA),
        ({"default_bundle": "modl-brian"}, "default_bundle: there is no bundle 'modl-brian' (nearest: 'modl-brain')"),
        ({"default_pipeline": "nettwork"}, "default_pipeline: it is 'nettwork', and there is no such pipeline (nearest: 'netw"),
        ({"aliases": {"x": "sence.xml"}}, "'x' leads to 'sence.xml', and there is no such pipeline (nearest: 'sense.xml'"),
        ({"aliases": {"x": "y", "y": "rss"}}, "aliases: 'x' leads to 'y', and there is no such pipeline"),
        ({"gadgets": {"a": "nowhere.at_all:f"}}, "gadgets: gadget 'a' from 'nowhere.at_all:f': No module named 'nowhere'"),
        ({"gadgets": {"a": "json:f"}}, "gadgets: gadget 'a' from 'json:f': module 'json' has no attribute 'f'"),
        ({"handlers": ("nowhere.handler",)}, "handlers: 'nowhere.handler': there is no module 'nowhere'"),
        ({"handlers": ("handler",)}, "handlers: 'handler': it is not the name of a module and of something in it"),
        ({"fire_modules": {"f": "nowhere"}}, "fire_modules: 'f' from 'nowhere': there is no module 'nowhere'"),
        ({"fire_modules": {"f": "json"}}, "fire_modules: 'f' from 'json': json has no 'process'"),
        ({"aliases": {"sense.xml": "rss.xml"}}, "aliases: 'sense.xml' would hide pipeline sense.xml; accepted: a name that no"),
        ({"aliases": {"sense": "rss.xml"}}, "aliases: 'sense' would hide pipeline sense.xml"),
        ({"fire_modules": {"rss": "isocenter.commands.demo"}}, "fire_modules: 'rss' would hide pipeline rss.xml"),
        ({"runtime": "tensorrt", "device": "cpu"}, "runtime: tensorrt cannot run on device cpu: TensorRT needs a CUDA device"),
        ({"memory_bytes": 10**15}, "memory_bytes: 953674316 MiB are more than this host has; accepted: up to"),
        ({"keys": ("nonsense",)}, "keys: key 'nonsense' is no public key of minisign"),
        ({"pipelines": (Path("/nowhere"),)}, "pipelines: folder /nowhere cannot be read: No such file or directory"),
        ({"bundles": (Path("/nowhere"),)}, "bundles: folder /nowhere cannot be read: No such file or directory"),
        ({"python_path": (Path("/nowhere"),)}, "python_path: folder /nowhere cannot be read"),
        ({"spool": Path("/proc/spool")}, "spool: folder /proc/spool cannot be written in /proc"),
        ({"home": Path(__file__)}, "cannot be written: Not a directory"),
        ({"host": "no.such.host.invalid", "port": 9002}, "host: 'no.such.host.invalid' has no address"),
    ],
)  # fmt: skip
def test_each_fault_is_a_sentence(settings, values, fault):
    if "handlers" in values:
        gadgetron("external")
    found = faults(settings(**values))
    assert [each for each in found if fault in each], found
    assert len(found) == 1 or "fire_modules" in fault


def test_all_are_told_at_once(settings):
    found = faults(settings(device="gpu", keys=("nonsense",), aliases={"x": "y"}))
    assert len(found) == 3


def test_a_port_in_use(settings):
    with socket.create_server(("localhost", 0)) as other:
        port = other.getsockname()[1]
        (found,) = faults(settings(port=port))
        assert "is in use by another program" in found
    assert faults(settings(port=port)) == []


def test_a_port_that_another_isocenter_has_is_no_fault_beside_it(service, bundles, tmp_path):
    file = tmp_path / "isocenter.yaml"
    file.write_text(yaml.safe_dump({"home": str(tmp_path), "bundles": [str(bundles)], "port": service.port}))
    result = run("--config", file)
    assert result.exit_code == 0, result.output
    assert f":{service.port} is that of a service that runs already (isocenter " in result.output
    assert "fault: " not in result.output
    with socket.create_server(("localhost", 0)) as other:
        assert run("--config", file, "--port", other.getsockname()[1]).exit_code == 2


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        ("<gadget name='reconstruct'><property name='bundle' value='sence'/></gadget>", "no bundle 'sence' (nearest: 'sense'"),
        ("<gadget name='reconstruct'><property name='fallback' value='rss tvv'/></gadget>", "no bundle 'tvv' (nearest: 'tv')"),
        ("<gadget name='reconstruckt'/>", "there is no gadget 'reconstruckt' (nearest: 'reconstruct')"),
        ("<gadget name='finish'><property name='window' value='3'/></gadget>", "it has no option 'window'"),
        ("<gadget name='finish'><property name='window_percentile' value='101'/></gadget>", "'101' is not accepted"),
        ("<pipeline name='sence'/>", "there is no pipeline 'sence' (nearest: 'sense.xml'"),
        ("<gadget", "not readable as XML"),
    ],
)  # fmt: skip
def test_pipelines_with_their_bundles_and_options(settings, tmp_path, steps, fault):
    (tmp_path / "mine.xml").write_text(OWN.format(steps))
    (found,) = faults(settings(pipelines=(tmp_path,)))
    assert found.startswith("pipeline mine.xml: ")
    assert fault in found


def test_a_pipeline_of_gadgetron_without_counterpart_may_lie_there(settings, tmp_path):
    node = "<gadget><classname>GriddingGadget</classname></gadget>"
    (tmp_path / "spiral.xml").write_text(f"<configuration><version>2</version><stream>{node}</stream></configuration>")
    assert faults(settings(pipelines=(tmp_path,))) == []
    (doubt,) = other_doubts(settings(pipelines=(tmp_path,)))
    assert "'GriddingGadget' has no counterpart here" in doubt


def test_a_bundle_of_the_site_is_found_by_its_name(settings, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.yaml").touch()
    assert known_bundles(settings(bundles=(tmp_path,))) == {"mine", *NAMES}
    assert faults(settings(bundles=(tmp_path,), default_bundle="mine")) == []


def test_memory_for_the_largest_scan_of_a_domain(settings, bundles):
    small = settings(bundles=(bundles,), memory_bytes=256 * MIB, scan_bytes=128 * MIB)
    (doubt,) = (each for each in other_doubts(small) if "'ridge'" in each)
    assert "need 800 MiB at a time, and a scan may keep 96 MiB" in doubt
    assert not [
        each for each in other_doubts(settings(bundles=(bundles,), memory_bytes=8192 * MIB)) if "memory" in each
    ]


@pytest.fixture
def compiled(bundles, tmp_path):
    """A bundle that says that it has a model for AOTInductor; nobody has signed it."""
    folder = shutil.copytree(bundles / "rss", tmp_path / "site" / "compiled")
    manifest = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.pt2").write_bytes(b"code")
    manifest["files"]["model.pt2"] = hashlib.sha256(b"code").hexdigest()
    manifest["compiled_for"] = "cuda"
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
    (folder / "model.yaml.minisig").unlink(missing_ok=True)
    return folder


class TestPinnedRuntime:
    def test_a_default_bundle_that_it_cannot_run_is_a_fault(self, settings):
        (found,) = faults(settings(runtime="aoti"))
        assert found == "runtime: aoti cannot run the default bundle: 'ridge' is built without a model for aoti"

    def test_other_bundles_are_warned_of(self, settings, bundles):
        site = settings(runtime="onnx", bundles=(bundles,))
        shutil.copytree(bundles / "rss", site.home / "bundles" / "mine")
        (doubt,) = (each for each in other_doubts(site) if each.startswith("runtime: "))
        assert "'mine'" in doubt
        assert doubt.endswith("it has no model for onnx, but for torchscript")
        assert faults(site) == []

    def test_what_is_built_with_it_is_not(self, settings):
        assert not cannot_run(settings(runtime="onnx"))
        assert not cannot_run(settings(runtime="torchscript-nhwc"))

    def test_machine_code_by_nobody_who_is_known_and_for_another_device(self, settings, compiled):
        site = settings(runtime="aoti", bundles=(compiled.parent,), device="cpu")
        assert "no key that is trusted here has signed it" in cannot_run(site)["compiled"]
        site.home.mkdir()
        text = (compiled / "model.yaml").read_bytes()
        (compiled / "model.yaml.minisig").write_text(host_key(site.home).sign(text))
        assert cannot_run(site)["compiled"] == "was compiled for cuda, not for cpu"


def test_disk_for_the_spool(settings, tmp_path):
    free = shutil.disk_usage(tmp_path).free
    spool = tmp_path / "spool"
    (doubt,) = other_doubts(settings(spool=spool, spool_queue_bytes=2 * free))
    assert doubt.startswith(f"spool: the disk of {spool} has ")
    assert not spool.exists()


def test_modules_are_found_in_the_python_path_without_being_run(settings, tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("raise SystemExit\n")
    (tmp_path / "lab" / "invert.py").write_text("def process(connection, config, metadata): ...\nraise SystemExit\n")
    lab = settings(python_path=(tmp_path,), fire_modules={"invert": "lab.invert"})
    assert faults(lab) == []
    (tmp_path / "lab" / "bare.py").write_text(
        "import sys, isocenter, pytoch.nn\nfrom lab import x\n\ndef process(): ...\n"
    )
    lacking = settings(python_path=(tmp_path,), fire_modules={"bare": "lab.bare"})
    assert faults(lacking) == ["fire_modules: 'bare' from 'lab.bare': lab.bare imports pytoch, which is not there"]
    misspelt = settings(python_path=(tmp_path,), fire_modules={"invert": "lab.inverse"})
    assert faults(misspelt) == ["fire_modules: 'invert' from 'lab.inverse': there is no module 'lab.inverse'"]


@WITHOUT_CUDA
def test_a_device_that_is_not_there_is_refused_wherever_it_is_named():
    with pytest.raises(IsocenterError, match=r"there is no device 'cuda'.*accepted: auto, cpu$"):
        device_names("cuda")
    assert device_names("auto") == ["cpu"]


def run(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


class TestTheCommand:
    def test_it_ends_with_what_can_run(self, tmp_path, bundles):
        file = tmp_path / "isocenter.yaml"
        file.write_text(yaml.safe_dump({"home": str(tmp_path), "bundles": [str(bundles)], "port": 0}))
        result = run("--config", file)
        assert result.exit_code == 0, result.output
        rows = {line.split()[0]: line.split()[-1] for line in result.output.splitlines() if ".xml" in line}
        assert rows["network.xml"] == rows["sense.xml"] == rows["default.xml"] == "yes"
        assert "no faults: the service can start" in result.output
        assert {"Generic_Cartesian_Grappa_RealTimeCine.xml", "default_measurement_dependencies.xml"} <= rows.keys()

    def test_each_fault_has_a_line_and_the_status_is_2(self, tmp_path):
        file = tmp_path / "isocenter.yaml"
        file.write_text(yaml.safe_dump({"home": str(tmp_path), "aliases": {"x": "sence.xml"}, "port": 0}))
        result = run("--config", file, "--device", "gpu")
        assert result.exit_code == 2
        told = [line for line in result.output.splitlines() if line.startswith("fault: ")]
        assert len(told) == 2

    def test_settings_that_cannot_be_read(self, tmp_path):
        file = tmp_path / "isocenter.yaml"
        file.write_text("prot: 9002\n")
        result = run("--config", file)
        assert result.exit_code == 2
        assert "isocenter.yaml: there is no entry 'prot' (nearest: 'port')" in result.output

    def test_a_damaged_bundle_of_the_site(self, tmp_path, bundles):
        damaged = tmp_path / "bundles" / "mine"
        shutil.copytree(bundles / "rss", damaged)
        (damaged / "model.ts").write_bytes(b"something else")
        result = run("--home", tmp_path, "--port", 0)
        assert result.exit_code == 2
        assert "'mine'" in result.output
