"""XML as scanners and converters write it: received bytes to an element tree, with what was amiss in them mended and noted."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from html.entities import html5
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from .errors import HeaderError

_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_DECLARED = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.-]{1,40})[\"']", re.IGNORECASE)
_DECLARATION = re.compile(r"<\?xml.*?\?>", re.IGNORECASE | re.DOTALL)
_START = re.compile(r"<\?xml|<!DOCTYPE|<!--|<(?:[\w.-]+:)?ismrmrdHeader\b", re.IGNORECASE)
_END = re.compile(r"</(?:[\w.-]+:)?ismrmrdHeader\s*>", re.IGNORECASE)
_FORBIDDEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LITERAL = re.compile(r"<!--|<!\[CDATA\[")
_REFERENCE = re.compile(r"&(?:(amp|lt|gt|quot|apos);|#(x[0-9a-fA-F]{1,6}|[0-9]{1,7});|([A-Za-z][A-Za-z0-9]{1,30};))?")
_MOST_ELEMENTS = 2**17
"""Elements of a header; one takes a hundred times as many bytes in memory as in XML."""
_MOST_LEVELS = 64
_MOST_NOTES = 64
_LONE_BRACKET = re.compile(r"<(?![A-Za-z_/!?])")


@dataclass
class Notes:
    """What was accepted in spite of a fault; each thing once.

    Attributes
    ----------
    accepted
        Faults that change no image: for the log.
    doubts
        Assumptions on which the images depend: for the user as well.
    """

    accepted: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def accept(self, note: str) -> None:
        """Note a fault that changes no image."""
        _add(note, self.accepted)

    def doubt(self, note: str) -> None:
        """Note an assumption that the images depend on."""
        _add(note, self.doubts)


def _add(note: str, notes: list[str]) -> None:
    if note in notes or len(notes) > _MOST_NOTES:
        return
    notes.append(note if len(notes) < _MOST_NOTES else "more of the header is not as it should be")


class _Builder:
    """Builds elements that are named without namespace, as many as a header may have."""

    def __init__(self) -> None:
        self.tree = TreeBuilder()
        self._elements = self._levels = 0

    def start(self, tag: str, _attributes: object) -> None:
        self._elements += 1
        self._levels += 1
        if self._elements > _MOST_ELEMENTS or self._levels > _MOST_LEVELS:
            raise HeaderError(
                f"the MRD header has more than {_MOST_ELEMENTS} elements, or more than {_MOST_LEVELS} within each other"
            )
        self.tree.start(tag.rpartition(":")[2], {})

    def end(self, tag: str) -> None:
        self._levels -= 1
        self.tree.end(tag.rpartition(":")[2])


def parse_markup(data: bytes | str, notes: Notes) -> Element:
    """Parse the XML of an MRD header into elements that are named without namespace and have no attributes.

    Raises
    ------
    HeaderError
        It is no XML, has a DOCTYPE, or too many elements.
    """
    text = _repair(_cut_out(data if isinstance(data, str) else _decode(bytes(data), notes), notes), notes)
    builder = _Builder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.tree.data
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise HeaderError(
            f"the MRD header is not readable XML: {expat.ErrorString(error.code)} in line {error.lineno}, "
            f"column {error.offset + 1}"
        ) from error
    return builder.tree.close()


def _refuse_doctype(*_declaration: object) -> None:
    raise HeaderError("the MRD header is not readable XML: a DOCTYPE is not accepted")


def _decode(data: bytes, notes: Notes) -> str:
    """Decode by what the bytes are, whatever they declare."""
    whole = data + b"\0" * (
        -len(data) % 4
    )  # where NULs at the end were taken for padding, half a character went with them
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return whole[len(mark) :].decode(encoding, "replace")
    head = data.rstrip(b"\0")[:256]
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if 3 * max(even, odd) > len(head):
        notes.accept("the header is UTF-16 without a byte order mark")
        return whole.decode("utf-16-be" if even > odd else "utf-16-le", "replace")
    match = _DECLARED.search(data[:512])
    declared = match[1].decode("ascii", "replace").lower() if match else "utf-8"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return _decode_bytes(data, declared, notes)
    if declared.startswith(("utf-16", "utf-32", "ucs")) or not (declared in ("utf-8", "utf8") or text.isascii()):
        notes.accept(f"the header declares the encoding {declared!r} and is UTF-8")
    return text


def _decode_bytes(data: bytes, declared: str, notes: Notes) -> str:
    """Decode what is no UTF-8: as declared, or else as a Western code page, which takes any byte."""
    for encoding in (declared, "cp1252"):
        try:
            text = data.decode(encoding)
        except (LookupError, ValueError):
            continue
        if encoding != declared:
            notes.accept(f"the header declares the encoding {declared!r} and is read as {encoding}")
        return text
    notes.accept(f"the header declares the encoding {declared!r} and is read as latin-1")
    return data.decode("latin-1")


def _cut_out(text: str, notes: Notes) -> str:
    """Return the document without its declaration and without what lies around it."""
    text = text.rstrip("\0").strip()
    start = _START.search(text)
    if start and start.start():
        notes.accept("there are characters before the header's XML")
        text = text[start.start() :]
    *_, end = [None, *_END.finditer(text)]
    if end and end.end() < len(text):
        notes.accept("there are characters after the header's XML")
        text = text[: end.end()]
    return _DECLARATION.sub("", text, count=1) if _DECLARATION.match(text) else text


def _repair(text: str, notes: Notes) -> str:
    """Replace what XML does not allow in a text, such as a bare ``&``."""
    clean = _FORBIDDEN.sub("", text)
    if clean != text:
        notes.accept("the header holds control characters, which are left out")
    parts: list[str] = []
    for part, is_literal in _parts(clean):
        repaired = part if is_literal else _LONE_BRACKET.sub("&lt;", _REFERENCE.sub(_reference, part))
        if repaired != part:
            notes.accept("the header holds '&' or '<' that are not escaped, or entities that XML does not know")
        parts.append(repaired)
    return "".join(parts)


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Split a text into markup, and comments and CDATA sections."""
    position = 0
    while opening := _LITERAL.search(text, position):
        closing = "-->" if opening[0] == "<!--" else "]]>"
        end = text.find(closing, opening.end())
        if end < 0:
            break
        yield text[position : opening.start()], False
        position = end + len(closing)
        yield text[opening.start() : position], True
    yield text[position:], False


def _reference(match: re.Match[str]) -> str:
    """Return a reference that XML knows, or the character that is meant."""
    known, number, name = match.groups()
    if known:
        return match[0]
    if number:
        code = int(number[1:], 16) if number.startswith("x") else int(number)
        allowed = code in (9, 10, 13) or (code >= 32 and code <= 0x10FFFF and not _FORBIDDEN.match(chr(code)))
        return match[0] if allowed else ""
    if name in html5:
        return escape(html5[name])
    return "&amp;" + match[0][1:]
