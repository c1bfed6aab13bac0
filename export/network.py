"""Export networks: from a checkpoint of the literature's, or from anybody's own module."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.networks.registry import Network
from ..models.scaling import scaled
from .boundary import boundaries
from .build import DEFAULT_FORMATS, build_bundle
from .bundle import Bundle, BundleError, Conventions, Manifest, Provenance, TensorSpec
from .cases import edge_cases, make_case
from .importers.errors import CheckpointError
from .importers.files import read_checkpoint
from .importers.load import find_network, load_network, load_state
from .options import Direction, ExportOptions

_FULL = ("batch", "coils")
_SIZES = (
    ({"batch": 1, "coils": 4, "frames": 6, "ky": 48, "kx": 40}, {"acs": 8, "spacing": 2}),
    ({"batch": 2, "coils": 3, "frames": 5, "ky": 37, "kx": 50}, {"acs": 6, "spacing": 3}),
    ({"batch": 1, "coils": 6, "frames": 4, "ky": 72, "kx": 96}, {"acs": 16, "spacing": 4, "phantom": True}),
    ({"batch": 1, "coils": 1, "frames": 7, "ky": 64, "kx": 36}, {"acs": 12, "spacing": 2, "phantom": True}),
)
"""Sizes, calibration lines and spacing on which runtimes are compared; one has no axis of length one."""


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
        configuration=_plain(imported.configuration),
        inputs=inputs,
        outputs=(output,),
        conventions=Conventions(input_scaling=scaling, coil_maps="unit norm" if "maps" in network.inputs else "none"),
        domain=options.domain.model_copy(update={"dimensions": options.domain.dimensions or _dimensions(network)}),
        tolerance=options.tolerance,
        precision=options.precision,
        compiled_for=options.compiled_for,
        provenance=_provenance(checkpoint, options),
        intended_use=options.intended_use,
    )
    module = scaled(imported.module, scaling, network.inputs)
    return _build(module, manifest, folder, formats)


def export_module(
    target: str, checkpoint: Path | None, folder: Path, options: ExportOptions, formats: Sequence[str] = DEFAULT_FORMATS
) -> Bundle:
    """Write the bundle of somebody's own ``torch.nn.Module``.

    The inputs are those that ``options`` names, or else the arguments of ``forward`` that are called ``kspace``, ``mask`` and
    ``maps``.

    Parameters
    ----------
    target
        ``package.module:Class``, or a function that returns the module.
    checkpoint
        Its weights; None: as it is made.
    folder, options, formats
        As in ``export_network``.

    Raises
    ------
    CheckpointError
        The module cannot be made, or the checkpoint does not fit.
    BundleError
        The bundle cannot be written, or a runtime deviates.
    """
    module = _make_module(target, options.arguments)
    if checkpoint is not None:
        _load_own(module, checkpoint)
    inputs = options.inputs or _guess_inputs(module, target, options)
    module, output = _try(module.eval(), target, inputs, options)
    outputs = options.outputs or (output,)
    manifest = Manifest(
        name=folder.name,
        version=options.version,
        network=target,
        configuration=_plain(options.arguments),
        inputs=inputs,
        outputs=outputs,
        conventions=Conventions(coil_maps="unit norm" if any(spec.name == "maps" for spec in inputs) else "none"),
        domain=options.domain,
        tolerance=options.tolerance,
        precision=options.precision,
        compiled_for=options.compiled_for,
        provenance=_provenance(checkpoint, options, target),
        intended_use=options.intended_use,
    )
    return _build(module, manifest, folder, formats)


def _build(module: nn.Module, manifest: Manifest, folder: Path, formats: Sequence[str]) -> Bundle:
    cases = [make_case(manifest.inputs, sizes, **how) for sizes, how in _SIZES]  # pyright: ignore[reportArgumentType]
    edges = edge_cases(manifest.inputs, _SIZES[0][0])
    return build_bundle(module, manifest, cases, folder, edge_cases=edges, formats=formats)


def _dimensions(network: Network) -> tuple[Any, ...]:
    return (network.task,) if network.task in ("2d", "2d+t") else ()


def _plain(value: Any) -> Any:
    """Turn tuples into lists, which is what YAML has."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _provenance(checkpoint: Path | None, options: ExportOptions, source: str = "") -> Provenance:
    digest = hashlib.sha256()
    if checkpoint is not None:
        files = sorted(checkpoint.rglob("*")) if checkpoint.is_dir() else [checkpoint]
        for file in files or sorted(checkpoint.parent.glob(f"{checkpoint.name}.*")):
            if file.is_file():
                digest.update(file.read_bytes())
    return Provenance(
        source=source or (checkpoint.name if checkpoint is not None else ""),
        licence=options.licence,
        fingerprint=digest.hexdigest(),
        training_data=options.training_data,
    )


