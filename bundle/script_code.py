"""Check the code in a TorchScript archive, which is text, before torch compiles it: nothing in it runs meanwhile.

It is Python's grammar, a small part of it. Whatever is not in that part, or names an operator that is not on the list of
``operators``, is refused.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache

import torch

from .manifest import BundleError
from .operators import PRIM, is_allowed

# Python's tokens as torch's printer writes them. Comments, prefixes of strings, other quotes and continued lines are not among
# them: so nobody can write what Python takes for text and torch for code, or the other way round.
_TOKENS = re.compile(
    r"""(?:[A-Za-z_]\w*+(?!["\w])|[0-9](?:[eE][+-]|[\w.])*+|"(?:[^"\\\n]|\\[^\n])*+"(?!")|[][(){},.:=+\-*/%<>!&|^~]|[ \n])*+""",
    re.ASCII,
)
_NODES = (
    *(ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.keyword, ast.Expr, ast.Return, ast.Pass),
    *(ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If, ast.For, ast.While, ast.Break, ast.Continue, ast.Delete),
    *(ast.Call, ast.Attribute, ast.Name, ast.Constant, ast.Subscript, ast.Slice, ast.Tuple, ast.List, ast.Dict),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.expr_context),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
_FUNCTIONS_NAMES = """
Any Device Dict Final Interface List Module NamedTuple NoneType Optional Tensor Tuple Union abs all annotate any bool complex
dict divmod enumerate float getattr hasattr inf infj int isinstance len list max min nan nanj number ord pow range round
sorted str sum tuple unchecked_cast unchecked_unwrap_optional uninitialized zip Enum chr hash
"""
_FUNCTIONS = frozenset(_FUNCTIONS_NAMES.split())
"""Names that torch knows by itself and that may be used."""
_ROOTS = frozenset({"torch", "ops", "CONSTANTS", "__torch__"})
"""Names that may only be used with an attribute."""
_EFFECTS = frozenset({"print", "fork", "awaitable", "awaitable_nowait", "rpc_async", "rpc_sync", "rpc_remote"})
"""Names that torch knows by itself: nothing else may be called by them, as it would be hard to tell."""
_TRIES = 20


def check_code(text: str, where: str) -> None:
    """Refuse code that does more than compute.

    Parameters
    ----------
    text
        A file of code in the archive.
    where
        What it is called.

    Raises
    ------
    BundleError
        It is not what torch writes, or uses what is not on the list.
    """
    if _TOKENS.fullmatch(text) is None:
        raise BundleError("it has characters that torch does not write", where=where)
    try:
        tree = _parsed(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BundleError("it cannot be read as TorchScript", where=where) from error
    for what in _violations(tree):
        raise BundleError(f"it uses {what}, which no reconstruction may", where=where)


def _parsed(text: str) -> ast.Module:
    # Up to 3.12, Python counts the depth of its parser for all threads together and raises a SystemError where another one parsed
    # meanwhile, another bundle or the lines of a traceback (python/cpython#106905): nothing is wrong with the text then
    for _ in range(_TRIES):
        with suppress(SystemError):
            return ast.parse(text)
    return ast.parse(text)


def _violations(tree: ast.Module) -> Iterator[str]:
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):  # whoever is around comes first
        if not isinstance(node, _NODES):
            yield f"the construct {type(node).__name__!r}"
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Attribute | ast.Name):
                inner.add(node.value)
            if node not in inner or not _path(node):
                yield from _attribute(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            yield from _getattr(node)
        elif isinstance(node, ast.Name) and node.id in _ROOTS and node not in inner:
            yield f"{node.id!r} by itself"
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _class(node)
        elif isinstance(node, ast.FunctionDef):
            yield from _names(node)
        else:
            yield f"the construct {type(node).__name__!r} outside functions"


def _class(node: ast.ClassDef) -> Iterator[str]:
    for part in node.body:
        if isinstance(part, ast.FunctionDef):
            yield from _names(part)
        elif any(isinstance(inner, ast.Call) for inner in ast.walk(part)):
            yield "a call outside functions"


def _path(node: ast.expr) -> list[str]:
    """Return the names of ``a.b.c``; nothing where it begins with something else than a name that torch knows."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) and node.id in _ROOTS else []


def _attribute(node: ast.Attribute) -> Iterator[str]:
    """Look at a whole ``a.b.c``, or at an attribute of anything else, which may be an operator, too."""
    if isinstance(node.ctx, ast.Store | ast.Del):
        yield f"an assignment to {node.attr!r} (it would outlive the call)"
    path = _path(node)
    match path:
        case ["torch" | "ops", *_]:
            known = (
                (path[0] == "torch" and len(path) == 2 and is_allowed(path[1]))
                or (path[:2] == ["ops", "aten"] and len(path) == 3 and is_allowed(path[2]))
                or (path[:2] == ["ops", "prim"] and len(path) == 3 and path[2] in PRIM)
            )
            if not known:
                yield f"the operator {'.'.join(path)!r}"
        case ["__torch__", *names]:
            if names[:2] == ["torch", "classes"]:
                yield f"{'.'.join(path)!r}"
        case []:
            yield from _member(node.attr)
        case _:
            pass


def _member(name: str) -> Iterator[str]:
    """Look at an attribute's name: torch takes it for an operator where the value has none of that name."""
    if not is_allowed(name) and _is_operator(name):
        yield f"{name!r}, the name of an operator"


@lru_cache(4096)
def _is_operator(name: str) -> bool:
    # torch has no public list of its operators
    return bool(torch._C._jit_get_schemas_for_operator(f"aten::{name}"))  # pyright: ignore[reportPrivateUsage]


def _getattr(call: ast.Call) -> Iterator[str]:
    name = call.args[-1] if call.args else None
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
        yield from _member(name.value)
    else:
        yield "'getattr' with something else than a name"


def _names(function: ast.FunctionDef) -> Iterator[str]:
    """Refuse names that the function does not define itself and that are not among those that torch knows by itself."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    own = {node.id for node in names if isinstance(node.ctx, ast.Store)} | _arguments(function)
    for name in own & (_EFFECTS | _ROOTS):
        yield f"{name!r} as a name of its own"
    for node in names:
        if node.id not in own and node.id not in _FUNCTIONS and node.id not in _ROOTS:
            yield f"{node.id!r}"


def _arguments(function: ast.FunctionDef) -> set[str]:
    every = function.args
    named: Iterable[ast.arg | None] = (*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg)
    return {argument.arg for argument in named if argument is not None}
