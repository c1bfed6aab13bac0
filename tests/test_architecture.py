"""Who imports whom, directly and along the way, in every form of import; and how large files may grow."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = (
    *("bundle", "commands", "engine", "export", "flow", "gadgets", "models"),
    *("pipelines", "service", "simulate", "training", "wire"),
)
ALLOWED = {
    "wire": set(),
    "flow": set(),
    "models": {"wire.errors", "wire.entries"},
    "simulate": {"wire"},
    "bundle": {"wire.errors", "wire.accepted", "wire.entries", "wire.plain_files"},
    "engine": {"bundle", "flow", "wire.errors", "wire.extras"},
    "gadgets": {"wire", "flow", "bundle", "models"},
    "pipelines": {"gadgets", "wire"},
    "training": {"models", "gadgets", "wire", "simulate", "flow"},
    "export": {"models", "bundle", "engine", "wire.errors", "wire.entries", "wire.extras"},
    "service": {"pipelines", "gadgets", "engine", "bundle", "flow", "wire"},
    "commands": set(FOLDERS),
    "__init__": set(FOLDERS),
}
"""Rooms, or modules in them, that each room may import directly. ``__init__`` is the front door."""

NETWORKS = ("models.networks", "export", "training")
"""What a host of bundles can do without."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}
MODULES["__init__"] = ROOT / "__init__.py"


def owner(dotted: str) -> str:
    """The module that a dotted name refers to, which may be something in it."""
    while dotted and dotted not in MODULES:
        dotted = dotted.rpartition(".")[0]
    return dotted


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(tree: ast.AST, module: str, is_package: bool, *, at_import: bool):
    """Every module of ours that an import statement or a call of ``import_module`` or ``__import__`` names.

    With ``at_import``, only what is imported as soon as the module is: nothing in functions or for types only.
    """
    package = [] if module == "__init__" else module.split(".") if is_package else module.split(".")[:-1]
    pending = [tree]
    while pending:
        node = pending.pop()
        if at_import and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_for_types_only(node)
        ):
            continue
        pending += ast.iter_child_nodes(node)
        yield from (target for target in named(node, package) if target and target != module)


def named(node: ast.AST, package: list[str]):
    if isinstance(node, ast.Import):
        for alias in node.names:
            top, _, rest = alias.name.partition(".")
            if top == "isocenter":
                yield owner(rest)
    elif isinstance(node, ast.ImportFrom):
        base = absolute(node.module or "", node.level, package)
        if base is not None:
            for alias in node.names:
                yield owner(f"{base}.{alias.name}".strip("."))
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
        yield from called(node, package)


def called(node: ast.Call, package: list[str]):
    """What ``import_module`` is called with; where a part is only known at run time, the part before it."""
    argument = node.args[0] if node.args else None
    if isinstance(argument, ast.JoinedStr):
        first = argument.values[0] if argument.values else None
        text = first.value.rstrip(".") if isinstance(first, ast.Constant) else ""
        text = text or ("." if isinstance(first, ast.Constant) else "")
    elif isinstance(argument, ast.Constant):
        text = str(argument.value)
    else:
        return
    level = len(text) - len(text.lstrip("."))
    base = absolute(text[level:], level, package)
    if base is not None:
        yield owner(base)


def absolute(name: str, level: int, package: list[str]) -> str | None:
    """Dotted name below ``isocenter``; None for what is not ours."""
    if level == 0:
        top, _, rest = name.partition(".")
        return rest if top == "isocenter" else None
    # in the front door, one dot is isocenter itself
    return ".".join([*package[: len(package) - level + 1], *([name] if name else [])])


@cache
def direct(module: str, at_import: bool = False) -> frozenset[str]:
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(imports_of(tree, module, path.name == "__init__.py", at_import=at_import))


def packages_of(module: str):
    """A module and the packages that are imported with it."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def reached_from(*rooms: str, at_import: bool = True) -> set[str]:
    """All modules that are imported when those of the rooms are."""
    pending = [module for module in MODULES if module.split(".")[0] in rooms]
    found: set[str] = set()
    while pending:
        module = pending.pop()
        if module in MODULES and module not in found:
            found.add(module)
            pending += [part for target in direct(module, at_import) for part in packages_of(target)]
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module):
    room = module.split(".")[0]
    for target in direct(module):
        allowed = any(target == entry or target.startswith(f"{entry}.") for entry in ALLOWED[room] | {room})
        assert allowed, f"{module} imports {target}; {room} may import {sorted(ALLOWED[room])}"


@pytest.mark.parametrize("module", MODULES)
def test_code_imports_relatively(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not any(name.split(".")[0] == "isocenter" for name in names), f"{module} must import relatively"


@pytest.mark.parametrize("room", ["engine", "gadgets", "service", "pipelines"])
def test_a_host_of_bundles_reaches_no_network(room):
    """Neither when it is imported nor by what its functions import later."""
    for module in reached_from(room, at_import=False):
        assert not any(module == entry or module.startswith(f"{entry}.") for entry in NETWORKS), f"{room} -> {module}"


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import isocenter.models.networks.modl", ["engine"], "models.networks.modl"),
        ("from isocenter.models import networks", ["engine"], "models.networks"),
        ("from .. import export", ["engine"], "export"),
        ("from ..models.networks import registry", ["engine"], "models.networks.registry"),
        ("from .jobs import Result", ["engine"], "engine.jobs"),
        ("def f():\n from ..export.build import x", ["engine"], "export.build"),
        ("import importlib\nimportlib.import_module('isocenter.export.build')", ["engine"], "export.build"),
        (
            "from importlib import import_module\nimport_module('..export.build', __package__)",
            ["engine"],
            "export.build",
        ),
        ("import_module(f'..training.{name}', __package__)", ["commands"], "training"),
        ("__import__('isocenter.training.run')", ["engine"], "training.run"),
    ],
)
def test_every_form_of_import_is_seen(source, package, expected):
    found = [target for node in ast.walk(ast.parse(source)) for target in named(node, package)]
    assert expected in found


def test_what_needs_no_torch_imports_none():
    """One process imports one after the other: what has imported nothing of torch changes nothing for the next."""
    modules = (
        *(
            "",
            ".wire",
            ".wire.files",
            ".wire.header",
            ".flow.channel",
            ".flow.ledger",
            ".service.fire",
            ".service.transport",
        ),
        *(".service.settings", ".commands.cli", ".commands.client", ".bundle.manifest"),
    )
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(f'isocenter{name}')\n"
        "    assert 'torch' not in sys.modules, name\n"
        "from typer.testing import CliRunner\n"
        "app = sys.modules['isocenter.commands.cli'].app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "assert 'torch' not in sys.modules, '--help'"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT / "tests")


def test_importing_the_service_changes_nothing_in_the_process():
    code = (
        "import os; before = dict(os.environ); "
        "import isocenter.service.server, isocenter.service.session, isocenter.service.host; "
        "assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT / "tests")


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_small(module):
    assert MODULES[module].stat().st_size < 20_000


def test_every_folder_of_code_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.relative_to(ROOT) for name in FOLDERS for path in (ROOT / name).rglob("__init__.py")}
    wanted = {"isocenter", *(".".join(("isocenter", *folder.parts)) for folder in folders)}
    assert wanted - set(settings["tool"]["setuptools"]["packages"]) == set()
