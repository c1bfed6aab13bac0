"""What an installation brings: extras, the lock, the files beside the code, and the commands in environments without a clone."""

import ast
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from isocenter.commands.cli import app
from isocenter.service.settings import Settings, lacking_extras
from isocenter.wire.extras import EXTRAS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_architecture import MODULES
from typer.testing import CliRunner

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
ALIASES = {"PIL": "pillow", "yaml": "pyyaml"}
"""Names of imports that are not those of their packages."""


def names(requirements):
    return {canonicalize_name(Requirement(each).name) for each in requirements}


class TestExtras:
    def test_every_extra_brings_what_is_said_of_it(self):
        for package, extras in EXTRAS.items():
            for extra in extras:
                assert package in {name.removesuffix("-gpu") for name in names(OPTIONAL[extra])}

    def test_nothing_is_imported_that_no_installation_brings(self):
        """Other packages than those of the base come by ``extras.load`` alone, or in modules that ``extras.need`` guards."""
        base = names(PROJECT["dependencies"])
        guarded = {"onnx": ("export.lowering", "export.onnx_graph.")}
        for module, path in MODULES.items():
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found = [alias.name for alias in node.names]
                else:
                    found = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                for name in (each.partition(".")[0] for each in found):
                    if name not in sys.stdlib_module_names and canonicalize_name(ALIASES.get(name, name)) not in base:
                        assert module.startswith(guarded.get(name, ())), f"{module} imports {name}"

    def test_gpl_parts_come_only_when_asked_for(self):
        asking = {extra for extra, requirements in OPTIONAL.items() if "gadgetron" in names(requirements)}
        assert asking == {"gadgetron"}
        assert "gadgetron" not in (ROOT / "docker" / "Dockerfile").read_text().partition("ARG EXTRAS=")[2].split()[0]
        unasked = {name: value for name, value in os.environ.items() if name not in ("GADGETRON", "MAKEFLAGS")}
        setup = subprocess.run(
            ["make", "-n", "-B", "setup"], cwd=ROOT, env=unasked, capture_output=True, text=True, check=True
        )
        assert "gadgetron" not in setup.stdout

    @pytest.mark.parametrize(
        ("package", "arguments"),
        [
            ("nilearn", ["simulate", "--phantom", "template", "-o", "{}/scan.h5"]),
            ("nilearn", ["demo", "--phantom", "template", "-o", "{}/demo"]),
            ("nilearn", ["train", "modl-brain", "-o", "{}/run"]),
            ("nilearn", ["evaluate", "--bundle", "rss", "-o", "{}/evaluation"]),
            ("nilearn", ["evaluate", "--gate", "rss"]),
            ("nibabel", ["textures", "{}/textures"]),
            ("onnx", ["export", "--network", "modl", "--checkpoint", "{}/a.pt", "--formats", "onnx", "-o", "{}/b"]),
            ("onnx", ["bundle", "prepare", "--onnx", "--home", "{}/home"]),
            ("onnxruntime", ["bundle", "prepare", "--onnx", "--home", "{}/home"]),
            ("onnx", ["bundle", "prepare", "--runtime", "onnx", "--home", "{}/home"]),
            ("onnx", ["bundle", "prepare", "--runtime", "tensorrt", "--home", "{}/home"]),
            ("zfpy", ["replay", "-f", "{}/scan.h5", "-Z", "-T", "0.1"]),
        ],
    )
    def test_a_command_that_lacks_one_says_which_before_it_begins(
        self, package, arguments, tmp_path, tmp_path_factory, monkeypatch
    ):
        for name in ("scan.h5", "a.pt"):
            (tmp_path / name).touch()
        before = set(tmp_path.rglob("*"))
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setenv("ISOCENTER_HOME", str(tmp_path_factory.mktemp("home")))
        result = CliRunner().invoke(app, [each.format(tmp_path) for each in arguments])
        assert result.exit_code == 2
        (line,) = (each for each in result.output.splitlines() if each.startswith("error: "))
        assert all(f"isocenter[{extra}]" in line for extra in EXTRAS[package])
        assert set(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize(
        ("package", "setting"),
        [
            ("ray", {"ray": "auto"}),
            ("gadgetron", {"handlers": ("lab.handler",)}),
            ("onnxruntime", {"runtime": "onnx"}),
        ],
    )
    def test_so_does_the_service_before_it_starts(self, package, setting, monkeypatch):
        assert lacking_extras(Settings()) == []
        monkeypatch.setitem(sys.modules, package, None)
        (said,) = lacking_extras(Settings(**setting))
        assert f"isocenter[{EXTRAS[package][0]}]" in said


def test_deployment_files_that_somebody_edited_are_not_replaced_unasked(tmp_path):
    def deploy(*arguments):
        return CliRunner().invoke(app, ["deploy", str(tmp_path), *arguments])

    assert deploy().exit_code == 0
    assert deploy().exit_code == 0  # the same again
    written = (tmp_path / "environment").read_text()
    (tmp_path / "environment").write_text("OMP_NUM_THREADS=4\n")
    (tmp_path / "isocenter.yaml").unlink()
    refused = deploy()
    assert refused.exit_code == 2
    assert "has environment already" in refused.output
    assert (tmp_path / "environment").read_text() == "OMP_NUM_THREADS=4\n"
    assert not (tmp_path / "isocenter.yaml").exists()
    assert deploy("--replace").exit_code == 0
    assert (tmp_path / "environment").read_text() == written


def test_every_folder_of_documents_is_a_package():
    """Else setuptools warns of it for forty lines whenever it is installed."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")}
    assert len(folders) > 2
    for name in (".".join(("isocenter", *folder.parts)) for folder in folders):
        assert name in config["packages"]
        assert "*.md" in config["package-data"][name]


PINS = {
    canonicalize_name(name): Version(version)
    for name, _, version in (
        line.partition("==") for line in (ROOT / "constraints.txt").read_text().split("\n") if "==" in line
    )
}


class TestLock:
    def test_every_requirement_is_pinned_within_its_range(self):
        for text in (*PROJECT["dependencies"], *(each for extra in OPTIONAL.values() for each in extra)):
            requirement = Requirement(text)
            assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), text

    def test_so_is_what_these_require(self):
        """As far as it is installed here."""
        for name in PINS:
            try:
                required = importlib.metadata.requires(name) or ()
            except importlib.metadata.PackageNotFoundError:
                continue
            for requirement in map(Requirement, required):
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    assert canonicalize_name(requirement.name) in PINS, f"{name} requires {requirement.name}"

    def test_no_pin_is_of_one_index(self):
        assert not any(version.local for version in PINS.values())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
class TestUnit:
    def test_its_exposure_is_below_three(self):
        command = ["systemd-analyze", "security", "--offline=true", "--no-pager", ROOT / "deploy" / "isocenter.service"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert float(re.search(r"exposure level for isocenter.service: ([0-9.]+)", result.stdout)[1]) < 3

    def test_what_onednn_and_gpus_cannot_bear_is_not_set(self):
        lines = (ROOT / "deploy" / "isocenter.service").read_text().splitlines()
        assert not [line for line in lines if line.startswith(("MemoryDenyWriteExecute=", "PrivateDevices="))]

    def test_systemd_reads_what_is_written_for_this_installation(self, tmp_path):
        result = CliRunner().invoke(app, ["deploy", str(tmp_path)])
        assert result.exit_code == 0
        assert yaml.safe_load((tmp_path / "isocenter.yaml").read_text())["port"] == 9002
        program = Path(sys.executable).with_name("isocenter")
        unit = (tmp_path / "isocenter.service").read_text()
        assert f"ExecStart={program} serve" in unit
        if program.exists():
            command = ["systemd-analyze", "verify", tmp_path / "isocenter.service"]
            assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""


FENCE = re.compile(
    r"(?:<!-- needs: (?P<needs>[\w, ]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
OF_A_CLONE = ("make ", "git ", "pip install", "python -m tests", "python benchmarks")
"""How commands begin that need a clone, or have installed what runs the others."""


def readme_scripts():
    """README's blocks of commands and of Python, in their order, with what a marker before them says that they need."""
    for block in FENCE.finditer((ROOT / "README.md").read_text()):
        if block["language"] in ("", "sh", "bash", "console"):
            lines = [line for line in block["text"].splitlines() if not line.startswith(OF_A_CLONE)]
            if lines:
                yield "sh", "\n".join(lines), block["needs"] or ""
        elif block["language"] == "python":
            yield "python", block["text"], block["needs"] or ""


def test_readme_has_commands_and_says_what_they_need():
    scripts = list(readme_scripts())
    assert "sh" in {language for language, _, _ in scripts}
    known = {"gpu", "network", *OPTIONAL}
    assert all(needs in known for *_, text in scripts for needs in filter(None, re.split(r"\W+", text)))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Made from the source distribution, as by a packager."""
    folder = tmp_path_factory.mktemp("wheel")
    # setuptools leaves its folders in the sources
    sources = folder / "sources"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, sources / name)
    build = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", build, folder], cwd=sources, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, archive]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.long
def test_the_wheel_has_what_its_users_need(wheel):
    content = set(zipfile.ZipFile(wheel).namelist())
    made_with = (".py", ".pyc", ".css")  # the site of the documentation, from a clone
    for folder in ("recipes", "pipelines", "deploy", "docs", "export/weights"):
        files = {path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix not in made_with}
        files -= {ROOT / "docs" / "remedies.yaml"}
        assert files
        for path in files:
            assert f"isocenter/{path.relative_to(ROOT)}" in content
    assert not [name for name in content if name.startswith(("isocenter/tests", "isocenter/benchmarks"))]


def clean_environment(folder: Path, wheel: Path, extras: str) -> Path:
    """Install the wheel by pip, in the versions of the lock; torch alone is that of this environment, since it is large."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    for name in {Path(str(path)).parts[0] for path in importlib.metadata.files("torch") or ()} - {"..", "__pycache__"}:
        (site / name).symlink_to(importlib.metadata.distribution("torch").locate_file(name))
    what = f"isocenter{f'[{extras}]' if extras else ''} @ {wheel.as_uri()}"
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", what]
    subprocess.run(command, check=True, env=clean_variables(folder))
    return folder


def clean_variables(environment: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "ISOCENTER", "PYTEST", "COV"))
    }
    return {**kept, "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(environment)}


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("extras", ["", "cpu", "cpu,export", "cpu,train"])
def test_readme_in_a_clean_environment(extras, wheel, tmp_path):
    """Every command of README, typed as written, one after the other in one folder; then what the extras are for."""
    with socket.socket() as probe:
        assert probe.connect_ex(("localhost", 9002)), "another service has the port that README names"
    environment = clean_environment(tmp_path / "environment", wheel, extras)
    place = tmp_path / "place"
    place.mkdir()

    def run(*command, status=0):
        result = subprocess.run(
            command, cwd=place, env=clean_variables(environment), capture_output=True, text=True, check=False
        )
        said = result.stdout + result.stderr
        assert "Traceback" not in said, said
        assert result.returncode == status, f"{command}: {said}"
        return said

    have = {*extras.split(",")}
    where = run("python", "-c", "import isocenter; print(isocenter.__file__)")
    assert where.startswith(str(environment))
    run("isocenter", "bundle", "prepare")
    left_out = []
    for language, text, needs in readme_scripts():
        if not {*filter(None, re.split(r"\W+", needs))} <= have:
            left_out.append(f"needs {needs}:\n{text}")
        elif language == "python":
            run("python", "-c", text)
        else:
            run("bash", "-ec", f"trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{text}")
    assert len(left_out) < len(list(readme_scripts())), left_out
    run("isocenter", "demo")
    assert (place / "demo" / "montage.png").is_file()
    run("isocenter", "deploy")
    brains = ["isocenter", "simulate", "--phantom", "template", "--matrix", "64", "--coils", "4", "-o", "brain.h5"]
    onnx = ["isocenter", "bundle", "prepare", "--onnx", "--home", "onnx"]
    if "train" in have:
        run(*brains)
        shorter = yaml.safe_load((ROOT / "recipes" / "modl-brain.yaml").read_text())
        shorter["data"] |= {"samples": 2, "validation_samples": 1, "matrix": [64, 64], "coils": [4, 4]}
        shorter["masks"] |= {"accelerations": [2, 4]}
        (place / "short.yaml").write_text(yaml.safe_dump(shorter | {"epochs": 1}))
        run("isocenter", "train", "short.yaml")
    else:
        assert "pip install 'isocenter[train]'" in run(*brains, status=2)
        assert "pip install 'isocenter[train]'" in run("isocenter", "train", "modl-brain", status=2)
    if "export" in have:
        run(*onnx)
    else:
        assert "pip install 'isocenter[export]'" in run(*onnx, status=2)


def test_this_installation_has_what_the_tests_need():
    """Else tests would be skipped unnoticed."""
    assert all(find_spec(package) for package in ("onnx", "onnxruntime", "nilearn", "ray"))
