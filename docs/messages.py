"""Every message of the error tree, read from the code: by kind, with what is told at run time left open."""

import ast
import importlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from isocenter.wire.errors import IsocenterError

ROOT = Path(__file__).parent.parent
FOLDERS = ("bundle", "commands", "engine", "export", "flow", "gadgets", "models", "pipelines")
FOLDERS += ("service", "simulate", "training", "wire")
OPEN = "…"
"""Stands for what a message is given at run time."""
_PASSED = "error"
"""What a class of errors is called that a function is given to raise: of files of entries (``wire/entries.py``)."""
_REPORTING = {"report", "_tell", "_remark"}
"""What tells of a problem of a scan, by kind and message."""
_TABLES = {"doubts", "notes", "left_out"}
"""What such problems are kept in, by kind, until they are told."""


def classes() -> dict[str, type[IsocenterError]]:
    """Return the errors of the tree, by name."""
    for path in _files():
        if "class " in path.read_text(encoding="utf-8") and "Error(" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(("isocenter", *path.relative_to(ROOT).with_suffix("").parts)))
    return {each.__name__: each for each in _below(IsocenterError) if each.__module__.startswith("isocenter.")}


def messages() -> dict[str, list[str]]:
    """Return the messages of each kind, sorted: those of errors, and those that a scan tells its client."""
    tree = classes()
    found: dict[str, set[str]] = defaultdict(set, {each.kind: set() for each in tree.values()})
    for path in _files():
        for kind, text in _said(ast.parse(path.read_text(encoding="utf-8")), tree):
            found[kind] |= {text} if _tells(text) else set()
    return {kind: sorted(texts, key=lambda text: text.lstrip(f"{OPEN}'\" ").lower()) for kind, texts in found.items()}


def _tells(text: str) -> bool:
    """Whether a message has words of its own, beside what it is told at run time."""
    own = text.partition("; accepted: ")[0]
    return sum(character.isalpha() for character in own) > 3


def _files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def _below(error: type[IsocenterError]) -> Iterator[type[IsocenterError]]:
    yield error
    for each in error.__subclasses__():
        yield from _below(each)


def _said(module: ast.Module, tree: dict[str, type[IsocenterError]]) -> Iterator[tuple[str, str]]:
    """Kind and message of every error that is made in a module, and of every problem of a scan that is reported in it."""
    names = {node.targets[0].id: node.value for node in module.body if _is_constant(node)}
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call) and node.args):
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = {word.arg: word.value for word in call.keywords}
        if called in tree or getattr(call.func, "id", "") == _PASSED:
            of_class = tree[called].kind if called in tree else "entries"
            kind = _text(given["kind"], names) if "kind" in given else of_class
            accepted = f"; accepted: {_text(given['accepted'], names)}" if "accepted" in given else ""
            where = f"{_text(given['where'], names)}: " if "where" in given else ""
            yield kind.replace(OPEN, "").strip(": ") or of_class, where + _text(call.args[0], names) + accepted
        elif called in _REPORTING and len(call.args) == 2 and not _text(call.args[0], names).startswith(OPEN):
            yield _text(call.args[0], names).replace(OPEN, "").strip(": "), _text(call.args[1], names)
    for key, noted, place in _noted(module, names):
        if place == "left_out":
            yield place.replace("_", " "), f"{OPEN} readouts were left out: {key}"
        elif not key.startswith(OPEN):
            yield key.lower(), noted


def _noted(module: ast.Module, names: dict[str, ast.expr]) -> Iterator[tuple[str, str, str]]:
    """Entries of the tables from which a scan's problems are reported later."""
    for node in ast.walk(module):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        )
        for target in (each for each in targets if isinstance(each, ast.Subscript)):
            place = getattr(target.value, "attr", getattr(target.value, "id", ""))
            if place in _TABLES:
                yield _text(target.slice, names), _text(node.value, names), place


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)


def _text(node: ast.expr, names: dict[str, ast.expr]) -> str:
    """A text of the code as a reader meets it; what is put into it at run time is left open."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, names) for part in node.values).replace(f"{OPEN}{OPEN}", OPEN)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, names) + _text(node.right, names)
    if isinstance(node, ast.Name) and isinstance(names.get(node.id), ast.Constant):
        return str(names[node.id].value)
    return OPEN
