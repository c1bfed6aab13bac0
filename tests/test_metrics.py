"""Metrics against their definitions in numpy and scipy, in float64, by windows; and the conventions of volumes and slices."""

import importlib.util

import numpy as np
import pytest
import torch
from isocenter.models import metrics
from scipy import ndimage

RANDOM = np.random.default_rng(2)
TRUTH = RANDOM.random((3, 30, 26)) * np.array([1.0, 0.3, 0.6])[:, None, None]
IMAGE = TRUTH + 0.05 * RANDOM.standard_normal(TRUTH.shape)
INSIDE = ndimage.gaussian_filter(RANDOM.standard_normal(TRUTH.shape), (0, 3, 3)) > 0


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def ssim_map(image, truth, data_range):
    """Similarity of every 7 x 7 window inside an image, with sample variances."""
    windows = np.lib.stride_tricks.sliding_window_view(np.stack([image, truth]), (7, 7), axis=(1, 2))
    x, y = windows.reshape(2, -1, 49)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    covariance = ((x - x.mean(1, keepdims=True)) * (y - y.mean(1, keepdims=True))).sum(1) / 48
    top = (2 * x.mean(1) * y.mean(1) + c1) * (2 * covariance + c2)
    bottom = (x.mean(1) ** 2 + y.mean(1) ** 2 + c1) * (x.var(1, ddof=1) + y.var(1, ddof=1) + c2)
    return (top / bottom).reshape(image.shape[0] - 6, image.shape[1] - 6)


def log_edges(image):
    """Response to MATLAB's fspecial('log', 15, 1.5), by its formula."""
    y, x = np.mgrid[-7:8, -7:8]
    gaussian = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    gaussian /= gaussian.sum()
    kernel = gaussian * (x**2 + y**2 - 2 * 1.5**2) / 1.5**4
    return ndimage.correlate(image, kernel - kernel.sum() / 225, mode="constant")


def test_every_metric_equals_its_definition():
    for image, truth, inside in zip(IMAGE, TRUTH, INSIDE, strict=True):
        pair, pixels = tensors(image[None], truth[None]), torch.from_numpy(inside[None])
        similarity, peak = ssim_map(image, truth, truth.max()), truth.max()
        assert metrics.ssim(*pair).item() == pytest.approx(similarity.mean(), rel=1e-9)
        windows = inside[3:-3, 3:-3]
        assert metrics.ssim(*pair, inside=pixels).item() == pytest.approx(similarity[windows].mean(), rel=1e-9)
        for chosen, keywords in ((np.ones_like(inside), {}), (inside, {"inside": pixels})):
            error, signal = ((image - truth)[chosen] ** 2).sum(), (truth[chosen] ** 2).sum()
            edges, true_edges = (log_edges(each)[chosen] for each in (image, truth))
            assert metrics.nmse(*pair, **keywords).item() == pytest.approx(error / signal, rel=1e-12)
            assert metrics.nrmse(*pair, **keywords).item() == pytest.approx(np.sqrt(error / signal), rel=1e-12)
            psnr = 10 * np.log10(peak**2 * chosen.sum() / error)
            assert metrics.psnr(*pair, **keywords).item() == pytest.approx(psnr, rel=1e-12)
            hfen = np.linalg.norm(edges - true_edges) / np.linalg.norm(true_edges)
            assert metrics.hfen(*pair, **keywords).item() == pytest.approx(hfen, rel=1e-9)


def test_a_volume_is_judged_as_fastmri_does():
    """By the formulas of fastMRI's evaluate.py: the volume's maximum, its whole error, and the mean of the slices' SSIM."""
    figures = metrics.judge(*tensors(IMAGE, TRUTH), "fastmri")
    peak = TRUTH.max()
    assert figures["ssim"] == pytest.approx(
        np.mean([ssim_map(*pair, peak).mean() for pair in zip(IMAGE, TRUTH, strict=True)])
    )
    assert figures["psnr"] == pytest.approx(10 * np.log10(peak**2 / np.mean((IMAGE - TRUTH) ** 2)))
    nmse = np.linalg.norm(TRUTH - IMAGE) ** 2 / np.linalg.norm(TRUTH) ** 2
    assert figures["nmse"] == pytest.approx(nmse)
    assert figures["nrmse"] == pytest.approx(np.sqrt(nmse))
    edges, true_edges = (np.stack([log_edges(one) for one in each]) for each in (IMAGE, TRUTH))
    assert figures["hfen"] == pytest.approx(np.linalg.norm(edges - true_edges) / np.linalg.norm(true_edges))


def test_slices_are_judged_by_their_own_maximum():
    figures = metrics.judge(*tensors(IMAGE, TRUTH), "slice")
    alone = [metrics.judge(*tensors(IMAGE[i : i + 1], TRUTH[i : i + 1]), "fastmri") for i in range(3)]
    for name in metrics.METRICS:
        assert figures[name] == pytest.approx(np.mean([each[name] for each in alone]))
    assert figures["psnr"] < metrics.judge(*tensors(IMAGE, TRUTH), "fastmri")["psnr"] - 1


