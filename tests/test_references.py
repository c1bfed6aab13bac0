"""Networks with published weights against their papers' equations, written a second time in numpy's float64.

Each function here is one network as its paper and its published program have it, with their names of the weights and without
anything of the package but the reader of checkpoints. What the published programs themselves answer is in ``test_importers``.
"""

import math

import numpy as np
import pytest
import torch
from conftest import SHARED
from isocenter.export.importers.files import read_checkpoint
from isocenter.export.importers.load import load_network
from isocenter.models.networks.registry import NETWORKS
from numpy.lib.stride_tricks import sliding_window_view

WEIGHTS = SHARED / "weights"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the published weights are not here")
KERAS = "/.ATTRIBUTES/VARIABLE_VALUE"


def fft(image):
    shifted = np.fft.ifftshift(image, axes=(-2, -1))
    return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1))


def ifft(kspace):
    shifted = np.fft.ifftshift(kspace, axes=(-2, -1))
    return np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))


class Problem:
    """A scan of random numbers: maps [coils, y, x] of unit norm, k-space [coils, (frames,) y, x] and a mask like it."""

    def __init__(self, coils, shape, seed=7, real=False):
        random = np.random.default_rng(seed)
        *frames, y, x = shape
        smooth = np.exp(-((np.mgrid[-2 : 2 : y * 1j, -2 : 2 : x * 1j] ** 2).sum(0)))
        noise = random.standard_normal(shape) + 1j * random.standard_normal(shape)
        self.image = smooth * (1 + 0.3 * (noise.real if real else noise))
        maps = random.standard_normal((coils, y, x)) + 1j * random.standard_normal((coils, y, x))
        maps = np.ones((1, y, x)) if coils == 1 else maps / np.linalg.norm(maps, axis=0)
        self.maps = maps.astype(np.complex64).astype(complex)
        lines = random.random((*frames, 1, x)) < 0.4
        lines[..., x // 2 - 2 : x // 2 + 2] = True
        self.mask = np.broadcast_to(lines, shape).astype(float)
        self.beside = self.maps[:, None] if frames else self.maps
        self.kspace = (self.mask * fft(self.beside * self.image)).astype(np.complex64).astype(complex)

    def forward(self, image):
        return fft(self.beside * image)

    def adjoint(self, kspace):
        return (self.beside.conj() * ifft(kspace)).sum(0)

    def gradient(self, image):
        return self.adjoint(self.mask * self.forward(image) - self.kspace)

    def deviation(self, module, expected, dtype=torch.float32):
        """Largest deviation of a module on this scan, relative to the maximum."""
        kspace, maps = (
            torch.view_as_real(torch.from_numpy(array))[None].to(dtype) for array in (self.kspace, self.maps)
        )
        mask = torch.from_numpy(self.mask)[None, None, ..., None].to(dtype)
        with torch.inference_mode():
            result = module.to(dtype)(kspace, mask, maps)[0].numpy()
        if np.iscomplexobj(expected):
            result = result[..., 0] + 1j * result[..., 1]
        return np.abs(result - expected).max() / np.abs(expected).max()


def conv(x, weight, bias=None):
    """Cross-correlation of [inputs, ...] with [outputs, inputs, ...], zeros beyond the edges."""
    kernel = weight.shape[2:]
    padded = np.pad(x, [(0, 0), *((size // 2, size // 2) for size in kernel)])
    axes = tuple(range(1, x.ndim))
    windows = sliding_window_view(padded, kernel, axis=axes)
    inner = [0, *range(x.ndim, windows.ndim)]
    result = np.tensordot(weight, windows, axes=([1, *range(2, weight.ndim)], inner))
    return result if bias is None else result + bias.reshape(-1, *[1] * len(kernel))


def relu(x):
    return np.maximum(x, 0)


def soft(x, threshold):
    return np.sign(x) * relu(np.abs(x) - threshold)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def channels(image):
    return np.stack((image.real, image.imag))


def image_of(parts):
    return parts[0] + 1j * parts[1]


def stack(x, layers):
    """Convolutions [(weight, bias), ...] with ReLU between them."""
    for index, (weight, bias) in enumerate(layers):
        x = conv(x if index == 0 else relu(x), weight, bias)
    return x


def published(file):
    """The tensors of a checkpoint under its program's names, in float64."""
    return {name: tensor.double().numpy() for name, tensor in read_checkpoint(WEIGHTS / file).tensors.items()}


def variational_network(scan, weights):
    """Hammernik 2018, eq. 7 and 11, as the PyTorch port pads: reflected by 11."""
    image = scan.adjoint(scan.kspace)
    stages = len({name.split(".")[1] for name in weights})
    for stage in range(stages):
        kernels = weights[f"cell_list.{stage}.conv_kernel"][:, 0].transpose(0, 3, 1, 2)
        heights = weights[f"cell_list.{stage}.activation.w"][0, :, 0, 0]
        places = np.linspace(-1, 1, heights.shape[1])
        width = places[1] - places[0]
        padded = np.pad(channels(image), [(0, 0), (11, 11), (11, 11)], mode="reflect")
        response = conv(padded, kernels)
        bumps = (np.exp(-((response - place) ** 2) / (2 * width**2)) for place in places)
        response = sum(height[:, None, None] * bump for height, bump in zip(heights.T, bumps, strict=True))
        experts = conv(response, kernels[:, :, ::-1, ::-1].swapaxes(0, 1))[:, 11:-11, 11:-11]
        step = weights[f"cell_list.{stage}.lamb"]
        image = image - image_of(experts) / len(kernels) - step * scan.gradient(image)
    return image


def ista_net_plus(scan, weights):
    """Zhang 2018, eqs. 8 to 12, of real images."""
    image = scan.adjoint(scan.kspace).real
    for phase in range(9):
        w = {name.split(".")[2]: value for name, value in weights.items() if name.startswith(f"fcs.{phase}.")}
        stepped = (image - w["lambda_step"] * scan.gradient(image).real)[None]
        forward = stack(conv(stepped, w["conv_D"]), [(w["conv1_forward"], None), (w["conv2_forward"], None)])
        backward = stack(soft(forward, w["soft_thr"]), [(w["conv1_backward"], None), (w["conv2_backward"], None)])
        image = (stepped + conv(backward, w["conv_G"]))[0]
    return image


def dc_cnn(scan, weights):
    """Schlemper 2018, eq. 8: five cascades of five convolutions."""
    image = scan.adjoint(scan.kspace)
    for cascade in range(5):
        first = 10 * cascade
        layers = [(weights[f"arr_{first + 2 * i}"], weights[f"arr_{first + 2 * i + 1}"]) for i in range(5)]
        denoised = image + image_of(stack(channels(image), layers))
        image = scan.adjoint((1 - scan.mask) * scan.forward(denoised) + scan.kspace)
    return image


def vs_net(scan, weights):
    """Duan 2019, eqs. 7 to 9."""
    image = scan.adjoint(scan.kspace)
    for stage in range(len({name.split(".")[1] for name in weights if name.startswith("dc_blocks")})):
        cnn = [
            tuple(weights[f"conv_blocks.{stage}.conv.{2 * i}.{kind}"] for kind in ("weight", "bias")) for i in range(5)
        ]
        denoised = image + image_of(stack(channels(image), cnn))
        noise, balance = weights[f"dc_blocks.{stage}.noise_lvl"], weights[f"wa_blocks.{stage}.para"]
        predicted = scan.forward(image)
        mixed = noise * predicted + (1 - noise) * scan.kspace
        consistent = scan.adjoint((1 - scan.mask) * predicted + scan.mask * mixed)
        image = balance * denoised + (1 - balance) * consistent
    return image


def modl(scan, layers, weight, eps, iterations):
    """Aggarwal 2019, eqs. 10 and 11: convolutions with batch normalisation, ten steps of conjugate gradients at most.

    A layer is kernel, bias, and of the normalisation scale, shift, mean and variance.
    """
    right = image = scan.adjoint(scan.kspace)
    for _ in range(iterations):
        x = channels(image)
        for index, (kernel, bias, *norm) in enumerate(layers):
            scale, shift, mean, variance = (each[:, None, None] for each in norm)
            x = (conv(x, kernel, bias) - mean) / np.sqrt(variance + eps) * scale + shift
            x = relu(x) if index < len(layers) - 1 else x
        target = right + weight * (image + image_of(x))
        image = np.zeros_like(target)
        residual = direction = target
        for _ in range(10):
            energy = np.vdot(residual, residual).real
            if energy <= 1e-10:
                break
            product = scan.adjoint(scan.mask * scan.forward(direction)) + weight * direction
            step = energy / np.vdot(direction, product).real
            image = image + step * direction
            residual = residual - step * product
            direction = residual + np.vdot(residual, residual).real / energy * direction
    return image


def modl_of_pytorch(weights):
    """Its layers by the names of the PyTorch port, and the weight."""
    names = ("weight", "bias", "running_mean", "running_var")
    layers = [
        [weights[f"dw.nw.{3 * i}.{name}"] for name in names[:2]]
        + [weights[f"dw.nw.{3 * i + 1}.{name}"] for name in names]
        for i in range(5)
    ]
    return layers, weights["dc.lam"], 1e-5


def modl_of_tensorflow(weights):
    """Its layers by the names of the authors' graph, whose kernels are [y, x, in, out], and the weight."""
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    layers = [
        [weights[f"Wts/Layer{i}/W"].transpose(3, 2, 0, 1), weights.get(f"Wts/Layer{i}/b")]
        + [weights[f"Wts/Layer{i}/BN/{name}"] for name in names]
        for i in range(1, 6)
    ]
    return layers, weights["Wts/lam1"], 1e-3


def cells(weights):
    """The weights of every cell by name; kernels [t, y, x, in, out] as [out, in, t, y, x]."""
    numbers = sorted({int(name.split("/")[1]) for name in weights if name.startswith("celllist")})
    for number in numbers:
        prefix = f"celllist/{number}/"
        own = {n.removeprefix(prefix).removesuffix(KERAS): w for n, w in weights.items() if n.startswith(prefix)}
        yield {name: w.transpose(4, 3, 0, 1, 2) if w.ndim == 5 else w for name, w in own.items()}


def slr_net(scan, weights):
    """Ke 2021; the coupling to the low-rank part is zero in every published cell."""
    image = scan.adjoint(scan.kspace)
    for w in cells(weights):
        assert w["lambda_step_2"] <= 0
        stepped = channels(image - relu(w["lambda_step"]) * scan.gradient(image))
        kernels = [(w[f"conv_{i}/mylayers/0/kernel"], None) for i in range(1, 7)]
        image = image_of(stepped + stack(soft(stack(stepped, kernels[:3]), w["soft_thr"]), kernels[3:]))
    return image


def t2lr_net(scan, weights):
    """Zhang 2024: soft thresholding of every frame's singular values in a learned domain."""
    image = scan.adjoint(scan.kspace)
    for w in cells(weights):
        stepped = channels(image - relu(w["mu"]) * scan.gradient(image))
        forward, backward = ([(w[f"lconv_{i}/mylayers/{j}/kernel"], None) for j in (0, 2, 4)] for i in (1, 2))
        u, values, v = np.linalg.svd(image_of(stack(stepped, forward)), full_matrices=False)
        values = relu(values - sigmoid(w["thres_lr"]) * values[..., :1])
        image = image_of(stepped + stack(channels((u * values[..., None, :]) @ v), backward))
    return image


@needs_weights
@pytest.mark.parametrize(
    ("name", "file", "equations", "coils"),
    [
        ("vn", "vn/varnet_coronal_pd_fs.h5", variational_network, 3),
        ("ista-net-plus", "ista-net-plus/ratio_20.pkl", ista_net_plus, 1),
        ("dccnn", "crnn-dccnn/d5_c5.npz", dc_cnn, 1),
        ("dccnn", "crnn-dccnn/d5_c5.npz", dc_cnn, 3),
    ],
)
def test_slices_are_those_of_the_equations_with_published_weights(name, file, equations, coils):
    scan = Problem(coils, (26, 22), real=name == "ista-net-plus")
    module = load_network(name, WEIGHTS / file).module
    assert scan.deviation(module, equations(scan, published(file))) < 1e-5


@needs_weights
@pytest.mark.parametrize(
    ("file", "layout", "iterations"),
    [
        ("modl-pytorch/modl_k1.pth", modl_of_pytorch, 1),
        ("modl-pytorch/modl_k10.pth", modl_of_pytorch, 10),
        ("modl-tf/04Jun_0356pm_5L_10K_50E_AG", modl_of_tensorflow, 10),
        ("modl-tf/14Mar_1105pm", modl_of_tensorflow, 10),
    ],
)
def test_modl_is_that_of_the_equations_with_published_weights(file, layout, iterations):
    scan = Problem(3, (26, 22))
    module = load_network("modl", WEIGHTS / file, {"iterations": iterations}).module
    assert scan.deviation(module, modl(scan, *layout(published(file)), iterations)) < 1e-5


@needs_weights
@pytest.mark.parametrize(
    ("name", "folder", "equations"),
    [
        ("slr-net", "SLR_Net-vista-8-20231002T205351", slr_net),
        ("t2lr-net", "T2LR_Net-vista-8-20250113T130359", t2lr_net),
    ],
)
def test_series_are_those_of_the_equations_with_published_weights(name, folder, equations):
    """In float64, as thresholds near or below zero turn roundings of float32 into other pixels."""
    scan = Problem(3, (5, 14, 12))
    module = load_network(name, WEIGHTS / "dynamic-comparators" / folder).module
    expected = equations(scan, published(f"dynamic-comparators/{folder}"))
    assert scan.deviation(module, expected, torch.float64) < 1e-5


def test_vs_net_is_that_of_the_equations(tmp_path):
    """Its published weights are not at hand: seeded ones, under the names of its program."""
    torch.manual_seed(11)
    state = NETWORKS["vs-net"].build(stages=3, chans=16).state_dict()
    names = {"cnn": "conv_blocks.{}.conv.{}", "noise": "dc_blocks.{}.noise_lvl", "balance": "wa_blocks.{}.para"}
    renamed = {}
    for name, tensor in state.items():
        _, stage, part, *rest = name.split(".")
        value = 2 * tensor if part == "cnn" else torch.rand(1) * 1.5 - 0.75
        renamed[names[part].format(stage, ".".join(rest))] = value
    torch.save(renamed, tmp_path / "vs.pth")
    scan = Problem(3, (26, 22))
    module = load_network("vs-net", tmp_path / "vs.pth").module
    expected = vs_net(scan, {name: tensor.double().numpy() for name, tensor in renamed.items()})
    assert scan.deviation(module, expected) < 1e-5
    assert math.isfinite(np.abs(expected).max())


@needs_weights
def test_admm_csnet_answers_like_its_program():
    """Its transform is uncentred and has no scale; the maximum of its image is below one."""
    with np.load(SHARED / "oracles" / "admm_csnet.npz", allow_pickle=False) as file:
        data = dict(file)
    scan = Problem(1, (64, 64))
    scan.mask = np.fft.fftshift(data["admm_mask"]).astype(float)
    scan.kspace = (fft(np.fft.ifft2(data["admm_full_k"][0])) * scan.mask).astype(complex)
    module = load_network("admm-csnet", WEIGHTS / "admm-csnet" / "cs_net_sample0.3.pth").module
    assert scan.deviation(module, data["admm_out"][0, 0].astype(complex)) < 1e-5
