"""Folders of files of fully sampled scans: what is found in them, layouts of one's own, what two folders share, and the cache."""

import os
import re
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from isocenter.commands.cli import app
from isocenter.training.files import prepared
from isocenter.training.files.folder import shared_by
from isocenter.training.files.kept import kept
from isocenter.wire.errors import FileError, OptionError
from test_scan_files import MASK, everything, fastmri, noise, read, save, without
from typer.testing import CliRunner

pytestmark = pytest.mark.filterwarnings("ignore")


def test_sub_folders_and_links_are_searched_and_what_is_no_scan_is_left_out(folder):
    kspace = fastmri(folder / "b" / "multicoil_train_batch_0" / "y.h5", noise(1, 2, 12, 10))
    fastmri(folder / "a.h5" / "z.h5", noise(2, 5, 16, 14, seed=2))
    save(folder, name="c.h5")
    (folder / "._c.h5").write_bytes(b"\0\5")
    (folder / "notes.txt").write_text("nothing")
    (folder / "b" / "back").symlink_to(folder, target_is_directory=True)
    scans = read(folder)
    shapes = [tuple(scan.kspace.shape) for scan in everything(scans)]
    assert shapes == [(5, 14, 16), (5, 14, 16), (2, 10, 12), (3, 32, 32)]
    assert scans.report[0] == f"{folder}: 4 scans of 3 files (2 fastmri, 1 mrd)"
    assert "._c.h5: left out: hidden files" in "\n".join(scans.report)
    np.testing.assert_array_equal(scans.scan(2).kspace.numpy(), kspace[0].swapaxes(-1, -2))


def test_a_copy_or_a_link_counts_once(folder):
    fastmri(folder / "a.h5", noise(2, 2, 12, 10))
    fastmri(folder / "b.h5", noise(2, 2, 12, 10, seed=2))
    shutil.copy(folder / "a.h5", folder / "copy.h5")
    (folder / "link.h5").symlink_to(folder / "b.h5")
    scans = read(folder)
    assert [scan.name for scan in everything(scans)] == [f"{name}.h5, slice {n}" for name in "ab" for n in (0, 1)]
    assert "  copy.h5: left out: its scans are those of a.h5" in scans.report
    assert "  link.h5: left out: its scans are those of b.h5" in scans.report


def test_slices_are_those_in_the_middle(folder):
    fastmri(folder / "a.h5", noise(5, 2, 12, 10))
    save(folder, name="b.h5", slices=4)
    names = [scan.name for scan in everything(read(folder, 2))]
    assert names == ["a.h5, slice 1", "a.h5, slice 2", "b.h5, slice 1", "b.h5, slice 2"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"has no files \*\.h5, \*\.hdf5, \*\.mat"),
        (lambda path: path.write_bytes(b""), r"a\.h5 is empty"),
        (lambda path: path.write_bytes(b"no HDF5"), r"a\.h5 is no HDF5 file"),
        (lambda path: path.symlink_to(path.parent / "gone.h5"), r"a\.h5 does not exist"),
        (lambda path: path.write_bytes(whole(path)[:1000]), r"a\.h5 is damaged or cut off"),
    ],
)
def test_files_that_are_none_are_refused(folder, make, message):
    make(folder / "a.h5")
    with pytest.raises(FileError, match=message):
        read(folder)


def whole(path):
    fastmri(path, noise(1, 2, 12, 10))
    content = path.read_bytes()
    path.unlink()
    return content


def test_a_file_that_is_damaged_inside_is_refused(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("kspace", data=noise(1, 2, 32, 32), chunks=(1, 2, 32, 32), compression="gzip", shuffle=True)
        chunk = file["kspace"].id.get_chunk_info(0)
    with (folder / "a.h5").open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(200))
    with pytest.raises(FileError, match=r"a\.h5, kspace: it cannot be read"):
        read(folder)


def test_another_layout_is_refused_by_what_it_holds(folder):
    with h5py.File(folder / "other.h5", "w") as file:
        file["data"] = np.zeros((3, 4))
        file.create_group("meta")
    with pytest.raises(FileError, match=r"other\.h5: its layout is not known: it holds data \[3, 4\] of float64, meta"):
        read(folder)


