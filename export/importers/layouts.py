"""How the checkpoints of other programs map to the parameters of the networks here.

A layout renames tensors by rules (the first whose pattern fits the whole name counts; None passes the tensor over), brings
them into PyTorch's order of axes, and reads the configuration from their shapes and from what was written beside them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError
from .files import Checkpoint
from .tensorflow import checkpoint_prefix, named_checkpoint

State = dict[str, Tensor]
Rules = tuple[tuple[str, str | None], ...]


def _same(_name: str, tensor: Tensor) -> Tensor:
    return tensor


def _from_keras(name: str, tensor: Tensor) -> Tensor:
    """Keras keeps inputs and outputs last: [(t,) y, x, in, out], and [in, out] of dense layers."""
    if name.endswith(("kernel", "W")) and tensor.dim() > 1:
        spatial = range(tensor.dim() - 2)
        return tensor.permute(tensor.dim() - 1, tensor.dim() - 2, *spatial).contiguous()
    return tensor


@dataclass(frozen=True)
class Layout:
    """One layout of checkpoints.

    Parameters
    ----------
    rules
        Regular expressions for names, and what they become.
    configure
        Returns the configuration from the renamed tensors and the checkpoint; may change the tensors.
    convert
        Brings a tensor, given its old name, into PyTorch's order.
    """

    rules: Rules
    configure: Callable[[State, Checkpoint], dict[str, Any]]
    convert: Callable[[str, Tensor], Tensor] = _same

    def read(self, checkpoint: Checkpoint) -> tuple[State, dict[str, Any]]:
        """Return the tensors by their names here, and the configuration.

        Raises
        ------
        CheckpointError
            There are tensors that no rule knows, or settings that are not supported.
        """
        state: State = {}
        unknown = []
        for name, tensor in checkpoint.tensors.items():
            for pattern, replacement in self.rules:
                match = re.fullmatch(pattern, name)
                if match:
                    if replacement is not None:
                        state[match.expand(replacement)] = self.convert(_variable(name), tensor)
                    break
            else:
                unknown.append(name)
        if unknown:
            raise CheckpointError(
                f"{checkpoint.path} has tensors that do not belong to this network: {_listed(unknown)}"
            )
        try:
            return state, self.configure(state, checkpoint)
        except (KeyError, IndexError) as error:
            raise CheckpointError(f"{checkpoint.path} lacks tensor {error}") from error


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


_KERAS = r"/\.ATTRIBUTES/VARIABLE_VALUE"


def _variable(name: str) -> str:
    return name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")


def _count(state: State, prefix: str) -> int:
    """Number of different indices that follow a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _unet_sizes(state: State, prefix: str) -> tuple[int, int]:
    """Channels and levels of a U-Net."""
    first = state[f"{prefix}down_sample_layers.0.layers.0.weight"]
    return first.shape[0], _count(state, f"{prefix}down_sample_layers.")


def _e2e_varnet(state: State, _: Checkpoint) -> dict[str, Any]:
    chans, pools = _unet_sizes(state, "cascades.0.model.unet.")
    sens_chans, sens_pools = _unet_sizes(state, "sens_net.norm_unet.unet.")
    return {
        "num_cascades": _count(state, "cascades."),
        "chans": chans,
        "pools": pools,
        "sens_chans": sens_chans,
        "sens_pools": sens_pools,
    }


def _unet(state: State, _: Checkpoint) -> dict[str, Any]:
    chans, pools = _unet_sizes(state, "unet.")
    last = state[f"unet.up_conv.{pools - 1}.1.weight"]
    inputs = state["unet.down_sample_layers.0.layers.0.weight"].shape[1]
    return {"in_chans": inputs, "out_chans": last.shape[0], "chans": chans, "num_pool_layers": pools}


