"""The classical reconstructions as bundles: root-sum-of-squares, coil combination, SENSE, J-SENSE, compressed sensing."""

import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..bundle.folder import Bundle
from ..bundle.manifest import Conventions, Domain, Manifest, Provenance, TensorSpec
from ..bundle.minisign import SecretKey
from ..models.classical import CoilCombine, RootSumOfSquares, Sense
from ..models.compressed_sensing import TotalVariation, Wavelets
from ..models.jsense import JSense
from .build import DEFAULT_FORMATS, SHIPPED_FORMATS, build_bundle, find_current
from .card import with_shipped_card
from .cases import make_case

log = logging.getLogger("isocenter.export")

VERSION = "1.1"
_KSPACE = TensorSpec(name="kspace", axes=("batch", "coils", "kz", "ky", "kx", "complex"))
_MAPS = TensorSpec(name="maps", axes=("batch", "coils", "kz", "ky", "kx", "complex"))
_MASK = TensorSpec(name="mask", axes=("batch", "kz", "ky"))
_REGULARIZATION = TensorSpec(name="regularization", axes=("batch",))
_MAGNITUDE = TensorSpec(name="image", axes=("batch", "kz", "ky", "kx"))
_KERNEL = (15, 15)
_SLICE = TensorSpec(
    name="kspace",
    axes=("batch", "coils", "ky", "kx", "complex"),
    limits={"ky": (_KERNEL[0], 65535), "kx": (_KERNEL[1], 65535)},
)
_LINES = TensorSpec(name="mask", axes=("batch", "1", "ky", "1", "1"))
_SLICE_MAGNITUDE = TensorSpec(name="image", axes=("batch", "ky", "kx"))
_COMPLEX = TensorSpec(name="image", axes=("batch", "kz", "ky", "kx", "complex"))


@dataclass(frozen=True)
class _Method:
    make: Callable[..., nn.Module]
    configuration: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    intended_use: str
    formats: tuple[str, ...] = DEFAULT_FORMATS
    unfolds: bool = True
    volumes: bool = True


METHODS: dict[str, _Method] = {
    "rss": _Method(
        RootSumOfSquares, {}, (_KSPACE,), _MAGNITUDE, "fully sampled Cartesian scans; quality control", unfolds=False
    ),
    "combine": _Method(
        CoilCombine, {}, (_KSPACE, _MAPS), _COMPLEX, "fully sampled Cartesian scans, with phase", unfolds=False
    ),
    "sense": _Method(
        Sense,
        {"iterations": 20, "regularization": 0.005},
        (_KSPACE, _MASK, _MAPS, _REGULARIZATION),
        _COMPLEX,
        "Cartesian parallel imaging; fallback of the networks",
    ),
    "tv": _Method(
        TotalVariation,
        {"iterations": 20, "inner_iterations": 4, "strength": 0.12, "penalty": 0.03},
        (_KSPACE, _MASK, _MAPS, _REGULARIZATION),
        _COMPLEX,
        "Cartesian compressed sensing; the total variation's weight follows the noise level",
        # an ONNX graph would hold all iterations one after the other, some ten thousand operations
        ("torchscript",),
        volumes=False,  # their strength was chosen on slices
    ),
    "l1-wavelet": _Method(
        Wavelets,
        {"iterations": 20, "inner_iterations": 4, "strength": 0.05, "penalty": 0.03, "levels": 3},
        (_KSPACE, _MASK, _MAPS, _REGULARIZATION),
        _COMPLEX,
        "Cartesian compressed sensing; the wavelets' weight follows the noise level",
        ("torchscript",),
        volumes=False,
    ),
    "jsense": _Method(
        JSense,
        {"unrolls": 2, "map_iterations": 6, "image_iterations": 10, "kernel": _KERNEL},
        (_SLICE, _LINES),
        _SLICE_MAGNITUDE,
        "Cartesian parallel imaging that refines the coil maps of few calibration lines",
        ("torchscript",),
        volumes=False,
    ),
}
"""The classical bundles by name."""

_SIZES = (
    {"batch": 1, "coils": 4, "kz": 1, "ky": 48, "kx": 40},
    {"batch": 2, "coils": 3, "kz": 1, "ky": 37, "kx": 30},
    {"batch": 2, "coils": 3, "kz": 4, "ky": 24, "kx": 21},
    {"batch": 3, "coils": 1, "kz": 1, "ky": 20, "kx": 64},
)
"""Sizes on which the runtimes are compared; one has no axis of length one."""


def ensure_classical(
    folder: Path,
    formats: Sequence[str] = SHIPPED_FORMATS,
    only: Collection[str] | None = None,
    key: SecretKey | None = None,
) -> list[Bundle]:
    """Build classical bundles, all or ``only`` some, that are missing, lack a format, or were made by other code or torch.

    With a key they are signed, and those that it has not signed are built again.
    """
    return [
        with_shipped_card(_ensure(name, method, folder / name, _possible(name, method, formats), key), key)
        for name, method in METHODS.items()
        if only is None or name in only
    ]


def _possible(name: str, method: _Method, formats: Sequence[str]) -> list[str]:
    """Leave out the formats that a method cannot have: they are asked for of all bundles at once."""
    for each in formats:
        if each not in method.formats:
            log.warning("bundle %s: it can have no %s, only %s", name, each, " and ".join(method.formats))
    return [each for each in formats if each in method.formats]


def _ensure(name: str, method: _Method, folder: Path, formats: Sequence[str], key: SecretKey | None) -> Bundle:
    fingerprint = _fingerprint(method)
    if (bundle := find_current(folder, fingerprint, formats, key)) is not None:
        return bundle
    manifest = Manifest(
        name=name,
        version=VERSION,
        network=method.make.__name__,
        configuration=method.configuration,
        inputs=method.inputs,
        outputs=(method.output,),
        conventions=Conventions(coil_maps="unit norm" if _MAPS in method.inputs else "none"),
        domain=Domain(
            dimensions=("2d", "3d") if method.volumes else ("2d",),
            acceleration=None if method.unfolds else (1.0, 1.0),
        ),
        provenance=Provenance(source="isocenter.models.classical", licence="MIT", fingerprint=fingerprint),
        intended_use=f"research only: {method.intended_use}",
    )
    cases = [make_case(method.inputs, sizes, phantom=sizes["kz"] > 1) for sizes in _SIZES]
    return build_bundle(method.make(**method.configuration), manifest, cases, folder, formats=formats, key=key)


def _fingerprint(method: _Method) -> str:
    """Hash of what the bundle is made from, besides code."""
    return hashlib.sha256(f"{method.configuration} {method.unfolds} {method.volumes} {VERSION}".encode()).hexdigest()