def test_only_pixels_inside_count_and_slices_beside_the_object_do_not():
    inside = INSIDE.copy()
    inside[1] = False
    image = np.where(inside, IMAGE, 9.0)
    for name, value in metrics.judge(*tensors(image, TRUTH), "fastmri", torch.from_numpy(inside)).items():
        if name in ("psnr", "nmse", "nrmse"):  # the others look at neighbours
            other = metrics.judge(*tensors(IMAGE, TRUTH), "fastmri", torch.from_numpy(inside))[name]
            assert value == pytest.approx(other)
        assert np.isfinite(value)


def test_the_scale_that_fits_best_leaves_an_error_without_a_part_along_the_image():
    image, truth = tensors(1.7 * IMAGE, TRUTH)
    for inside in (None, torch.from_numpy(INSIDE)):
        pixels = torch.ones_like(truth) if inside is None else inside
        error = (metrics.fitted_scale(image, truth, inside) * image - truth) * pixels
        assert (error * image).sum().item() == pytest.approx(0, abs=1e-9)


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed")
def test_metrics_equal_those_of_scikit_image():
    from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

    for image, truth in zip(IMAGE, TRUTH, strict=True):
        pair, peak = tensors(image[None], truth[None]), truth.max()
        assert metrics.ssim(*pair).item() == pytest.approx(structural_similarity(truth, image, data_range=peak))
        assert metrics.psnr(*pair).item() == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=peak))
        assert metrics.nrmse(*pair).item() == pytest.approx(normalized_root_mse(truth, image))


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("fastmri", "skimage")), reason="fastMRI is not installed"
)
def test_a_volume_has_the_figures_of_fastmris_own_evaluation():
    from fastmri import evaluate

    figures = metrics.judge(*tensors(IMAGE, TRUTH), "fastmri")
    for name in ("ssim", "psnr", "nmse"):
        (expected,) = np.ravel(getattr(evaluate, name)(TRUTH, IMAGE))
        assert figures[name] == pytest.approx(expected, rel=1e-12)


def ghost_of_tiles(image, truth, acceleration):
    """Amplitude of ghosts by numpy's least squares, tile by tile, with the truth moved by whole pixels."""
    shift = truth.shape[0] // acceleration
    moved = [np.roll(truth, m * shift, axis=0) for m in range(1, acceleration)]
    above, own = 0.0, 0.0
    for y in range(0, truth.shape[0] - 15, 16):
        for x in range(0, truth.shape[1] - 15, 16):
            error, true, *aliases = (
                (tile := each[y : y + 16, x : x + 16].ravel()) - tile.mean() for each in (image - truth, truth, *moved)
            )
            basis = np.stack(aliases, axis=1)
            fit = basis @ np.linalg.lstsq(basis, error, rcond=None)[0]
            above += fit @ fit - (acceleration - 1) / 256 * (error @ error)
            own += true @ true
    return np.sqrt(max(above, 0) / own)


def test_ghosts_are_those_of_least_squares():
    truth = RANDOM.random((48, 40))
    image = truth + 0.3 * RANDOM.standard_normal(truth.shape) + 0.05 * np.roll(truth, 16, axis=0)
    ours = metrics.ghost(*tensors(image[None], truth[None]), 3)
    assert float(ours) == pytest.approx(ghost_of_tiles(image, truth, 3), rel=1e-4)


def test_ghosts_have_the_amplitude_of_what_is_left_of_an_alias_whatever_its_sign():
    truth = RANDOM.random((2, 64, 64))
    sign = np.where(np.arange(64) < 32, 1, -1)
    for acceleration, moves in ((2, 32), (4, 16)):
        image = truth + 0.1 * sign * np.roll(truth, moves, axis=1)
        assert metrics.ghost(*tensors(image, truth), acceleration).numpy() == pytest.approx([0.1, 0.1], rel=0.05)
    noisy = truth + 0.02 * RANDOM.standard_normal(truth.shape)
    assert float(metrics.ghost(*tensors(noisy, truth), 4).max()) < 0.01
    assert metrics.ghost(*tensors(truth, truth), 4).tolist() == [0, 0]


def test_ghosts_are_found_between_pixels_and_not_in_images_of_air():
    y = np.arange(66)[:, None] + np.zeros(48)
    truth = np.exp(-((y - 20) ** 2) / 8) * (1 + 0.3 * np.cos(np.arange(48)))
    between = np.exp(-((y - 20 - 16.5) ** 2) / 8) * (1 + 0.3 * np.cos(np.arange(48)))
    found = metrics.ghost(*tensors((truth + 0.2 * between)[None], truth[None]), 4)
    assert float(found) == pytest.approx(0.2, rel=0.25)
    air = np.zeros((1, 32, 32))
    assert float(metrics.ghost(*tensors(air + 1e-9, air), 2)) == 0
