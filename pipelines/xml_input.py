"""Read XML that anybody may have sent, and refuse what nothing here would read."""

from collections.abc import Collection
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.parsers import expat

import defusedxml.ElementTree as SafeElementTree
from defusedxml.common import DefusedXmlException

from ..wire.errors import PipelineError, nearest

MAX_ELEMENTS = 10_000
MAX_DEPTH = 50


class _BoundedBuilder(ElementTree.TreeBuilder):
    """Builds a tree, and gives up where it gets larger than any pipeline is."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._elements = self._depth = 0

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
    parser = SafeElementTree.DefusedXMLParser(target=_BoundedBuilder(name), forbid_dtd=True)
    try:
        parser.feed(xml.rstrip(b"\0").strip())
        return parser.close()
    except DefusedXmlException as error:
        raise PipelineError("a DOCTYPE is not accepted", where=name) from error
    except ElementTree.ParseError as error:
        line, column = error.position
        reason = expat.ErrorString(error.code)
        raise PipelineError(f"not readable as XML: {reason} in line {line}, column {column + 1}", where=name) from error
    except (LookupError, ValueError) as error:
        raise PipelineError("not readable as XML: its encoding is not known", where=name) from error


def tag_of(element: Element) -> str:
    """Name of an element without its namespace."""
    return element.tag.rpartition("}")[2]


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
