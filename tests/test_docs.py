"""The documents tell what the code does."""

import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from isocenter.gadgets import GADGETS, load
from isocenter.gadgets.options import meanings
from isocenter.service.settings import Settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
LONGEST_LINE = 100
"""Of a block of code: as wide as the site's text."""


def generator():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made():
    return generator().pages()


@pytest.mark.parametrize(
    "page",
    [
        "reference/commands.md",
        "reference/gadgets.md",
        "reference/pipelines.md",
        "reference/settings.md",
        "troubleshooting.md",
    ],
)
def test_pages_that_are_made_from_the_code_are_those_of_this_code(made, page):
    assert page in made
    assert (DOCS / page).read_text() == made[page], "it is old: python docs/generate.py"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_lines_of_code_do_not_scroll_sideways(page):
    blocks = re.findall(r"^```.*?\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert not [line for block in blocks for line in block.splitlines() if len(line) > LONGEST_LINE]


def test_every_kind_of_error_has_its_entry_and_no_entry_is_old():
    remedies = yaml.safe_load((DOCS / "remedies.yaml").read_text())
    kinds = [kind for section in remedies.values() for kind in section]
    said = generator().messages()
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == set(said)
    assert {"settings", "header", "fallback", "block size"} <= set(kinds)  # of classes, reported, named where raised
    assert "….…: it …, and … …; accepted: a length above 0" in said["header"]
    assert all(entry.keys() == {"means", "do"} for section in remedies.values() for entry in section.values())


def test_every_option_and_setting_has_a_meaning():
    for name in GADGETS:
        gadget = load(name)
        means = meanings(gadget.function)
        assert all(len(means.get(option, "")) > 10 for option in gadget.options), name
    assert set(meanings(Settings, "Attributes")) == set(Settings.model_fields)


@pytest.mark.long
def test_the_site_is_built_without_a_warning_and_asks_no_other_host(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")]
    assert len(pages) > 25
    asked = [
        re.findall(r"""(?:\bsrc=|<link[^>]*href=|url\()["']?(?:https?:)?//[^\s"'>)]+""", page.read_text())
        for page in pages
    ]
    assert not [each for found in asked for each in found]


def test_the_example_settings_are_complete_and_are_the_defaults():
    values = yaml.safe_load((ROOT / "deploy" / "isocenter.yaml").read_text())
    assert set(values) | {"home"} == set(Settings.model_fields)
    settings = Settings.model_validate(values)
    assert settings == Settings(home=settings.home)


def exists(place):
    """Whether there is a module of ours of this name, or something in one, or a field of a class."""
    try:
        return pkgutil.resolve_name(f"isocenter.{place}") is not None
    except ImportError:
        return False
    except AttributeError:
        owner, _, field = place.rpartition(".")
        return field in getattr(pkgutil.resolve_name(f"isocenter.{owner}"), "__annotations__", {})


def test_what_the_glossary_names_is_there():
    page = (DOCS / "architecture.md").read_text().partition("## Glossary\n")[2]
    rows = [row.strip("|").split("|") for row in page.splitlines() if row.startswith("| ")]
    places = {word.strip(): re.findall(r"`([^`]+)`", where) for word, _, where in rows if word != " word "}
    places.pop("---")
    assert len(places) > 50
    lost = [f"{word}: {place}" for word, where in places.items() for place in where or ["nowhere"] if not exists(place)]
    assert not lost
    assert exists("gadgets.kspace.Kspace.mask")
    assert not exists("gadgets.kspace.Kspace.absent")
    assert not exists("gadgets.absent")
