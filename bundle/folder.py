"""A bundle: a folder that holds a reconstruction, what it accepts, how it was made, and the test that commissions it.

::

    model.yaml          the manifest
    model.yaml.minisig  who signed it; it may be missing
    model.ts            TorchScript
    model.onnx          ONNX, Fourier transforms lowered to matrix products
    model.pt2           AOTInductor, compiled for the processor it was exported on
    card.json, card.md, card.png   the report card of the gate, where it has been through it
    probe.npz           inputs (``input.<name>``) and the eager module's outputs (``output.<name>``)

The engine notes beside them how fast the runtimes are (``measured.json``). Anything else is refused.
"""

import hashlib
import io
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from .files import open_regular, read_regular
from .manifest import (
    CARD,
    CARD_DATA,
    CARD_TEXT,
    MANIFEST,
    MEASURED,
    PROBE,
    RUNTIME_FILES,
    SIGNATURE,
    BundleError,
    Manifest,
    TensorSpec,
    parse_manifest,
)
from .minisign import PublicKey
from .trust import EVERYBODY, Trust

_LONGEST_MANIFEST = 2**18
_LARGEST_PROBE = 2**30
"""Bytes of a probe's tensors; that of a network at its own size has some ten million."""
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(RuntimeError, ValueError, KeyError, SyntaxError, MemoryError, OverflowError),
)
"""What Python raises for archives and arrays that are not well made."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files are the ones that its manifest lists.

    Parameters
    ----------
    folder
        Where it is.
    manifest
        What it says of itself.
    signer
        The trusted key that signed it, if one did.
    made_here
        Whether this process has just made it.
    """

    folder: Path
    manifest: Manifest
    signer: PublicKey | None = None
    made_here: bool = False

    @classmethod
    def open(cls, folder: Path, trust: Trust = EVERYBODY) -> "Bundle":
        """Read a bundle and check every file against its hash. Its name is that of its folder, which may have been renamed.

        Parameters
        ----------
        folder
            Where it is.
        trust
            Whose bundles are used; everybody's by default.

        Raises
        ------
        BundleError
            There is no valid manifest, nobody who is trusted signed it, or a file is missing, changed, not listed or a link.
        """
        path = folder / MANIFEST
        if not os.path.lexists(path):
            raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}")
        try:
            name, entries = folder.resolve().name, sorted(path.name for path in folder.iterdir())
        except OSError as error:
            raise BundleError(f"{folder} cannot be read: {error.strerror}") from error
        text = read_regular(path, _LONGEST_MANIFEST)
        try:
            signer = trust.signer(text, folder / SIGNATURE)
        except BundleError as error:
            error.where = f"bundle {name!r}"
            raise
        digest = hashlib.sha256(text).hexdigest()
        manifest = parse_manifest(text, path).model_copy(update={"name": name, "digest": digest})
        bundle = cls(folder, manifest, signer)
        bundle._check_listing(entries)
        for file, expected in manifest.files.items():
            if sha256(folder / file) != expected:
                raise _changed(file, manifest)
        return bundle

    @property
    def may_hold_machine_code(self) -> bool:
        """Whether it is known who made it: ``model.pt2`` is a program, which nothing can check."""
        return self.made_here or self.signer is not None

    def _check_listing(self, entries: Sequence[str]) -> None:
        known = {PROBE, *CARD, *RUNTIME_FILES.values()}
        where = f"bundle {self.manifest.name!r}"
        for name in self.manifest.files:
            if name not in known:
                raise BundleError(
                    f"{self.folder / MANIFEST} lists {name!r}, which is no part of a bundle",
                    accepted=", ".join(sorted(known)),
                )
        if PROBE not in self.manifest.files or not any(name in self.manifest.files for name in RUNTIME_FILES.values()):
            raise BundleError(f"bundle {self.manifest.name!r} lists no probe or no model")
        if (self.manifest.gate is not None) != all(name in self.manifest.files for name in (CARD_DATA, CARD_TEXT)):
            raise BundleError(
                "its manifest tells of a gate without its report card, or lists one without telling", where=where
            )
        for name in entries:
            if name not in {*self.manifest.files, MANIFEST, SIGNATURE, MEASURED}:
                raise BundleError(f"{name!r} is in its folder, and its manifest does not list it", where=where)
        measured = self.folder / MEASURED
        if os.path.lexists(measured) and not stat.S_ISREG(measured.lstat().st_mode):
            raise BundleError(f"{MEASURED} is a link, or no file", where=where)

    def runtime_files(self) -> dict[str, Path]:
        """Return the model files by the name of their runtime."""
        return {runtime: self.folder / name for runtime, name in RUNTIME_FILES.items() if name in self.manifest.files}

    def probe(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the inputs and outputs of the commissioning test.

        Returns
        -------
        tuple of dict
            float32 on the CPU, by name, with the axes of the manifest's inputs and outputs.

        Raises
        ------
        BundleError
            It is not what the manifest's inputs and outputs need.
        """
        try:
            arrays = _read_arrays(read_listed(self.folder / PROBE, self.manifest))
            return _tensors(arrays, "input", self.manifest.inputs), _tensors(arrays, "output", self.manifest.outputs)
        except BundleError as error:
            error.where = f"bundle {self.manifest.name!r}"
            raise


def _read_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Read an archive of NumPy, whose parts must be as long as they say."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST_PROBE:
                raise BundleError(f"{PROBE} is too large", accepted=f"{_LARGEST_PROBE} bytes")
            return {entry.filename.removesuffix(".npy"): _array(archive.read(entry)) for entry in archive.infolist()}
    except _UNREADABLE as error:
        raise BundleError(f"{PROBE} is damaged") from error


def _array(content: bytes) -> NDArray[Any]:
    file = io.BytesIO(content)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(file)]
    shape, _, dtype = read_header(file)
    if dtype != np.float32 or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError
    return npy.read_array(io.BytesIO(content), allow_pickle=False)


def _tensors(arrays: dict[str, NDArray[Any]], kind: str, specs: tuple[TensorSpec, ...]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for spec in specs:
        array = arrays.get(f"{kind}.{spec.name}")
        if array is None or array.ndim != len(spec.axes):
            raise BundleError(f"{PROBE} has no {kind} {spec.name!r} of {len(spec.axes)} axes")
        tensors[spec.name] = torch.as_tensor(array)
    return tensors


def read_listed(path: Path, manifest: Manifest) -> bytes:
    """Return what is in a file of a bundle, with the hash that the manifest lists, if it lists it: a new one does not yet.

    What is checked and what is used are the same bytes, whatever happens to the file meanwhile.

    Raises
    ------
    BundleError
        It has changed, or is no file.
    """
    content = read_regular(path)
    if manifest.files.get(path.name, digest := hashlib.sha256(content).hexdigest()) != digest:
        raise _changed(path.name, manifest)
    return content


def _changed(name: str, manifest: Manifest) -> BundleError:
    return BundleError(f"{name} does not have the hash that the manifest lists", where=f"bundle {manifest.name!r}")


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal.

    Raises
    ------
    BundleError
        It is no file, or missing.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relative_error(outputs: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest deviation of any output: ``max |x - x0| / max |x0|``, each output by itself.

    Relative to the largest value and not to each, as most pixels of an image are noise around zero.

    Parameters
    ----------
    outputs, expected
        x and x0 by name, any axes; on any device, compared on the CPU in the dtype of x0.

    Returns
    -------
    float
        Infinite where shapes differ or a value is NaN or infinite.
    """
    worst = 0.0
    for name, reference in expected.items():
        output = outputs[name]
        if output.shape != reference.shape or not (torch.isfinite(output).all() and torch.isfinite(reference).all()):
            return float("inf")
        scale = max(float(reference.abs().max()), 1e-30)
        worst = max(worst, float((output.to(reference.dtype).cpu() - reference).abs().max()) / scale)
    return worst
