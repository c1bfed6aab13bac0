"""What would fail at the first scan, found before it: settings against this host, its folders, bundles and pipelines.

``isocenter check`` prints it, with a table of what can run; ``isocenter serve`` asks for the faults before it listens.
"""

import ast
import errno
import importlib.machinery
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from ..bundle.trust import public_key
from ..service.settings import MIB, Settings, accepted_by, lacking_extras
from ..wire import extras
from ..wire.errors import IsocenterError, nearest
from . import stamp
from .frame import err, out, print_table
from .home import home_doubt, home_fault
from .named_bundles import (
    bundle_faults,
    bundles_of,
    clients_name_the_bundle,
    gate_doubt,
    known_bundles,
    largest_scans,
    unknown,
)
from .pinned import cannot_run
from .shipped import NAMES

_ANSWER_SECONDS = 2.0
"""How long a program that listens on the port may take to say that it is Isocenter."""


@dataclass(frozen=True)
class Doubt:
    """What may go wrong with some scans, though not with all."""

    text: str


def faults(settings: Settings, *, quick: bool = False) -> list[str]:
    """Return what is wrong with settings on this host, a sentence each; the service must not start with any.

    Parameters
    ----------
    settings
        Of the service. Nothing is changed: no folder is made, no program started, no bundle loaded.
    quick
        Whether to look only for what can be told in a moment, without loading torch or anybody's gadgets.

    Returns
    -------
    list of str
        Empty where everything that the settings name is there.
    """
    found = [*_quick_findings(settings), *_addresses(settings)] if quick else _findings(settings, beside=False)
    return [each for each in found if isinstance(each, str)]


def doubts(settings: Settings) -> list[str]:
    """Return what a site should know though the service can run: pipelines that nothing here can run, room that may not do."""
    return [each.text for each in _findings(settings, beside=False) if isinstance(each, Doubt)]


def _findings(settings: Settings, *, beside: bool) -> Iterator[str | Doubt]:
    """What is to be said; ``beside`` a service that runs, which is no fault where nothing is to be started."""
    yield from _quick_findings(settings)
    for fault in _addresses(settings):
        version = _service_at(settings.host, settings.port) if beside else ""
        where = f"port: {settings.host}:{settings.port}"
        yield Doubt(f"{where} is that of a service that runs already ({version})") if version else fault
    yield from _code(settings)
    yield from _names(settings)
    yield from _pipelines(settings)
    yield from _pinned(settings)
    yield from _room(settings)
    yield from map(Doubt, filter(None, (home_doubt(settings.home), gate_doubt(settings))))


def _quick_findings(settings: Settings) -> Iterator[str]:
    yield from _devices(settings)
    yield from _folders(settings)
    yield from _keys(settings)
    yield from _bundles(settings)


def _devices(settings: Settings) -> Iterator[str]:
    yield from lacking_extras(settings)
    needs_onnx = settings.runtime in ("onnx", "tensorrt")
    if settings.ray is not None or (settings.device in ("auto", "cpu") and not needs_onnx):
        return
    from ..service.devices import device_names

    try:
        names = device_names(settings.device)
    except IsocenterError as error:
        yield f"device: {error}"
        return
    if needs_onnx and extras.is_installed("onnxruntime"):
        from ..engine.runtimes import OnnxRuntime, TensorRtRuntime

        runtime = TensorRtRuntime if settings.runtime == "tensorrt" else OnnxRuntime
        for name in names:
            if reason := runtime.hindrance(name.partition(":")[0]):
                yield f"runtime: {settings.runtime} cannot run on device {name}: {reason}"
    if needs_onnx and not extras.is_installed("onnx") and stamp.missing(settings):
        yield extras.lacks("onnx", f"to build the bundles for the setting 'runtime: {settings.runtime}'")


def _folders(settings: Settings) -> Iterator[str]:
    for name in ("pipelines", "bundles", "python_path"):
        for folder in getattr(settings, name):
            if reason := _unreadable(folder):
                yield f"{name}: {reason}"
    if reason := home_fault(settings.home) or _unwritable(settings.home):
        yield f"home: {reason}"
    if settings.spool is not None and (reason := _unwritable(settings.spool)):
        yield f"spool: {reason}"


def _unreadable(folder: Path) -> str:
    """Why a folder cannot be read; empty if it can."""
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        return f"folder {folder} cannot be read: {error.strerror}"
    return ""


