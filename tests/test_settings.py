"""Settings take each value for what it is, or refuse it in a sentence with file, name, value and what is accepted."""

import re
from pathlib import Path

import pytest
from isocenter.bundle.trust import public_key
from isocenter.service.settings import Settings, SettingsError, accepted_by, load_settings
from isocenter.wire.errors import IsocenterError, OptionError
from isocenter.wire.home import default_home

RAW = re.compile(r"Input should|validat|pydantic|[a-z]\.\d|lax|\n")
"""What pydantic says of itself."""


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return load_settings(path)

    return read


def refused(read, text):
    with pytest.raises(SettingsError) as caught:
        read(text)
    said = str(caught.value)
    assert not RAW.search(said), said
    assert "mine.yaml" in said
    return said


@pytest.mark.parametrize("name", Settings.model_fields)
def test_no_field_takes_a_value_of_another_kind(read, name):
    for value in ("''", "2.5.1", "[[]]", "{1: 2}", '"\\0"', "-3", "true", "999999999999999999999999"):
        try:
            taken = getattr(read(f"{name}: {value}"), name)
        except SettingsError:
            said = refused(read, f"{name}: {value}")
            assert re.search(rf"mine\.yaml: {name}(\.\w+)?: ", said)
            assert said.endswith(f"; accepted: {accepted_by(name)}")
        else:
            kind = str(Settings.__annotations__[name])
            assert (value, type(taken)) == ("true", bool) or (value == "2.5.1" and re.search("str|Path", kind))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("allow: [10.0.0.300]", "allow: '10.0.0.300' is not accepted (it is no address or network); accepted: list of: addr"),
        ("allow: [10.1.2.3/24]", "it is an address in the network 10.1.2.0/24"),
        ("allow: [10]", "allow: 10 is not accepted"),
        ("pipelines: /nonexist", "pipelines: '/nonexist' is not accepted (a list is written [/nonexist]); accepted: list of: "),
        ("aliases: {1: sense.xml}", "aliases: the name 1 is not accepted; accepted: names with a text each"),
        ("aliases: {mine: 1}", "aliases.mine: 1 is not accepted"),
        ("connect: [localhost:99999]", "connect: 'localhost:99999' is not accepted (it is no address and port)"),
        ("connect: [localhost:0]", "it is no address and port"),
        ("memory_bytes: 999999999999999999999", "accepted: whole number from 1048576 to 1e+15 or nothing"),
        ("spool_days: yes", "spool_days: true is not accepted (it is no number); accepted: number from 0 to 100000 or noth"),
        ("spool: $HOME/spool", "has a variable, which nothing expands"),
        ("spool: ~nobody-of-this-name/spool", "the home folder in '~nobody-of-this-name/spool' is not known"),
        ("port: 1:30", "port: '1:30' is not accepted; accepted: whole number from 0 to 65535"),
        ("deadline: .inf", "deadline: '.inf' is not accepted"),
        ("prot: 3", "there is no entry 'prot' (nearest: 'port')"),
        ("colour: 3", "there is no entry 'colour'; accepted: host, port, home"),
        ("1: 3", "there is no entry 1; accepted: host"),
        ("reserved_slots: 3", "reserved_slots needs the addresses of the scanners"),
        ("port: 3\nhost: a\nport: 4", "cannot be read: line 3, column 1: 'port' is given before, in line 1"),
        ("aliases: {a: b, a: c}", "'a' is given before"),
        ("port:\t3", "line 1, column 6: found character '\\t' that cannot start any token (lines are indented with spaces)"),
        ("a: [", "cannot be read: line 1, column 5"),
        ("'\0'", "cannot be read: unacceptable character"),
        (f"port: {'1' * 5000}", "cannot be read: Exceeds the limit"),
        ("- a", "must hold names and values"),
        ("false", "must hold names and values"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(read, text, said):
    assert said in refused(read, text)


def test_all_mistakes_are_told_at_once(read):
    said = refused(read, "port: 99999\nhost: ''\nprot: 1\n")
    assert said.count("; also ") == 2


def test_a_flag_is_told_as_a_flag():
    with pytest.raises(SettingsError, match=r"^option --log-format: 'xml' is not accepted; accepted: text or json$"):
        load_settings(None, log_format="xml")


def test_numbers_are_decimal(read):
    assert read("port: 010").port == 10
    assert read("scan_bytes: 1e9\nspool_days: .5\n").scan_bytes == 10**9
    assert read("").port == 9002


class TestFolders:
    def test_a_tilde_is_the_home_of_the_user_and_others_start_where_the_program_did(self, read, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", "/home/somebody")
        monkeypatch.chdir(tmp_path)
        settings = read("spool: ~/spool\nhome: ~/\nbundles: [~/b, own]\npython_path: [/lab]\n")
        assert settings.spool == Path("/home/somebody/spool")
        assert settings.home == Path("/home/somebody")
        assert settings.bundles == (Path("/home/somebody/b"), tmp_path / "own")
        assert settings.python_path == (Path("/lab"),)

    @pytest.mark.parametrize(
        ("variable", "home"),
        [("~/iso", "/home/somebody/iso"), ("", "/home/somebody/.isocenter"), ("/data", "/data")],
    )
    def test_so_it_is_in_the_environment(self, monkeypatch, variable, home):
        monkeypatch.setenv("HOME", "/home/somebody")
        monkeypatch.setenv("ISOCENTER_HOME", variable)
        assert default_home() == Settings().home == Path(home)

    def test_a_variable_that_names_no_folder_is_refused(self, monkeypatch):
        monkeypatch.setenv("ISOCENTER_HOME", "${HOME}/iso")
        with pytest.raises(OptionError, match=r"variable ISOCENTER_HOME: .*which nothing expands; accepted: folder"):
            load_settings(None)

    def test_a_key_whose_file_is_nobodys(self):
        with pytest.raises(IsocenterError, match="is no public key of minisign"):
            public_key("~nobody-of-this-name/key.pub")
