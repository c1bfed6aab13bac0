"""Every command and option with arguments that are wrong, missing or absurd; and what all commands share."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import chdir
from pathlib import Path

import pytest
import typer
import yaml
from helpers import wait_until
from isocenter.commands import bench_memory, frame, progress
from isocenter.commands.cli import app
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.errors import IsocenterError
from test_run import RECIPE
from typer.testing import CliRunner

NO_INPUT = ("missing", "folder", "file/below", "ünï✓", "x" * 300)
NO_FILE = (*NO_INPUT, "empty", "rubbish")
NO_OUTPUT = ("folder", "file/below", "nowhere/out", "/proc/out", "/dev/full", "x" * 300)
NO_FOLDER = ("file", "file/below", "/proc/out", "x" * 300)
NO_WHOLE = ("x", "-1", "1.5", "9" * 30)
NO_NUMBER = ("x", "nan", "inf", "1e300")
NO_NAME = ("", "x", "ünï✓", "\x1b[31mred")
NO_PORT = (*NO_WHOLE, "65536")
NO_DEVICE = ("", "gpu", "cuda:99", "cpu:7", "ünï✓")
CONFIG = {"--config": (*NO_FILE[:4], "rubbish", "settings.yaml")}

SCAN = ("-f", "scan.h5", "-p", "1", "-t", "1")
WRONG = {
    "demo": ((), {"--output": NO_FOLDER, "--acceleration": (*NO_WHOLE, "0", "99"), "--phantom": NO_NAME}),
    "view": (
        (),
        {
            "WHAT": NO_FILE,
            "--output": (*NO_OUTPUT, "out.xyz"),
            "--group": ("other",),
            **CONFIG,
        },
    ),
    "deploy": ((), {"FOLDER": NO_FOLDER}),
    "simulate": (
        ("--matrix", "16", "--coils", "2", "-o", "out.h5"),
        {
            "--output": (*NO_OUTPUT, "out.png"),
            "--phantom": NO_NAME,
            "--matrix": (*NO_WHOLE, "7", "20000", "100000"),
            "--coils": (*NO_WHOLE, "0", "65536"),
            "--slices": (*NO_WHOLE, "0", "65536"),
            "--partitions": (*NO_WHOLE, "0", "65536"),
            "--fov": (*NO_NUMBER, "0", "-1"),
            "--orientation": (*NO_NAME, "trans"),
            "--offset": ("nan 0 0", "0 1e300 0", "0 0 x"),
            "--patient-position": (*NO_NAME, "HFX"),
            "--recon-matrix": ("-1 0", "0 99999", "x x"),
            "--recon-fov": ("-1 0", "0 nan", "x x"),
            "--oversampling": (*NO_WHOLE, "0", "3"),
            "--acceleration": (*NO_WHOLE, "0", "17"),
            "--acs": NO_WHOLE,
            "--calibration": NO_NAME,
            "--sampling": (*NO_NAME, "missing.npy", "rubbish.npy", "poisson-disc"),
            "--partial-fourier": (*NO_NUMBER, "0.1"),
            "--asymmetric-echo": (*NO_NUMBER, "0.1"),
            "--phase-resolution": (*NO_NUMBER, "0"),
            "--phase-oversampling": (*NO_NUMBER, "0"),
            "--partition-oversampling": (*NO_NUMBER, "0"),
            "--frames": (*NO_WHOLE, "0", "65536"),
            "--frame-counter": NO_NAME,
            "--repeats": (*NO_WHOLE, "0", "65536"),
            "--contrasts": (*NO_WHOLE, "0", "65536"),
            "--sets": (*NO_WHOLE, "0", "65536"),
            "--averages": (*NO_WHOLE, "0", "65536"),
            "--noise": (*NO_NUMBER, "-1"),
            "--repetition-time": (*NO_NUMBER, "-1"),
            "--seed": NO_WHOLE[:3],
            "--measurement-id": ("\x1b[31mred",),
            "--oddity": (*NO_NAME, "reversed:x=1", "lines-lost:count=x", "empty-readout:instead=maybe"),
        },
    ),
    "check": (
        (),
        {
            **CONFIG,
            "--port": NO_PORT,
            "--device": NO_DEVICE,
            "--home": NO_FOLDER[:3],
            "--spool": NO_FOLDER[:3],
        },
    ),
    "serve": ((), {**CONFIG, "--port": NO_PORT, "--log-format": NO_NAME}),
    "replay": (
        SCAN,
        {
            "--filename": (*NO_FILE, "zeros", "scan.truth.h5"),
            "--outfile": (*NO_OUTPUT, "rubbish", "scan.h5"),
            "--config-local": NO_INPUT,
            "--port": (*NO_PORT, "0"),
            "--in-group": ("other",),
            "--loops": (*NO_WHOLE[:3], "0"),
            "--timeout": (*NO_WHOLE[:3], "0"),
            "--silence": (*NO_WHOLE[:3], "0"),
            "--precision": (*NO_WHOLE, "1", "33"),
            "--tolerance": (*NO_NUMBER[:3], "-1"),
            "--parameter": ("x", ""),
            "--png": (*NO_OUTPUT, "out.xyz", "folder/"),
            "--report": NO_OUTPUT,
        },
    ),
    "recover": (
        ("--spool", "folder"),
        {
            "SCANS": ("x", "ünï✓"),
            **CONFIG,
            "--spool": ("missing", "file", "file/below"),
            "--outfile": NO_OUTPUT,
            "--pipeline": NO_NAME,
        },
    ),
    "pipelines": ((), CONFIG),
    "pipelines show": (("network",), {"NAME": (*NO_FILE, "wrong.xml"), "--config": ("missing", "rubbish")}),
    "pipelines check": (
        ("network",),
        {
            "NAME": (*NO_FILE, "wrong.xml"),
            "--parameter": ("x", "", "nothing=1", "bundle=missing", "lambda=much"),
            "--config": ("missing", "rubbish"),
        },
    ),
    "bundle list": ((), CONFIG),
    "bundle prepare": (
        ("--build-only",),
        {**CONFIG, "--home": NO_FOLDER, "--runtime": NO_NAME, "--log-format": NO_NAME},
    ),
    "bundle show": ((), {"BUNDLE": NO_FILE, **CONFIG}),
    "bundle install": (("folder",), {"FOLDER": NO_FILE, "--name": (*NO_NAME[1:], "../x", "a/b"), **CONFIG}),
    "bundle keygen": ((), {"--output": (*NO_OUTPUT, "file")}),
    "bundle sign": (("folder", "--key", "key"), {"BUNDLE": NO_FILE, "--key": NO_FILE, **CONFIG}),
    "bundle verify": (("folder",), {"BUNDLE": NO_FILE, "--device": NO_DEVICE, **CONFIG}),
    "bundle bench": (
        ("folder",),
        {
            "BUNDLE": NO_FILE,
            "--matrix": (
                *NO_NAME,
                "1",
                "0x1x1",
                "65536x1x1",
                f"1x1x{'9' * 5000}",
                "1x1x-1",
                "1.5x1x1",
                "nanx1x1",
                "1x2x3x4",
            ),
            "--frames": (*NO_WHOLE, "0"),
            "--repetitions": (*NO_WHOLE, "0"),
            "--device": NO_DEVICE,
            **CONFIG,
        },
    ),
    "models": ((), {}),
    "train": (
        ("recipe.yaml",),
        {
            "RECIPE": (*NO_FILE, "/dev/zero", "settings.yaml", "modl-brian"),
            "--output": NO_FOLDER,
            "--devices": (*NO_NAME, "-1", "gpu", "99"),
            "--workers": NO_WHOLE[:3],
            "--memory": ("x", "", "nan", "-1"),
        },
    ),
    "evaluate": (
        ("--bundle", "missing"),
        {
            "--bundle": NO_FILE[:6],
            "--data": NO_INPUT,
            "--output": NO_FOLDER,
            "--accelerations": ("", "x", "nan", "0", "-2", "1e300,x"),
            "--acs": ("", "x", "nan", "-1"),
            "--scans": (*NO_WHOLE[:3], "0"),
            "--sampling": (*NO_NAME, "missing.npy", "rubbish.npy"),
            "--convention": NO_NAME,
            "--truth": NO_NAME,
            "--region": NO_NAME,
            "--crop": ("", "x", "0", "1x2x3", "-1", "nan"),
            "--seed": NO_WHOLE[:3],
        },
    ),
    "export": (
        ("--network", "modl", "--checkpoint", "rubbish", "-o", "new"),
        {
            "--output": (
                *NO_FOLDER,
                "",
                "_x",
                ".x",
                "file",
                "x.pt",
                "x.yaml",
                "x.onnx",
                "below/x.H5",
                "./folder",
                "ridge",
            ),
            "--network": NO_NAME,
            "--module": (*NO_NAME, "json.py:loads", "json:nothing"),
            "--checkpoint": NO_FILE,
            "--config": (*NO_FILE, "/dev/zero", "settings.yaml"),
            "--formats": (*NO_NAME, "onnx,tflite"),
        },
    ),
    "cache": ((), {"--folder": ("file", "missing"), "--unused": (*NO_WHOLE, "36501")}),
    "textures": (
        ("new",),
        {
            "FOLDER": NO_FOLDER,
            "--packages": (*NO_INPUT, "file"),
            "--mirror": ("x", "http://127.0.0.1:1", "file:///etc"),
        },
    ),
}
"""By command: arguments that are right, or fail last; and by option values that are wrong, with blanks between several."""

ELSEWHERE = {
    ("check", "--host"),
    ("serve", "--host"),  # these are tried where the service's start is
    ("serve", "--home"),
    ("serve", "--device"),
    ("serve", "--spool"),
    ("replay", "--config"),  # names of the server's, tried in test_cli
    ("replay", "--address"),
    ("replay", "--info"),
    ("replay", "--out-group"),  # any name will do
    ("evaluate", "--gate"),  # needs a bundle, as does --reference; test_gate, test_evaluation
    ("evaluate", "--reference"),
}


def commands(group=None, path=()):
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield " ".join((*path, name)), command
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = {name: command for name, command in commands() if not command.hidden}


def names_of(parameter):
    """Its longest name; an argument's in capitals."""
    return parameter.name.upper() if parameter.param_type_name == "argument" else max(parameter.opts, key=len)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with files of all kinds; the home is empty."""
    monkeypatch.setenv("ISOCENTER_HOME", str(tmp_path / "home"))
    place = tmp_path / "place"
    (place / "folder").mkdir(parents=True)
    (place / "file").write_text("a file")
    (place / "empty").touch()
    for name in ("rubbish", "rubbish.npy"):
        (place / name).write_bytes(b"\x01\x02\xff\x00rubbish: [")
    (place / "zeros").write_bytes(b"\x01\x00" + bytes(5000))
    (place / "wrong.xml").write_text("<other/>")
    (place / "settings.yaml").write_text("port: many\ncolour: red\n")
    (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    simulate(ScanProtocol(matrix=8, coils=1)).save(place / "scan.h5")
    return place


def contents(place):
    """All files but the host's key, which the first command that may sign makes."""
    files = {path: path.stat().st_size for path in place.parent.rglob("*") if path.is_file()}
    return {path: size for path, size in files.items() if path.name != "host.key"}


