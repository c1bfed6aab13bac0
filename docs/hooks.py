"""What the site has beside the pages of this folder: files at the root of the repository, with links as they are here."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


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