def _unwritable(folder: Path) -> str:
    """Why nothing can be written to a folder, or where it would be made; empty if something can."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        where = "" if there == folder else f" in {there}"
        return f"folder {folder} cannot be written{where}: {error.strerror}"
    return ""


def _keys(settings: Settings) -> Iterator[str]:
    for key in settings.keys:
        try:
            public_key(key)
        except IsocenterError as error:
            yield f"keys: {error}"


def _code(settings: Settings) -> Iterator[str]:
    """Handlers and FIRE modules that are not there, told without running them, and gadgets, which run in this process."""
    from ..service.configuration import register_gadgets

    for name, target in settings.gadgets.items():
        try:
            register_gadgets(settings.model_copy(update={"gadgets": {name: target}}))
        except IsocenterError as error:
            yield f"gadgets: {error}"
    for handler in settings.handlers:
        module, _, target = handler.rpartition(".")
        if reason := _lacks(module, target, settings):
            yield f"handlers: {handler!r}: {reason}"
    for name, module in settings.fire_modules.items():
        if reason := _lacks(module, "process", settings):
            yield f"fire_modules: {name!r} from {module!r}: {reason}"


def _lacks(module: str, name: str, settings: Settings) -> str:
    """Why a module has no such name, by its text; empty if it has one, or if that cannot be told without running it."""
    if not (module and name):
        return "it is not the name of a module and of something in it"
    path = [*map(str, settings.python_path), *sys.path]
    spec = _find(module, path)
    if spec is None:
        return f"there is no module {module!r}"
    if spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        return f"{spec.origin} cannot be read: {error}"
    absent = [each for each in _imported(tree) if _find(each, path) is None]
    if absent:
        return f"{module} imports {absent[0]}, which is not there"
    defined = _defined(tree)
    return "" if defined is None or name in defined else f"{module} has no {name!r}{nearest(name, defined)}"


def _imported(tree: ast.Module) -> list[str]:
    """Packages that a module cannot do without: it imports them at its top, outside of any ``try`` or ``if``."""
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.append(node.module)
    return list(dict.fromkeys(name.partition(".")[0] for name in found))


def _find(module: str, path: list[str]) -> importlib.machinery.ModuleSpec | None:
    """Find a module without importing those that hold it."""
    spec, names = None, module.split(".")
    for depth in range(len(names)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(names[: depth + 1]), path)
        if spec is None and depth == 0 and names[0] not in sys.modules:
            spec = importlib.util.find_spec(names[0])  # built in, or installed to be edited
        elif spec is None and depth == 0:
            spec = sys.modules[names[0]].__spec__
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return spec


def _defined(tree: ast.Module) -> set[str] | None:
    """Names at the top of a module; None where they cannot all be told."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            if any(alias.name == "*" for alias in node.names):
                return None
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _bundles(settings: Settings) -> Iterator[str]:
    """A bundle that the settings name."""
    known = known_bundles(settings)
    if settings.default_bundle is not None and settings.default_bundle not in known:
        yield f"default_bundle: {unknown(settings.default_bundle, known)}"


def _names(settings: Settings) -> Iterator[str]:
    """Pipelines that settings name."""
    from ..pipelines import loader

    pipelines = loader.available(settings.pipeline_folders)
    meant = {f"aliases: {alias!r} leads to {name!r}": name for alias, name in settings.aliases.items()}
    if settings.default_pipeline is not None:
        meant[f"default_pipeline: it is {settings.default_pipeline!r}"] = settings.default_pipeline
    for setting, name in meant.items():
        if not {name, f"{name}.xml"} & pipelines.keys() and name not in settings.fire_modules:
            known_ones = [*pipelines, *settings.fire_modules]
            near = nearest(name, known_ones) or nearest(f"{name}.xml", known_ones)
            yield f"{setting}, and there is no such pipeline{near}"
    for setting in ("aliases", "fire_modules"):
        for name in getattr(settings, setting):
            if hidden := {name, f"{name}.xml"} & pipelines.keys():
                yield f"{setting}: {name!r} would hide pipeline {min(hidden)}; accepted: a name that no pipeline has"
    for alias in settings.aliases.keys() & settings.fire_modules.keys():
        yield f"aliases: {alias!r} would hide the FIRE module of this name; accepted: a name that none has"


def _pipelines(settings: Settings) -> Iterator[str | Doubt]:
    """Pipelines that cannot be run here, or lack a bundle."""
    from ..pipelines import loader
    from ..pipelines.stock import NoCounterpartError

    for name in sorted(loader.available(settings.pipeline_folders)):
        try:
            pipeline = loader.load(name, settings.pipeline_folders)
        except NoCounterpartError as error:  # Gadgetron's, which may lie there for Gadgetron
            yield Doubt(f"pipeline {error}")
        except IsocenterError as error:
            yield f"pipeline {name}: {str(error).removeprefix(f'{name}: ').removeprefix(f'{name}, ')}"
        else:
            if clients_name_the_bundle(pipeline, settings):
                yield Doubt(
                    f"pipeline {name}: clients have to send the parameter 'bundle', as there is no default_bundle"
                )
                continue
            told = bundle_faults(pipeline, settings, beside=settings.default_bundle)
            yield from (f"pipeline {name}: {reason}" for reason in told)


def _pinned(settings: Settings) -> Iterator[str | Doubt]:
    """Bundles that the pinned runtime cannot run: the default one must be one that it can."""
    reasons: dict[str, list[str]] = {}
    for name, reason in cannot_run(settings).items():
        if name == settings.default_bundle:
            yield f"runtime: {settings.runtime} cannot run the default bundle: {name!r} {reason}"
        else:
            reasons.setdefault(reason, []).append(repr(name))
    for reason, names in reasons.items():
        yield Doubt(f"runtime: {settings.runtime} cannot run {', '.join(names)}: it {reason}")


