"""Texts that users name: from plain files only, whoever reads them."""

import os
import re
from pathlib import Path

import pytest
from isocenter.bundle.minisign import SecretKey, SignatureError
from isocenter.bundle.trust import public_key
from isocenter.commands.replay import Options
from isocenter.export.options import load_options
from isocenter.pipelines import loader
from isocenter.service.settings import load_settings
from isocenter.training.recipe import load_recipe
from isocenter.wire.errors import FileError, IsocenterError
from isocenter.wire.plain_files import LONGEST, open_plain, read_plain

READERS = {
    "settings": load_settings,
    "recipe": load_recipe,
    "export options": load_options,
    "secret key": SecretKey.read,
    "pipeline of a replay": lambda path: Options(config_local=path).configuration(),
}


@pytest.fixture
def no_files(tmp_path):
    """What is no plain file, with what is said of it."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with (tmp_path / "long.yaml").open("wb") as file:
        file.truncate(LONGEST + 1)
    return {
        tmp_path / "pipe.yaml": "it is a pipe; accepted: a plain file",
        tmp_path / "folder.yaml": "it is a folder; accepted: a plain file",
        tmp_path / "long.yaml": "it is too long; accepted: up to",
        tmp_path / "nowhere.yaml": "No such file or directory",
    }


@pytest.mark.parametrize("what", READERS)
def test_everything_else_is_refused_in_a_sentence_and_at_once(no_files, what):
    for path, reason in (no_files | {Path("/dev/zero"): "it is a device; accepted: a plain file"}).items():
        with pytest.raises(IsocenterError, match=re.escape(f"{path} cannot be read: {reason}")):
            READERS[what](path)


def test_a_public_key_is_read_from_a_plain_file(no_files, tmp_path):
    key = SecretKey.generate()
    (tmp_path / "key.pub").write_text(key.public.line())
    assert public_key(str(tmp_path / "key.pub")) == key.public
    for path in no_files:
        with pytest.raises(SignatureError, match="is no public key"):
            public_key(str(path))


def test_a_pipeline_that_is_too_long_is_refused(tmp_path):
    with (tmp_path / "long.xml").open("wb") as file:
        file.truncate(LONGEST + 1)
    with pytest.raises(FileError, match="it is too long"):
        loader.load("long", (tmp_path,))


def test_a_file_of_the_largest_size_and_a_link_to_it_are_read(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(LONGEST)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert len(read_plain(tmp_path / "link")) == LONGEST
    with pytest.raises(FileError, match="it is a link"), open_plain(tmp_path / "link", follow=False):
        pass
