"""Regularisers of series, the first fit and its error, windows that slide along a scan, and series with texture."""

import numpy as np
import pictures
import pytest
import torch
from isocenter.gadgets.kspace import block_of
from isocenter.gadgets.scan import Scan
from isocenter.gadgets.sliding_window import sliding_window
from isocenter.models.consistency import turn
from isocenter.models.networks.ridge_cine import RidgeCine
from isocenter.models.sampling import to_hybrid
from isocenter.models.series_level import SeriesLevel
from isocenter.models.series_ridge import SeriesRegulariser, series_filters
from isocenter.simulate.coils import random_coil_maps
from isocenter.simulate.textured_cine import random_textured_series
from isocenter.training.data import textured_scan
from isocenter.training.recipe import TextureSeries
from isocenter.training.textures import load_textures
from isocenter.wire.errors import OptionError
from isocenter.wire.header import NO_HEADER


def random(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def scan(frames=6, y=40, x=32, coils=4, acceleration=3, noise=0.02, moving=0.3, seed=0):
    """K-space of a disc with a spot whose brightness changes: kspace, mask, maps as a network takes them, and the series."""
    rows, columns = np.mgrid[-1 : 1 : y * 1j, -1 : 1 : x * 1j]
    still, spot = np.hypot(rows, columns) < 0.8, np.hypot(rows - 0.2, columns) < 0.3
    change = np.sin(2 * np.pi * np.arange(frames) / frames)[:, None, None]
    series = (still - spot * (0.5 + moving * change)).astype(np.complex64)
    maps = random_coil_maps(np.random.default_rng(1), coils, (y, x))
    images = torch.from_numpy(maps[:, None] * series)
    axes = (-2, -1)
    kspace = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(images, dim=axes), norm="ortho"), dim=axes)
    kspace = kspace + noise / np.sqrt(2) * torch.view_as_complex(random((*kspace.shape, 2), seed))
    mask = torch.zeros(1, 1, frames, y, 1, 1)
    for frame in range(frames):
        mask[:, :, frame, frame % acceleration :: acceleration] = 1
    return torch.view_as_real(kspace)[None] * mask, mask, torch.view_as_real(torch.from_numpy(maps))[None], series


def energy(regulariser, series, level):
    """R in float64, by windows around every response, from the formula; without what filters share over the frames."""
    still, moving = regulariser.filters[:, :5], regulariser.filters[:, 5:]
    filters = torch.cat([still - still.mean((1, 2, 3), keepdim=True), moving], 1).double()
    edge, frames = filters.shape[-1] // 2, len(series)
    padded = torch.nn.functional.pad(series.movedim(-1, 0), [edge] * 4)
    near = np.clip(np.log(level / 0.0015) / np.log(3), 0, 5)
    below = min(int(near), 4)
    total = torch.zeros((), dtype=torch.float64)
    for frame in range(frames):
        seen = [padded[:, min(max(frame + tap, 0), frames - 1)] for tap in range(-2, 3)]
        seen = torch.stack([*seen, padded[:, frame] - padded.mean(1)], 1)
        windows = seen.unfold(2, filters.shape[-1], 1).unfold(3, filters.shape[-1], 1)
        responses = torch.einsum("ctyxab,ftab->fcyx", windows, filters).norm(dim=1)
        responses = responses[:, regulariser.offset_y :: 2, regulariser.offset_x :: 2]
        height, threshold = (
            torch.exp((1 - (near - below)) * rows[:, below] + (near - below) * rows[:, below + 1]).double()[
                :, None, None
            ]
            for rows in (regulariser.height, regulariser.threshold)
        )
        mix = torch.sigmoid(regulariser.mix).double()[:, None, None]
        r = responses / (threshold * level)
        potential = mix * (1 + r**2).sqrt() + (1 - mix) / 2 * torch.log(1 + r**2)
        total = total + (4 * height * threshold**2 * potential).sum()
    return total


@pytest.mark.parametrize("frames", [2, 5])
def test_the_regulariser_returns_the_gradient_of_its_energy(frames):
    regulariser = SeriesRegulariser(34, 5, (1, 0))
    with torch.no_grad():
        for index, parameter in enumerate(regulariser.parameters()):
            parameter += 0.3 * random(parameter.shape, index)
        regulariser.share.fill_(-40)
    series, level = random((frames, 10, 8, 2), 7) * 0.1, 0.05
    wanted = series.double().requires_grad_()
    energy(regulariser, wanted, level).backward()
    found = regulariser(series[None], torch.full((1, 10, 8), level))[0].detach()
    assert wanted.grad is not None
    assert torch.allclose(found.double(), wanted.grad * level**2, atol=1e-6 * float(found.abs().max()), rtol=2e-5)


