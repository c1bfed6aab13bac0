"""Whether the bundles that come with Isocenter are there and were made of what there is now, told without importing it."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path

from ..bundle.manifest import MANIFEST, SIGNATURE
from ..service.settings import Settings

_STAMP = ".prepared.json"
_ROOT = Path(__file__).parent.parent
_SOURCES = ("models/**/*.py", "export/**/*.py", "export/weights/*", "export/cards/*/*")


def is_current(settings: Settings) -> bool:
    """Whether nothing has to be built since ``write`` was last called for these settings."""
    folder = settings.home / "bundles"
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
        return stamp["made_of"] == _digest(settings) and stamp["bundles"] == _manifests(folder, stamp["bundles"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def write(settings: Settings, names: Iterable[str]) -> None:
    """Note that all these bundles are there."""
    folder = settings.home / "bundles"
    stamp = {"made_of": _digest(settings), "bundles": _manifests(folder, names)}
    (folder / _STAMP).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")


def _digest(settings: Settings) -> str:
    """Hash of everything that the bundles are made of: code, weights, torch, and the runtime that must be able to read them."""
    digest = hashlib.sha256(f"{importlib.metadata.version('torch')} {settings.runtime} {bool(settings.keys)}".encode())
    for pattern in _SOURCES:
        for path in sorted(_ROOT.glob(pattern)):
            digest.update(path.relative_to(_ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _manifests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Hashes of the bundles' manifests, which hold those of their files; these are checked when a bundle is opened."""
    return {name: _manifest(folder / name) for name in sorted(names) if (folder / name).is_dir()}


def _manifest(folder: Path) -> str:
    """Hash of a manifest and, where it is signed, of the signature."""
    signature = folder / SIGNATURE
    signed = signature.read_bytes() if signature.is_file() else b""
    return hashlib.sha256((folder / MANIFEST).read_bytes() + signed).hexdigest()
