"""Sampling patterns: exact counts, densities against closed forms, distances of Poisson discs, files, and what is refused."""

import math
import re

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from isocenter.commands.cli import app
from isocenter.simulate.sampling import PATTERNS, Request, SamplingError, acs_lines, current_name, draw
from isocenter.simulate.sampling.lines import lattice_step
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.training.masks import Masks, random_mask
from scipy.io import savemat
from typer.testing import CliRunner

EXACT = sorted(name for name, pattern in PATTERNS.items() if pattern.budget and name != "bernoulli")
POINTS = sorted(name for name, pattern in PATTERNS.items() if pattern.points)


def rng(seed=1):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=15, deadline=None)
@given(
    lines=st.integers(12, 40),
    samples=st.integers(12, 40),
    frames=st.integers(1, 3),
    acceleration=st.floats(1, 6),
    acs=st.integers(0, 8),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 99),
)
@example(lines=12, samples=12, frames=1, acceleration=2.0, acs=7, padding=(3, 3), seed=0)
def test_as_many_are_measured_as_were_asked_for(name, lines, samples, frames, acceleration, acs, padding, seed):
    measured = np.ones(lines, bool)
    measured[: padding[0]], measured[lines - padding[1] :] = False, False
    request = Request(lines, samples, frames, acceleration, acs, measured=measured)
    if acs > measured.sum():
        with pytest.raises(SamplingError, match=f"{acs} calibration lines .* there are {measured.sum()} lines"):
            draw(name, request, rng(seed))
        return
    total = measured.sum() * (samples if PATTERNS[name].points else 1)
    region = acs_lines(lines, acs) & measured
    if round(total / acceleration) < max(region.sum() * (min(acs, samples) if PATTERNS[name].points else 1), 1):
        with pytest.raises(SamplingError, match=f"leaves ({round(total / acceleration)}|none) of {total} "):
            draw(name, request, rng(seed))
        return
    mask = draw(name, request, rng(seed))
    assert mask.shape == ((frames, lines, samples) if PATTERNS[name].points else (frames, lines))
    assert mask.reshape(frames, -1).sum(axis=1).tolist() == [round(total / acceleration)] * frames
    assert not mask[:, ~measured].any()
    if PATTERNS[name].points:
        assert mask[:, region][:, :, acs_lines(samples, min(acs, samples))].all()
    else:
        assert mask[:, region].all()


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_a_seed_gives_the_same_pattern_and_another_seed_another(name):
    request = Request(48, 40, 2, 4, 4)
    first, again, other = (draw(name, request, rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_frames_differ_or_are_all_like_the_first(name):
    request = Request(48, 40, 3, 4, 4)
    own, same = draw(name, request, rng()), draw(name, request, rng(), alike=True)
    assert not np.array_equal(own[0], own[1])
    assert np.array_equal(same[0], same[1])
    assert np.array_equal(same[0], same[2])


def test_equispaced_lines_go_through_the_offset_and_move_on():
    mask = draw("equispaced", Request(9, frames=3, acceleration=3, offset=0), rng())
    assert [np.flatnonzero(frame).tolist() for frame in mask] == [[1, 4, 7], [2, 5, 8], [0, 3, 6]]
    mask = draw("equispaced", Request(9, acceleration=3, acs=2, offset=1), rng())
    assert np.flatnonzero(mask[0]).tolist() == [2, 3, 4, 5, 8]


def test_the_lattice_of_k_and_time_visits_every_line_and_keeps_neighbours_apart():
    # the optimal lattices by hand: (step, 1), (spacing, 0) and their sums
    assert [lattice_step(spacing) for spacing in (1, 2, 3, 4, 5, 8, 10)] == [1, 1, 1, 1, 2, 3, 3]
    mask = draw("kt-interleaved", Request(40, frames=8, acceleration=8, offset=0), rng())
    assert mask.sum(axis=0).tolist() == [1] * 40
    points = np.argwhere(mask[:, 8:32])
    distances = [math.dist(one, other) for i, one in enumerate(points) for other in points[:i]]
    assert min(distances) == pytest.approx(math.sqrt(8))  # the best there is for one point in eight: frames 2, lines 2


def test_spacing_of_exact_equispaced_lines_is_that_of_fastmri():
    request = Request(368, acceleration=4, acs=29)
    (mask,) = draw("equispaced-exact", request, rng())
    adjusted = 4 * (29 - 368) / (29 * 4 - 368)
    outside = np.flatnonzero(mask & ~request.calibration)
    gaps = np.diff(outside[outside < request.calibration.argmax()])
    assert set(gaps) <= {math.floor(adjusted), math.ceil(adjusted)}
    assert gaps.mean() == pytest.approx(adjusted, abs=0.1)


def test_bernoulli_has_the_probability_of_fastmris_random_masks():
    request = Request(80, frames=4000, acceleration=4, acs=8)
    mask = draw("bernoulli", request, rng())
    expected = np.where(request.calibration, 1, (80 / 4 - 8) / (80 - 8))
    assert np.abs(mask.mean(axis=0) - expected).max() < 5 * math.sqrt(expected.min() * (1 - expected.min()) / 4000)
    assert mask.sum(axis=1).std() == pytest.approx(math.sqrt(72 * expected.min() * (1 - expected.min())), rel=0.05)


def test_uniform_random_lines_are_equally_likely_everywhere():
    request = Request(80, frames=4000, acceleration=4, acs=8)
    share = draw("uniform-random", request, rng()).mean(axis=0)[~request.calibration]
    assert np.abs(share - 12 / 72).max() < 5 * math.sqrt(12 / 72 * 60 / 72 / 4000)


def successive(weights, count):
    """Shares of a draw one after the other without replacement: 1 - exp(-t w), t from their sum (Rosen 1972, for many units)."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - np.exp(-middle * weights)).sum() < count else (low, middle)
    return 1 - np.exp(-low * weights)


def test_variable_density_is_that_of_its_weights():
    request = Request(128, frames=4000, acceleration=4, acs=8)
    distance = np.abs(np.arange(128) - 64) / 64
    expected = successive(np.where(request.calibration, 0, (1 - 0.8 * distance) ** 2), 24)
    share = draw("variable-density", request, rng()).mean(axis=0)
    np.testing.assert_allclose(share[~request.calibration], expected[~request.calibration], atol=0.035)


def test_points_of_variable_density_fall_off_with_the_radius():
    request = Request(48, 48, 600, 5, 4)
    distance = np.hypot(*(np.mgrid[:48, :48] - 24)) / 24
    expected = successive(np.where(request.calibration_block, 0, (1 - 0.8 * np.minimum(distance, 1)) ** 2), 461 - 16)
    share = draw("points-variable-density", request, rng()).mean(axis=0)
    for low in np.arange(0.2, 1.2, 0.2):
        ring = (distance >= low) & (distance < low + 0.2)
        assert share[ring].mean() == pytest.approx(expected[ring].mean(), abs=0.01)


def test_golden_offset_covers_every_line_in_proportion_to_the_density():
    request = Request(96, frames=610, acceleration=6, acs=4)
    mask = draw("golden-offset", request, rng())
    weights = np.where(request.calibration, 0, (1 - 0.8 * np.abs(np.arange(96) - 48) / 48) ** 2)
    expected = 12 * weights / weights.sum()
    assert expected.max() < 1
    # a Fibonacci number of frames is spread over a line's share with a discrepancy below 3 / frames
    assert np.abs(mask.mean(axis=0)[~request.calibration] - expected[~request.calibration]).max() < 3 / 610
    assert mask[:13].any(axis=0).mean() > draw("variable-density", request, rng())[:13].any(axis=0).mean()


def test_no_line_of_vista_could_move_to_where_its_energy_is_less():
    request = Request(40, frames=5, acceleration=5, acs=4)
    mask = draw("vista", request, rng())

    def energy(mask):
        frames, rows = np.nonzero(mask & ~request.calibration)
        charge = 1 / (1 - 0.8 * np.abs(rows - 20) / 20)  # the root of one over the density
        along = np.abs(rows[:, None] - rows)
        squares = np.minimum(along, 40 - along) ** 2 + (frames[:, None] - frames) ** 2.0
        np.fill_diagonal(squares, np.inf)
        return (charge[:, None] * charge / squares).sum()

    least = energy(mask)
    assert least < energy(draw("golden-offset", request, rng()))
    assert least < energy(draw("variable-density", request, rng()))
    for frame, row in np.argwhere(mask & ~request.calibration):
        for free in np.flatnonzero(~mask[frame]):
            moved = mask.copy()
            moved[frame, row], moved[frame, free] = False, True
            assert energy(moved) > least * (1 - 1e-6)


@pytest.mark.parametrize("acceleration", [4, 9])
def test_poisson_discs_keep_their_distance_and_leave_little_room(acceleration):
    request = Request(64, 64, acceleration=acceleration)
    (mask,) = draw("poisson-disc", request, rng())
    points = np.argwhere(mask)
    distances = np.hypot(*(points[:, None] - points).transpose(2, 0, 1))
    nearest = np.where(np.eye(len(points), dtype=bool), np.inf, distances).min(axis=1)
    # random discs reach 0.83 of the distance of one point in a unit area, on the grid a distance is rounded down
    assert nearest.min() >= {4: math.sqrt(2), 9: math.sqrt(5)}[acceleration]
    (uniform,) = draw("points-uniform", request, rng())
    points = np.argwhere(uniform)
    near = np.hypot(*(points[:, None] - points).transpose(2, 0, 1)) + 99 * np.eye(len(points))
    assert near.min() == 1


def test_poisson_discs_of_variable_density_are_denser_in_the_middle():
    request = Request(64, 64, acceleration=8)
    (mask,) = draw("poisson-disc-variable-density", request, rng())
    distance = np.hypot(*(np.mgrid[:64, :64] - 32)) / 32
    inner, outer = mask[distance < 0.4].mean(), mask[distance > 0.8].mean()
    # discs of 1 + 2 d times a width: the density falls with their square
    assert inner / outer == pytest.approx((1 + 2 * 1.0) ** 2 / (1 + 2 * 0.27) ** 2, rel=0.35)


@pytest.mark.parametrize("name", ["radial", "golden-angle"])
def test_spokes_go_through_the_middle_at_their_angles(name):
    request = Request(65, 65, 2, 8, 1)
    mask = draw(name, request, rng())
    assert mask[:, 32, 32].all()
    rows, columns = np.nonzero(mask[0])
    reach = np.hypot(rows - 32, columns - 32)
    far = (reach > 27) & (reach < 31)
    angles = np.sort(np.degrees(np.arctan2(rows - 32, columns - 32))[far] % 180)
    edges = np.diff(np.append(angles, angles[0] + 180))
    steps = edges[edges > 2.5]
    if name == "radial":
        assert np.ptp(steps) < 4.5
    else:  # gaps of a circle divided by the golden angle have at most three sizes, the largest the sum of the others
        assert len(steps) > 5
        assert steps.max() / steps.min() < 4


def test_golden_angles_go_on_from_frame_to_frame():
    from isocenter.simulate.sampling.points import GOLDEN_ANGLE

    assert math.degrees(GOLDEN_ANGLE) == pytest.approx(111.246, abs=1e-3)
    few, many = (draw("golden-angle", Request(64, 64, frames, 16), rng()) for frames in (1, 3))
    assert np.array_equal(few[0], many[0])
    union = many.any(axis=0).mean()
    assert union > 2.5 * few[0].mean()


@pytest.mark.parametrize(
    ("name", "request_", "message"),
    [
        (
            "variable-density",
            Request(40, acceleration=4, acs=48),
            "48 calibration lines were asked for, and there are 40",
        ),
        (
            "equispaced",
            Request(40, acceleration=4, acs=48),
            "48 calibration lines were asked for, and there are 40 lines",
        ),
        ("equispaced", Request(40, acceleration=2.5), "lines cannot have a distance of 2.5"),
        (
            "uniform-random",
            Request(40, acceleration=8, acs=8),
            "leaves 5 of 40 lines, fewer than the 8 of the calibration",
        ),
        ("uniform-random", Request(4, acceleration=16), "leaves none of 4 lines"),
        (
            "equispaced",
            Request(40, acceleration=500),
            "the acceleration is 500, and there are 40 lines; accepted: 1 to 40",
        ),
        (
            "poisson-disc",
            Request(40, 40, 1, 30, 8),
            "leaves 53 of 1600 points, fewer than the 64 of the calibration region",
        ),
        ("bernoulli", Request(40, acceleration=0.5), "the acceleration is 0.5; accepted: at least 1"),
        ("bernoulli", Request(40, acceleration=math.nan), "the acceleration is nan"),
        ("equispaced", Request(40, acs=-1), "-1 calibration lines were asked for"),
        ("unifrom", Request(40), "the sampling pattern 'unifrom' is not known; accepted: equispaced, "),
        ("nowhere.npy", Request(40), "nowhere.npy: the mask cannot be read"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_numbers(name, request_, message):
    with pytest.raises(SamplingError, match=re.escape(message)):
        draw(name, request_, rng())


def test_only_lines_that_were_measured_count():
    measured = np.zeros(40, bool)
    measured[5:35] = True
    with pytest.raises(SamplingError, match="32 calibration lines were asked for, and there are 30 lines"):
        draw("variable-density", Request(40, acceleration=1, acs=32, measured=measured), rng())
    (mask,) = draw("variable-density", Request(40, acceleration=2, acs=8, measured=measured), rng())
    assert mask.sum() == 15


def test_former_names_are_accepted_with_a_warning(caplog):
    assert current_name("random") == "variable-density"
    assert "'random' is called 'variable-density' now" in caplog.text
    assert Masks(kinds=("uniform", "random")).kinds == ("equispaced", "variable-density")


class TestFiles:
    lines = acs_lines(24, 6) | (np.arange(24) % 4 == 0)
    frames = np.stack([lines, np.roll(lines, 0) | (np.arange(24) % 4 == 1), acs_lines(24, 8)])
    points = np.ones((24, 20), bool) & (np.add.outer(np.arange(24), np.arange(20)) % 3 > 0)

    def files(self, folder, mask):
        np.save(folder / "mask.npy", mask)
        savemat(folder / "mask.mat", {"mask": mask.astype(float), "note": "x"})
        with h5py.File(folder / "mask.h5", "w") as file:
            file["mask"] = mask
            file["other"] = 3
        (folder / "v73").mkdir()
        with h5py.File(folder / "v73" / "mask.mat", "w") as file:
            file["pattern"] = mask.T.astype(float)  # as MATLAB writes it
        found = ["mask.npy", "mask.mat", "mask.h5", "v73/mask.mat"]
        if mask.ndim < 3:
            np.savetxt(folder / "mask.txt", mask, fmt="%d")
            found.append("mask.txt")
        return [str(folder / name) for name in found]

    @pytest.mark.parametrize("kind", ["lines", "frames", "points"])
    def test_every_format_holds_the_same_mask(self, tmp_path, kind):
        mask = getattr(self, kind)
        request = Request(24, 20, 3, acs=0)
        expected = {"lines": np.stack([mask] * 3), "frames": mask, "points": np.stack([mask] * 3)}[kind]
        for path in self.files(tmp_path, mask):
            np.testing.assert_array_equal(draw(path, request, rng()), expected, err_msg=path)

    def test_complete_readouts_in_two_dimensions_are_lines(self, tmp_path):
        np.save(tmp_path / "m.npy", np.repeat(self.lines[:, None], 20, axis=1))
        np.testing.assert_array_equal(draw(str(tmp_path / "m.npy"), Request(24, 20), rng()), self.lines[None])

    @pytest.mark.parametrize(
        ("mask", "acs", "message"),
        [
            (lines[:-1], 0, "the mask is [23]; accepted: [24] or [24, 20]"),
            (2.0 * lines, 0, "the mask has other values than zeros and ones"),
            (np.full(24, np.nan), 0, "the mask has other values than zeros and ones"),
            (lines, 10, "the mask lacks 2 of the 10 lines of the calibration region"),
        ],
    )
    def test_masks_that_do_not_fit_are_refused(self, tmp_path, mask, acs, message):
        np.save(tmp_path / "m.npy", mask)
        with pytest.raises(SamplingError, match=re.escape(message)):
            draw(str(tmp_path / "m.npy"), Request(24, 20, acs=acs), rng())

    def test_padding_is_left_out_of_masks_from_files(self, tmp_path):
        np.save(tmp_path / "m.npy", np.ones(24))
        measured = np.arange(24) > 3
        np.testing.assert_array_equal(
            draw(str(tmp_path / "m.npy"), Request(24, measured=measured), rng()), measured[None]
        )


class TestRecipes:
    @pytest.mark.parametrize(
        ("acs", "lines", "expected"),
        [(16, 100, (16, 16)), ([8, 24], 100, (8, 24)), (0.08, 368, (29, 29)), ([0.04, 0.08], 200, (8, 16))],
    )
    def test_calibration_lines_are_a_number_or_a_fraction(self, acs, lines, expected):
        assert Masks(acs=acs).acs_range(lines) == expected

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"kinds": ["ring"]}, "the sampling pattern 'ring' is not known; accepted: equispaced"),
            ({"kinds": []}, "at least 1 item"),
            ({"accelerations": [0.5]}, "greater than or equal to 1"),
            ({"accelerations": []}, "at least 1 item"),
            ({"acs": -1}, "acs is [-1, -1]"),
            ({"acs": [24, 8]}, "acs is [24, 8]"),
            ({"acs": [0.5, 1.5]}, "1.5 is a decimal, and so a fraction"),
        ],
    )
    def test_sections_with_mistakes_are_refused(self, changes, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            Masks.model_validate(changes)

    def test_a_scan_too_small_for_an_acceleration_is_refused_before_any_mask(self):
        masks = Masks(kinds=("uniform-random",), accelerations=(2, 8), acs=(8, 12))
        masks.check(72, 72)
        with pytest.raises(SamplingError, match="an acceleration of 8 leaves 6 of 48 lines"):
            masks.check(48, 48)
        # of those that remain, the drawn number of calibration lines decides
        counts = {int(random_mask(rng(seed), 64, 12, masks).sum()) for seed in range(20)}
        assert counts == {32}

    def test_masks_of_lines_go_into_a_batch_with_masks_of_points(self):
        masks = Masks(kinds=("equispaced", "poisson-disc"), accelerations=(4,), acs=4)
        drawn = [random_mask(rng(seed), 32, 4, masks, 2, samples=24) for seed in range(8)]
        assert {mask.shape for mask in drawn} == {(2, 32, 24)}
        assert {bool((mask == mask[..., :1]).all()) for mask in drawn} == {True, False}


class TestSimulator:
    def test_the_lines_of_a_pattern_are_sent(self):
        protocol = ScanProtocol(matrix=32, coils=2, acceleration=4, acs=4, sampling="uniform-random", frames=2)
        scan = simulate(protocol)
        rows = [
            item.idx.kspace_encode_step_1 for item in scan.items if item.idx.phase == 1 and item.number_of_samples > 0
        ]
        assert sorted(rows) == np.flatnonzero(protocol.imaging_lines(1)).tolist()
        assert len(rows) == 8

    def test_points_are_no_readouts(self, tmp_path):
        arguments = ["simulate", "--matrix", "32", "--sampling", "poisson-disc", "-o", str(tmp_path / "s.h5")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert "the readouts of a 2-D scan are complete along kx; accepted: a pattern of lines" in result.output
        np.save(tmp_path / "m.npy", TestFiles.points)
        result = CliRunner().invoke(app, [*arguments[:2], "20", "--sampling", str(tmp_path / "m.npy"), *arguments[5:]])
        assert "the mask is [24, 20]" in result.output

    def test_the_former_option_is_accepted(self, tmp_path):
        options = ["simulate", "--matrix", "64", "--acceleration", "3", "--acs", "8", "--coils", "2"]
        for name, more in (("a", ["--random"]), ("b", ["--sampling", "variable-density"])):
            assert CliRunner().invoke(app, [*options, *more, "-o", str(tmp_path / f"{name}.h5")]).exit_code == 0
        with h5py.File(tmp_path / "a.h5") as one, h5py.File(tmp_path / "b.h5") as other:
            assert len(one["dataset/data"]) == len(other["dataset/data"])
