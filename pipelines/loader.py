"""Read Gadgetron's XML pipelines (v1, v2, and the configuration of an external node) into steps that can be run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ..gadgets import load as load_gadget
from ..gadgets.gadget import Gadget
from ..wire.errors import PipelineError, nearest
from ..wire.plain_files import read_plain
from . import stock
from .order import check_order
from .xml_input import at, check_parts, place, read_xml, strip_namespaces, tag_of, text_of

SHIPPED = Path(__file__).parent
NO_SUCH_PIPELINE = "no such pipeline"
"""Kind of the error about a name that no pipeline has."""
MAX_STEPS = 256
"""Every step of a chain is a call within those before it."""
MAX_THREADED_STEPS = 16
"""Steps that run on their own: other programs, and gadgets that wait for their results while the steps before go on."""
_LONGEST_NAME = 200
_naming: ContextVar[tuple[str, ...]] = ContextVar("naming", default=())
"""Pipelines that are being parsed because one names the other."""
_IGNORED_V1 = {"reader", "writer", "property"}


@dataclass(frozen=True)
class GadgetStep:
    """A gadget with the options that the pipeline sets, and those that the client of a scan has chosen."""

    gadget: Gadget
    options: dict[str, Any]
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def settled(self) -> dict[str, Any]:
        """The options that are set, by whomever."""
        return {**self.options, **self.chosen}

    @property
    def complete(self) -> dict[str, Any]:
        """All options, with the gadget's defaults where none is set."""
        return {**self.gadget.defaults, **self.settled}


@dataclass(frozen=True)
class ExternalStep:
    """Another program. It is started (``module`` and ``target``) or connected to (``address`` and ``port``).

    ``configuration`` is the XML that it is sent, as Gadgetron sends it.
    """

    configuration: bytes
    module: str = ""
    target: str = ""
    address: str = ""
    port: int = 0

    @property
    def title(self) -> str:
        """What the program is called."""
        return f"{self.module}.{self.target}" if self.module else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class FireStep:
    """A FIRE module's ``process(connection, config, metadata)``, run in a process of its own; no XML names it."""

    module: str
    config: str

    @property
    def title(self) -> str:
        """What the program is called."""
        return self.module


Step = GadgetStep | ExternalStep | FireStep


