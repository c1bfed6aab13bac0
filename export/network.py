"""Export the networks of the literature from their checkpoints."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..bundle.folder import Bundle, sha256
from ..bundle.manifest import BundleError, TensorSpec, Uncertainty
from ..bundle.minisign import SecretKey
from ..models.error_map import ErrorMap
from ..models.networks.mnet import MNet
from ..models.networks.registry import Network
from ..models.networks.ridge_net import RidgeNet, RidgeNetWithError
from ..wire.entries import shown
from ..wire.errors import OptionError
from .compose import BundlePlan, compose
from .importers.load import find_network, load_network
from .options import ExportOptions
from .trained import CHOICES, choices, completed, undersampled

_FULL = ("batch", "coils")
_OF_SCANS = {1: "unet", 2: "unet-complex"}
"""The network of scans that has an image network's weights, by its channels: it makes the zero-filled image itself."""
_LOOPS = "its graph depends on the number of frames, and would be for one number only"


def network_specs(network: Network, options: ExportOptions) -> tuple[tuple[TensorSpec, ...], TensorSpec]:
    """Return inputs and output of a network's bundle."""
    plane = options.plane or (("kx", "ky") if network.readout_first else ("ky", "kx"))
    undersampled = options.undersampled or network.undersampled
    frames = ("frames",) if network.task == "2d+t" else ()
    mask = tuple(axis if axis in undersampled else "1" for axis in plane)
    shapes: dict[str, tuple[str, ...]] = {
        "kspace": (*_FULL, *frames, *plane, "complex"),
        "mask": ("batch", "1", *frames, *mask, "1"),
        "maps": (*_FULL, *plane, "complex"),
        "image": ("batch", "1", *plane),
    }
    outputs: dict[str, tuple[str, ...]] = {
        "magnitude": ("batch", *frames, *plane),
        "real": ("batch", *frames, *plane),
        "complex": ("batch", *frames, *plane, "complex"),
        "channels": ("batch", "1", *plane),
        "logits": ("batch", "lines"),
    }
    fixed: dict[str, tuple[int, int]] = {}
    if options.matrix is not None:
        fixed = {axis: (length, length) for axis, length in zip(("ky", "kx"), options.matrix, strict=True)}
    inputs = tuple(TensorSpec(name=name, axes=shapes[name], limits=fixed) for name in network.inputs)
    name = "logits" if network.output == "logits" else "image"
    return inputs, TensorSpec(name=name, axes=outputs[network.output])


def export_network(
    name: str,
    checkpoint: Path,
    folder: Path,
    options: ExportOptions,
    formats: Sequence[str] | None = None,
    key: SecretKey | None = None,
) -> Bundle:
    """Write the bundle of a network of the literature: plan it, then ``BundlePlan.write``; both say what may be wrong."""
    return plan_network(name, checkpoint, options).write(folder, formats, key)


def plan_network(name: str, checkpoint: Path, options: ExportOptions) -> BundlePlan:
    """Plan the bundle of a network of the literature, of which nothing is written yet.

    Parameters
    ----------
    name
        Of the network, such as ``e2e-varnet``.
    checkpoint
        Its weights, in the published program's layout or this project's.
    options
        See ``ExportOptions``.

    Raises
    ------
    CheckpointError
        The checkpoint cannot be read or does not fit.
    OptionError
        The network has no such configuration.
    BundleError
        The network cannot be a bundle, or not so, or its weights have no effect.
    """
    network = find_network(name)
    options.check_use(own_module=False)
    if name == "loupe":
        raise BundleError(
            "LOUPE has no graph to run at the scanner: its result is one mask, and its U-Net is 'unet-complex'"
        )
    given = {
        key: value
        for key, value in options.configuration.items()
        if not (network.task == "sampling" and key in CHOICES)
    }
    for key, value in options.configuration.items():
        if key not in given and (type(value) is not int or value < 1):
            raise OptionError(f"configuration.{key}: {shown(value)} is not accepted", accepted="whole number from 1")
    imported = load_network(name, checkpoint, given, options.checkpoint_entry)
    if network.task == "image":
        channels = imported.configuration.get("in_chans", 1)
        if channels not in _OF_SCANS:
            raise BundleError(
                f"an image network of {channels} channels has no place at a scanner",
                accepted="one channel, the magnitude, or two, real and imaginary part",
            )
        return plan_network(_OF_SCANS[channels], checkpoint, options)
    recipe = imported.recipe
    configuration = {**imported.configuration, **choices(recipe), **options.configuration}
    options = completed(options, network, imported.hyperparameters)
    if network.output == "logits" and options.matrix is None:
        raise BundleError(
            f"network {name!r} works for one size only; give it as 'matrix: [ky, kx]' in the configuration"
        )
    if isinstance(imported.module, MNet) and options.matrix is not None:
        found, wanted = imported.module.features_of(*options.matrix), imported.configuration.get("features", 2048)
        if found != wanted:
            raise BundleError(
                f"network {name!r} has {found} features for a size of {options.matrix[0]} x {options.matrix[1]}",
                accepted=f"sizes for which it has {wanted}, as it was built",
            )
    if options.plane is None and recipe:
        # this project's own training has the phase direction first
        options = options.model_copy(
            update={"plane": ("ky", "kx"), "undersampled": options.undersampled or undersampled(network, recipe)}
        )
    module = imported.module
    inputs, output = network_specs(network, options)
    outputs = (output,)
    if isinstance(module, MNet):
        outputs = (output.model_copy(update={"axes": ("batch", str(module.lines))}),)
    if options.uncertainty is not None and isinstance(module, RidgeNet):
        module = _with_error(module, options.uncertainty, checkpoint)
        outputs = (output, TensorSpec(name="error", axes=output.axes[:-1]))
    return compose(
        module,
        options,
        network=name,
        configuration=configuration,
        inputs=inputs,
        outputs=outputs,
        scaling=options.scaling or recipe.get("scaling") or network.scaling,
        checkpoint=checkpoint,
        training=imported.hyperparameters if recipe else {},
        impossible={"onnx": _LOOPS, "aoti": _LOOPS} if network.loops_over_frames else {},
    )


def _with_error(module: RidgeNet, calibrated: Uncertainty, checkpoint: Path) -> nn.Module:
    """Let a network return its error as well.

    Raises
    ------
    BundleError
        The error was calibrated for other weights.
    """
    if sha256(checkpoint) != calibrated.weights:
        raise BundleError(
            f"the uncertainty was calibrated for other weights than {checkpoint.name}: calibrate it again "
            "(benchmarks/uncertainty.py --fit), or leave it out"
        )
    return RidgeNetWithError(module, ErrorMap(calibrated.noise, calibrated.missing, calibrated.floor))
