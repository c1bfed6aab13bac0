"""The control messages of the protocol. Data messages are the items of ``isocenter.wire.items``."""

from dataclasses import dataclass
from enum import IntEnum

from .items import (
    Acquisition,
    AcquisitionBucket,
    DependencyReport,
    DicomFile,
    Feedback,
    Image,
    ImageArray,
    ReconData,
    Waveform,
)


class MessageId(IntEnum):
    """Every message starts with one of these as a little-endian uint16."""

    CONFIG_FILE = 1
    CONFIG_SCRIPT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    QUERY = 6
    RESPONSE = 7
    ERROR = 8
    ACQUISITION = 1008
    DICOM = 1018
    DEPENDENCY = 1019
    IMAGE = 1022
    RECON_DATA = 1023
    IMAGE_ARRAY = 1024
    WAVEFORM = 1026
    FEEDBACK = 1028
    BUCKET = 1050


@dataclass(frozen=True)
class ConfigFile:
    """Name of a configuration that the server has; at most 1023 bytes."""

    name: str


@dataclass(frozen=True)
class ConfigScript:
    """A configuration as XML. ``terminated``: a NUL ends it on the wire, as FIRE sends it."""

    xml: bytes
    terminated: bool = False


@dataclass(frozen=True)
class Header:
    """The MRD header as XML."""

    xml: bytes
    terminated: bool = False


@dataclass(frozen=True)
class Close:
    """The end of the stream, in either direction."""


@dataclass(frozen=True)
class Text:
    """Something to read: a log line or an error, or FIRE's JSON parameters."""

    text: str
    terminated: bool = False


@dataclass(frozen=True)
class Query:
    """A question about the server, answered by a ``Response`` with the same ``correlation_id``."""

    question: str
    correlation_id: int = 0


@dataclass(frozen=True)
class Response:
    """The answer to a ``Query``."""

    answer: str
    correlation_id: int = 0


@dataclass(frozen=True)
class ErrorReport:
    """What an external node tells Gadgetron when it fails. Never sent to a scanner's client, which would abort."""

    text: str


Control = ConfigFile | ConfigScript | Header | Close | Text | Query | Response | ErrorReport
Data = (
    Acquisition
    | Waveform
    | Image
    | AcquisitionBucket
    | ReconData
    | ImageArray
    | DependencyReport
    | DicomFile
    | Feedback
)
Message = Control | Data
