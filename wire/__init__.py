"""The wire protocol of Gadgetron and FIRE as a codec without I/O: bytes in, messages out, and back."""

from .decoder import Decoder
from .encoder import encode
from .errors import Limits, ProtocolError, TruncatedError, UnknownMessageError
from .messages import (
    Close,
    ConfigFile,
    ConfigScript,
    DicomFile,
    ErrorReport,
    Header,
    Message,
    MessageId,
    Query,
    Response,
    Text,
)

__all__ = [
    "Close",
    "ConfigFile",
    "ConfigScript",
    "Decoder",
    "DicomFile",
    "ErrorReport",
    "Header",
    "Limits",
    "Message",
    "MessageId",
    "ProtocolError",
    "Query",
    "Response",
    "Text",
    "TruncatedError",
    "UnknownMessageError",
    "encode",
]
