"""A small scan against answers that other programs gave for it; `tests/references` has what made them, and the versions."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from isocenter.export.importers.load import load_network
from isocenter.models import metrics
from isocenter.models.classical import Sense
from isocenter.models.coil_maps import espirit
from make_deep_jsense import SETTINGS
from problem import CALIBRATION, SIZE, images, make, weights

FOLDER = ROOT / "tests" / "references"
IMAGE, MAPS, KSPACE, MEASURED = make()


def answers(program):
    with np.load(FOLDER / f"{program}.npz", allow_pickle=False) as file:
        assert file["program"].item()
        return dict(file)


def aligned(array, reference):
    """Maps are known up to a phase at every pixel."""
    return array * np.exp(-1j * np.angle((reference.conj() * array).sum(0)))


def error(array, reference):
    return np.linalg.norm(array - reference) / np.linalg.norm(reference)


def sense():
    kspace = torch.view_as_real(torch.from_numpy(KSPACE))[None, :, None]
    maps = torch.view_as_real(torch.from_numpy(MAPS))[None, :, None]
    mask = torch.from_numpy(MEASURED.astype(np.float32))[None, None]
    return torch.view_as_complex(Sense(200, 0.005)(kspace, mask, maps))[0, 0].numpy()


def test_references_are_small_and_name_their_programs():
    files = sorted(FOLDER.glob("*.npz"))
    assert files
    assert max(path.stat().st_size for path in files) < 50_000
    assert all(answers(path.stem)["program"].item().split()[1][:1] in "v0123456789" for path in files)


# BART's threshold and number of iterations are its defaults
@pytest.mark.parametrize(("program", "threshold", "iterations"), [("bart", 0.0316, 30), ("sigpy", 0.02, 100)])
def test_espirit_maps_are_those_of(program, threshold, iterations):
    middle = slice(SIZE // 2 - CALIBRATION // 2, SIZE // 2 + CALIBRATION // 2)
    calibration = torch.from_numpy(KSPACE[:, None, middle, middle])
    maps = espirit(calibration, (1, SIZE, SIZE), threshold=threshold, crop=0.0, iterations=iterations)
    maps = maps[:, 0, ::2, ::2].numpy()
    theirs = answers(program)["maps"]
    signal = (np.abs(IMAGE[::2, ::2]) > 0.1) & (np.abs(theirs).sum(0) > 0)
    assert signal.sum() > 150
    assert error(aligned(maps, theirs)[:, signal], theirs[:, signal]) < 0.01


def test_sense_is_that_of_bart():
    assert error(sense(), answers("bart")["sense"]) < 1e-3


def test_sense_solves_its_equations():
    """By numpy's dense solver in float64, row by row of the readout's transform."""
    rows = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(KSPACE, axes=-1), norm="ortho"), axes=-1)
    transform = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(np.eye(SIZE), axes=0), axis=0, norm="ortho"), axes=0)[
        MEASURED
    ]
    expected = np.empty((SIZE, SIZE), complex)
    for x in range(SIZE):
        encoding = np.concatenate([transform * each[None, :, x] for each in MAPS.astype(complex)])
        data = rows[:, MEASURED, x].reshape(-1)
        normal = encoding.conj().T @ encoding + 0.005 * np.eye(SIZE)
        expected[:, x] = np.linalg.solve(normal, encoding.conj().T @ data)
    assert error(sense(), expected) < 1e-5


def test_metrics_are_those_of_scikit_image():
    image, truth = images()
    pair = torch.from_numpy(image)[None], torch.from_numpy(truth)[None]
    theirs = answers("scikit_image")
    for name in ("ssim", "psnr", "nrmse"):
        assert getattr(metrics, name)(*pair).item() == pytest.approx(theirs[name].item())


def seeded(seed, found):
    """State of a network with the names that its program gives them, whose values are made here again."""
    shapes = zip(found["names"], ([int(n) for n in each.split(",")] for each in found["shapes"]), strict=True)
    return {str(name): torch.from_numpy(value) for name, value in weights(dict(shapes), seed).items()}


def imported(network, path, content):
    torch.save(content, path)
    return load_network(network, path).module


def test_networks_answer_as_fastmris_do(tmp_path):
    theirs = answers("fastmri")
    of = {name: {key: theirs[f"{name}_{key}"] for key in ("names", "shapes")} for name in ("varnet", "unet")}
    masked = torch.view_as_real(torch.from_numpy((KSPACE * MEASURED)[None, ..., 1:]))
    mask = torch.from_numpy(MEASURED[1:].astype(np.float32))[None, None, None, :, None]
    image = torch.from_numpy(images()[0][None, None, :45, :38].astype(np.float32))
    with torch.inference_mode():
        varnet = imported("e2e-varnet", tmp_path / "varnet.pt", {"state_dict": seeded(1, of["varnet"])})
        unet = imported("unet-image", tmp_path / "unet.pt", {"state_dict": seeded(2, of["unet"])})
        varnet, unet = varnet(masked, mask)[0].numpy(), unet(image)[0, 0].numpy()
    for ours, name in ((varnet, "varnet"), (unet, "unet")):
        assert ours.std() > 0.1 * np.abs(ours).mean()  # the weights say something
        assert np.abs(ours - theirs[name]).max() < 2e-6 * np.abs(theirs[name]).max()


def test_deep_jsense_answers_as_its_program_does(tmp_path):
    theirs = answers("deep_jsense")
    state = seeded(3, theirs)
    state |= {name: torch.full((1,), 0.01) for name in state if "l2lam" in name}
    module = imported("deep-jsense", tmp_path / "deep.pt", {"model_state_dict": state, "hparams": SETTINGS})
    kspace = torch.view_as_real(torch.from_numpy(KSPACE * MEASURED / np.abs(KSPACE).max()).to(torch.complex64))[None]
    mask = torch.from_numpy(MEASURED.astype(np.float32))[None, None, None, :, None]
    kspace, mask = kspace.double(), mask.double()  # the program's own float32 is as far from that as is accepted
    with torch.inference_mode():
        _, kernels, predicted = module.double().unroll(kspace, mask, module.initial_kernels(kspace))
        image = module(kspace, mask)
    for result, name in ((kernels[0], "kernels"), (predicted[0, :, ::3, ::3], "kspace")):
        result = torch.view_as_complex(result.contiguous()).numpy()
        assert np.abs(result - theirs[name]).max() < 5e-5 * np.abs(theirs[name]).max()
    coils = np.fft.ifft2(torch.view_as_complex(predicted)[0].numpy(), norm="ortho")
    rss = np.fft.fftshift(np.linalg.norm(coils, axis=0))
    assert np.abs(rss - image[0].numpy()).max() < 1e-5 * rss.max()