def run(*arguments, place):
    with chdir(place):
        return CliRunner().invoke(app, list(arguments))


def assert_refused(result, statuses=(2,), least=1):
    assert result.exit_code in statuses, result.output
    assert result.exc_info[0] is SystemExit
    lines = result.stderr.splitlines()
    # `check` names every fault
    assert all(line.startswith(("error: ", "fault: ", "warning: ")) for line in lines), result.stderr
    assert least <= len([line for line in lines if line.startswith("error: ")]) <= 2 or "fault: " in result.stderr, (
        result.stderr
    )
    assert "fault of Isocenter's own" not in result.stderr
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("command", WRONG)
def test_wrong_arguments_are_refused_in_a_sentence_and_leave_nothing(place, command):
    right, options = WRONG[command]
    before = contents(place)
    for option, values in options.items():
        for value in values:
            parts = value.split() if option in ("--offset", "--recon-matrix", "--recon-fov") else [value]
            if option.startswith("--"):
                arguments = (*command.split(), *right, option, *parts)
            else:
                arguments = (*command.split(), *parts, *right[1:])
            result = run(*arguments, place=place)
            try:
                # a mirror's faults come out at work only; a service tells its log
                statuses = (1, 2) if option == "--mirror" else (2,)
                assert_refused(result, statuses, least=0 if command == "serve" else 1)
                assert contents(place) == before
            except AssertionError as error:
                error.add_note(shlex.join(map(ascii, arguments)))
                raise


