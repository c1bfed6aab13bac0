"""Parameter counts, special cases, and one battery over all networks: scripted equals eager, finite on edge cases."""

import numpy as np
import pytest
import torch
from isocenter.bundle.folder import relative_error
from isocenter.export.cases import edge_cases, make_case
from isocenter.export.network import network_specs
from isocenter.export.options import ExportOptions
from isocenter.models.consistency import adjoint_model, forward_model
from isocenter.models.networks.admm_csnet import PiecewiseLinear
from isocenter.models.networks.deep_jsense import DeepJSense
from isocenter.models.networks.mnet import Loupe, MNet, StraightThrough, budget_mask
from isocenter.models.networks.modl import Modl
from isocenter.models.networks.registry import NETWORKS
from isocenter.models.scaling import input_scale, scaled

PARAMETERS = {
    "e2e-varnet": 29_936_966,
    "modl": 113_413,
    "modl-didn": 3_372_984,
    "deep-jsense": 447_490,
    "jotlasnet": 708_075,
    "slr-net": 293_810,
    "ls-net": 328_339,
    "dynamic-ista-net-plus": 293_780,
    "dynamic-dccnn": 293_760,
    "t2lr-net": 259_230,
    "ista-net-plus": 336_978,
    "dccnn": 565_770,
    "cinevn": 2_689_130,
    "vn": 131_050,
    "crnn-mri": 297_794,
    "vs-net": 565_780,
    "admm-csnet": 19_715,
    "unet": 496_372_225,
    "unet-complex": 31_024_386,
    "mnet": 79_919_938,
    "ridge-net": 45_160,
    "ridge-cine": 47_256,
}

SMALL = {
    "e2e-varnet": {"num_cascades": 2, "sens_chans": 2, "sens_pools": 3, "chans": 4, "pools": 4},
    "varnet-complex": {"num_cascades": 2, "sens_chans": 2, "sens_pools": 3, "chans": 4, "pools": 4},
    "modl": {"iterations": 2, "cg_iterations": 4, "chans": 8},
    "modl-didn": {"iterations": 2, "cg_iterations": 4, "chans": 8},
    "modl-unet": {"iterations": 2, "cg_iterations": 4, "chans": 4},
    "deep-jsense": {"unrolls": 2, "map_iterations": 2, "image_iterations": 2, "chans": 8},
    "jotlasnet": {"iterations": 2, "chans": 4},
    "cinevn": {"num_cascades": 3, "chans": 2},
    "crnn-mri": {"iterations": 2, "chans": 8},
    "dynamic-dccnn": {"cascades": 2, "chans": 4},
    "dynamic-ista-net-plus": {"iterations": 2, "chans": 4},
    "slr-net": {"iterations": 2, "chans": 4},
    "ls-net": {"iterations": 2, "chans": 4},
    "t2lr-net": {"iterations": 2, "chans": 4},
    "dccnn": {"cascades": 2, "chans": 8},
    "vs-net": {"stages": 2, "chans": 8},
    "ista-net-plus": {"phases": 2, "chans": 8},
    "vn": {"stages": 2, "filters": 8},
    "admm-csnet": {"stages": 2, "chans": 8},
    "hc-pgd": {"iterations": 3, "chans": 8},
    "pdhg-csnet": {"iterations": 2, "chans": 8},
    "cp-net": {"iterations": 2, "chans": 8},
    "pd-net": {"iterations": 2, "chans": 8},
    "unet": {"chans": 4},
    "unet-complex": {"chans": 4},
    "unet-image": {"chans": 4},
    "ridge-net": {"iterations": 2, "filters": 8, "cg_iterations": 2, "start_iterations": 4},
    "ridge-cine": {"iterations": 2, "filters": 40, "cg_iterations": 2, "start_iterations": 4},
}
SIZES = {"batch": 2, "coils": 3, "frames": 4, "ky": 33, "kx": 40}


def small_network(name):
    torch.manual_seed(5)
    network = NETWORKS[name]
    module = scaled(network.build(**SMALL[name]).eval(), network.scaling, network.inputs)
    return module, network_specs(network, ExportOptions())[0]


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_published_number_of_parameters(name):
    with torch.device("meta"):
        parameters = NETWORKS[name].build().parameters()
    assert sum(parameter.numel() for parameter in parameters if parameter.requires_grad) == PARAMETERS[name]


def test_the_batteries_leave_no_network_out():
    assert set(SMALL) == {name for name, network in NETWORKS.items() if network.task != "sampling"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SMALL)
