"""The classical reconstructions as bundles: root-sum-of-squares, coil combination and SENSE."""

import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models import classical, fourier, planar
from ..models.classical import CoilCombine, RootSumOfSquares, Sense
from .build import Inputs, build_bundle
from .bundle import Bundle, BundleError, Conventions, Domain, Manifest, Provenance, TensorSpec

log = logging.getLogger("isocenter.export")

VERSION = "1.0"
_KSPACE = TensorSpec(name="kspace", axes=("batch", "coils", "kz", "ky", "kx", "complex"))
_MAPS = TensorSpec(name="maps", axes=("batch", "coils", "kz", "ky", "kx", "complex"))
_MASK = TensorSpec(name="mask", axes=("batch", "kz", "ky"))
_MAGNITUDE = TensorSpec(name="image", axes=("batch", "kz", "ky", "kx"))
_COMPLEX = TensorSpec(name="image", axes=("batch", "kz", "ky", "kx", "complex"))


@dataclass(frozen=True)
class _Method:
    make: Callable[..., nn.Module]
    configuration: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    intended_use: str


METHODS: dict[str, _Method] = {
    "rss": _Method(RootSumOfSquares, {}, (_KSPACE,), _MAGNITUDE, "fully sampled Cartesian scans; quality control"),
    "combine": _Method(CoilCombine, {}, (_KSPACE, _MAPS), _COMPLEX, "fully sampled Cartesian scans, with phase"),
    "sense": _Method(
        Sense,
        {"iterations": 20, "regularization": 0.005},
        (_KSPACE, _MASK, _MAPS),
        _COMPLEX,
        "Cartesian parallel imaging; fallback of the networks",
    ),
}
"""The classical bundles by name."""


def ensure_classical(folder: Path) -> list[Bundle]:
    """Build the classical bundles that are missing in ``folder`` or were made by other code or another torch."""
    return [_ensure(name, method, folder / name) for name, method in METHODS.items()]


def _ensure(name: str, method: _Method, folder: Path) -> Bundle:
    fingerprint = _fingerprint(method)
    try:
        bundle = Bundle.open(folder)
    except BundleError as error:
        log.info("building bundle %s: %s", name, error)
    else:
        if bundle.manifest.provenance.fingerprint == fingerprint:
            return bundle
        log.info("building bundle %s: its code has changed", name)
    manifest = Manifest(
        name=name,
        version=VERSION,
        network=method.make.__name__,
        configuration=method.configuration,
        inputs=method.inputs,
        outputs=(method.output,),
        conventions=Conventions(coil_maps="unit norm" if _MAPS in method.inputs else "none"),
        domain=Domain(dimensions=("2d", "3d")),
        provenance=Provenance(source="isocenter.models.classical", licence="MIT", fingerprint=fingerprint),
        intended_use=f"research only: {method.intended_use}",
    )
    cases = [
        _case(method, *sizes) for sizes in ((1, 4, 1, 48, 40), (2, 3, 1, 37, 30), (2, 3, 4, 24, 21), (3, 1, 1, 20, 64))
    ]
    return build_bundle(method.make(**method.configuration), manifest, cases, folder)


def _fingerprint(method: _Method) -> str:
    """Hash of everything that the bundle is made from."""
    digest = hashlib.sha256(f"{torch.__version__} {method.configuration} {VERSION}".encode())
    for module in (classical, fourier, planar):
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def _case(method: _Method, batch: int, coils: int, kz: int, ky: int, kx: int) -> Inputs:
    """Random k-space that falls off from the middle, smooth unit-norm maps, and a mask with R = 2 and a full middle."""
    random = torch.Generator().manual_seed(batch + 10 * coils + 100 * ky)
    shape = (batch, coils, kz, ky, kx)
    decay = 1.0
    for axis, size in zip((2, 3, 4), (kz, ky, kx), strict=True):
        distance = (torch.arange(size) - size // 2).abs() / size
        decay = decay * (0.02 / (0.02 + distance)).reshape([-1 if index == axis else 1 for index in range(5)])
    mask = torch.zeros(batch, kz, ky)
    mask[..., ::2] = 1
    mask[..., ky // 2 - 3 : ky // 2 + 3] = 1
    kspace = torch.randn(*shape, dtype=torch.complex64, generator=random) * decay * mask[:, None, :, :, None]
    inputs: dict[str, Tensor] = {
        "kspace": torch.view_as_real(kspace),
        "mask": mask,
        "maps": torch.view_as_real(_maps(shape)),
    }
    return {spec.name: inputs[spec.name] for spec in method.inputs}


def _maps(shape: tuple[int, ...]) -> Tensor:
    batch, coils, kz, ky, kx = shape
    y, x = torch.linspace(-1, 1, ky)[:, None], torch.linspace(-1, 1, kx)[None, :]
    angles = [2 * math.pi * coil / coils for coil in range(coils)]
    fields = [
        torch.exp(-((y - math.sin(a)) ** 2 + (x - math.cos(a)) ** 2)) * torch.exp(1j * (y * math.cos(a) + a))
        for a in angles
    ]
    maps = torch.stack(fields)
    maps = maps / torch.linalg.vector_norm(maps, dim=0)
    return maps[None, :, None].expand(batch, coils, kz, ky, kx).to(torch.complex64).contiguous()
