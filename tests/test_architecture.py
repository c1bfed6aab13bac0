"""Who imports whom, and how large files may grow."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("gadgets", "pipelines", "models", "export", "service", "simulate")
ALLOWED = {
    "service": {"pipelines", "gadgets", "export"},
    "pipelines": {"gadgets"},
    "gadgets": {"models"},
    "export": {"models", "gadgets.errors"},
    "models": set(),
    "simulate": set(),
}
COMMANDS = {
    "service/cli.py": {"simulate"},
    "service/demo.py": {"simulate", "models"},
    "service/evaluate.py": {"simulate", "models"},
    "service/network_cli.py": {"models.networks.registry"},
    "models/training/data.py": {"simulate"},
}
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imported(path):
    """Folders (and modules in them) that a file imports from outside its own folder."""
    depth = len(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("isocenter"), f"{path} must import relatively"
            if node.level == depth and node.module:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    name = str(path.relative_to(ROOT))
    folder = path.relative_to(ROOT).parts[0]
    allowed = ALLOWED[folder] | COMMANDS.get(name, set())
    for module in imported(path):
        assert any(module == entry or module.startswith(f"{entry}.") for entry in allowed), f"{name} imports {module}"


def test_neither_gadgets_nor_the_host_of_bundles_need_a_networks_class():
    for path in [
        *(ROOT / "gadgets").rglob("*.py"),
        *(ROOT / "service" / "engine").rglob("*.py"),
        ROOT / "export" / "runtimes.py",
    ]:
        assert not any(module.startswith(("models.networks", "models.training")) for module in imported(path)), path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path):
    assert path.stat().st_size < 20_000