def test_scripted_equals_eager_and_is_close_to_float64(name):
    module, specs = small_network(name)
    scripted = torch.jit.script(module)
    for sizes, how in ((SIZES, {}), ({**SIZES, "coils": 1, "ky": 44}, {"acs": 10, "spacing": 3, "phantom": True})):
        inputs = make_case(specs, sizes, **how)
        with torch.no_grad():
            eager = module(*inputs.values())
            exact = module.double()(*(tensor.double() for tensor in inputs.values()))
            module.float()
            with torch.jit.optimized_execution(False):
                result = scripted(*inputs.values())
        assert relative_error({"image": result}, {"image": eager}) <= 1e-6
        assert relative_error({"image": eager}, {"image": exact}) < 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_output_is_finite_for_zeros_full_sampling_and_one_coil(name):
    module, specs = small_network(name)
    for what, inputs in edge_cases(specs, SIZES).items():
        with torch.no_grad():
            output = module(*inputs.values())
        assert torch.isfinite(output).all(), what


@pytest.mark.parametrize("name", [name for name in SMALL if NETWORKS[name].scaling != "none"])
def test_scaled_networks_follow_the_scale_of_the_input(name):
    module, specs = small_network(name)
    inputs = make_case(specs, SIZES)
    with torch.no_grad():
        once = module(*inputs.values())
        inputs["kspace"] = inputs["kspace"] * 1e-6
        small = module(*inputs.values())
    torch.testing.assert_close(small * 1e6, once, rtol=0, atol=1e-4 * float(once.abs().max()))


@pytest.mark.parametrize(
    "name",
    ["e2e-varnet", "varnet-complex", "modl", "deep-jsense", "jotlasnet", "vn", "pd-net", "ridge-net", "ridge-cine"],
)
def test_every_trained_parameter_gets_a_finite_gradient(name):
    module, specs = small_network(name)
    inputs = make_case(specs, {**SIZES, "batch": 1}, phantom=True)
    module.train()(*inputs.values()).square().mean().backward()
    for parameter_name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name


def full_rank_problem():
    sizes = {"batch": 1, "coils": 4, "ky": 12, "kx": 10}
    specs = network_specs(NETWORKS["modl"], ExportOptions(undersampled=("ky",), plane=("ky", "kx")))[0]
    return {name: value.double() for name, value in make_case(specs, sizes, acs=4).items()}


def dense(operator, shape):
    """Matrix of a real-linear operator on [1, y, x, 2]."""
    size = int(np.prod(shape))
    columns = [operator(torch.eye(size, dtype=torch.float64)[i].reshape(shape)).flatten() for i in range(size)]
    return torch.stack(columns, dim=1)


def test_modl_without_denoiser_weight_solves_least_squares():
    inputs = full_rank_problem()
    network = Modl(iterations=1, cg_iterations=200, cg_tolerance=0.0, chans=4).double().eval()
    with torch.no_grad():
        denoised = network.denoiser(adjoint_model(inputs["kspace"], inputs["maps"], [-3, -2]))
        result = network(**inputs)
    maps, mask = inputs["maps"], inputs["mask"]
    forward = dense(lambda x: forward_model(x, maps, [-3, -2]) * mask, denoised.shape)
    weight = 0.05
    matrix = forward.T @ forward + weight * torch.eye(forward.shape[1], dtype=torch.float64)
    right = forward.T @ inputs["kspace"].flatten() + weight * denoised.flatten()
    expected = torch.linalg.solve(matrix, right).reshape(result.shape)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_deep_jsense_without_networks_and_maps_step_is_regularised_sense():
    torch.manual_seed(1)
    network = DeepJSense(1, 0, 300, (5, 3), image_network=False, map_network=False).double()
    kspace = torch.randn(1, 3, 12, 10, 2, dtype=torch.float64)
    mask = torch.ones(1, 1, 1, 10, 1, dtype=torch.float64)
    kernels = torch.randn(1, 3, 5, 3, 2, dtype=torch.float64)
    with torch.no_grad():
        image, kept, predicted = network.unroll(kspace * mask, mask, kernels)
    assert torch.equal(kept, kernels)

    def convolve(flat):
        """k-space of the coils by a direct linear convolution of the image's k-space with the kernels."""
        values = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(flat), norm="ortho")) / np.sqrt(flat.size)
        taps = torch.view_as_complex(kernels)[0].numpy()
        out = np.zeros((3, 12, 10), complex)
        for coil in range(3):
            for dy in range(5):
                for dx in range(3):
                    out[coil] += taps[coil, dy, dx] * values[4 - dy : 16 - dy, 2 - dx : 12 - dx]
        return out.ravel()

    size = 16 * 12
    forward = np.stack([convolve(np.eye(size)[i].reshape(16, 12)) for i in range(size)], axis=1)
    matrix = forward.conj().T @ forward + network.image_weight.item() * np.eye(size)
    expected = np.linalg.solve(matrix, forward.conj().T @ torch.view_as_complex(kspace * mask).numpy().ravel())
    result = torch.view_as_complex(image.contiguous()).numpy().ravel()
    # the first step has no prior on its right-hand side, so from any start it ends at the same solution
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()
    shown = torch.view_as_complex(predicted.contiguous()).numpy().ravel()
    assert np.abs(shown - forward @ expected).max() < 1e-4 * np.abs(shown).max()