def test_where_nothing_moves_an_outlier_is_shrunk_like_its_neighbours_in_time():
    alone, shared = SeriesRegulariser(8), SeriesRegulariser(8)
    with torch.no_grad():
        alone.share.fill_(-40)
        shared.share.fill_(40)
    series = torch.zeros(1, 12, 8, 8, 2)
    series[:, 6, 4, 4] = 1
    level = torch.full((1, 8, 8), 0.05)
    # the gradient of a potential that saturates is smaller where the response is large
    with torch.no_grad():
        assert float(shared(series, level).abs().max()) > 1.5 * float(alone(series, level).abs().max())


def test_the_filters_are_orthonormal():
    filters = series_filters(48, 5).flatten(1)
    assert torch.allclose(filters @ filters.T, torch.eye(48), atol=1e-5)


def first_fit(kspace, mask, maps, **options):
    measured, lines, axes = to_hybrid(kspace, mask)
    axes = [-5 - axis for axis in axes]
    return SeriesLevel(**options)(kspace, turn(measured), turn(lines), turn(maps.unsqueeze(2)), axes)


def test_the_first_fit_knows_the_noise_and_how_wrong_it_is():
    kspace, mask, maps, series = scan(frames=12, noise=0.05, moving=0.1)
    start = first_fit(kspace, mask, maps)
    assert float(start.noise * start.scale[..., 0, 0]) == pytest.approx(0.05, rel=0.1)
    error = (torch.view_as_complex(turn(start.image * start.scale)) - torch.from_numpy(series)).abs().square().mean()
    expected = ((start.noise_error + start.detail_error) * start.scale[..., 0, 0].square()).mean()
    assert 0.4 < float(expected / error) < 2.5


def test_where_nothing_moves_frames_complete_one_another():
    kspace, mask, maps, series = scan(moving=0, noise=0, coils=1)
    start = first_fit(kspace, mask, maps, iterations=40)
    image = torch.view_as_complex(turn(start.image * start.scale))[0]
    assert torch.allclose(image, torch.from_numpy(series), atol=0.02)


@pytest.mark.parametrize("factor", [1e-6, 1e6, 1j])
def test_scale_and_phase_come_through(factor):
    torch.manual_seed(0)
    network = RidgeCine(2, 34, start_iterations=6).eval()
    kspace, mask, maps, _ = scan()
    with torch.no_grad():
        series = torch.view_as_complex(network(kspace, mask, maps))
        turned = torch.view_as_real(torch.view_as_complex(kspace) * factor).contiguous()
        again = torch.view_as_complex(network(turned, mask, maps))
    assert torch.allclose(again, series * factor, rtol=1e-3, atol=1e-4 * float(series.abs().max()) * abs(factor))


def frames_of(count):
    for frame in range(count):
        block = block_of(
            torch.full((2, 1, 1, 4, 4), frame, dtype=torch.complex64), torch.ones(1, 1, 4, dtype=torch.bool)
        )
        block.headers["number_of_samples"] = 4
        yield block


@pytest.mark.parametrize("count", [1, 5, 6, 7, 9, 20])
def test_every_frame_of_a_sliding_window_is_shown_once_and_in_order(count):
    windows = list(sliding_window(frames_of(count), Scan(NO_HEADER), frames=6, step=3, behind=1))
    shown = [window.data[0, window.shown, 0, 0, 0].real.tolist() for window in windows]
    assert [frame for window in shown for frame in window] == list(range(count))
    assert all(window.data.shape[1] == min(6, count) for window in windows)
    # the newest frames of a window wait for those after them, but at the end
    assert all(window.shown.stop == 5 for window in windows[:-1])


def test_windows_that_are_too_short_are_refused():
    with pytest.raises(OptionError, match="a window of 4 frames is too short for 3 new ones and 2 that wait"):
        list(sliding_window(frames_of(1), Scan(NO_HEADER), frames=4, step=3, behind=2))


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    return pictures.textures(tmp_path_factory.mktemp("textures"))


def test_textured_series_move_and_are_functions_of_the_seed(textures):
    training, _ = load_textures(textures)
    series = [random_textured_series(np.random.default_rng(seed), training, (48, 40), 5) for seed in (*range(4), 0)]
    np.testing.assert_array_equal(series[0], series[-1])
    for each in series:
        assert each.shape == (5, 48, 40)
        assert each.dtype == np.complex64
        assert np.abs(each[1:] - each[:-1]).max() > 0.02


def test_a_textured_series_is_a_scan_with_frames(textures):
    data = TextureSeries(kind="textured-cine", file=textures, matrix=(32, 40), frames=(3, 4), coils=(3, 3))
    scan = textured_scan(data, load_textures(textures)[0], 1)
    coils, frames, y, x = scan.kspace.shape
    assert coils == 3
    assert 3 <= frames <= 4
    assert y % 2 == x % 2 == 0
