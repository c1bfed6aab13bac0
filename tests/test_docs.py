"""The documents tell what the code does."""

import inspect
import pkgutil
import re
from pathlib import Path

import yaml
from isocenter.gadgets import GADGETS, load
from isocenter.pipelines import loader
from isocenter.service.settings import Settings

ROOT = Path(__file__).parent.parent


def test_every_gadget_and_option_is_in_the_gadgets_page():
    page = (ROOT / "docs" / "gadgets.md").read_text().partition("# The gadgets\n")[2]
    sections = dict(re.findall(r"^## (\w+)\n\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    assert set(sections) == set(GADGETS)
    for name, text in sections.items():
        gadget = load(name)
        assert gadget.summary in text
        assert re.findall(r"^\| `(\w+)` \|", text, re.M) == list(gadget.options)
        for option, default in gadget.defaults.items():
            if default is not inspect.Parameter.empty and default != "":
                assert f"| `{option}` | `{default}` |" in text


def test_the_example_settings_are_complete_and_are_the_defaults():
    values = yaml.safe_load((ROOT / "deploy" / "isocenter.yaml").read_text())
    assert set(values) | {"home"} == set(Settings.model_fields)
    settings = Settings.model_validate(values)
    assert settings == Settings(home=settings.home)


def test_the_readme_or_the_page_of_series_names_the_shipped_pipelines():
    readme = (ROOT / "README.md").read_text() + (ROOT / "docs" / "series.md").read_text()
    for name in loader.available(()):
        assert f"`{name}`" in readme or name.endswith("_execute.xml")


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
    page = (ROOT / "docs" / "architecture.md").read_text().partition("## Glossary\n")[2]
    rows = [row.strip("|").split("|") for row in page.splitlines() if row.startswith("| ")]
    places = {word.strip(): re.findall(r"`([^`]+)`", where) for word, _, where in rows if word != " word "}
    places.pop("---")
    assert len(places) > 50
    lost = [f"{word}: {place}" for word, where in places.items() for place in where or ["nowhere"] if not exists(place)]
    assert not lost
    assert exists("gadgets.kspace.Kspace.mask")
    assert not exists("gadgets.kspace.Kspace.absent")
    assert not exists("gadgets.absent")
