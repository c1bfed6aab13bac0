"""A bundle: a folder that holds a reconstruction, what it accepts, how it was made, and the test that commissions it.

::

    model.yaml      the manifest
    model.ts        TorchScript
    model.onnx      ONNX, Fourier transforms lowered to matrix products
    model.pt2       AOTInductor, compiled for the processor it was exported on
    probe.npz       inputs (``input.<name>``) and the eager module's outputs (``output.<name>``)
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from .manifest import MANIFEST, PROBE, RUNTIME_FILES, BundleError, Manifest


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files are the ones that its manifest lists."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "Bundle":
        """Read a bundle and check every file against its hash. Its name is that of its folder, which may have been renamed.

        Raises
        ------
        BundleError
            There is no valid manifest, or a file is missing, changed, unexpected or a link.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}")
        try:
            manifest = Manifest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
            raise BundleError(f"{path} is not a valid manifest: {error}") from error
        manifest = manifest.model_copy(update={"name": folder.resolve().name, "digest": sha256(path)})
        known = {PROBE, *RUNTIME_FILES.values()}
        for name, expected in manifest.files.items():
            file = folder / name
            if name not in known:
                raise BundleError(
                    f"{path} lists {name!r}, which is no part of a bundle", accepted=", ".join(sorted(known))
                )
            if file.is_symlink() or not file.is_file():
                raise BundleError(f"{name} is missing or a link", where=f"bundle {manifest.name!r}")
            if sha256(file) != expected:
                raise BundleError(
                    f"{name} does not have the hash that the manifest lists", where=f"bundle {manifest.name!r}"
                )
        if PROBE not in manifest.files or not any(name in manifest.files for name in RUNTIME_FILES.values()):
            raise BundleError(f"bundle {manifest.name!r} lists no probe or no model")
        return cls(folder, manifest)

    def runtime_files(self) -> dict[str, Path]:
        """Return the model files by the name of their runtime."""
        return {runtime: self.folder / name for runtime, name in RUNTIME_FILES.items() if name in self.manifest.files}

    def probe(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the inputs and outputs of the commissioning test."""
        with np.load(self.folder / PROBE, allow_pickle=False) as file:
            arrays: dict[str, NDArray[Any]] = dict(file)
        parts: dict[str, dict[str, Tensor]] = {"input": {}, "output": {}}
        for key, array in arrays.items():
            kind, _, name = key.partition(".")
            parts[kind][name] = torch.from_numpy(array)
        return parts["input"], parts["output"]


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relative_error(outputs: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest deviation of any output, relative to the largest expected value; infinite where shapes differ or NaN appears."""
    worst = 0.0
    for name, reference in expected.items():
        output = outputs[name]
        if output.shape != reference.shape or not torch.isfinite(output).all():
            return float("inf")
        scale = max(float(reference.abs().max()), 1e-30)
        worst = max(worst, float((output.to(reference.dtype).cpu() - reference).abs().max()) / scale)
    return worst