def test_piecewise_linear_equals_interpolation():
    torch.manual_seed(2)
    activation = PiecewiseLinear(2, 11)
    with torch.no_grad():
        activation.slopes.normal_()
        activation.biases.normal_()
        x = torch.randn(1, 2, 40, 40)
        result = activation(x)[0].numpy()
    knots = np.linspace(-1, 1, 11)
    for channel in range(2):
        slopes = activation.slopes[channel].detach().numpy()
        values = activation.biases[channel].item() + np.concatenate([[0], np.cumsum(slopes[1:-1] * 0.2)])
        inside = np.interp(x[0, channel].numpy(), knots, values)
        outside = slopes[0] * np.minimum(x[0, channel].numpy() + 1, 0) + slopes[-1] * np.maximum(
            x[0, channel].numpy() - 1, 0
        )
        np.testing.assert_allclose(result[channel], inside + outside, atol=2e-6)


def test_straight_through_passes_the_gradient():
    x = torch.tensor([0.2, 0.7], requires_grad=True)
    binary = StraightThrough.apply(x)
    assert binary.tolist() == [0.0, 1.0]
    (binary * torch.tensor([3.0, 5.0])).sum().backward()
    assert x.grad.tolist() == [3.0, 5.0]


def test_budget_mask_keeps_the_middle_and_the_likeliest_lines():
    mask = budget_mask(torch.tensor([[0.1, 5.0, -1.0, 2.0, 0.0, 3.0]]), budget=2, base=2)
    assert mask.tolist() == [[0, 1, 0, 1, 1, 0, 0, 1]]


def test_mnet_averages_the_coils_and_returns_a_logit_for_each_line():
    network = MNet(chans=2, lines=20, features=32).eval()
    kspace = torch.randn(2, 3, 320, 320, 2)
    with torch.no_grad():
        logits = network(kspace)
        same = network(kspace.mean(1, keepdim=True))
    assert logits.shape == (2, 20)
    torch.testing.assert_close(logits, same)


def test_loupe_measures_what_it_may():
    network = Loupe((16, 20), sparsity=0.3, chans=2, pools=2)
    assert network.probabilities().mean().item() == pytest.approx(0.3, abs=1e-5)
    assert network.eval().mask().sum().item() == 96
    assert network(torch.randn(1, 16, 20, 2)).shape == (1, 16, 20)


def test_input_scales_are_the_largest_magnitudes():
    specs = network_specs(NETWORKS["modl"], ExportOptions(undersampled=("ky",), plane=("ky", "kx")))[0]
    inputs = make_case(specs, {"batch": 2, "coils": 3, "ky": 20, "kx": 16}, acs=4, spacing=3)
    kspace, mask, maps = (inputs[name] for name in ("kspace", "mask", "maps"))
    values = torch.view_as_complex(kspace).numpy()
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(values, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    combined = (torch.view_as_complex(maps).numpy().conj() * images).sum(1)
    expected = {
        "none": np.ones(2),
        "kspace": np.abs(values).max((1, 2, 3)),
        "calibration": np.abs(values[:, :, 8:12]).max((1, 2, 3)),
        "coil-images": np.abs(images).max((1, 2, 3)),
        "zero-filled": np.abs(combined).max((1, 2)),
    }
    for kind, scale in expected.items():
        np.testing.assert_allclose(input_scale(kind, kspace, mask, maps).numpy(), scale, rtol=1e-5, err_msg=kind)


def test_complex_varnet_has_the_magnitude_of_varnet_where_its_coil_images_follow_the_maps():
    """Without cascades, and with every line measured, both return the object."""
    configuration = {**SMALL["e2e-varnet"], "num_cascades": 0}
    specs = network_specs(NETWORKS["varnet-complex"], ExportOptions())[0]
    inputs = make_case(specs, SIZES, spacing=1)
    image = torch.randn(2, 40, 33, 2)
    inputs["kspace"] = forward_model(image, inputs["maps"], [-3, -2])
    plain, complex_varnet = (NETWORKS[name].build(**configuration) for name in ("e2e-varnet", "varnet-complex"))
    with torch.no_grad():
        magnitudes = plain(inputs["kspace"], inputs["mask"])
        combined = complex_varnet(*inputs.values())
    torch.testing.assert_close(combined, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(magnitudes, torch.linalg.vector_norm(image, dim=-1), atol=1e-5, rtol=0)
