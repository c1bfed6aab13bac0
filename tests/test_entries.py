"""What people write in YAML is taken for what it is, or refused in a sentence with file, place and what is accepted."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from isocenter.bundle.manifest import BundleError, Domain, TensorSpec
from isocenter.training.recipe import RecipeError, load_recipe
from isocenter.wire.entries import parse_entries, read_entries, validated, write_entries
from isocenter.wire.errors import DataError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Cat(Model):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)] = 9


class Dog(Model):
    kind: Literal["dog", "hound"]
    toys: tuple[str, ...] = ()


class House(Model):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    doors: int = 1
    height: float | None = None
    sizes: tuple[int, int] = (1, 1)
    rooms: tuple[Cat, ...] = ()
    weights: dict[Literal["low", "high"], Annotated[float, Field(gt=0)]] = {}
    open: bool = False

    @model_validator(mode="after")
    def _fits(self):
        if self.doors > 3 and self.open:
            raise ValueError("so many doors cannot be open")
        return self


PET = "pet: {kind: cat}\n"


def house(text, folder):
    path = folder / "house.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return validated(House, read_entries(path, "plan", DataError), f"plan {path.name}", DataError)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pet: {kind: cat, lives: -1}", "pet.lives: -1 is not accepted; accepted: whole number from 1 to 9"),
        ("pet: {kind: cat, lives: 1.5}", "pet.lives: 1.5 is not accepted; accepted: whole number from 1 to 9"),
        ("pet: {kind: cat, lives: three}", "pet.lives: 'three' is not accepted; accepted: whole number from 1 to 9"),
        ("pet: {kind: cat, lives: true}", "pet.lives: true is not accepted; accepted: whole number from 1 to 9"),
        ("pet: {kind: cat, lives: '3'}", "pet.lives: '3' is not accepted; accepted: whole number from 1 to 9"),
        ("pet: {kind: cat, lives: [1]}", "pet.lives: [1] is not accepted; accepted: whole number from 1 to 9"),
        ("pet: {kind: cat, live: 1}", "pet: there is no entry 'live' (nearest: 'lives')"),
        ("pet: {kind: dog, lives: 1}", "pet: there is no entry 'lives'; accepted: kind, toys"),
        ("pet: {kind: hond}", "pet.kind: 'hond' is not accepted (nearest: 'hound'); accepted: cat, dog, hound"),
        ("pet: {}", "pet.kind: it is missing; accepted: cat, dog, hound"),
        ("pet: 3", "pet: 3 is not accepted; accepted: names with a value each"),
        ("doors: 2", "pet: it is missing"),
        (PET + "height: .nan", "height: '.nan' is not accepted; accepted: number or nothing"),
        (PET + "height: nan", "height: 'nan' is not accepted; accepted: number or nothing"),
        (PET + "height: 1e999", "height: Infinity is not accepted; accepted: number or nothing"),
        (PET + "sizes: [1]", "sizes: [1] is not accepted; accepted: list of 2: whole number"),
        (PET + "sizes: [1, true]", "sizes: true is not accepted; accepted: list of 2: whole number"),
        (PET + "rooms: [{kind: cat}, {kind: cat, lives: 0}]", "rooms.1.lives: 0 is not accepted; accepted: whole number fr"),
        (PET + "weights: {hihg: 1}", "weights: the name 'hihg' is not accepted; accepted: names with a value each (low, high)"),
        (PET + "weights: {low: 0}", "weights.low: 0 is not accepted; accepted: names with a value each (low, high): number ab"),
        (PET + "doors: 4\nopen: true", "plan house.yaml: so many doors cannot be open"),
        (PET + "doors: 1\ndoors: 2", "house.yaml cannot be read: line 3, column 1: 'doors' is given before, in line 2"),
        (PET + "doors:\t3", "line 2, column 7: found character '\\t' that cannot start any token (lines are indented with"),
        ("pet: &a [*a]", "pet: [[...]] is not accepted; accepted: names with a value each"),
        ("a: " + "[" * 5000, "cannot be read: it is nested too deeply"),
        ("- pet", "house.yaml must hold names and values"),
        (b"\xff\x00", "house.yaml cannot be read: it is no text in UTF-8"),
        (b"#" * 2**21, "house.yaml cannot be read: it is too long"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(text, said, tmp_path):
    with pytest.raises(DataError) as caught:
        house(text, tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_of_two_says_what_they_are():
    with pytest.raises(
        DataError, match=r"acs: \[12\] is not accepted; accepted: nothing or list of 2 \(the least and the most\)"
    ):
        validated(Domain, {"acs": [12]}, "", DataError)


def test_all_mistakes_are_told_at_once(tmp_path):
    with pytest.raises(DataError, match=r"doors: 'x' is not.*; also plan house\.yaml: there is no entry 'colour'"):
        house(PET + "doors: x\ncolour: red\n", tmp_path)


@pytest.mark.parametrize("name", ["missing.yaml", ".", "/dev/zero", "a\0b"])
def test_what_is_no_file_is_refused(name, tmp_path):
    with pytest.raises(DataError, match=r"^plan .* cannot be read: "):
        read_entries(tmp_path / name, "plan", DataError)


def test_what_is_right_is_taken_as_it_looks(tmp_path):
    made = house(PET + "doors: 010\nheight: 1e1\nsizes: [2, 3]\nopen: no\n", tmp_path)
    assert (made.doors, made.height, made.sizes, made.open) == (10, 10.0, (2, 3), False)


def test_references_are_for_files_of_ones_own(tmp_path):
    text = "pet: &a {kind: cat}\nrooms: [*a]"
    assert house(text, tmp_path).rooms == (Cat(kind="cat"),)
    with pytest.raises(DataError, match=r"bundle cannot be read: line 2, column 9: the reference \*a is not accepted"):
        parse_entries(text.encode(), "bundle", DataError, from_others=True)


def test_what_is_written_is_read_again(tmp_path):
    entries = {
        "b": "1e9",
        "a": [1, 2.5, 1e-5, None, True],
        "c": {"d": "010", "e": "2024-01-01", "f": "no", "g": "ü: x"},
    }
    (tmp_path / "entries.yaml").write_bytes(write_entries(entries))
    assert read_entries(tmp_path / "entries.yaml", "file", DataError) == entries


@pytest.mark.parametrize(
    "domain",
    [
        {"coils": (8, 2)},
        {"coils": (0, 2)},
        {"matrix": (-64, 64)},
        {"frames": (0, 0)},
        {"acs": (-1, 4)},
        {"acceleration": (0.5, 4)},
        {"acceleration": (1, float("inf"))},
        {"net_acceleration": (float("nan"), 2)},
        {"partial_fourier": (0.2, 1)},
        {"partial_fourier": (0.6, 1.2)},
        {"field_strength_t": (3, 1.5)},
    ],
)
def test_a_domain_is_ordered_and_in_range(domain):
    with pytest.raises(ValidationError):
        Domain(**domain)


@pytest.mark.parametrize("limits", [(5, 2), (0, 3), (-2, 3), (1.5, 3)])
def test_limits_are_ordered_and_in_range(limits):
    with pytest.raises(ValidationError):
        TensorSpec(name="kspace", axes=("batch", "ky"), limits={"ky": limits})


def test_recipes_name_file_place_and_the_nearest_name(tmp_path):
    shipped = Path(__file__).parent.parent / "recipes" / "modl-brain.yaml"
    path = tmp_path / "mine.yaml"
    for change, said in (
        (("epochs:", "epoch:"), "recipe .*mine.yaml: there is no entry 'epoch' (nearest: 'epochs')"),
        (
            ("coils: [", "coils: [9, 4]  # ["),
            "mine.yaml: data.coils: [9, 4] is not accepted (the smallest value comes first)",
        ),
        (("iterations: ", "iterations: -"), "mine.yaml: configuration.iterations: -"),
        (
            ("iterations:", "itrations:"),
            "mine.yaml: configuration: there is no entry 'itrations' (nearest: 'iterations'",
        ),
        (("network: modl", "network: mdl"), "mine.yaml: network 'mdl' is not known (nearest: 'modl'"),
    ):
        text = shipped.read_text()
        assert change[0] in text
        path.write_text(text.replace(*change))
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert said.removeprefix("recipe .*") in str(caught.value)


def test_a_manifest_names_file_and_place(tmp_path):
    from isocenter.bundle.manifest import parse_manifest

    with pytest.raises(
        BundleError, match=r"manifest model\.yaml: domain\.coils: \[8, 2\] is not accepted \(the least comes"
    ):
        parse_manifest(b"domain: {coils: [8, 2]}", Path("model.yaml"))