def _addresses(settings: Settings) -> Iterator[str]:
    try:
        addresses = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        yield f"host: {settings.host!r} has no address: {reason}; accepted: {accepted_by('host')}"
        return
    if settings.port and (reason := _taken(addresses, settings.host, settings.port)):
        yield reason


def _service_at(host: str, port: int) -> str:
    """Version of the Isocenter that answers there; empty where none does."""
    from .client import ask, connect

    try:
        answer = ask(connect(host, port, _ANSWER_SECONDS), "isocenter::version", _ANSWER_SECONDS)
    except (IsocenterError, OSError):
        return ""
    return answer if answer.startswith("isocenter ") else ""


def _taken(addresses: Sequence[tuple[Any, ...]], host: str, port: int) -> str:
    """Why none of a host's addresses can be listened on, or one is in use; empty otherwise."""
    reasons: list[OSError] = []
    for family, kind, protocol, _, address in addresses:
        try:
            with closing(socket.socket(family, kind, protocol)) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
                sock.listen(1)
        except OSError as error:
            reasons.append(error)
    in_use = [error for error in reasons if error.errno == errno.EADDRINUSE]
    if in_use:
        return f"port: {host}:{port} is in use by another program, or by a service that runs already"
    if len(reasons) < len(addresses):
        return ""
    named = "host" if reasons[0].errno == errno.EADDRNOTAVAIL else "port"
    return f"{named}: {host}:{port} cannot be listened on: {reasons[0].strerror}"


def _room(settings: Settings) -> Iterator[str | Doubt]:
    """Memory and disk that may not do for the largest scans."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if settings.memory > there:
        yield f"memory_bytes: {settings.memory // MIB} MiB are more than this host has; accepted: up to {there // MIB} MiB"
    keeps = settings.scan_memory[1]
    for name, size in largest_scans(settings):
        if size > keeps:
            yield Doubt(
                f"memory: the largest scans that bundle {name!r} was made for need {size // MIB} MiB at a time, and a scan may "
                f"keep {keeps // MIB} MiB: see scan_bytes and memory_bytes"
            )
    if settings.spool is not None:
        there = next(each for each in (settings.spool, *settings.spool.absolute().parents) if each.exists())
        free = shutil.disk_usage(there).free
        if free < settings.spool_queue_bytes:
            yield Doubt(
                f"spool: the disk of {settings.spool} has {free // MIB} MiB left, less than may wait for it "
                f"({settings.spool_queue_bytes // MIB} MiB): scans may not be kept"
            )


def report(settings: Settings) -> bool:
    """Print what a service would lack, a line each, and what can run; tell whether nothing is wrong."""
    found = [*_findings(settings, beside=True), *_damaged(settings)]
    for each in found:
        if isinstance(each, Doubt):
            err.print(f"warning: {each.text}", markup=False)
    print_table(_what_can_run(settings))
    wrong = [each for each in found if isinstance(each, str)]
    for each in wrong:
        err.print(f"fault: {each}", markup=False)
    if not wrong:
        out.print("no faults: the service can start", markup=False)
    return not wrong


def _damaged(settings: Settings) -> Iterator[str]:
    """Bundles that are there and cannot be used: their files are hashed, their signatures checked; none is run."""
    from ..bundle.trust import Trust
    from ..engine.device import Shelf

    try:
        shelf = Shelf(settings.bundle_folders, Trust.of(settings.home, settings.keys))
    except IsocenterError:
        return  # the keys, which are said already
    for name in sorted(shelf.available()):
        if name in NAMES and shelf.available()[name].parent == settings.home / "bundles":
            continue  # built again at the start where that is needed
        try:
            shelf.open(name)
        except IsocenterError as error:
            yield str(error) if name in str(error) else f"bundle {name!r}: {error}"


def _what_can_run(settings: Settings) -> Table:
    """What clients may ask for by name, and what would make their images."""
    from ..pipelines import loader

    table = Table(Column("pipeline", no_wrap=True), "images by", "can run", box=None, pad_edge=False)
    unusable = cannot_run(settings).keys()
    for name in sorted(loader.available(settings.pipeline_folders)):
        try:
            pipeline = loader.load(name, settings.pipeline_folders)
        except IsocenterError:
            table.add_row(name, "", "no")
            continue
        if clients_name_the_bundle(pipeline, settings):
            table.add_row(name, "parameter 'bundle'", "yes")
            continue
        wrong = bundle_faults(pipeline, settings)
        names = [] if wrong else bundles_of(pipeline, settings)
        wrong = wrong or (names and unusable >= set(names))
        bundles = ", then ".join(names)
        table.add_row(name, bundles, "no" if wrong else "yes")
    for name, module in settings.fire_modules.items():
        table.add_row(name, f"FIRE module {module}", "no" if _lacks(module, "process", settings) else "yes")
    return table