def test_every_option_of_every_command_is_tried():
    assert set(WRONG) == set(COMMANDS)
    untried = set()
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False) and not parameter.hidden:
                option = names_of(parameter)
                if option not in WRONG[name][1] and (name, option) not in ELSEWHERE:
                    untried.add((name, option))
    assert untried == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_knows_h_and_says_what_options_mean(command):
    result = CliRunner().invoke(app, [*command.split(), "-h"], terminal_width=200)
    assert result.exit_code == 0
    for parameter in COMMANDS[command].params:
        assert parameter.hidden or parameter.help, (command, parameter.name)


def test_without_a_command_there_is_help():
    for arguments in ([], ["bundle"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0
        assert "Usage: isocenter" in result.output


def test_the_version_is_told():
    result = CliRunner().invoke(app, ["--version"])
    assert re.fullmatch(r"isocenter \S+.*, torch \d\S+, Python \d\S+\n", result.output)


def test_help_groups_commands_in_the_order_of_their_use():
    shown = CliRunner().invoke(app, ["--help"]).output
    places = [
        shown.index(f"│ {name} ") for name in ("demo", "simulate", "serve", "replay", "bundle", "models", "export")
    ]
    assert places == sorted(places)


def program(code, *arguments, **options):
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code, *arguments], check=False, timeout=60, **options)