def _deep_jsense(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
    settings = checkpoint.hyperparameters
    if settings.get("mode", "DeepJSense") != "DeepJSense" or settings.get("map_init", "estimated") != "estimated":
        raise CheckpointError(
            f"{checkpoint.path} has mode {settings.get('mode')!r} and map_init {settings.get('map_init')!r}; "
            "accepted are 'DeepJSense' and 'estimated'"
        )
    for name in ("map_weight", "image_weight"):
        state[name] = state[name].reshape(()).to(torch.float32)
    names = {"meta_unrolls_end": "unrolls", "block1_max_iter": "map_iterations", "block2_max_iter": "image_iterations"}
    configuration: dict[str, Any] = {ours: settings[theirs] for theirs, ours in names.items() if theirs in settings}
    if "mps_kernel_shape" in settings:
        configuration["kernel"] = tuple(settings["mps_kernel_shape"][-2:])
    nets = {"image_network": "image_net.", "map_network": "map_net."}
    configuration |= {option: any(name.startswith(prefix) for name in state) for option, prefix in nets.items()}
    for prefix in nets.values():
        if f"{prefix}blocks.0.first.weight" in state:
            configuration["chans"] = state[f"{prefix}blocks.0.first.weight"].shape[0]
            configuration["blocks"] = _count(state, f"{prefix}blocks.")
    return configuration


def _modl_tensorflow(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
    prefix = checkpoint_prefix(checkpoint.path)
    latest = named_checkpoint(prefix.parent)
    means = [tensor for name, tensor in state.items() if name.endswith("running_mean")]
    if "modelTst" in prefix.name or all(not mean.any() for mean in means):
        raise CheckpointError(
            f"{prefix} was never trained: it holds the random weights of the graph for testing. "
            f"The trained weights are in the checkpoint {latest or 'that the training wrote'!r}"
        )
    if prefix.name == "model" and latest not in (None, "model"):
        raise CheckpointError(f"{prefix} is the state before training; the trained weights are in {latest!r}")
    state["weight"] = state["weight"].reshape(())
    return {"bias": "denoiser.layers.0.bias" in state, "chans": state["denoiser.layers.0.weight"].shape[0]}


def _modl_pytorch(state: State, _: Checkpoint) -> dict[str, Any]:
    state["weight"] = state["weight"].reshape(())
    return {"bias": True, "eps": 1e-5, "chans": state["denoiser.layers.0.weight"].shape[0]}


def _cells(state: State, _: Checkpoint) -> dict[str, Any]:
    first = next(tensor for name, tensor in state.items() if name.endswith("0.weight") and tensor.dim() == 5)
    return {"iterations": _count(state, "cells."), "chans": first.shape[0]}


def _slr(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
    coupled = any(float(value) > 0 for name, value in state.items() if name.endswith(".coupling"))
    return {**_cells(state, checkpoint), "low_rank": coupled}


def _ls(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
    configuration = _cells(state, checkpoint)
    state[f"cells.{configuration['iterations'] - 1}.step"] = torch.tensor(1.0)
    return configuration


def _dynamic_dccnn(state: State, _: Checkpoint) -> dict[str, Any]:
    chans = state["cascades.0.0.weight"].shape[0]
    layers = _count(state, "cascades.0.")
    return {"cascades": _count(state, "cascades."), "layers": layers, "chans": chans, "dims": 3, "bias": False}


def _dccnn(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
    """The archive numbers weights and biases through: one cascade ends with the convolution that has two outputs."""
    ordered = [state.pop(f"arr_{index}") for index in range(len(state))]
    weights, biases = ordered[0::2], ordered[1::2]
    layers = next((index + 1 for index, weight in enumerate(weights) if weight.shape[0] == 2), 0)
    if not layers or len(weights) % layers or len(weights) != len(biases):
        raise CheckpointError(f"{checkpoint.path} holds {len(ordered)} arrays that are no cascade of networks")
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        name = f"cascades.{index // layers}.{2 * (index % layers)}"
        state[f"{name}.weight"], state[f"{name}.bias"] = weight, bias
    return {"cascades": len(weights) // layers, "layers": layers, "chans": weights[0].shape[0], "dims": 2, "bias": True}


def _cinevn(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
    settings = checkpoint.hyperparameters
    trained = {"conv_mode": "2d+t", "view_sharing": 0, "clamp_dc_weight": False}
    for name, expected in trained.items():
        if settings.get(name, expected) != expected:
            raise CheckpointError(
                f"{checkpoint.path} was trained with {name}={settings[name]!r}, accepted is {expected!r}"
            )
    unet = "cascades.0.model.unet."
    blocks = sorted(int(name.split(".")[1]) for name in state if name.startswith("cgdc."))
    cascades = _count(state, "cascades.")
    return {
        "num_cascades": cascades,
        "chans": state[f"{unet}enc_conv_blocks.0.layers.0.0.conv.weight"].shape[0],
        "pools": _count(state, f"{unet}enc_conv_blocks."),
        "cgdc_interval": blocks[0] + 1 if blocks else cascades + 1,
    }


def _vs_net(state: State, _: Checkpoint) -> dict[str, Any]:
    return {
        "stages": _count(state, "stages."),
        "chans": state["stages.0.cnn.0.weight"].shape[0],
        "layers": _count(state, "stages.0.cnn."),
    }


def _crnn(state: State, _: Checkpoint) -> dict[str, Any]:
    return {"chans": state["conv1_x.weight"].shape[0]}


def _ista(state: State, _: Checkpoint) -> dict[str, Any]:
    return {"phases": _count(state, "phases."), "chans": state["phases.0.details.weight"].shape[0]}


def _vn(state: State, _: Checkpoint) -> dict[str, Any]:
    for name, tensor in list(state.items()):
        if name.endswith("kernels"):
            state[name] = tensor[:, 0].permute(0, 3, 1, 2).contiguous()
        elif name.endswith("activation.weight"):
            state[name] = tensor.reshape(tensor.shape[1], tensor.shape[-1])
        else:
            state[name] = tensor.reshape(())
    kernels = state["stages.0.kernels"]
    nodes = state["stages.0.activation.weight"].shape[1]
    return {
        "stages": _count(state, "stages."),
        "filters": kernels.shape[0],
        "kernel": kernels.shape[-1],
        "nodes": nodes,
    }


def _admm(state: State, _: Checkpoint) -> dict[str, Any]:
    weight, slopes = state["analysis.weight"], state["activation.slopes"]
    return {"chans": weight.shape[0], "kernel": weight.shape[-1], "knots": slopes.shape[1] - 1}


def _mnet(state: State, _: Checkpoint) -> dict[str, Any]:
    return {
        "chans": state["levels.0.0.weight"].shape[0],
        "lines": state["head.6.weight"].shape[0],
        "features": state["head.0.weight"].shape[1],
    }


_CELL = r"celllist/(\d+)/"
_SPARSE: Rules = (
    *((rf"{_CELL}conv_{i + 1}/mylayers/0/kernel{_KERAS}", rf"cells.\1.transform.{2 * i}.weight") for i in range(3)),
    *((rf"{_CELL}conv_{i + 4}/mylayers/0/kernel{_KERAS}", rf"cells.\1.inverse.{2 * i}.weight") for i in range(3)),
)
_OPTIMIZER: Rules = (
    (r"optimizer/.*|.*/Adam(_1)?|beta\d_power|.*/OPTIMIZER_SLOT/.*|save_counter.*|_CHECKPOINTABLE.*", None),
)


def _keras_layout(rules: Rules, configure: Callable[[State, Checkpoint], dict[str, Any]]) -> Layout:
    return Layout((*_OPTIMIZER, *rules), configure, _from_keras)


_MODL_LAYERS = (0, 3, 6, 9, 12)
_BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "e2e-varnet": (Layout(((r"loss\.w", None), (r"(?:varnet\.)?((?:sens_net|cascades)\..*)", r"\1")), _e2e_varnet),),
    "unet": (
        Layout(
            (
                (r"loss\.w", None),
                (r"(?:unet\.)?((?:down_sample_layers|conv|up_conv|up_transpose_conv)\..*)", r"unet.\1"),
            ),
            _unet,
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
            _deep_jsense,
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
            _modl_tensorflow,
        ),
        Layout(
            (
                (r"dc\.lam", "weight"),
                (r".*num_batches_tracked", None),
                (r"dw\.nw\.(.*)", r"denoiser.layers.\1"),
            ),
            _modl_pytorch,
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
            _cells,
        ),
    ),
    "dynamic-dccnn": (
        _keras_layout(
            tuple(
                (rf"{_CELL}conv_{i + 1}/mylayers/0/kernel{_KERAS}", rf"cascades.\1.{2 * i}.weight") for i in range(8)
            ),
            _dynamic_dccnn,
        ),
    ),
    "dynamic-ista-net-plus": (
        _keras_layout(
            (
                *_SPARSE,
                (rf"{_CELL}mu{_KERAS}", r"cells.\1.gradient.step"),
                (rf"{_CELL}thres_coef{_KERAS}", r"cells.\1.threshold"),
            ),
            _cells,
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
            _slr,
        ),
    ),
    "ls-net": (
        _keras_layout(
            (
                (rf"{_CELL}sconv/mylayers/(\d)/kernel{_KERAS}", r"cells.\1.sparse.\2.weight"),
                (rf"{_CELL}gamma{_KERAS}", r"cells.\1.step"),
                (rf"{_CELL}thres_coef{_KERAS}", r"cells.\1.rank_threshold"),
            ),
            _ls,
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
            _cells,
        ),
    ),
    "dccnn": (Layout(((r"arr_(\d+)", r"arr_\1"),), _dccnn),),
    "cinevn": (Layout(((r"(?:varnet\.)?((?:cascades|cgdc)\..*)", r"\1"), (r"loss.*", None)), _cinevn),),
    "crnn-mri": (Layout(((r"((?:bcrnn|conv\d_[xh])\..*)", r"\1"),), _crnn),),
    "vs-net": (
        Layout(
            (
                (r"conv_blocks\.(\d+)\.conv\.(.*)", r"stages.\1.cnn.\2"),
                (r"dc_blocks\.(\d+)\.noise_lvl", r"stages.\1.noise"),
                (r"wa_blocks\.(\d+)\.para", r"stages.\1.balance"),
            ),
            _vs_net,
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
            _ista,
        ),
    ),
    "vn": (
        Layout(
            (
                (r"cell_list\.(\d+)\.conv_kernel", r"stages.\1.kernels"),
                (r"cell_list\.(\d+)\.lamb", r"stages.\1.weight"),
                (r"cell_list\.(\d+)\.activation\.w", r"stages.\1.activation.weight"),
            ),
            _vn,
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
            _admm,
        ),
    ),
    "mnet": (
        Layout(
            (
                (r"inc\.double_conv\.(.*)", r"levels.0.\1"),
                *((rf"down{i}\.maxpool_conv\.1\.double_conv\.(.*)", rf"levels.{i}.\1") for i in range(1, 5)),
                *((rf"fc{i + 1}\.(.*)", rf"head.{2 * i}.\1") for i in range(4)),
            ),
            _mnet,
        ),
    ),
}
"""Layouts of other programs' checkpoints by network."""

LAYOUTS["unet-complex"] = LAYOUTS["unet-image"] = LAYOUTS["unet"]
