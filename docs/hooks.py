"""What the site has beside the pages of this folder: files at the root of the repository, with links as they are here."""

import re
import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_shown: list[tempfile.TemporaryDirectory[str]] = []
"""Removed when the program ends."""


@event_priority(100)  # before the plugin reads its paths
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show the code under the package's name to what reads it: the folder of a clone may have any name."""
    _shown.append(tempfile.TemporaryDirectory(prefix="isocenter-docs-"))
    package = Path(_shown[-1].name) / "isocenter"
    package.symlink_to(ROOT, target_is_directory=True)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(package.parent)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=_as_in_docs((ROOT / source).read_text(encoding="utf-8"))))
    return files


def _as_in_docs(text: str) -> str:
    text = re.sub(r"\]\(docs/", "](", text)
    for page, source in PAGES.items():
        text = text.replace(f"]({source})", f"]({page})")
    return text