def test_files_that_cannot_be_used_may_be_left_out(folder):
    fastmri(folder / "good.h5", noise(1, 2, 12, 10))
    (folder / "bad.h5").write_bytes(b"no HDF5")
    scans = read(folder, refused="leave-out")
    assert len(scans) == 1
    assert f"  left out: {folder / 'bad.h5'} is no HDF5 file; accepted: a whole file (HDF5)" in scans.report


OWN = """
import numpy
from isocenter.training.files.layouts import Block, layout, make_kspace

@layout("numpy", holds="NumPy files", recognises=lambda path: path.suffix == ".npy", suffixes=(".npy",))
def read_numpy(reading):
    yield Block(make_kspace(numpy.load(reading.path)[:, None, None]))
"""


def test_a_layout_of_ones_own_is_a_function(folder, monkeypatch):
    (folder.parent / "own_layout.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder.parent)
    np.save(folder / "a.npy", kspace := noise(2, 12, 10))
    try:
        scans = read(folder, layouts=["own_layout"])
        (folder / "b.npy").write_bytes(b"something else")
        with pytest.raises(FileError, match=r"b\.npy: it cannot be read as numpy: \w+Error: "):
            read(folder, layouts=["own_layout"])
    finally:
        from isocenter.training.files import layouts

        layouts._layouts.pop("numpy", None)
        sys.modules.pop("own_layout", None)
    assert scans.report[0].endswith("1 scan of 1 file (1 numpy)")
    np.testing.assert_array_equal(scans.scan(0).kspace.numpy(), kspace)
    (folder.parent / "broken_layout.py").write_text("def read(:")
    (folder.parent / "failing_layout.py").write_text("1 / 0")
    for module in ("no_such_module", "broken_layout", "failing_layout", ".bad", ""):
        with pytest.raises(OptionError, match=f"data.layouts: the layout '{module}' cannot be imported"):
            read(folder, layouts=[module])


def both(folder, **options):
    return [read(folder / name, **options) for name in ("train", "val")]


def test_the_same_file_may_not_be_in_both(folder):
    fastmri(folder / "train" / "val" / "a.h5", noise(1, 2, 12, 10))
    (folder / "val").symlink_to(folder / "train" / "val", target_is_directory=True)
    with pytest.raises(FileError, match=r"1 file would be for training and for validation, such as .*a\.h5"):
        shared_by(*both(folder))


def test_the_same_scan_or_patient_in_both_is_warned_of(folder):
    for name, seed, patient in (("train/a", 1, "p1"), ("train/b", 2, "p2"), ("val/c", 1, "p3"), ("val/d", 4, "p2")):
        fastmri(folder / f"{name}.h5", noise(1, 2, 12, 10, seed=seed), patient=patient)
    subject = "<subjectInformation><patientID>p4</patientID></subjectInformation><encoding>"
    for number, name in enumerate(("train/e.h5", "val/f.h5")):
        save(folder, name=name, header=lambda text: text.replace("<encoding>", subject), seed=number)
    scan, patient = shared_by(*both(folder))
    assert re.fullmatch(r"the same scan is in .*: .*/train/a\.h5 and .*/val/c\.h5", scan)
    assert re.fullmatch(
        r"a scan of the same patient is in training and validation \(2 of them\): .*/train/b\.h5 and .*/val/d\.h5",
        patient,
    )
    assert not any("p2" in path.read_text() for path in folder.parent.glob("cache/*/index.json"))


@pytest.fixture
def prepared_once(folder, monkeypatch):
    """A folder that was read, and how often files are read from now on."""
    kspace = fastmri(folder / "a.h5", noise(2, 2, 12, 10))
    read(folder)
    count = []
    original = prepared.PreparedFile._prepare
    monkeypatch.setattr(prepared.PreparedFile, "_prepare", lambda self: count.append(self.path) or original(self))
    return kspace, count


def test_what_was_prepared_is_not_read_again(folder, prepared_once):
    kspace, count = prepared_once
    scans = everything(read(folder))
    assert count == []
    np.testing.assert_array_equal(scans[1].kspace.numpy(), kspace[1].swapaxes(-1, -2))
    maps = Path("/proc/self/maps")  # on Linux
    assert not maps.exists() or str(folder.parent / "cache") in maps.read_text()
    scans[0].kspace.zero_()  # a copy in memory, not the cache
    np.testing.assert_array_equal(read(folder).scan(0).kspace.numpy(), kspace[0].swapaxes(-1, -2))


def test_a_changed_file_is_prepared_anew(folder, prepared_once):
    _, count = prepared_once
    kspace = fastmri(folder / "a.h5", noise(2, 2, 12, 10, seed=3))
    state = (folder / "a.h5").stat()
    os.utime(folder / "a.h5", ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    np.testing.assert_array_equal(read(folder).scan(0).kspace.numpy(), kspace[0].swapaxes(-1, -2))
    assert len(count) == 1


def overwrite(path):
    content = bytearray(path.read_bytes())
    content[-8:] = bytes(8)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("00000.npy", Path.unlink),
        ("00000.npy", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        ("00000.npy", overwrite),
        ("index.json", lambda path: path.write_text(path.read_text()[:50])),
        ("index.json", Path.unlink),
    ],
)
@pytest.mark.parametrize("when", ["before", "while it is in use"])
def test_a_damaged_cache_is_rebuilt(folder, prepared_once, name, damage, when):
    kspace, _ = prepared_once
    scans = read(folder) if when != "before" else None
    (entry,) = (folder.parent / "cache").glob(f"*/{name}")
    damage(entry)
    scans = scans or read(folder)
    np.testing.assert_array_equal(scans.scan(0).kspace.numpy(), kspace[0].swapaxes(-1, -2))
    assert not [path for path in entry.parent.iterdir() if path.suffix not in (".npy", ".json")]


def test_what_was_not_used_for_long_is_deleted_and_nothing_else(folder, prepared_once):
    _, count = prepared_once
    cache = folder.parent / "cache"
    (mine := cache / "mine-0123456789abcdef").mkdir()
    (mine / "thesis.txt").write_text("not of the cache")
    (entry,) = (each.folder for each in kept(cache))
    for path in entry.iterdir():
        os.utime(path, (time.time() - 40 * 86400,) * 2)
    assert [round(each.unused_days) for each in kept(cache)] == [40]
    read(folder)
    assert [round(each.unused_days) for each in kept(cache)] == [0]
    run = partial(CliRunner().invoke, app)
    assert "deleted 0 prepared files" in run(["cache", "--folder", str(cache), "--unused", "1"]).output
    result = run(["cache", "--folder", str(cache), "--unused", "0"])
    assert result.exit_code == 0
    assert "deleted 1 prepared files" in result.output
    assert not entry.exists()
    assert (mine / "thesis.txt").is_file()
    before = len(count)
    read(folder)
    assert len(count) == before + 1


def test_a_cache_that_cannot_be_written_is_named(folder):
    fastmri(folder / "a.h5", noise(1, 2, 12, 10))
    (folder.parent / "cache").write_text("a file")
    with pytest.raises(FileError, match=r"cannot be prepared in the cache .*/cache: Not a directory.*data\.cache"):
        read(folder)


def test_the_commands_say_what_they_read_or_refuse(folder, tmp_path, bundles):
    fastmri(folder / "a.h5", without(noise(1, 2, 24, 40), ~MASK), mask=MASK)
    recipe = {
        "name": "r",
        "network": "modl",
        "scaling": "zero-filled",
        "data": {
            "kind": "files",
            "folder": str(folder),
            "validation_folder": str(folder),
            "cache": str(tmp_path / "c"),
        },
        "loss": {"l1": 1.0},
        "epochs": 1,
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    for arguments in (
        ["train", str(tmp_path / "r.yaml"), "-o", str(tmp_path / "run")],
        ["evaluate", "--bundle", str(bundles / "rss"), "--data", str(folder), "-o", str(tmp_path / "out")],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code in (1, 2)
        assert f"error: {folder / 'a.h5'}, mask: 20 of 40 lines were not measured" in result.stderr, result.output