def _make_module(target: str, arguments: dict[str, Any]) -> nn.Module:
    package, _, name = target.partition(":")
    if not name:
        raise CheckpointError(f"--module is {target!r}; accepted is package.module:Class")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        make = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"{target} cannot be imported from {Path.cwd()}: {error}") from error
    try:
        module = make(**arguments)
    except TypeError as error:
        raise CheckpointError(f"{target} cannot be made with arguments {arguments}: {error}") from error
    if not isinstance(module, nn.Module):
        raise CheckpointError(f"{target} made a {type(module).__name__}, which is no torch.nn.Module")
    return module


def _load_own(module: nn.Module, path: Path) -> None:
    """Load a state dict; a prefix that all its names share and the module does not have is taken off, as Lightning adds one."""
    tensors = read_checkpoint(path).tensors
    names = set(module.state_dict())
    if not names & set(tensors):
        prefixes = {key.split(".", 1)[0] + "." for key in tensors}
        for prefix in sorted(prefixes):
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if names & set(own):
                tensors = own
                break
    load_state(module, tensors, path)


def _guess_inputs(module: nn.Module, target: str, options: ExportOptions) -> tuple[TensorSpec, ...]:
    plane: tuple[Direction, Direction] = options.plane or ("ky", "kx")
    undersampled = options.undersampled or ("ky",)
    known = {
        "kspace": (*_FULL, *plane, "complex"),
        "mask": ("batch", "1", *(axis if axis in undersampled else "1" for axis in plane), "1"),
        "maps": (*_FULL, *plane, "complex"),
    }
    parameters = [
        parameter
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.default is inspect.Parameter.empty or parameter.name in known
    ]
    unknown = [parameter.name for parameter in parameters if parameter.name not in known]
    if unknown or not parameters:
        raise BundleError(
            f"{target}.forward takes {', '.join(unknown) or 'nothing'}; name its inputs with their axes in the configuration "
            "(inputs: [{name: kspace, axes: [batch, coils, ky, kx, complex]}, ...])"
        )
    return tuple(TensorSpec(name=parameter.name, axes=known[parameter.name]) for parameter in parameters)


def _try(
    module: nn.Module, target: str, inputs: tuple[TensorSpec, ...], options: ExportOptions
) -> tuple[nn.Module, TensorSpec]:
    """Run the module once on every form of its inputs that it may expect; return it as it can be run, and what it returns."""
    sizes = _SIZES[1][0]
    case = make_case(inputs, sizes)
    failures = []
    for candidate, form in boundaries(module, inputs, options.complex_tensors):
        try:
            with torch.no_grad():
                output = candidate(*(case[spec.name] for spec in inputs))
            return candidate, _guess_output(output, target, inputs, sizes)
        except Exception as error:  # noqa: BLE001  (it is not our module)
            failures.append(f"with {form}: {type(error).__name__}: {error}")
    shapes = {name: tuple(tensor.shape) for name, tensor in case.items()}
    raise BundleError(f"{target} does not run on {shapes}. " + "; ".join(failures))


def _guess_output(output: Any, target: str, inputs: tuple[TensorSpec, ...], sizes: dict[str, int]) -> TensorSpec:
    """Find the axes of the output by the lengths of its axes."""
    if not isinstance(output, Tensor):
        raise BundleError(f"{target} returns a {type(output).__name__}; accepted is one tensor, or name the outputs")
    kspace = next((spec.axes for spec in inputs if spec.name == "kspace"), inputs[0].axes)
    spatial = [axis for axis in kspace if axis not in ("coils", "complex")]
    for axes in (spatial, [*spatial, "complex"]):
        if list(output.shape) == [2 if axis == "complex" else sizes.get(axis, 1) for axis in axes]:
            return TensorSpec(name="image", axes=tuple(axes))
    raise BundleError(
        f"{target} returns {tuple(output.shape)} for {sizes}, which is neither a magnitude {spatial} nor a complex image; "
        "name its outputs with their axes in the configuration"
    )
