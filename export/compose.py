"""Compose a bundle: a module, what is wrapped around it, and a manifest that says so; it is written once all is checked."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..bundle.folder import Bundle
from ..bundle.manifest import BundleError, Conventions, Domain, Manifest, Provenance, TensorSpec
from ..bundle.minisign import SecretKey
from ..models.networks.last_step import FinishedBySense
from ..models.scaling import Scaling, scaled
from .build import build_bundle
from .cases import SIZES, Inputs, comparison_cases, edge_cases
from .options import ExportOptions
from .parity import run_module
from .trained import shareable


@dataclass(frozen=True)
class BundlePlan:
    """A bundle that can be written.

    Parameters
    ----------
    module
        Takes the manifest's inputs in their order and returns its outputs.
    manifest
        Everything but files, parity and tools; under a name that the bundle's folder will replace.
    impossible
        As in ``build_bundle``.
    """

    module: nn.Module
    manifest: Manifest
    impossible: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path, formats: Sequence[str] | None = None, key: SecretKey | None = None) -> Bundle:
        """Write the bundle; parameters and errors are those of ``build_bundle``."""
        inputs = self.manifest.inputs
        return build_bundle(
            self.module,
            self.manifest.model_copy(update={"name": folder.name}),
            comparison_cases(inputs),
            folder,
            edge_cases=edge_cases(inputs, SIZES[0][0]),
            formats=formats,
            impossible=self.impossible,
            key=key,
        )


def compose(
    module: nn.Module,
    options: ExportOptions,
    *,
    network: str,
    configuration: dict[str, Any],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    scaling: Scaling,
    checkpoint: Path | None,
    source: str = "",
    training: Mapping[str, Any] | None = None,
    impossible: Mapping[str, str] | None = None,
) -> BundlePlan:
    """Plan the bundle of a module that takes k-space of any size.

    Parameters
    ----------
    module
        Takes the inputs in their order.
    options
        What the user says.
    network, configuration
        What the module is called, and how it was made.
    inputs, outputs
        Of the bundle.
    scaling
        What k-space is divided by in front of the module.
    checkpoint
        Where the weights come from; None: nowhere.
    source
        What to name instead of the checkpoint.
    training
        What this project's training wrote beside the weights: ``recipe`` and ``packages``.
    impossible
        As in ``build_bundle``.

    Raises
    ------
    BundleError
        Nobody gave the weights, they have no effect, or it cannot end with SENSE or tell its uncertainty as the options say.
    """
    if checkpoint is None and not options.weights_inside and any(True for _ in module.parameters()):
        raise BundleError(
            f"{network} has weights, and nobody gave them: they would be random",
            accepted="--checkpoint, or 'weights_inside: true' in the configuration if it loads them itself when it is made",
        )
    if options.uncertainty is not None and "error" not in {spec.name for spec in outputs}:
        raise BundleError(f"network {network!r} cannot tell its uncertainty", accepted="'ridge-net'")
    names = tuple(spec.name for spec in inputs)
    manifest = Manifest(
        name="planned",
        version=options.version,
        network=network,
        configuration=configuration,
        inputs=inputs,
        outputs=outputs,
        conventions=Conventions(
            input_scaling=scaling,
            coil_maps="unit norm" if "maps" in names else "none",
            sense_step=options.sense_step,
        ),
        domain=_domain(options.domain, inputs),
        tolerance=options.tolerance,
        precision=options.precision,
        compiled_for=options.compiled_for,
        uncertainty=options.uncertainty,
        provenance=_provenance(checkpoint, options, source, training or {}),
        intended_use=options.intended_use,
    )
    whole = _finished(scaled(module, scaling, names), manifest).eval()
    _check_effect(whole, manifest, min(comparison_cases(inputs), key=_size))
    return BundlePlan(whole, manifest, impossible or {})


def _size(inputs: Inputs) -> int:
    return sum(tensor.numel() for tensor in inputs.values())


def _check_effect(module: nn.Module, manifest: Manifest, inputs: Inputs) -> None:
    """Refuse a module whose image is the same with other weights, as it is without any iterations.

    All weights are changed at once: a part of them may well have no effect, such as biases in front of a normalisation.
    """
    if not any(True for _ in module.parameters()):
        return
    other, random = copy.deepcopy(module), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in other.parameters():
            change = torch.rand(weights.shape, generator=random).to(weights.dtype)
            weights.add_((0.1 + change) * (0.1 + weights.abs().mean()))
    image = manifest.outputs[0].name
    same = run_module(module, manifest, inputs)[image]
    try:
        changed = run_module(other, manifest, inputs)[image]
    except BundleError:  # weights that nobody trained may well end in numbers that some step refuses
        return
    if torch.equal(same, changed):
        raise BundleError(
            f"the weights of {manifest.network} have no effect on its image with the configuration {manifest.configuration}"
        )


def _finished(module: nn.Module, manifest: Manifest) -> nn.Module:
    """Add the last step that a manifest names."""
    weight = manifest.conventions.sense_step
    if weight is None:
        return module
    names = tuple(spec.name for spec in manifest.inputs)
    if names != ("kspace", "mask", "maps") or manifest.outputs[0].axes[-1] != "complex":
        raise BundleError(
            f"{manifest.network} cannot end with SENSE (sense_step): it takes {', '.join(names)} and returns "
            f"{list(manifest.outputs[0].axes)}",
            accepted="k-space, mask and coil maps, and a complex image",
        )
    return FinishedBySense(module, weight)


def _domain(domain: Domain, inputs: Sequence[TensorSpec]) -> Domain:
    """Add what the inputs' axes say of the scans that they are for."""
    axes = next((spec.axes for spec in inputs if spec.name == "kspace"), ())
    if domain.dimensions or not axes:
        return domain
    task: Literal["2d", "3d", "2d+t"] = "2d+t" if "frames" in axes else "3d" if "kz" in axes else "2d"
    return domain.model_copy(update={"dimensions": (task,)})


def _provenance(
    checkpoint: Path | None, options: ExportOptions, source: str, training: Mapping[str, Any]
) -> Provenance:
    """Say where a reconstruction comes from: its checkpoint by a hash of every byte, and what the user says of it."""
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
        recipe=shareable(training.get("recipe", {})),
        training_tools=dict(training.get("packages", {})),
    )
