"""Read XML that anybody may have sent, and refuse what nothing here would read."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.parsers import expat

import defusedxml.ElementTree as SafeElementTree
from defusedxml.common import DefusedXmlException

from ..wire.errors import IsocenterError, PipelineError, nearest

MAX_ELEMENTS = 10_000
MAX_DEPTH = 50


class _Placed(Element):
    """An element that knows its line."""

    line = 0


class _BoundedBuilder(ElementTree.TreeBuilder):
    """Builds a tree, and gives up where it gets larger than any pipeline is.

    Parameters
    ----------
    name
        Of the pipeline.
    skipped
        Lines before the text that is parsed.
    """

    def __init__(self, name: str, skipped: int) -> None:
        super().__init__(element_factory=self._placed)
        self._name = name
        self._skipped = skipped
        self._elements = self._depth = 0
        self.line: Callable[[], int] = lambda: 1

    def _placed(self, tag: str, attrs: dict[str, str], /) -> Element:
        element = _Placed(tag, attrs)
        element.line = self._skipped + self.line()
        return element

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self._elements += 1
        self._depth += 1
        if self._elements > MAX_ELEMENTS or self._depth > MAX_DEPTH:
            accepted = f"at most {MAX_ELEMENTS} elements, nested {MAX_DEPTH} deep"
            raise PipelineError("it is too large for a pipeline", where=self._name, accepted=accepted)
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag)


def read_xml(xml: bytes, name: str) -> Element:
    """Return the root of what was sent under a name.

    Raises
    ------
    PipelineError
        It is no XML, larger than any pipeline, or has a DOCTYPE.
    """
    skipped = xml[: len(xml) - len(xml.lstrip())].count(b"\n")
    builder = _BoundedBuilder(name, skipped)
    parser = SafeElementTree.DefusedXMLParser(target=builder, forbid_dtd=True)
    builder.line = lambda: parser.parser.CurrentLineNumber
    try:
        parser.feed(xml.rstrip(b"\0").strip())
        return parser.close()
    except DefusedXmlException as error:
        raise PipelineError("a DOCTYPE is not accepted", where=name) from error
    except ElementTree.ParseError as error:
        line, column = error.position
        reason = expat.ErrorString(error.code)
        what = f"not readable as XML: {reason} in line {skipped + line}, column {column + 1}"
        raise PipelineError(what, where=name) from error
    except (LookupError, ValueError) as error:
        raise PipelineError("not readable as XML: its encoding is not known", where=name) from error


def tag_of(element: Element) -> str:
    """Name of an element without its namespace."""
    return element.tag.rpartition("}")[2]


def place(element: Element, name: str) -> str:
    """Where an element is, in the pipeline of a name."""
    return f"{name}, line {element.line}" if isinstance(element, _Placed) else name


@contextmanager
def at(where: str) -> Iterator[None]:
    """Let errors say at which ``place`` they are; those that name a line already stay as they are."""
    try:
        yield
    except IsocenterError as error:
        if ", line " not in error.where:
            inner = "" if where.startswith(f"{error.where},") else error.where
            error.where = f"{where}, {inner}" if inner else where
        raise


def strip_namespaces(root: Element) -> None:
    """Give all elements of a tree their names without namespaces."""
    for element in root.iter():
        element.tag = tag_of(element)


def check_parts(element: Element, attributes: Collection[str], children: Collection[str], name: str) -> None:
    """Refuse what a misspelt attribute or element would otherwise be: an option that is not set, without a word.

    Raises
    ------
    PipelineError
        The element has others than these.
    """
    for kind, given, known in (
        ("attribute", element.attrib, attributes),
        ("element", [tag_of(child) for child in element], children),
    ):
        unknown = next((each for each in given if each not in known), None)
        if unknown is not None:
            what = f"<{element.tag}> has the {kind} {unknown!r}{nearest(unknown, known)}"
            raise PipelineError(what, where=name, accepted=", ".join(known) or f"no {kind}")
    if (element.text or "").strip() and children:
        raise PipelineError(f"<{element.tag}> holds the text {(element.text or '').strip()[:40]!r}", where=name)


def text_of(element: Element, child: str) -> str | None:
    """Text of a child element; None where there is no such child."""
    text = element.findtext(child)
    return None if text is None else text.strip()
