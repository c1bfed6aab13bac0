"""Which bundles that come with Isocenter are there and were made of what there is now, told without importing it."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

from ..bundle.manifest import MANIFEST, SIGNATURE
from ..service.settings import Settings
from .shipped import NAMES

_STAMP = ".prepared.json"
_ROOT = Path(__file__).parent.parent
_SOURCES = ("models/**/*.py", "export/**/*.py", "export/weights/*", "export/cards/*/*")


def missing(settings: Settings) -> list[str]:
    """Return the names of bundles that have to be built, or looked at, since ``note`` was called for these settings."""
    folder = settings.home / "bundles"
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
        noted = stamp["bundles"] if stamp["made_of"] == _digest(settings) else {}
        return [name for name in NAMES if name not in noted or noted[name] != _manifest(folder / name)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return list(NAMES)


def note(settings: Settings, name: str) -> None:
    """Note that a bundle is there; one process at a time."""
    folder = settings.home / "bundles"
    lacking = missing(settings)
    kept = [other for other in NAMES if other not in lacking]
    stamp = {"made_of": _digest(settings), "bundles": {each: _manifest(folder / each) for each in (*kept, name)}}
    (folder / _STAMP).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")


def _digest(settings: Settings) -> str:
    """Hash of everything that the bundles are made of: code, weights, torch, and the runtime that must be able to read them."""
    digest = hashlib.sha256(f"{importlib.metadata.version('torch')} {settings.runtime} {bool(settings.keys)}".encode())
    for pattern in _SOURCES:
        for path in sorted(_ROOT.glob(pattern)):
            digest.update(path.relative_to(_ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _manifest(folder: Path) -> str:
    """Hash of a manifest and, where it is signed, of the signature; empty where there is none."""
    signature = folder / SIGNATURE
    signed = signature.read_bytes() if signature.is_file() else b""
    manifest = folder / MANIFEST
    return hashlib.sha256(manifest.read_bytes() + signed).hexdigest() if manifest.is_file() else ""
