"""The fuzzer is tried as a command, and a case that breaks a rule must be found."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from fuzz.corpus import FOLDER, load, split
from fuzz.mutate import mutate

ROOT = Path(__file__).parent.parent.parent


def test_the_corpus_is_small_and_whole():
    sessions = load()
    assert len(sessions) >= 12
    assert sum(path.stat().st_size for path in FOLDER.glob("*.stream")) < 100_000
    for path in FOLDER.glob("*.stream"):
        data = path.read_bytes()
        assert b"".join(split(data)) == data
        assert len(split(data)) > 1


def test_cases_follow_from_the_seed():
    corpus = load()

    def cases(seed):
        return [b"".join(mutate(corpus[n % len(corpus)], corpus, Random(f"{seed} {n}"))) for n in range(50)]

    assert cases(1) == cases(1)
    assert cases(1) != cases(2)


def fuzz(*arguments):
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_a_short_run(tmp_path, bundles):
    done = fuzz("--seconds", 1.5, "--failures", tmp_path / "failures", "--grow", tmp_path / "grown")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("failures 0") == 3
    assert list((tmp_path / "grown").glob("conversation-0-*.stream"))


@pytest.mark.long
def test_a_case_can_be_tried_again(tmp_path):
    case = tmp_path / "conversation-0-1.stream"
    case.write_bytes(b"\xff\xff rubbish")
    done = fuzz("--replay", case)
    assert done.returncode == 0, done.stderr
    assert "UnknownMessageError" in done.stdout
    assert "nothing is wrong" in done.stdout
