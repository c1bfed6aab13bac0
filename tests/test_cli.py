"""The commands, as a user types them: a few as programs of their own, the others in this process, which is quicker."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import wait_until
from isocenter.commands import stamp
from isocenter.commands.cli import app
from isocenter.commands.prepare import prepare_bundles
from isocenter.service.settings import Settings, SettingsError, load_settings
from isocenter.simulate.scan import ScanProtocol, simulate
from typer.testing import CliRunner


def isocenter(*arguments, cwd, status=0):
    with chdir(cwd):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.output


def program(*arguments, cwd, status=0):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "isocenter.commands.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture
def scan_file(tmp_path):
    simulate(ScanProtocol(matrix=48, coils=4, slices=2, acceleration=2)).save(tmp_path / "scan.h5")
    return tmp_path / "scan.h5"


def test_simulate_and_replay(service, tmp_path):
    folder = tmp_path
    isocenter(
        *("simulate", "--matrix", 48, "--coils", 4, "--slices", 2, "--acceleration", 2, "-o", "scan.h5"),
        cwd=folder,
    )
    said = program(
        *("replay", "-p", service.port, "-f", "scan.h5", "-c", "sense.xml", "-o", "out.h5", "-G", "images"),
        *("--png", "montage.png", "--report", "latency.txt"),
        cwd=folder,
    )
    assert "2 images in out.h5" in said
    assert "against the truth beside the scan: SSIM" in said
    with h5py.File(folder / "out.h5") as file:
        group = file["images/image_1"]
        assert group["data"].shape == (2, 1, 1, 48, 48)
        assert group["data"].dtype == np.float32
        assert sorted(group["header"]["slice"]) == [0, 1]
        assert "IsocenterBundle" in str(group["attributes"][0])
    assert (folder / "montage.png").read_bytes().startswith(b"\x89PNG")
    assert "last readout sent to last image" in (folder / "latency.txt").read_text()


@pytest.mark.long
def test_the_demo_needs_no_display_and_says_how_far_each_method_is_from_the_truth(bundles, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("ISOCENTER_HOME", str(bundles.parent))
    said = program("demo", "-o", "demo", cwd=tmp_path)
    assert "no aliasing is visible in the network's images" in said
    assert all(name in said for name in ("zero-filled", "SENSE", "ridge", "PSNR"))
    assert (tmp_path / "demo/montage.png").read_bytes().startswith(b"\x89PNG")
    said = program("demo", "-o", "demo", "--acceleration", 8, cwd=tmp_path)
    assert "does NOT unfold this scan" in said


def test_replay_with_a_local_pipeline_compression_and_loops(service, scan_file):
    pipeline = scan_file.parent / "mine.xml"
    pipeline.write_text(
        "<configuration><version>2</version><stream><external><connect port='9012'/>"
        "<configuration><pipeline name='rss'/></configuration></external></stream></configuration>"
    )
    isocenter(
        "replay",
        "-p",
        service.port,
        "-f",
        "scan.h5",
        "-C",
        pipeline,
        "-P",
        14,
        "-l",
        2,
        "-G",
        "g",
        cwd=scan_file.parent,
    )
    with h5py.File(scan_file.parent / "out.h5") as file:
        assert len(file["g/image_1/data"]) == 4


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("-f", "nothing.h5"), "nothing.h5"),
        (("-f", "scan.h5", "-c", "nothing.xml"), "there is no pipeline 'nothing.xml'"),
        (("-f", "scan.h5", "-g", "other"), "has no group 'other'"),
        (("-f", "scan.h5", "-P", "8", "-T", "0.1"), "not both"),
        (("-f", "scan.h5", "--parameter", "bundle"), "must be name=value"),
        ((), "name a recorded scan"),
    ],
)
def test_replay_says_what_was_wrong(service, scan_file, arguments, complaint):
    status = 1 if "-c" in arguments else 2
    assert complaint in isocenter("replay", "-p", service.port, *arguments, cwd=scan_file.parent, status=status)


def test_a_program_that_fails_says_why_in_its_last_line_and_ends_with_a_status(tmp_path):
    said = program("replay", "-f", "nothing.h5", cwd=tmp_path, status=2).splitlines()
    assert said[-1] == "error: --filename: nothing.h5 does not exist or is no file"


def test_replay_without_a_server(scan_file):
    said = isocenter("replay", "-p", 1, "-t", 300, "-f", "scan.h5", cwd=scan_file.parent, status=1)
    assert "cannot connect to localhost:1 within 0.3 seconds" in said


def test_questions(service, tmp_path):
    assert "System Memory size" in isocenter("replay", "-p", service.port, "-Q", "gadgetron::info", cwd=tmp_path)
    said = isocenter("replay", "-p", service.port, "-Q", "gadgetron::nfo", cwd=tmp_path, status=1)
    assert "the server knows no query 'gadgetron::nfo'" in said


def test_pipelines_are_listed_and_checked(tmp_path):
    listed = isocenter("pipelines", cwd=tmp_path)
    assert "sense.xml" in listed
    assert "SENSE" in listed
    (tmp_path / "bad.xml").write_text("<configuration><gadget name='sharpen'/></configuration>")
    assert "there is no gadget 'sharpen'" in isocenter("pipelines", "check", "bad.xml", cwd=tmp_path, status=2)
    (tmp_path / "good.xml").write_text("<configuration><gadget name='accumulate'/></configuration>")
    assert "good.xml is valid" in isocenter("pipelines", "check", "good.xml", cwd=tmp_path)


def test_a_wrong_protocol_is_refused(tmp_path):
    assert "phantom 'foot' is not known" in isocenter("simulate", "--phantom", "foot", cwd=tmp_path, status=2)


def test_settings_are_checked(tmp_path):
    path = tmp_path / "isocenter.yaml"
    path.write_text("port: 99999\ncolour: red\n")
    with pytest.raises(SettingsError, match=r"port: .*there is no entry 'colour'"):
        load_settings(path)
    path.write_text("port: 9005\n")
    assert load_settings(path, port=None).port == 9005
    assert load_settings(path, port=9006).port == 9006
    path.write_text("- a\n")
    with pytest.raises(SettingsError, match="names and values"):
        load_settings(path)


def test_a_port_that_is_taken_is_reported(service):
    from isocenter.engine import Engine
    from isocenter.service.server import Server
    from isocenter.service.settings import Settings

    with pytest.raises(OSError, match="cannot listen on"):
        Server(Settings(port=service.port), Engine([]))


@pytest.mark.parametrize("own", ["", "777"])
def test_serving_says_how_long_threads_spin_before_torch_is_loaded(own):
    code = (
        "import os, sys\n"
        "from isocenter.commands import serve\n"
        "def load():\n"
        "    assert not {'torch', 'numpy', 'h5py', 'ismrmrd'} & set(sys.modules)\n"
        "    sys.__stdout__.write(os.environ['GOMP_SPINCOUNT'])\n"
        "    sys.__stdout__.flush()\n"
        "    raise OSError('enough')\n"
        "assert os.environ.get('GOMP_SPINCOUNT', '') in ('', '777')\n"
        "serve.serve(load, log_format='json')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": own} if own else {}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True)
    assert ended.stdout.strip() == (own or "10000")
    assert ended.returncode == 2
    assert [json.loads(line)["message"] for line in ended.stderr.splitlines()] == ["enough"]


class TestPreparation:
    """Whether ``serve`` has to build something first is told without importing torch."""

    @pytest.fixture
    def prepared(self, bundles, tmp_path):
        home = tmp_path / "home"
        shutil.copytree(bundles, home / "bundles")
        settings = Settings(home=home)
        prepare_bundles(settings)
        return settings

    def test_what_was_prepared_is_current(self, prepared):
        assert not stamp.missing(prepared)
        assert stamp.missing(Settings(home=prepared.home, runtime="onnx"))
        assert stamp.missing(Settings(home=prepared.home.parent))

    @pytest.mark.parametrize("change", ["missing", "changed", "no stamp", "rubbish", "torch"])
    def test_what_was_changed_since_is_not(self, prepared, monkeypatch, change):
        folder = prepared.home / "bundles"
        if change == "missing":
            shutil.rmtree(folder / "rss")
        elif change == "changed":
            with (folder / "sense" / "model.yaml").open("a") as file:
                file.write("# edited\n")
        elif change == "torch":
            monkeypatch.setattr(stamp.importlib.metadata, "version", lambda _: "0.0")
        else:
            (folder / ".prepared.json").write_text("[]" if change == "rubbish" else "")
        assert stamp.missing(prepared)

    def test_other_code_is_not(self, prepared, tmp_path, monkeypatch):
        copy = tmp_path / "code"
        for name in ("models", "export"):
            shutil.copytree(stamp._ROOT / name, copy / name)
        monkeypatch.setattr(stamp, "_ROOT", copy)
        assert not stamp.missing(prepared)
        (copy / "models" / "classical.py").write_text("# other code")
        assert stamp.missing(prepared)


@pytest.mark.parametrize("prepared", [True, False])
def test_a_stop_while_the_service_starts_ends_it_well(bundles, tmp_path, prepared):
    """Before it listens there is nothing to finish; what builds bundles ends with it."""
    home = bundles.parent if prepared else tmp_path
    command = [sys.executable, "-c", "from isocenter.commands.cli import app; print('here', flush=True); app()"]
    process = subprocess.Popen(
        [*command, "serve", "--port", "0", "--home", str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "here\n"
    status = Path(f"/proc/{process.pid}/status")
    caught = 1 << (signal.SIGTERM - 1)
    wait_until(lambda: int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) & caught)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert "Traceback" not in said
