"""Compose a bundle: a module, what is wrapped around it, and a manifest that says so."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ..bundle.folder import Bundle
from ..bundle.manifest import BundleError, Conventions, Domain, Manifest, Provenance, TensorSpec
from ..bundle.minisign import SecretKey
from ..models.networks.last_step import FinishedBySense
from ..models.scaling import Scaling, scaled
from .build import build_bundle
from .cases import SIZES, comparison_cases, edge_cases
from .options import ExportOptions
from .trained import shareable


def compose_bundle(
    module: nn.Module,
    folder: Path,
    options: ExportOptions,
    formats: Sequence[str] | None,
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
    key: SecretKey | None = None,
) -> Bundle:
    """Write the bundle of a module that takes k-space of any size.

    Parameters
    ----------
    module
        Takes the inputs in their order.
    folder, options, formats, key
        As in ``export_network``.
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
        The bundle cannot be written, a runtime deviates, or it cannot end with SENSE or tell its uncertainty as the options say.
    """
    if options.uncertainty is not None and "error" not in {spec.name for spec in outputs}:
        raise BundleError(f"network {network!r} cannot tell its uncertainty", accepted="'ridge-net'")
    names = tuple(spec.name for spec in inputs)
    manifest = Manifest(
        name=folder.name,
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
    whole = _finished(scaled(module, scaling, names), manifest)
    edges = edge_cases(inputs, SIZES[0][0])
    return build_bundle(
        whole,
        manifest,
        comparison_cases(inputs),
        folder,
        edge_cases=edges,
        formats=formats,
        impossible=impossible,
        key=key,
    )


def _finished(module: nn.Module, manifest: Manifest) -> nn.Module:
    """Add the last step that a manifest names."""
    weight = manifest.conventions.sense_step
    if weight is None:
        return module
    names = tuple(spec.name for spec in manifest.inputs)
    if names != ("kspace", "mask", "maps") or manifest.outputs[0].axes[-1] != "complex":
        raise BundleError(
            f"bundle {manifest.name!r} cannot end with SENSE (sense_step): it takes {', '.join(names)} and returns "
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
