"""The configuration of a network, from the shapes of its renamed tensors and what its program wrote beside them."""

from typing import Any

import torch

from .errors import CheckpointError
from .files import Checkpoint
from .layout import State
from .tensorflow import checkpoint_prefix, named_checkpoint


def _count(state: State, prefix: str) -> int:
    """Number of different indices that follow a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _unet_sizes(state: State, prefix: str) -> tuple[int, int]:
    """Channels and levels of a U-Net."""
    first = state[f"{prefix}down_sample_layers.0.layers.0.weight"]
    return first.shape[0], _count(state, f"{prefix}down_sample_layers.")


def e2e_varnet(state: State, _: Checkpoint) -> dict[str, Any]:
    """E2E-VarNet: sizes of both U-Nets, number of cascades."""
    chans, pools = _unet_sizes(state, "cascades.0.model.unet.")
    sens_chans, sens_pools = _unet_sizes(state, "sens_net.norm_unet.unet.")
    return {
        "num_cascades": _count(state, "cascades."),
        "chans": chans,
        "pools": pools,
        "sens_chans": sens_chans,
        "sens_pools": sens_pools,
    }


def unet(state: State, _: Checkpoint) -> dict[str, Any]:
    """U-Net of fastMRI."""
    chans, pools = _unet_sizes(state, "unet.")
    last = state[f"unet.up_conv.{pools - 1}.1.weight"]
    inputs = state["unet.down_sample_layers.0.layers.0.weight"].shape[1]
    return {"in_chans": inputs, "out_chans": last.shape[0], "chans": chans, "num_pool_layers": pools}


def deep_jsense(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
    """Deep J-Sense; what its settings name and is not built here is refused."""
    settings = checkpoint.hyperparameters
    if settings.get("mode", "DeepJSense") != "DeepJSense" or settings.get("map_init", "estimated") != "estimated":
        raise CheckpointError(
            f"{checkpoint.path} has mode {settings.get('mode')!r} and map_init {settings.get('map_init')!r}",
            accepted="'DeepJSense' and 'estimated'",
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


def modl_tensorflow(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
    """MoDL of the authors; its untrained checkpoints are refused."""
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


def modl_pytorch(state: State, _: Checkpoint) -> dict[str, Any]:
    """MoDL's PyTorch port."""
    state["weight"] = state["weight"].reshape(())
    return {"bias": True, "eps": 1e-5, "chans": state["denoiser.layers.0.weight"].shape[0]}


def cells(state: State, _: Checkpoint) -> dict[str, Any]:
    """Dynamic networks whose iterations are cells."""
    first = next(tensor for name, tensor in state.items() if name.endswith("0.weight") and tensor.dim() == 5)
    return {"iterations": _count(state, "cells."), "chans": first.shape[0]}


def slr(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
    """SLR-Net, with or without its low-rank part."""
    coupled = any(float(value) > 0 for name, value in state.items() if name.endswith(".coupling"))
    return {**cells(state, checkpoint), "low_rank": coupled}


def ls(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
    """L+S-Net, whose last cell has no step of its own."""
    configuration = cells(state, checkpoint)
    state[f"cells.{configuration['iterations'] - 1}.step"] = torch.tensor(1.0)
    return configuration


def dynamic_dccnn(state: State, _: Checkpoint) -> dict[str, Any]:
    """DC-CNN on series."""
    chans = state["cascades.0.0.weight"].shape[0]
    layers = _count(state, "cascades.0.")
    return {"cascades": _count(state, "cascades."), "layers": layers, "chans": chans, "dims": 3, "bias": False}


def dccnn(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
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


def cinevn(state: State, checkpoint: Checkpoint) -> dict[str, Any]:
    """CineVN; what its settings name and is not built here is refused."""
    settings = checkpoint.hyperparameters
    trained = {"conv_mode": "2d+t", "view_sharing": 0, "clamp_dc_weight": False}
    for name, expected in trained.items():
        if settings.get(name, expected) != expected:
            raise CheckpointError(
                f"{checkpoint.path} was trained with {name}={settings[name]!r}", accepted=f"{expected!r}"
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


def vs_net(state: State, _: Checkpoint) -> dict[str, Any]:
    """VS-Net."""
    return {
        "stages": _count(state, "stages."),
        "chans": state["stages.0.cnn.0.weight"].shape[0],
        "layers": _count(state, "stages.0.cnn."),
    }


def crnn(state: State, _: Checkpoint) -> dict[str, Any]:
    """CRNN-MRI."""
    return {"chans": state["conv1_x.weight"].shape[0]}


def ista(state: State, _: Checkpoint) -> dict[str, Any]:
    """ISTA-Net+."""
    return {"phases": _count(state, "phases."), "chans": state["phases.0.details.weight"].shape[0]}


def vn(state: State, _: Checkpoint) -> dict[str, Any]:
    """VN of the PyTorch port, whose arrays have another order."""
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


def admm(state: State, _: Checkpoint) -> dict[str, Any]:
    """ADMM-CSNet."""
    weight, slopes = state["analysis.weight"], state["activation.slopes"]
    return {"chans": weight.shape[0], "kernel": weight.shape[-1], "knots": slopes.shape[1] - 1}


def mnet(state: State, _: Checkpoint) -> dict[str, Any]:
    """MNet."""
    return {
        "chans": state["levels.0.0.weight"].shape[0],
        "lines": state["head.6.weight"].shape[0],
        "features": state["head.0.weight"].shape[1],
    }
