"""Export the networks of the literature from their checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..models.last_step import FinishedBySense
from ..models.networks.registry import Network
from ..models.scaling import scaled
from .build import DEFAULT_FORMATS, build_compared
from .bundle import Bundle, BundleError, Conventions, Manifest, TensorSpec
from .importers.load import find_network, load_network
from .options import ExportOptions, provenance_of

_FULL = ("batch", "coils")


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
    if options.matrix is not None:
        fixed = dict(zip(("ky", "kx"), map(str, options.matrix), strict=True))
        shapes["kspace"] = (*_FULL, *(fixed[axis] for axis in plane), "complex")
    inputs = tuple(TensorSpec(name=name, axes=shapes[name]) for name in network.inputs)
    name = "logits" if network.output == "logits" else "image"
    return inputs, TensorSpec(name=name, axes=outputs[network.output])


def export_network(
    name: str, checkpoint: Path, folder: Path, options: ExportOptions, formats: Sequence[str] = DEFAULT_FORMATS
) -> Bundle:
    """Write the bundle of a network of the literature.

    Parameters
    ----------
    name
        Of the network, such as ``e2e-varnet``.
    checkpoint
        Its weights, in the published program's layout or this project's.
    folder
        Where to write.
    options
        See ``ExportOptions``.
    formats
        Model files to write.

    Raises
    ------
    CheckpointError
        The checkpoint cannot be read or does not fit.
    BundleError
        The bundle cannot be written, or a runtime deviates.
    """
    network = find_network(name)
    if name == "loupe":
        raise BundleError(
            "LOUPE has no graph to run at the scanner: its result is one mask, and its U-Net is 'unet-complex'"
        )
    if network.output == "logits" and options.matrix is None:
        raise BundleError(
            f"network {name!r} works for one size only; give it as 'matrix: [ky, kx]' in the configuration"
        )
    if network.loops_over_frames and "onnx" in formats:
        formats = [name for name in formats if name == "torchscript"] or ["torchscript"]
    imported = load_network(name, checkpoint, options.configuration)
    settings = imported.hyperparameters.get("recipe", {}) if isinstance(imported.hyperparameters, dict) else {}
    scaling = options.scaling or settings.get("scaling") or network.scaling
    own = options.plane is None and bool(settings)
    if own:
        # this project's own training has the phase direction first and undersamples along it
        options = options.model_copy(update={"plane": ("ky", "kx"), "undersampled": options.undersampled or ("ky",)})
    inputs, output = network_specs(network, options)
    manifest = Manifest(
        name=folder.name,
        version=options.version,
        network=name,
        configuration=imported.configuration,
        inputs=inputs,
        outputs=(output,),
        conventions=Conventions(
            input_scaling=scaling,
            coil_maps="unit norm" if "maps" in network.inputs else "none",
            sense_step=options.sense_step,
        ),
        domain=options.domain.model_copy(update={"dimensions": options.domain.dimensions or _dimensions(network)}),
        tolerance=options.tolerance,
        precision=options.precision,
        compiled_for=options.compiled_for,
        provenance=provenance_of(checkpoint, options),
        intended_use=options.intended_use,
    )
    module = scaled(imported.module, scaling, network.inputs)
    return build_compared(finished(module, manifest), manifest, folder, formats)


def finished(module: nn.Module, manifest: Manifest) -> nn.Module:
    """Add the last step that a manifest names.

    Raises
    ------
    BundleError
        The bundle has no mask, no coil maps, or no complex image.
    """
    weight = manifest.conventions.sense_step
    if weight is None:
        return module
    names = tuple(spec.name for spec in manifest.inputs)
    if names != ("kspace", "mask", "maps") or manifest.outputs[0].axes[-1] != "complex":
        raise BundleError(
            f"bundle {manifest.name!r} cannot end with SENSE (sense_step): it takes {', '.join(names)} and returns "
            f"{list(manifest.outputs[0].axes)}; accepted are k-space, mask and coil maps, and a complex image"
        )
    return FinishedBySense(module, weight)


def _dimensions(network: Network) -> tuple[Any, ...]:
    return (network.task,) if network.task in ("2d", "2d+t") else ()