APP = "from isocenter.commands.cli import app; app()"


def test_help_imports_neither_torch_nor_what_reads_scans():
    code = (
        "import sys; from isocenter.commands.cli import app\n"
        "try: app(['--help'])\n"
        "finally: sys.stderr.write(repr({'torch', 'numpy', 'h5py', 'ismrmrd', 'pydantic'} & set(sys.modules)))"
    )
    assert program(code, capture_output=True, text=True).stderr in ("set()", "{'pydantic'}")


def test_a_shell_completes_commands_options_and_names(monkeypatch, tmp_path):
    monkeypatch.setenv("ISOCENTER_HOME", str(tmp_path))
    (tmp_path / "bundles" / "mine").mkdir(parents=True)
    (tmp_path / "bundles" / "mine" / "model.yaml").touch()
    for words, expected in (
        ("isocenter sim", "simulate"),
        ("isocenter simulate --orient", "--orientation"),
        ("isocenter replay -c sens", "sense.xml"),
        ("isocenter bundle show m", "mine"),
    ):
        environment = {"_ISOCENTER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        result = CliRunner().invoke(app, [], env=environment, prog_name="isocenter")
        assert expected in result.stdout.split(), words


def test_output_that_cannot_be_written_is_told():
    with Path("/dev/full").open("w") as full:
        result = program(APP, "--version", stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr == "error: No space left on device\n"


def test_a_reader_that_ends_early_is_no_fault():
    reading, writing = os.pipe()
    os.close(reading)
    result = program(APP, "--version", stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert result.returncode == 1
    assert result.stderr == ""


def test_an_interrupted_command_says_so():
    code = (
        "import os, signal, isocenter.commands.scans as scans\n"
        "scans.working = lambda: signal.raise_signal(signal.SIGINT)\n" + APP
    )
    result = program(code, "simulate", "--matrix", "8", "-o", "/tmp/never.h5", capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (128 + signal.SIGINT, "interrupted\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (IsocenterError("it is odd", where="here", accepted="even"), "here: it is odd; accepted: even"),
        (FileNotFoundError(2, "No such file or directory", "a.h5"), "a.h5: No such file or directory"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (MemoryError(), "there is not enough memory"),
        (
            ModuleNotFoundError("No module named 'onnx'", name="onnx.helper"),
            "this needs the package onnx: pip install ",
        ),
        (KeyError("x"), "a fault of Isocenter's own, please report it: 'x'"),
    ],
)
def test_errors_are_sentences(error, said):
    assert frame.sentence(error).startswith(said)


def test_no_bars_where_there_is_no_terminal(place, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = run("simulate", "--matrix", "8", "--coils", "1", "--slices", "3", "-o", "three.h5", place=place)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "\x1b" not in result.stdout


def test_where_there_is_no_terminal_a_line_says_now_and_then_what_takes_so_long(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.01)
    with progress.bars() as shown:
        shown.update("bundles made ready", 7, 9, at="(tv)")
        wait_until(lambda: "bundles made ready (tv): 7 of 9, 0 s\n" in capsys.readouterr().err)
        shown.update("measuring", 0)
        wait_until(lambda: "measuring, 0 s\n" in capsys.readouterr().err)
    capsys.readouterr()
    assert not [each for each in threading.enumerate() if each.name == "progress"]


def test_nothing_is_printed_of_what_is_done_within_seconds(capsys):
    with progress.bars() as shown:
        shown.update("measuring", 0)
    assert capsys.readouterr() == ("", "")


def test_a_scan_that_needs_too_much_memory_is_refused_with_what_it_needs(place):
    result = run("simulate", "--matrix", "20000", "--oversampling", "1", "--coils", "64", place=place)
    assert result.exit_code == 2
    assert re.search(r"the scan needs [\d,.]+ GB of memory, and [\d,.]+ GB are free here", result.stderr)


def test_the_nearest_orientation_is_named(place):
    assert "(nearest: 'transverse')" in run("simulate", "--orientation", "transvers", place=place).stderr


def test_a_bench_that_needs_too_much_memory_is_refused_with_what_it_needs(bundles_with_onnx, place):
    before = contents(place)
    result = run("bundle", "bench", str(bundles_with_onnx / "rss"), "--matrix", "60000x60000x64", place=place)
    assert result.exit_code == 2
    assert re.search(
        r"coils 64, ky 60000, kx 60000 need [\d,.]+ GB of memory or more, and [\d,.]+ GB are", result.stderr
    )
    assert contents(place) == before


def test_what_a_bench_needs_is_measured_on_a_small_slice(bundles_with_onnx, place, monkeypatch):
    monkeypatch.setattr(bench_memory, "available_memory", lambda: 10 * 8 * 2 * 1024 * 1024 * 4)
    monkeypatch.setattr(bench_memory, "_growth", lambda call: len(call()) * 20 * 8 * 2 * 192 * 192 * 4)
    arguments = ("bundle", "bench", str(bundles_with_onnx / "rss"), "--matrix", "1024x1024x8", "--repetitions", "1")
    result = run(*arguments, place=place)
    assert result.exit_code == 2
    assert "need 2.8 GB of memory or more, and 0.7 GB are free here" in result.stderr