@dataclass(frozen=True)
class Pipeline:
    """Steps in order."""

    name: str
    steps: tuple[Step, ...]
    summary: str = ""
    stands_in_for: str = ""
    """The name that was asked for and is not known, where the settings name this pipeline for such a case."""

    @property
    def digest(self) -> str:
        """SHA-256 of the steps with the options that the pipeline sets, in hexadecimal.

        Pipelines of one digest do the same, whatever their names and comments, however they are written, and wherever the steps
        of a pipeline come from that others name.
        """
        content = json.dumps([_content(step) for step in self.steps], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()


def _content(step: Step) -> list[Any]:
    if isinstance(step, GadgetStep):
        return [step.gadget.name, dict(step.options)]
    if isinstance(step, FireStep):
        return ["fire", step.module, step.config]
    has_root = step.configuration.rpartition(b"?>")[2].strip()
    configuration = ElementTree.canonicalize(step.configuration.decode(), strip_text=True) if has_root else ""
    return ["external", step.title, configuration]


def find(name: str, folders: Sequence[Path]) -> Path:
    """Find a pipeline's file by name, with or without ``.xml``, in the folders and among the shipped ones.

    Raises
    ------
    PipelineError
        There is none, or the name is no plain file name.
    """
    if len(name) > _LONGEST_NAME:
        raise PipelineError(f"a name of {len(name)} characters is not that of a pipeline")
    if not name or Path(name).name != name or name.startswith(".") or "\\" in name:
        raise PipelineError(f"{name!r} is not the name of a pipeline: it must be a plain file name")
    for folder in (*folders, SHIPPED):
        for candidate in (folder / name, folder / f"{name}.xml"):
            if candidate.suffix == ".xml" and candidate.is_file() and candidate.resolve().parent == folder.resolve():
                return candidate
    there_are = sorted(available(folders))
    near = nearest(f"{name.removesuffix('.xml')}.xml", there_are)
    raise PipelineError(f"there is no pipeline {name!r}{near}", accepted=", ".join(there_are), kind=NO_SUCH_PIPELINE)


def available(folders: Sequence[Path]) -> dict[str, Path]:
    """Return all pipelines by file name; those in earlier folders hide later ones of the same name."""
    return {path.name: path for folder in (SHIPPED, *reversed(folders)) for path in sorted(folder.glob("*.xml"))}


def load(name: str, folders: Sequence[Path] = ()) -> Pipeline:
    """Load a pipeline by name.

    Raises
    ------
    PipelineError
        It does not exist or cannot be run here.
    OptionError
        An option of a gadget is wrong.
    """
    path = find(name, folders)
    return parse(read_plain(path), path.name, folders)


def parse(xml: bytes, name: str = "configuration", folders: Sequence[Path] = ()) -> Pipeline:
    """Parse a pipeline sent as XML.

    Raises
    ------
    PipelineError
        It is no pipeline, or contains a node that has no counterpart here.
    OptionError
        An option of a gadget is wrong.
    """
    root = read_xml(xml, name)
    tag = tag_of(root)
    if len(root.findall("stream")) > 1:
        raise PipelineError("it has more than one <stream>", where=name, accepted="one")
    if tag == "gadgetronStreamConfiguration":
        steps = _version_1(root, name)
    elif tag == "configuration" and (stream := root.find("stream")) is not None:
        steps = _version_2(root, stream, name, folders)
    elif tag == "configuration":
        steps = list(_own_steps(root, name, folders))
    else:
        accepted = "<configuration> or <gadgetronStreamConfiguration>"
        raise PipelineError(f"the root element is {tag!r}", where=name, accepted=accepted)
    _check_number(len(steps), name)
    check_order([step.gadget if isinstance(step, GadgetStep) else None for step in steps], name)
    threaded = sum(not isinstance(step, GadgetStep) or step.gadget.traits.waits for step in steps)
    if threaded > MAX_THREADED_STEPS:
        what = f"{threaded} of its steps reconstruct or are other programs"
        raise PipelineError(what, where=name, accepted=f"at most {MAX_THREADED_STEPS}")
    return Pipeline(name, tuple(steps), _summary(xml))


def is_external_configuration(xml: bytes) -> bool:
    """Tell whether a configuration is what Gadgetron hands to an external node: one without a stream, or an empty one."""
    try:
        root = read_xml(xml, "configuration")
    except PipelineError:
        return not xml.rpartition(b"?>")[2].strip(b"\0 \r\n\t")
    return tag_of(root) == "configuration" and root.find("stream") is None


def readers_of_host(xml: bytes) -> frozenset[str] | None:
    """Return the reader classes of a Gadgetron that distributes work and sends this to a worker; None if a client sends it.

    Both send a version 2 configuration. A host writes it from what it has parsed (Gadgetron's ``serialize_config``): version,
    readers, writers and stream, in this order and nothing else, and a ``key`` on the outermost stream, empty or not, which means
    nothing there and which no configuration has that was written by hand. Where that is missing, a client is spoken to: it can
    show text, and would abort on an error message.
    """
    try:
        root = read_xml(xml, "configuration")
    except PipelineError:
        return None
    if [element.tag for element in root] != ["version", "readers", "writers", "stream"] or root[3].get("key") is None:
        return None
    return frozenset((element.findtext("classname") or "").strip() for element in root[1].iter("reader"))


def _check_number(steps: int, name: str) -> None:
    """Refuse more steps than a chain may have, as soon as there are."""
    if steps > MAX_STEPS:
        raise PipelineError(f"it has {steps} steps or more", where=name, accepted=f"at most {MAX_STEPS}")


def _summary(xml: bytes) -> str:
    """Text of the first comment, which says what a shipped pipeline does."""
    _, opening, rest = xml.decode("utf-8", "replace").partition("<!--")
    return " ".join(rest.partition("-->")[0].split()) if opening else ""


def _version_1(root: Element, name: str) -> list[Step]:
    strip_namespaces(root)
    _check_number(len(root.findall("gadget")), name)
    translator, references = stock.Translator(name), _references(root, name)
    for element in root:
        with at(place(element, name)):
            if element.tag == "gadget":
                _add_stock(translator, element, references, name)
            elif element.tag == "external":
                raise PipelineError("Gadgetron ignores <external> in a version 1 configuration; write it as version 2")
            elif element.tag not in _IGNORED_V1:
                raise PipelineError(f"{element.tag!r} is not known in a version 1 configuration")
    _check_io(root, name)
    return _finish(translator, name)


def _version_2(root: Element, stream: Element, name: str, folders: Sequence[Path]) -> list[Step]:
    version = (root.findtext("version") or "").strip()
    if version != "2":
        raise PipelineError(f"<version> is {version!r}", where=name, accepted="2")
    _check_io(root, name)
    _check_number(len(stream), name)
    translator, references = stock.Translator(name), _references(stream, name)
    for element in stream:
        with at(place(element, name)):
            if element.tag == "gadget":
                _add_stock(translator, element, references, name)
            elif element.tag == "external":
                translator.add_steps(_external(element, name, folders))
            else:
                raise stock.NoCounterpartError(
                    f"a node {element.tag!r} has no counterpart here", accepted="<gadget> and <external>"
                )
    return _finish(translator, name)


def _check_io(root: Element, name: str) -> None:
    """Refuse readers and writers that this service does not have."""
    for kind, known in (("reader", stock.READERS), ("writer", stock.WRITERS)):
        for element in root.iter(kind):
            classname = (element.findtext("classname") or "").strip()
            if classname not in known:
                raise stock.NoCounterpartError(
                    f"{kind} {classname!r} has no counterpart here",
                    where=place(element, name),
                    accepted=", ".join(sorted(known)),
                )


def _add_stock(translator: stock.Translator, element: Element, references: Mapping[str, str], name: str) -> None:
    check_parts(element, (), ("name", "dll", "classname", "property"), name)
    classname = (element.findtext("classname") or "").strip()
    properties = _properties(element, references, name)
    if classname == "PythonGadget":
        missing = [key for key in ("python_module", "python_class") if key not in properties]
        if missing:
            raise PipelineError(f"PythonGadget needs the property {missing[0]!r}")
        configuration = _python_configuration(properties)
        translator.add_steps([ExternalStep(configuration, properties["python_module"], properties["python_class"])])
        return
    translator.add(classname, properties, place(element, name))


def _python_configuration(properties: Mapping[str, str]) -> bytes:
    root = Element("configuration")
    for key, value in properties.items():
        ElementTree.SubElement(root, "property", name=key, value=value)
    return ElementTree.tostring(root, xml_declaration=True, encoding="utf-8")


def _properties(element: Element, references: Mapping[str, str] | None, name: str) -> dict[str, str]:
    """Properties of a gadget: as attributes or as child elements; ``option@gadget`` refers to another gadget's option."""
    found: dict[str, str] = {}
    for entry in element.findall("property"):
        with at(place(entry, name)):
            check_parts(entry, ("name", "value"), ("name", "value"), name)
            key, value = (
                entry.get(part) if part in entry.attrib else text_of(entry, part) for part in ("name", "value")
            )
            if not key:
                raise PipelineError("a <property> has no name")
            if value is None:
                raise PipelineError(f"<property> {key!r} has no value")
            if found.get(key, value) != value:
                raise PipelineError(f"property {key!r} is set twice, to {found[key]!r} and to {value!r}")
            if references is not None and "@" in value:
                if value not in references:
                    raise PipelineError(f"property reference {value!r} names no property of a gadget in this pipeline")
                value = references[value]
        found[key] = value
    return found


def _references(scope: Element, name: str) -> dict[str, str]:
    """Values of all properties, as ``option@gadget``; of gadgets with the same name, the first that has the option counts."""
    values: dict[str, str] = {}
    for element in scope.iter("gadget"):
        gadget = (element.findtext("name") or "").strip()
        for option, value in _properties(element, None, name).items():
            values.setdefault(f"{option}@{gadget}", value)
    return values


def _external(element: Element, name: str, folders: Sequence[Path]) -> list[Step]:
    """Steps of an external node: our own gadgets run here, other programs are started or connected to."""
    check_parts(element, (), ("configuration", "execute", "connect"), name)
    if len(element) > len({child.tag for child in element}):
        raise PipelineError("<external> has two elements of the same name")
    configuration = element.find("configuration")
    if configuration is not None and (
        configuration.find("gadget") is not None or configuration.find("pipeline") is not None
    ):
        return list(_own_steps(configuration, name, folders))
    xml = b'<?xml version="1.0"?>\n'
    if configuration is not None:
        xml += ElementTree.tostring(configuration)
    for action in element:
        if action.tag == "execute":
            if (action.get("type") or "").lower() != "python":
                raise stock.NoCounterpartError(
                    f"<execute type={action.get('type')!r}> has no counterpart here; only 'python' has"
                )
            if not action.get("name") or not action.get("target"):
                raise PipelineError("<execute> needs the attributes name and target")
            return [ExternalStep(xml, module=action.get("name", ""), target=action.get("target", ""))]
        if action.tag == "connect":
            port = action.get("port", "")
            if not (port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
                raise PipelineError(f"<connect> needs a port from 1 to 65535, got {port!r}")
            return [ExternalStep(xml, address=action.get("address", "localhost"), port=int(port))]
    raise PipelineError("an <external> node needs <execute> or <connect>")


def _own_steps(configuration: Element, name: str, folders: Sequence[Path]) -> tuple[Step, ...]:
    """Steps of a configuration that lists our gadgets, or names one of our pipelines."""
    steps: list[Step] = []
    for element in configuration:
        key = element.get("name") or ""
        with at(place(element, name)):
            if element.tag == "gadget":
                check_parts(element, ("name",), ("property",), name)
                gadget = load_gadget(key)
                steps.append(GadgetStep(gadget, gadget.parse(_properties(element, None, name))))
            elif element.tag == "pipeline":
                check_parts(element, ("name",), (), name)
                steps += _named_steps(find(key, folders), name, folders)
            else:
                raise PipelineError(
                    f"{element.tag!r} is not known here", accepted='<gadget name="..."> and <pipeline name="...">'
                )
        _check_number(len(steps), name)
    if not steps:
        raise PipelineError(
            "the configuration lists no gadgets; write <gadget name='...'/> for each, in order", where=name
        )
    return tuple(steps)


def _named_steps(path: Path, name: str, folders: Sequence[Path]) -> tuple[Step, ...]:
    """Steps of a pipeline that another one names."""
    chain = (*_naming.get(), name)
    if path.name in chain:
        raise PipelineError(f"a pipeline cannot name itself: {' names '.join((*chain, path.name))}", where=name)
    token = _naming.set(chain)
    try:
        return parse(read_plain(path), path.name, folders).steps
    finally:
        _naming.reset(token)


def _finish(translator: stock.Translator, name: str) -> list[Step]:
    steps: list[Step] = []
    for entry in translator.finish():
        if isinstance(entry, tuple):
            gadget, options, where = load_gadget(entry[0]), entry[1], entry[2]
            with at(where):
                steps.append(GadgetStep(gadget, gadget.parse(options)))
        else:
            steps.append(entry)
    if not steps:
        raise PipelineError("the stream is empty", where=name)
    return steps
