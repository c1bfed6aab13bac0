"""The MRD header: a tolerant parser, and the encoding spaces as plain numbers."""

import copy
import re
from dataclasses import dataclass, field

from ismrmrd import xsd
from ismrmrd.xsd import calibrationModeType, ismrmrdHeader

from .errors import HeaderError
from .markup import Notes, parse_markup
from .schema import complete_element, read_element, read_number

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

_MOST = 65535
"""The largest number that a counter, and so a matrix, can have."""

_SHOWN = re.compile(r"[+-]?[0-9.,]{1,20}")
"""What is shown of a size that cannot be used; anything else may be what no log and no text is to hold."""

_MULTIBAND_NAMES = ("multibandfactor", "smsfactor", "multiband", "mbfactor")

COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set", "segment")


@dataclass(frozen=True)
class Limit:
    """Range of one encoding counter; ``center`` is where the middle of k-space lies in that numbering, None if not told."""

    minimum: int
    maximum: int
    center: int | None


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
    trajectory
        In small letters, also where the schema does not know it.
    interleaving_dimension
        Counter over which an interleaved calibration is spread, in small letters, or empty.
    multiband
        Number of slices that are excited at once.
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
        """Number of readout samples once the readout oversampling is removed; never more than there are.

        Rounded, since the last digits of fields of view are often cut off.
        """
        encoded = self.encoded_matrix[0]
        return min(max(round(encoded * self.recon_fov[0] / self.encoded_fov[0]), 1), encoded)

    def count(self, counter: str) -> int:
        """Number of values that a counter takes according to the limits."""
        limit = self.limits.get(counter)
        return 1 if limit is None else limit.maximum + 1


def parse_header(text: str | bytes, notes: Notes | None = None) -> ismrmrdHeader:
    """Parse an MRD header the way scanners and converters write it.

    Elements that are missing are None, or empty lists. Accepted are further: text that is not encoded as declared or not
    escaped, any namespace and capitals, numbers such as ``64.0`` or ``2,5``, values that cannot be read where the
    reconstruction can do without them.

    Parameters
    ----------
    text
        XML.
    notes
        Is told what was accepted in spite of a fault; nothing is logged here.

    Raises
    ------
    HeaderError
        The text is no XML, contains a DOCTYPE, is no MRD header, or has no encoding.
    """
    notes = Notes() if notes is None else notes
    root = parse_markup(text, notes)
    if root.tag.casefold() != "ismrmrdheader":
        raise HeaderError(
            f"the header's root element is {root.tag[:40]!r}", accepted=f"<ismrmrdHeader xmlns={NAMESPACE!r}>"
        )
    header = read_element(root, ismrmrdHeader, notes)
    if not header.encoding:
        raise HeaderError("the MRD header has no <encoding> element")
    return header


def write_header(header: ismrmrdHeader) -> bytes:
    """Return a header as XML for readers that insist on what the schema requires: it is there, empty or 0 where we have none."""
    complete = copy.deepcopy(header)
    complete_element(complete)
    return xsd.ToXML(complete, encoding="utf-8").encode()


def parse_encodings(header: ismrmrdHeader, notes: Notes | None = None) -> tuple[Encoding, ...]:
    """Return the encoding spaces of a header.

    Parameters
    ----------
    header
        From ``parse_header``.
    notes
        Is told what was missing or not usable, and what was taken for it.

    Raises
    ------
    HeaderError
        A matrix size or field of view along x or y is missing or not positive, and nothing else in the header tells it.
    """
    notes = Notes() if notes is None else notes
    return tuple(
        _parse_encoding(encoding, f"encoding[{index}]", header, notes) for index, encoding in enumerate(header.encoding)
    )


def _parse_encoding(encoding: xsd.encodingType, where: str, header: ismrmrdHeader, notes: Notes) -> Encoding:
    if getattr(encoding, "reconSpace", None) is None:  # what the parser cannot read is None, whatever the schema says
        notes.accept(f"{where}.reconSpace is taken from the encoded space")
    sizes = [_parse_axis(encoding, axis, where, notes) for axis in "xyz"]
    encoded_matrix, recon_matrix, encoded_fov, recon_fov = zip(*sizes, strict=True)
    parallel = encoding.parallelImaging
    factors = getattr(parallel, "accelerationFactor", None)
    return Encoding(
        encoded_matrix=encoded_matrix,
        recon_matrix=recon_matrix,
        encoded_fov=encoded_fov,
        recon_fov=recon_fov,
        limits=_parse_limits(encoding.encodingLimits, where, notes),
        acceleration=(
            _parse_factor(factors, "kspace_encoding_step_1", f"{where}.parallelImaging.accelerationFactor", notes),
            _parse_factor(factors, "kspace_encoding_step_2", f"{where}.parallelImaging.accelerationFactor", notes),
        ),
        calibration_mode=_parse_calibration_mode(parallel),
        trajectory=_enum_value(encoding.trajectory) or "cartesian",
        interleaving_dimension=_enum_value(getattr(parallel, "interleavingDimension", None)),
        multiband=_parse_multiband(parallel, header),
    )


