"""Photographs and a head out of packages, and scans with their texture."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pictures
import pytest
import torch
from isocenter.commands.cli import app
from isocenter.export.options import ExportOptions
from isocenter.export.trained import completed
from isocenter.models.fourier import ifft
from isocenter.models.networks.registry import NETWORKS
from isocenter.simulate.textures import Volume, head_slice, random_textured_image, waves
from isocenter.training.data import textured_scan
from isocenter.training.debian import SourceError, fetch, files, find
from isocenter.training.losses import log_error
from isocenter.training.recipe import TextureData
from isocenter.training.textures import PACKAGES, build_textures, load_textures, sources
from pydantic import ValidationError
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    return pictures.textures(tmp_path_factory.mktemp("textures"))


def silent(*_):
    pass


def test_the_set_has_detailed_pictures_once_and_knows_whence_they_are(textures):
    with h5py.File(textures) as file:
        names = [Path(each.attrs["name"]).name for each in file["photographs"].values()]
        assert sorted(names) == ["first.png", "held-out.png"]
        assert file["packages/pictures"][()].decode() == pictures.COPYRIGHT
    (first,) = load_textures(textures)[0].photographs
    grey = pictures.picture(1).astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    half = (grey[::2, ::2] + grey[1::2, ::2] + grey[::2, 1::2] + grey[1::2, 1::2]) / 4
    np.testing.assert_allclose(first / 65535, half, atol=1e-5)
    assert [(each["package"], each["version"], each["licences"]) for each in sources(textures)] == [
        ("heads", "1", "CC0-1.0"),
        ("pictures", "1", "CC0-1.0"),
    ]


def test_a_bundle_says_whose_pictures_its_weights_have_seen(textures):
    recipe = {"name": "ridge", "seed": 1, "data": {"kind": "textures", "samples": 9}}
    training = {"recipe": recipe, "sources": sources(textures)}
    assert completed(ExportOptions(), NETWORKS["ridge-net"], training).training_data == (
        "textures (9 scans) from heads 1 (CC0-1.0), pictures 1 (CC0-1.0); recipe ridge, seed 1"
    )


def test_training_and_validation_share_no_picture_and_no_slice(textures):
    training, validation = load_textures(textures)
    assert len(training.photographs) == len(validation.photographs) == 1
    assert not np.array_equal(training.photographs[0], validation.photographs[0])
    (volume,) = training.heads
    np.testing.assert_array_equal(volume.voxels, pictures.head())
    random = np.random.default_rng(0)
    low, high = volume.held_out
    assert (low * 3 - 71, high * 3 - 71) == pytest.approx((8, 24), abs=1.5)
    heights = {int(head_slice(random, volume, validation=True).min()) for _ in range(40)}
    assert heights == set(range(low, high + 1))
    slices = [head_slice(random, volume, validation=False) for _ in range(200)]
    transverse = {int(each.min()) for each in slices if each.shape == (60, 72)}
    assert len(transverse) > 20
    assert not transverse & set(range(low - 1, high + 2))


def test_a_package_that_is_missing_or_another_is_named_with_what_was_expected(tmp_path):
    one, _ = pictures.packages(tmp_path)
    assert find(one, tmp_path).name == "pictures_1_all.deb"
    with pytest.raises(SourceError, match=rf"package pictures is not in .*accepted: pictures 1 .*{one.sha256}"):
        find(one, tmp_path / "elsewhere")
    (tmp_path / "pictures_1_all.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(SourceError, match=r"pictures_1_all.deb is damaged or of another version"):
        find(one, tmp_path)
    with pytest.raises(SourceError, match=r"is no Debian package, or is damaged: it has no data.tar"):
        list(files(tmp_path / "pictures_1_all.deb", bool))


@contextmanager
def mirror(folder, *, stops_after=None):
    """Serve files with ranges, as mirrors do; yield the address and the ranges asked for."""
    ranges = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            ranges.append(self.headers["Range"])
            content = (folder / Path(self.path).name).read_bytes()
            begin = int(ranges[-1].removeprefix("bytes=").rstrip("-")) if ranges[-1] else 0
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            self.wfile.write(content[begin:stops_after])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", ranges
    finally:
        server.shutdown()
        server.server_close()


def test_a_package_is_fetched_once_and_a_broken_download_goes_on_where_it_ended(tmp_path):
    chosen = pictures.packages(tmp_path / "debs")
    target = tmp_path / "set"
    with (
        mirror(tmp_path / "debs", stops_after=1000) as (address, ranges),
        pytest.raises(SourceError, match="ended after 1000 of"),
    ):
        build_textures(target, silent, mirror=address, chosen=chosen)
    assert not (target / "textures.h5").exists()
    with mirror(tmp_path / "debs") as (address, ranges):
        built = build_textures(target, silent, mirror=address, chosen=chosen)
        assert ranges == ["bytes=1000-", None]
        fetch(chosen[0], target / "packages", silent, address)
        assert len(ranges) == 2
    assert len(load_textures(built)[0].photographs) == 1
    assert {path.name for path in target.iterdir()} == {"packages", "textures.h5"}
    with pytest.raises(SourceError, match=r"cannot be fetched: .*refused.*another --mirror, or --packages"):
        build_textures(tmp_path / "other", silent, mirror=address, chosen=chosen)


def test_a_file_of_another_hash_is_not_kept(tmp_path):
    one, _ = pictures.packages(tmp_path / "debs")
    (tmp_path / "debs" / "pictures_1_all.deb").write_bytes(bytes(one.size))
    with mirror(tmp_path / "debs") as (address, _), pytest.raises(SourceError, match="another file than was expected"):
        fetch(one, tmp_path / "set", silent, address)
    assert not list((tmp_path / "set").iterdir())


def test_the_command_says_in_a_sentence_what_is_wrong(tmp_path):
    (tmp_path / "file").touch()
    for arguments, message in (
        ((tmp_path, "--packages", tmp_path), f"the package {PACKAGES[0].name} is not in {tmp_path}"),
        ((tmp_path / "file",), f"folder {tmp_path / 'file'} cannot be written to: Not a directory"),
    ):
        result = CliRunner().invoke(app, ["textures", *map(str, arguments)])
        assert result.exit_code == 2
        assert message in result.output


def test_training_without_the_set_says_how_to_build_it(tmp_path):
    with pytest.raises(SourceError, match=rf"build it: isocenter textures {tmp_path}"):
        load_textures(tmp_path / "textures.h5")
    (tmp_path / "textures.h5").write_bytes(b"odd")
    with pytest.raises(SourceError, match="is damaged or no set of textures"):
        load_textures(tmp_path / "textures.h5")
    with pytest.raises(ValidationError, match="too large for textures: 400 is the largest"):
        TextureData(kind="textures", matrix=(96, 512))


def test_images_are_functions_of_the_seed_and_not_two_alike(textures):
    training, _ = load_textures(textures)
    images = [random_textured_image(np.random.default_rng(seed), training, (64, 48)) for seed in (*range(12), 0)]
    for image in images:
        assert image.shape == (64, 48)
        assert image.dtype == np.complex64
        assert 0.05 < np.abs(image).max() < 5
    np.testing.assert_array_equal(images[0], images[-1])
    assert len({image.tobytes() for image in images}) == 12


def test_waves_have_no_more_periods_than_asked_for():
    field = waves(np.random.default_rng(1), (40, 50), 3)
    assert field.std() == pytest.approx(1, abs=1e-4)
    spectrum = np.abs(np.fft.fft2(field))
    periods = np.maximum(np.abs(np.fft.fftfreq(40, 1 / 40))[:, None], np.abs(np.fft.fftfreq(50, 1 / 50)))
    assert spectrum[periods > 3].max() < 1e-3 * spectrum.max()


def test_a_scan_has_sizes_coils_and_noise_of_the_recipe(textures):
    data = TextureData(kind="textures", file=textures, matrix=(48, 64), coils=(3, 5), noise=(0.01, 0.01))
    for seed in range(6):
        scan = textured_scan(data, load_textures(textures)[0], seed)
        coils, *sizes = scan.kspace.shape
        assert 3 <= coils <= 5
        assert all(48 <= size <= 64 and size % 2 == 0 for size in sizes)
        noise = (scan.kspace - scan.clean).abs().square().mean().sqrt()
        assert float(noise / ifft(scan.clean, [-2, -1]).abs().max()) == pytest.approx(0.01, rel=0.05)


def test_the_logarithm_of_the_error_is_that_of_image_and_blocks():
    random = np.random.default_rng(2)
    squares, power = random.random((2, 40, 24)), random.random((2, 40, 24))
    power[:, 16:32, :16] *= 0.01  # a block of air, which counts in the whole only
    found = log_error(*(torch.from_numpy(each).float() for each in (squares, power)))
    for error, signal, value in zip(squares, power, found, strict=True):
        bright = (signal**2).sum() / signal.sum()
        error, signal = error / bright, signal / bright
        blocks = [(slice(y, y + 16), slice(x, x + 16)) for y in (0, 16, 32) for x in (0, 16)]
        local = [np.log(error[each].mean() + 0.1 * error.mean()) for each in blocks if signal[each].mean() > 0.02]
        assert len(local) == 5
        assert float(value) == pytest.approx((np.log(error.mean()) + np.mean(local)) / 4, rel=1e-5)


def test_hard_and_easy_scans_count_alike():
    power = torch.full((1, 32, 32), 4.0)
    for size in (1e-5, 1e-1):
        squares = torch.full((1, 32, 32), size, requires_grad=True)
        (gradient,) = torch.autograd.grad(log_error(squares, power).sum(), squares)
        # an error that is smaller by a part is worth the same, whatever its size
        assert float((gradient * squares.detach()).sum()) == pytest.approx(0.25 + 0.25 / 1.1, rel=2e-2)
    squares = squares.detach()
    assert float(log_error(squares, power) - log_error(squares / 10, power)) == pytest.approx(np.log(10) / 2, rel=1e-3)
    scaled = log_error(9 * squares, 9 * power)
    assert float(scaled) == pytest.approx(float(log_error(squares, power)), rel=1e-5)


def test_a_volume_is_looked_at_from_all_sides():
    volume = Volume(np.zeros((20, 30, 40), np.uint8), 1.0, (15, 17))
    random = np.random.default_rng(3)
    assert {head_slice(random, volume, validation=False).shape for _ in range(50)} == {(30, 40), (20, 40), (20, 30)}
