"""Bundles are found by name or by folder in one way, and are put where pipelines find them."""

import shutil

import pytest
from isocenter.bundle.folder import Bundle
from isocenter.bundle.manifest import BundleError
from isocenter.commands.bundles import app
from isocenter.commands.find_bundle import find, how_to_name, install, open_bundle, output_folder
from isocenter.service.settings import Settings
from typer.testing import CliRunner


@pytest.fixture
def settings(tmp_path, bundles):
    return Settings(home=tmp_path / "home", bundles=(bundles,))


@pytest.fixture
def mine(tmp_path, bundles):
    return shutil.copytree(bundles / "rss", tmp_path / "mine")


def test_by_name_by_folder_and_not_at_all(settings, mine, bundles):
    assert find("rss", settings) == bundles / "rss"
    assert find(mine, settings) == mine
    assert open_bundle(mine, settings).manifest.name == "mine"
    with pytest.raises(BundleError, match="there is no bundle 'mine'"):
        find("mine", settings)
    with pytest.raises(
        BundleError, match=r"no bundle 'sence' \(nearest: 'sense'.*accepted: .*ridge, ridge-cine, rss, sense"
    ):
        find("sence", Settings(home=mine.parent / "new"))
    with pytest.raises(
        BundleError, match=r"is no bundle: it has no model\.yaml; named without a folder, 'sense' is built"
    ):
        find(mine.parent / "sense", settings)


def test_what_is_installed_is_found_by_name_and_is_not_replaced_unasked(settings, mine):
    assert "isocenter bundle install" in how_to_name(mine, settings)
    place = install(mine, "other", settings)
    assert place == settings.home / "bundles" / "other" == find("other", settings)
    assert how_to_name(place, settings) == "pipelines, parameters and commands name it 'other'"
    with pytest.raises(BundleError, match="there is a bundle 'other' already"):
        install(mine, "other", settings)
    assert install(mine, "other", settings, replace=True) == place
    assert [path.name for path in place.parent.iterdir()] == ["other"]


@pytest.mark.parametrize("name", ["sense", ".hidden", "a b", "-x", ""])
def test_names_that_cannot_be_used(settings, mine, name):
    with pytest.raises(BundleError, match=r"comes with Isocenter|is no name"):
        install(mine, name, settings)


def test_what_is_damaged_is_not_installed(settings, mine):
    with (mine / "model.ts").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"model\.ts"):
        install(mine, "other", settings)
    assert not (settings.home / "bundles" / "other").exists()


def test_what_is_found_first_may_not_be_hidden_behind(settings, mine, tmp_path):
    shutil.copytree(mine, tmp_path / "theirs" / "other")
    with pytest.raises(BundleError, match="which pipelines find first"):
        install(mine, "other", settings.model_copy(update={"bundles": (tmp_path / "theirs",)}))


def test_an_output_is_a_name_or_a_folder(settings, mine):
    assert output_folder("other", settings, replace=False) == settings.home / "bundles" / "other"
    assert output_folder(f"{mine.parent}/new", settings, replace=False) == mine.parent / "new"
    with pytest.raises(BundleError, match="is there already; accepted: another folder, or --replace"):
        output_folder(str(mine), settings, replace=False)
    assert output_folder(str(mine), settings, replace=True) == mine
    with pytest.raises(BundleError, match="is no bundle, and is not replaced"):
        output_folder(str(mine.parent), settings, replace=True)


def test_the_commands(settings, mine, tmp_path, bundles):
    file = tmp_path / "isocenter.yaml"
    file.write_text(f"home: {settings.home}\nbundles: [{bundles}]\n")

    def run(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments), "--config", str(file)])
        return result.exit_code, result.output

    assert run("install", mine)[0] == 0
    assert "already" in run("install", mine)[1]
    assert run("verify", "mine")[0] == 0
    assert run("show", "mine")[0] == 0
    status, listed = run("list")
    assert status == 0
    assert any(line.startswith("mine") and "not tried" in line and "MB" in line for line in listed.splitlines())
    assert Bundle.open(settings.home / "bundles" / "mine").manifest.name == "mine"