def _parse_axis(encoding: xsd.encodingType, axis: str, where: str, notes: Notes) -> tuple[int, int, float, float]:
    """Return the encoded and the reconstructed matrix and field of view along one axis.

    What is not usable is derived from the rest: the size of a pixel stays where one matrix is the larger for being
    oversampled, the field of view where it is interpolated.
    """
    points, wanted = (
        _Size(encoding, "encodedSpace", "matrixSize", axis),
        _Size(encoding, "reconSpace", "matrixSize", axis),
    )
    length = _Size(encoding, "encodedSpace", "fieldOfView_mm", axis)
    wanted_length = _Size(encoding, "reconSpace", "fieldOfView_mm", axis)
    if points.value is None and axis != "z":
        raise HeaderError(
            f"it {points.found}", where=f"{where}.{points.path}", accepted=f"a whole number from 1 to {_MOST}"
        )
    if length.value is None and wanted_length.value is None and axis != "z":
        raise HeaderError(
            f"it {length.found}, and {wanted_length.path} {wanted_length.found}",
            where=f"{where}.{length.path}",
            accepted="a length above 0",
        )
    encoded = int(points.value or wanted.value or 1)
    ratio = (wanted_length.value or 0.0) / (length.value or float("inf")) or 1.0
    recon = int(wanted.value or max(1, round(encoded * ratio)))
    encoded_fov = length.value or (wanted_length.value or float(recon)) * max(1.0, encoded / recon)
    recon_fov = wanted_length.value or encoded_fov * min(1.0, recon / encoded)
    taken = (encoded, recon, encoded_fov, recon_fov)
    for size, value in zip((points, wanted, length, wanted_length), taken, strict=True):
        if size.value is None and not size.is_of_missing_space:
            certain = size is wanted or encoded == recon == 1
            (notes.accept if certain else notes.doubt)(f"{where}.{size.path} {size.found}: taken as {value:g}")
    return taken


class _Size:
    """One of the sizes of an encoding; its value is None where it is missing or not usable."""

    def __init__(self, encoding: xsd.encodingType, space: str, name: str, axis: str) -> None:
        spaces: object = getattr(encoding, space)
        raw: object = getattr(getattr(spaces, name, None), axis, None)
        number = read_number(str(raw)) if raw is not None else None
        whole = name == "matrixSize"
        usable = number is not None and number > 0 and (not whole or (number <= _MOST and number == int(number)))
        self.path = f"{space}.{name}.{axis}"
        self.value = number if usable else None
        self.found = "is missing" if raw is None else f"is {raw}" if _SHOWN.fullmatch(str(raw)) else "is no number"
        self.is_of_missing_space = spaces is None


def _parse_factor(factors: object, step: str, where: str, notes: Notes) -> int:
    value: int | None = getattr(factors, step, None)
    if value is not None and not 1 <= value <= _MOST:
        notes.accept(f"{where}.{step} is {value}: taken as 1")
        return 1
    return int(value or 1)


def _parse_limits(limits: xsd.encodingLimitsType, where: str, notes: Notes) -> dict[str, Limit]:
    names = ("kspace_encoding_step_1", "kspace_encoding_step_2", *COUNTERS)
    found = {name: _parse_limit(getattr(limits, name, None), f"{where}.encodingLimits.{name}", notes) for name in names}
    return {name: limit for name, limit in found.items() if limit is not None}


def _parse_limit(limit: xsd.limitType | None, where: str, notes: Notes) -> Limit | None:
    """Return a limit; None where there is none, or where it has numbers that no counter can have."""
    if limit is None:
        return None
    numbers: dict[str, int | None] = {name: getattr(limit, name) for name in ("minimum", "maximum", "center")}
    for name, value in numbers.items():
        if value is None:
            notes.accept(f"{where}.{name} is missing")
        elif not 0 <= value <= _MOST:
            notes.accept(f"{where}.{name} is {value}, which no counter can be: the limit is not used")
            return None
    return Limit(numbers["minimum"] or 0, numbers["maximum"] or 0, numbers["center"])


def _parse_calibration_mode(parallel: object) -> str:
    mode = _enum_value(getattr(parallel, "calibrationMode", None))
    return mode if not mode or mode in {each.value for each in calibrationModeType} else calibrationModeType.OTHER.value


def _parse_multiband(parallel: object, header: ismrmrdHeader) -> int:
    """Return the multiband factor, from where the schema has it or from user parameters of that name."""
    factors: list[float | None] = [getattr(getattr(parallel, "multiband", None), "multiband_factor", None)]
    parameters = header.userParameters
    if parameters is not None:
        named = (*parameters.userParameterLong, *parameters.userParameterDouble)
        factors += [each.value for each in named if (each.name or "").lower().replace("_", "") in _MULTIBAND_NAMES]
    return max([1, *(round(factor) for factor in factors if factor is not None)])


def _enum_value(value: object) -> str:
    """Enums of the schema as text in small letters; values that the schema does not know are text already."""
    return str(getattr(value, "value", value) or "").lower()
