"""Headers that are untrue, incomplete, or written in another way than the schema asks for."""

import re
from dataclasses import replace

import numpy as np

from ..errors import SimulationError
from ..scan import SimulatedScan
from .edit import edit_header
from .registry import oddity

_LIMIT = r"(<{0}><minimum>)([^<]*)(</minimum><maximum>)([^<]*)(</maximum><center>)([^<]*)(</center></{0}>)"


@oddity
def fov_last_digit(scan: SimulatedScan, _random: np.random.Generator, *, excess: float = 1e-4) -> SimulatedScan:
    """The encoded field of view along the readout is a little more than it is."""
    return edit_header(
        scan,
        r"(<encodedSpace>.*?<fieldOfView_mm><x>)([^<]*)",
        lambda found: f"{found[1]}{round(float(found[2]) + excess, 6)}",
    )


@oddity
def limits_zero(
    scan: SimulatedScan, _random: np.random.Generator, *, counter: str = "kspace_encoding_step_1"
) -> SimulatedScan:
    """The limits of a counter are 0, 0 and 0."""
    return edit_header(scan, _LIMIT.format(counter), r"\g<1>0\g<3>0\g<5>0\g<7>")


@oddity
def limits_missing(scan: SimulatedScan, _random: np.random.Generator, *, counter: str = "average") -> SimulatedScan:
    """The header has no limits of a counter, or of ``all``."""
    if counter == "all":
        return edit_header(scan, "<encodingLimits>.*?</encodingLimits>", "<encodingLimits/>")
    return edit_header(scan, _LIMIT.format(counter), "")


@oddity
def announced_more(
    scan: SimulatedScan, _random: np.random.Generator, *, counter: str = "average", extra: int = 1
) -> SimulatedScan:
    """The header announces more values of a counter than come."""
    return edit_header(
        scan,
        _LIMIT.format(counter),
        lambda found: "".join((*found.groups()[:3], str(int(found[4]) + extra), *found.groups()[4:])),
    )


@oddity
def stated_centre(
    scan: SimulatedScan, _random: np.random.Generator, *, counter: str = "kspace_encoding_step_1", value: int = -1
) -> SimulatedScan:
    """The header states another middle of k-space, half the encoded lines if none is given (as Siemens' converter does)."""
    half = scan.protocol.lines // 2 if counter.endswith("1") else scan.protocol.encoded_partitions // 2
    return edit_header(scan, _LIMIT.format(counter), rf"\g<1>\g<2>\g<3>\g<4>\g<5>{half if value < 0 else value}\g<7>")


@oddity
def partition_centre(scan: SimulatedScan, random: np.random.Generator, *, value: int = 1) -> SimulatedScan:
    """A 2-D scan's header states a middle of the partitions that is not 0."""
    if scan.protocol.encoded_partitions > 1:
        raise SimulationError("the scan is 3-D")
    return stated_centre(scan, random, counter="kspace_encoding_step_2", value=value)


@oddity
def slices_as_partitions(scan: SimulatedScan, _random: np.random.Generator, *, count: int = 0) -> SimulatedScan:
    """A 2-D scan's header has as many partitions as there are slices, or as given."""
    if scan.protocol.encoded_partitions > 1:
        raise SimulationError("the scan is 3-D")
    wanted = count or max(scan.protocol.slices, 2)
    return edit_header(scan, r"(<matrixSize>(?:(?!</matrixSize>).)*<z>)1(</z>)", rf"\g<1>{wanted}\g<2>")


@oddity
def slice_fov_zero(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The field of view along z is 0."""
    return edit_header(scan, r"(<fieldOfView_mm>(?:(?!</fieldOfView_mm>).)*<z>)[^<]*", r"\g<1>0")


@oddity
def matrix_as_float(
    scan: SimulatedScan, _random: np.random.Generator, *, space: str = "encodedSpace", error: float = 1e-4
) -> SimulatedScan:
    """Matrix sizes are written as 64.0, and that along z a little less than it is."""

    def write(found: re.Match[str]) -> str:
        x, y, z = (int(size) for size in re.findall(r"<[xyz]>(\d+)<", found[2]))
        return f"{found[1]}<x>{x}.0</x><y>{y}.0</y><z>{z - error:.6g}</z>"

    return edit_header(scan, rf"(<{space}><matrixSize>)(.*?)(?=</matrixSize>)", write)


@oddity
def limits_as_float(scan: SimulatedScan, _random: np.random.Generator, *, element: str = "center") -> SimulatedScan:
    """Limits are written as 16.0."""
    return edit_header(scan, rf"<{element}>(\d+)<", rf"<{element}>\g<1>.0<")


@oddity
def spaces_around_values(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """Values stand on lines of their own."""
    return edit_header(scan, r">([^<>\s]+)</", ">\n  \\g<1>\n</")


@oddity
def acceleration_one_factor(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The header has one acceleration factor, and no mode of calibration."""
    element = (
        f"<parallelImaging><accelerationFactor><kspace_encoding_step_1>{scan.protocol.acceleration}"
        "</kspace_encoding_step_1></accelerationFactor></parallelImaging>"
    )
    return edit_header(scan, r"(</trajectory>)(<parallelImaging>.*?</parallelImaging>)?", rf"\g<1>{element}")


@oddity
def stated_acceleration(
    scan: SimulatedScan, _random: np.random.Generator, *, factor: int = 2, mode: str = "embedded"
) -> SimulatedScan:
    """The header states another acceleration, or another mode of calibration, than was measured."""
    element = (
        f"<parallelImaging><accelerationFactor><kspace_encoding_step_1>{factor}</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
        f"<calibrationMode>{mode}</calibrationMode></parallelImaging>"
    )
    return edit_header(scan, r"(</trajectory>)(<parallelImaging>.*?</parallelImaging>)?", rf"\g<1>{element}")


@oddity
def element_missing(
    scan: SimulatedScan, _random: np.random.Generator, *, name: str = "patientPosition"
) -> SimulatedScan:
    """The header lacks an element; measurementInformation lacks patientPosition if none is named."""
    return edit_header(scan, rf"<{name}>.*?</{name}>", "")


@oddity
def trajectory_capital(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The trajectory is written with a capital."""
    return edit_header(scan, "<trajectory>cartesian<", "<trajectory>Cartesian<")


@oddity
def bare_ampersand(scan: SimulatedScan, _random: np.random.Generator, *, name: str = "T1 & T2") -> SimulatedScan:
    """The protocol's name holds an ampersand that is not escaped."""
    return edit_header(scan, "<protocolName>[^<]*<", f"<protocolName>{name}<")


@oddity
def declared_encoding(scan: SimulatedScan, _random: np.random.Generator, *, name: str = "utf-16") -> SimulatedScan:
    """The header declares another encoding than it has."""
    return edit_header(scan, r'encoding="[^"]*"', f'encoding="{name}"')


@oddity
def latin_1(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The header says that it is UTF-8, but a name in it is Latin-1."""
    named = edit_header(scan, "<protocolName>[^<]*<", "<protocolName>Schädel quer<")
    return replace(named, header_encoding="latin-1")
