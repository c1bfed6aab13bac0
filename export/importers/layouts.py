"""How the checkpoints of other programs map to the parameters of the networks here."""

from collections.abc import Callable
from typing import Any

from . import configurations
from .files import Checkpoint
from .layout import Layout, Rules, State, from_keras

_KERAS = r"/\.ATTRIBUTES/VARIABLE_VALUE"


_CELL = r"celllist/(\d+)/"
_SPARSE: Rules = (
    *((rf"{_CELL}conv_{i + 1}/mylayers/0/kernel{_KERAS}", rf"cells.\1.transform.{2 * i}.weight") for i in range(3)),
    *((rf"{_CELL}conv_{i + 4}/mylayers/0/kernel{_KERAS}", rf"cells.\1.inverse.{2 * i}.weight") for i in range(3)),
)
_OPTIMIZER: Rules = (
    (r"optimizer/.*|.*/Adam(_1)?|beta\d_power|.*/OPTIMIZER_SLOT/.*|save_counter.*|_CHECKPOINTABLE.*", None),
)


def _keras_layout(rules: Rules, configure: Callable[[State, Checkpoint], dict[str, Any]]) -> Layout:
    return Layout((*_OPTIMIZER, *rules), configure, from_keras)


_VARNET: Rules = ((r"loss\.w", None), (r"(?:varnet\.)?((?:sens_net|cascades)\..*)", r"\1"))
_MODL_LAYERS = (0, 3, 6, 9, 12)
_BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "e2e-varnet": (Layout(_VARNET, configurations.e2e_varnet),),
    "unet": (
        Layout(
            (
                (r"loss\.w", None),
                (r"(?:unet\.)?((?:down_sample_layers|conv|up_conv|up_transpose_conv)\..*)", r"unet.\1"),
            ),
            configurations.unet,
        ),
    ),
    "deep-jsense": (
        Layout(
            (
                (r"block1_l2lam", "map_weight"),
                (r"block2_l2lam", "image_weight"),
                (r"maps_net\.ResNetBlocks\.(\d+)\.conv0\.net\.1\.weight", r"map_net.blocks.\1.skip.weight"),
                (r"maps_net\.ResNetBlocks\.(\d+)\.conv1\.net\.1\.weight", r"map_net.blocks.\1.first.weight"),
                (r"maps_net\.ResNetBlocks\.(\d+)\.conv2\.net\.1\.weight", r"map_net.blocks.\1.second.weight"),
                # separate networks per unroll are one and the same module in the program that writes them
                (
                    r"image_net\.(?:\d+\.)?ResNetBlocks\.(\d+)\.conv0\.net\.1\.weight",
                    r"image_net.blocks.\1.skip.weight",
                ),
                (
                    r"image_net\.(?:\d+\.)?ResNetBlocks\.(\d+)\.conv1\.net\.1\.weight",
                    r"image_net.blocks.\1.first.weight",
                ),
                (
                    r"image_net\.(?:\d+\.)?ResNetBlocks\.(\d+)\.conv2\.net\.1\.weight",
                    r"image_net.blocks.\1.second.weight",
                ),
            ),
            configurations.deep_jsense,
        ),
    ),
    "modl": (
        _keras_layout(
            (
                (r"Wts/lam1", "weight"),
                *((rf"Wts/Layer{i + 1}/W", f"denoiser.layers.{layer}.weight") for i, layer in enumerate(_MODL_LAYERS)),
                *((rf"Wts/Layer{i + 1}/b", f"denoiser.layers.{layer}.bias") for i, layer in enumerate(_MODL_LAYERS)),
                *(
                    (rf"Wts/Layer{i + 1}/BN/{theirs}", f"denoiser.layers.{layer + 1}.{ours}")
                    for i, layer in enumerate(_MODL_LAYERS)
                    for theirs, ours in _BATCH_NORM.items()
                ),
            ),
            configurations.modl_tensorflow,
        ),
        Layout(
            (
                (r"dc\.lam", "weight"),
                (r".*num_batches_tracked", None),
                (r"dw\.nw\.(.*)", r"denoiser.layers.\1"),
            ),
            configurations.modl_pytorch,
        ),
    ),
    "jotlasnet": (
        _keras_layout(
            (
                (rf"{_CELL}lconv_1/mylayers/(\d)/kernel{_KERAS}", r"cells.\1.low_rank.transform.\2.weight"),
                (rf"{_CELL}lconv_2/mylayers/(\d)/kernel{_KERAS}", r"cells.\1.low_rank.inverse.\2.weight"),
                (rf"{_CELL}sconv_1/mylayers/(\d)/kernel{_KERAS}", r"cells.\1.sparse.transform.\2.weight"),
                (rf"{_CELL}sconv_2/mylayers/(\d)/kernel{_KERAS}", r"cells.\1.sparse.inverse.\2.weight"),
                (rf"{_CELL}ST/att/layer_with_weights-0/kernel{_KERAS}", r"cells.\1.sparse.attention.0.weight"),
                (rf"{_CELL}ST/att/layer_with_weights-0/bias{_KERAS}", r"cells.\1.sparse.attention.0.bias"),
                (rf"{_CELL}ST/att/layer_with_weights-1/kernel{_KERAS}", r"cells.\1.sparse.attention.2.weight"),
                (rf"{_CELL}ST/att/layer_with_weights-1/bias{_KERAS}", r"cells.\1.sparse.attention.2.bias"),
                (rf"{_CELL}mu{_KERAS}", r"cells.\1.gradient.step"),
                (rf"{_CELL}t{_KERAS}", r"cells.\1.momentum"),
                (rf"{_CELL}thres_lr{_KERAS}", r"cells.\1.low_rank.threshold"),
                (rf"{_CELL}w{_KERAS}", r"cells.\1.weights"),
            ),
            configurations.cells,
        ),
    ),
    "dynamic-dccnn": (
        _keras_layout(
            tuple(
                (rf"{_CELL}conv_{i + 1}/mylayers/0/kernel{_KERAS}", rf"cascades.\1.{2 * i}.weight") for i in range(8)
            ),
            configurations.dynamic_dccnn,
        ),
    ),
    "dynamic-ista-net-plus": (
        _keras_layout(
            (
                *_SPARSE,
                (rf"{_CELL}mu{_KERAS}", r"cells.\1.gradient.step"),
                (rf"{_CELL}thres_coef{_KERAS}", r"cells.\1.threshold"),
            ),
            configurations.cells,
        ),
    ),
    "slr-net": (
        _keras_layout(
            (
                *_SPARSE,
                (rf"{_CELL}lambda_step{_KERAS}", r"cells.\1.gradient.step"),
                (rf"{_CELL}lambda_step_2{_KERAS}", r"cells.\1.coupling"),
                (rf"{_CELL}soft_thr{_KERAS}", r"cells.\1.threshold"),
                (rf"{_CELL}thres_coef{_KERAS}", r"cells.\1.rank_threshold"),
                (rf"{_CELL}eta{_KERAS}", r"cells.\1.multiplier_step"),
            ),
            configurations.slr,
        ),
    ),
    "ls-net": (
        _keras_layout(
            (
                (rf"{_CELL}sconv/mylayers/(\d)/kernel{_KERAS}", r"cells.\1.sparse.\2.weight"),
                (rf"{_CELL}gamma{_KERAS}", r"cells.\1.step"),
                (rf"{_CELL}thres_coef{_KERAS}", r"cells.\1.rank_threshold"),
            ),
            configurations.ls,
        ),
    ),
    "t2lr-net": (
        _keras_layout(
            (
                (rf"{_CELL}lconv_1/mylayers/(\d)/kernel{_KERAS}", r"cells.\1.transform.\2.weight"),
                (rf"{_CELL}lconv_2/mylayers/(\d)/kernel{_KERAS}", r"cells.\1.inverse.\2.weight"),
                (rf"{_CELL}mu{_KERAS}", r"cells.\1.gradient.step"),
                (rf"{_CELL}thres_lr{_KERAS}", r"cells.\1.threshold"),
            ),
            configurations.cells,
        ),
    ),
    "dccnn": (Layout(((r"arr_(\d+)", r"arr_\1"),), configurations.dccnn),),
    "cinevn": (Layout(((r"(?:varnet\.)?((?:cascades|cgdc)\..*)", r"\1"), (r"loss.*", None)), configurations.cinevn),),
    "crnn-mri": (Layout(((r"((?:bcrnn|conv\d_[xh])\..*)", r"\1"),), configurations.crnn),),
    "vs-net": (
        Layout(
            (
                (r"conv_blocks\.(\d+)\.conv\.(.*)", r"stages.\1.cnn.\2"),
                (r"dc_blocks\.(\d+)\.noise_lvl", r"stages.\1.noise"),
                (r"wa_blocks\.(\d+)\.para", r"stages.\1.balance"),
            ),
            configurations.vs_net,
        ),
    ),
    "ista-net-plus": (
        Layout(
            (
                (r"fcs\.(\d+)\.lambda_step", r"phases.\1.step"),
                (r"fcs\.(\d+)\.soft_thr", r"phases.\1.threshold"),
                (r"fcs\.(\d+)\.conv_D", r"phases.\1.details.weight"),
                (r"fcs\.(\d+)\.conv1_forward", r"phases.\1.transform.0.weight"),
                (r"fcs\.(\d+)\.conv2_forward", r"phases.\1.transform.2.weight"),
                (r"fcs\.(\d+)\.conv1_backward", r"phases.\1.inverse.0.weight"),
                (r"fcs\.(\d+)\.conv2_backward", r"phases.\1.inverse.2.weight"),
                (r"fcs\.(\d+)\.conv_G", r"phases.\1.merge.weight"),
            ),
            configurations.ista,
        ),
    ),
    "vn": (
        Layout(
            (
                (r"cell_list\.(\d+)\.conv_kernel", r"stages.\1.kernels"),
                (r"cell_list\.(\d+)\.lamb", r"stages.\1.weight"),
                (r"cell_list\.(\d+)\.activation\.w", r"stages.\1.activation.weight"),
            ),
            configurations.vn,
        ),
    ),
    "admm-csnet": (
        Layout(
            (
                (r"rho", "penalty"),
                (r"gamma", "update_rate"),
                (r"conv1_layer\.conv\.(.*)", r"analysis.\1"),
                (r"conv2_layer\.conv\.(.*)", r"synthesis.\1"),
                (r"nonlinear_layer\.pwl\.(.*)", r"activation.\1"),
                # the same tensors under the names of the stages that share them
                (r"cs_net\..*|re_\w+_layer\.rho|multiple_\w+_layer\.gamma", None),
            ),
            configurations.admm,
        ),
    ),
    "mnet": (
        Layout(
            (
                (r"inc\.double_conv\.(.*)", r"levels.0.\1"),
                *((rf"down{i}\.maxpool_conv\.1\.double_conv\.(.*)", rf"levels.{i}.\1") for i in range(1, 5)),
                *((rf"fc{i + 1}\.(.*)", rf"head.{2 * i}.\1") for i in range(4)),
            ),
            configurations.mnet,
        ),
    ),
}
"""Layouts of other programs' checkpoints by network."""

LAYOUTS["unet-complex"] = LAYOUTS["unet-image"] = LAYOUTS["unet"]
