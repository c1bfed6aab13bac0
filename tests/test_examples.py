"""What help shows can be typed, in the order of a first hour, and names what there is; so can what a shell completes."""

import os
import re
import shlex
import shutil
from pathlib import Path

import h5py
import pytest
import typer
from conftest import ROOT
from isocenter.commands import names
from isocenter.commands.cli import app
from isocenter.commands.shipped import NAMES
from isocenter.export.shipped import WEIGHTS
from isocenter.models.networks.registry import NETWORKS
from test_command_line import APP, COMMANDS, program, run
from typer.testing import CliRunner


def groups():
    """What shows the help of all its commands."""
    group = typer.main.get_command(app)
    yield "", group
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield name, each


HELPED = {**dict(groups()), **COMMANDS}


def example(command):
    """The one that its help shows, as it is shown in a terminal that is 80 wide."""
    shown = CliRunner().invoke(app, [*command.split(), "-h"], terminal_width=80).output
    (found,) = re.findall(r"^ Example: isocenter (.*?) *$", shown, re.MULTILINE)
    return found


@pytest.mark.parametrize("command", HELPED)
def test_every_help_has_an_example_which_is_a_command_that_there_is(command):
    assert f"Example: isocenter {example(command)}" in HELPED[command].help, "it is broken in two lines"
    parts = shlex.split(example(command))
    names = next(parts[:length] for length in (2, 1) if " ".join(parts[:length]) in COMMANDS)
    of = " ".join(names)
    assert of.startswith(command)
    assert COMMANDS[of].make_context(of, parts[len(names) :], parent=None).command is COMMANDS[of]


FIRST_HOUR = (
    *("", "check", "simulate", "view", "replay", "recover", "deploy", "pipelines", "pipelines show", "pipelines check"),
    *("bundle", "bundle list", "bundle prepare", "bundle show", "bundle install", "bundle keygen", "bundle sign"),
    *("bundle verify", "bundle bench", "models", "cache"),
)
"""In the order in which they can be typed."""
LATER = {"demo", "evaluate", "export"}
"""Take longer."""
BY_OTHERS = {
    "serve": "the service of this test",
    "train": "takes hours",
    "textures": "fetches photographs",
}


def test_every_example_is_typed():
    assert {*FIRST_HOUR, *LATER, *BY_OTHERS} == HELPED.keys()
    assert example("") == example("demo")
    assert Path(shlex.split(example("train"))[1]).name in names.recipes("")
    assert "--spool spool" in example("serve")


def type_in(place, example, *more):
    result = run(*shlex.split(example), *more, place=place)
    assert result.exit_code == 0, f"{example}: {result.output}"
    return result.output


@pytest.fixture
def beginner(bundles, tmp_path, monkeypatch):
    """A folder with nothing in it but a home that is set up."""
    shutil.copytree(bundles, tmp_path / "home" / "bundles")
    monkeypatch.setenv("ISOCENTER_HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_examples_of_a_first_hour_work_as_they_are_typed(beginner, make_service):
    service = make_service(spool=beginner / "spool")
    for folder in (beginner / "bundles" / "mine", beginner / "home" / "bundles" / "mine"):
        shutil.copytree(
            beginner / "home" / "bundles" / "rss", folder
        )  # `isocenter export -o bundles/mine`, and -o mine
    for command in FIRST_HOUR[1:]:
        if command == "bundle install":
            shutil.rmtree(beginner / "home" / "bundles" / "mine")
        type_in(beginner, example(command), *(("-p", str(service.port)) if command == "replay" else ()))
    assert h5py.is_hdf5(beginner / "images.h5")
    assert (beginner / "a.png").is_file()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_so_do_those_that_take_longer(beginner):
    (beginner / "run").mkdir()
    shutil.copy(WEIGHTS / "modl-brain.pt", beginner / "run" / "weights.pt")  # `isocenter train modl-brain -o run`
    for command in sorted(LATER):
        type_in(beginner, example(command))
    assert (beginner / "demo" / "montage.png").is_file()
    assert (beginner / "home" / "bundles" / "mine" / "model.yaml").is_file()


class TestCompletion:
    """What the shell is offered: each by its source, found without importing it."""

    def completed(self, words, home):
        variables = {
            **os.environ,
            "ISOCENTER_HOME": str(home),
            "_ISOCENTER_COMPLETE": "complete_bash",
            "COMP_WORDS": f"isocenter {words}",
            "COMP_CWORD": str(len(words.split())),
        }
        code = APP.replace("app()", "app(prog_name='isocenter')")
        return program(code, env=variables, capture_output=True, text=True).stdout.split()

    def test_names_are_completed_where_commands_take_them(self, tmp_path):
        (tmp_path / "bundles" / "sensational").mkdir(parents=True)
        (tmp_path / "bundles" / "sensational" / "model.yaml").touch()
        assert self.completed("bundle show sens", tmp_path) == ["sensational", "sense"]
        assert self.completed("evaluate --bundle ridge", tmp_path) == ["ridge", "ridge-cine"]
        assert self.completed("export --network modl-", tmp_path) == ["modl-didn", "modl-unet"]
        assert self.completed("train varnet-brain-m", tmp_path) == ["varnet-brain-maps"]
        assert self.completed("pipelines show rss", tmp_path) == ["rss-scanner.xml", "rss.xml", "rss_execute.xml"]

    def test_all_that_there_are(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ISOCENTER_HOME", str(tmp_path))
        assert names.networks("") == sorted(NETWORKS)
        assert names.bundles("") == sorted(NAMES)
        assert names.recipes("") == sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
