"""The MRD header: a tolerant parser, and the encoding spaces as plain numbers."""

from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import defusedxml.ElementTree as SafeElementTree
from defusedxml.common import DefusedXmlException
from ismrmrd.xsd import ismrmrdHeader
from xsdata.exceptions import ParserError
from xsdata.formats.dataclass.parsers import XmlParser
from xsdata.formats.dataclass.parsers.config import ParserConfig

from .errors import HeaderError

NAMESPACE = "http://www.ismrm.org/ISMRMRD"

NO_HEADER = (
    "<ismrmrdHeader><encoding>"
    "<encodedSpace><matrixSize><x>1</x><y>1</y><z>1</z></matrixSize>"
    "<fieldOfView_mm><x>1</x><y>1</y><z>1</z></fieldOfView_mm></encodedSpace>"
    "<reconSpace><matrixSize><x>1</x><y>1</y><z>1</z></matrixSize>"
    "<fieldOfView_mm><x>1</x><y>1</y><z>1</z></fieldOfView_mm></reconSpace>"
    "<encodingLimits/><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
)
"""Stands in where there is no scan, such as for a question about stored data."""

COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set", "segment")


@dataclass(frozen=True)
class Limit:
    """Range of one encoding counter; ``center`` is where the middle of k-space lies in that numbering."""

    minimum: int
    maximum: int
    center: int


@dataclass(frozen=True)
class Encoding:
    """One encoding space of an MRD header. Triples are in the order x (readout), y, z.

    Attributes
    ----------
    encoded_matrix, recon_matrix
        Grid of k-space including oversampling, and of the image that is wanted.
    encoded_fov, recon_fov
        Fields of view of the two, in mm.
    limits
        Limits of ``kspace_encoding_step_1``, ``kspace_encoding_step_2`` and the counters; absent where the header has none.
    acceleration
        Acceleration factors along y and z.
    calibration_mode
        ``embedded``, ``interleaved``, ``separate``, ``external``, ``other`` or empty.
    """

    encoded_matrix: tuple[int, int, int]
    recon_matrix: tuple[int, int, int]
    encoded_fov: tuple[float, float, float]
    recon_fov: tuple[float, float, float]
    limits: dict[str, Limit] = field(default_factory=dict)
    acceleration: tuple[int, int] = (1, 1)
    calibration_mode: str = ""
    trajectory: str = "cartesian"
    interleaving_dimension: str = ""
    multiband: int = 1

    @property
    def cropped_readout(self) -> int:
        """Number of readout samples once the readout oversampling is removed."""
        return min(self.encoded_matrix[0], round(self.encoded_matrix[0] * self.recon_fov[0] / self.encoded_fov[0]))

    def line_offset(self, step: int) -> int:
        """Row of the grid at which line 0 of ``kspace_encode_step_<step>`` lies (step is 1 or 2)."""
        limit = self.limits.get(f"kspace_encoding_step_{step}")
        return 0 if limit is None else self.encoded_matrix[step] // 2 - limit.center

    def count(self, counter: str) -> int:
        """Number of values that a counter takes according to the limits."""
        limit = self.limits.get(counter)
        return 1 if limit is None else limit.maximum + 1


def parse_header(text: str | bytes) -> ismrmrdHeader:
    """Parse an MRD header the way scanners write it: trailing NULs, unknown and missing optional elements are accepted.

    Raises
    ------
    HeaderError
        The text is no XML, contains a DOCTYPE, is no MRD header, or has no encoding.
    """
    data = text.encode() if isinstance(text, str) else bytes(text)
    data = data.rstrip(b"\0").strip()
    try:
        root = SafeElementTree.fromstring(data, forbid_dtd=True)
    except (ElementTree.ParseError, DefusedXmlException, ValueError) as error:
        reason = "a DOCTYPE is not accepted" if isinstance(error, DefusedXmlException) else str(error)
        raise HeaderError(f"the MRD header is not readable XML: {reason}") from error
    if root.tag.rpartition("}")[2] != "ismrmrdHeader":
        raise HeaderError(f"the header's root element is <{root.tag}>", accepted=f"<ismrmrdHeader xmlns={NAMESPACE!r}>")
    if root.tag != f"{{{NAMESPACE}}}ismrmrdHeader":
        _set_namespace(root)
    if root.find(f"{{{NAMESPACE}}}encoding") is None:
        raise HeaderError("the MRD header has no <encoding> element")
    if root.find(f"{{{NAMESPACE}}}experimentalConditions") is None:
        conditions = ElementTree.SubElement(root, f"{{{NAMESPACE}}}experimentalConditions")
        ElementTree.SubElement(conditions, f"{{{NAMESPACE}}}H1resonanceFrequency_Hz").text = "0"
    parser = XmlParser(config=ParserConfig(fail_on_unknown_properties=False))
    try:
        return parser.from_bytes(ElementTree.tostring(root), ismrmrdHeader)
    except (ParserError, TypeError, ValueError) as error:
        raise HeaderError(f"the MRD header does not follow its schema: {error}") from error


def _set_namespace(root: ElementTree.Element) -> None:
    for element in root.iter():
        element.tag = f"{{{NAMESPACE}}}{element.tag.rpartition('}')[2]}"


def parse_encodings(header: ismrmrdHeader) -> tuple[Encoding, ...]:
    """Return the encoding spaces of a header.

    Raises
    ------
    HeaderError
        A matrix size or field of view is missing or not positive.
    """
    return tuple(_parse_encoding(encoding, index) for index, encoding in enumerate(header.encoding))


def _parse_encoding(encoding: Any, index: int) -> Encoding:
    matrices, fields_of_view = [], []
    for name in ("encodedSpace", "reconSpace"):
        space = getattr(encoding, name)
        try:
            matrix = tuple(int(getattr(space.matrixSize, axis)) for axis in "xyz")
            fov = tuple(float(getattr(space.fieldOfView_mm, axis)) for axis in "xyz")
        except (AttributeError, TypeError, ValueError) as error:
            raise HeaderError(f"encoding {index} has no usable matrixSize and fieldOfView_mm in {name}") from error
        if min(matrix) < 1 or not all(0 < length < float("inf") for length in fov):
            raise HeaderError(
                f"matrixSize and fieldOfView_mm must be positive, got {matrix} and {fov}",
                where=f"encoding {index}, {name}",
            )
        matrices.append(matrix)
        fields_of_view.append(fov)
    parallel = encoding.parallelImaging
    factor = parallel.accelerationFactor if parallel else None
    acceleration = (int(factor.kspace_encoding_step_1), int(factor.kspace_encoding_step_2)) if factor else (1, 1)
    return Encoding(
        encoded_matrix=matrices[0],
        recon_matrix=matrices[1],
        encoded_fov=fields_of_view[0],
        recon_fov=fields_of_view[1],
        limits=_parse_limits(encoding.encodingLimits),
        acceleration=acceleration,
        calibration_mode=_enum_value(parallel.calibrationMode) if parallel else "",
        trajectory=_enum_value(encoding.trajectory) or "cartesian",
    )


def _parse_limits(limits: Any) -> dict[str, Limit]:
    names = ("kspace_encoding_step_1", "kspace_encoding_step_2", *COUNTERS)
    present = {name: getattr(limits, name, None) for name in names}
    return {
        name: Limit(int(limit.minimum), int(limit.maximum), int(limit.center))
        for name, limit in present.items()
        if limit is not None
    }


def _enum_value(value: Any) -> str:
    """Enums of the schema as text; values that the schema does not know arrive as text already."""
    return str(getattr(value, "value", value) or "")
